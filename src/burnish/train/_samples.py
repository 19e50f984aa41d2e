"""Telling samples apart by their inputs, and refusing to learn those that are tested on.

A sample is known by a hash of its tensors, cut out of the batch along each tensor's own batch axis.
A tensor without a batch is part of every sample. Two samples are the same where all their tensors
are equal bit for bit.

One batch of train data is compared with a whole split: enough to see data used twice, however it
was shuffled. Left out: samples that overlap here and there, and augmented ones, which no hash sees.
"""

from __future__ import annotations

from burnish.core import tensor_hash
from burnish.errors import InvalidInput
from burnish.goal import Call, Inputs, Task


def sample_hashes(inputs: Inputs, call: Call) -> list[str]:
    """One hash for each sample of a call; [] where no tensor has a batch axis.

    `inputs` is the example call, which tells the axes.
    """
    leaves = [(leaf.tensor, leaf.batch_axis()) for leaf in inputs.bind(call.args, call.kwargs)]
    sizes = [tensor.shape[axis] for tensor, axis in leaves if axis is not None]
    whole = [tensor_hash(tensor) if axis is None else "" for tensor, axis in leaves]
    return [
        ":".join(
            known if axis is None else tensor_hash(tensor.select(axis, index))
            for (tensor, axis), known in zip(leaves, whole, strict=True)
        )
        for index in range(sizes[0] if sizes else 0)
    ]


def refuse_overlap(task: Task, call: Call, split: str) -> None:
    """InvalidInput where samples of a batch of train data are also in another split."""
    if getattr(task, split) is None:
        return
    mine = set(sample_hashes(task.inputs, call))
    both = mine & {
        sample for other in task.calls(split) for sample in sample_hashes(task.inputs, other)
    }
    if both:
        raise InvalidInput(
            f"{len(both)} of the {len(mine)} samples in the first batch of the train data are also "
            f"in the {split} data: a score on what was learned by heart says nothing; take them "
            "out of one of the two"
        )
