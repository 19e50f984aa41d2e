"""Refusing to learn samples that are tested on. Which are the same, `goal.sample_hashes` tells.

One batch of train data is compared with a whole split: enough to see data used twice, however it
was shuffled. Left out: samples that overlap here and there, and augmented ones, which no hash sees.
"""

from __future__ import annotations

from burnish.errors import InvalidInput
from burnish.goal import Call, Task, sample_hashes


def refuse_overlap(task: Task, call: Call, split: str) -> None:
    """InvalidInput where samples of a batch of train data are also in another split."""
    if getattr(task, split) is None:
        return
    mine = set(_hashes(task, call))
    both = mine & {sample for other in task.calls(split) for sample in _hashes(task, other)}
    if both:
        raise InvalidInput(
            f"{len(both)} of the {len(mine)} samples in the first batch of the train data are also "
            f"in the {split} data: a score on what was learned by heart says nothing; take them "
            "out of one of the two"
        )


def _hashes(task: Task, call: Call) -> list[str]:
    return sample_hashes(task.inputs.bind(call.args, call.kwargs))
