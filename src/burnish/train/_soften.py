"""Label smoothing and mixup: class indices become probabilities.

Both say the same thing, that a sample is not wholly of one class, and both are done to the target,
so that any loss that takes probabilities serves. Smoothing gives each class a share s/C (Szegedy et
al., 2016). Mixup draws one λ from Beta(α, α) for each batch and mixes every sample, and its target,
with another of the batch: λ of the one, 1 - λ of the other (Zhang et al., 2018).

Whether the task's loss is of that kind is not asked of its name but of its behaviour, on one batch:
with one-hot probabilities it must give what it gives with class indices, and halfway between two
targets the mean of both. Cross-entropy does. Any other loss is refused, because with it the numbers
would mean something else.

Left out: targets that are no class indices (a regression can be mixed in the loader), and targets
with an "ignore" index.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from burnish.core import copied_model
from burnish.errors import InvalidInput
from burnish.goal import Call, Task
from burnish.graph import flatten
from burnish.train._objective import task_loss
from burnish.train._tricks import Tricks


class Softener:
    """Softens the batches of one training.

    Args:
        model: in eval mode; run once on `call`.
        call: a batch of the train data, on the model's device.

    Raises:
        InvalidInput: targets that are no class indices, a loss that does not take probabilities, or
            for mixup an input that is not floating.
    """

    def __init__(self, task: Task, tricks: Tricks, seed: int, model: nn.Module, call: Call) -> None:
        self._task = task
        self._smoothing = tricks.label_smoothing
        self._alpha = tricks.mixup
        self._seed = seed
        self._asked = "label_smoothing" if tricks.label_smoothing else "mixup"
        _check_target(call.target, self._asked)
        if self._alpha:
            _check_inputs(task, call)
        with torch.no_grad():
            output = copied_model(model)(*call.args, **call.kwargs)
        self._num_classes, self._dtype = self._classes(output, call.target)

    def __call__(self, call: Call, epoch: int, index: int) -> Call:
        """The batch with probabilities for targets, its inputs mixed where mixup was asked for."""
        _check_target(call.target, self._asked)
        target = self._one_hot(call.target)
        if self._smoothing:
            target = (1 - self._smoothing) * target + self._smoothing / self._num_classes
        if not self._alpha:
            return dataclasses.replace(call, target=target)
        from accelerate.utils import recursively_apply

        drawn = np.random.default_rng([self._seed, epoch, index])
        share = float(drawn.beta(self._alpha, self._alpha))
        order = torch.from_numpy(drawn.permutation(len(target))).to(target.device)
        mixed = {
            id(leaf.tensor): _mix(leaf.tensor, leaf.batch_axis(), share, order)
            for leaf in self._task.inputs.bind(call.args, call.kwargs)
        }
        args, kwargs = recursively_apply(
            lambda tensor: mixed[id(tensor)], (call.args, dict(call.kwargs))
        )
        return Call(args, kwargs, share * target + (1 - share) * target[order])

    def _one_hot(self, target: torch.Tensor, num_classes: int | None = None) -> torch.Tensor:
        """Class indices [n, …] as probabilities [n, C, …]."""
        encoded = F.one_hot(target, num_classes or self._num_classes)
        return encoded.movedim(-1, 1).to(self._dtype)

    def _classes(self, output: Any, target: torch.Tensor) -> tuple[int, torch.dtype]:
        """How many classes the logits have, and the type of their probabilities."""
        for logits in flatten(output)[0]:
            if logits.is_floating_point() and logits.dim() > 1:
                num_classes = int(logits.shape[1])
                self._dtype = torch.promote_types(logits.dtype, torch.float32)
                if int(target.max()) < num_classes and self._fits(output, target, num_classes):
                    return num_classes, self._dtype
        raise InvalidInput(
            f"Tricks({self._asked}=…) needs a loss that takes probabilities in place of class "
            "indices, as torch.nn.functional.cross_entropy does with logits [n, classes]: for the "
            f"first batch (targets {list(target.shape)}) the task's loss does not give the same "
            "for both; leave the trick out, or write it into the loss"
        )

    def _fits(self, output: Any, target: torch.Tensor, num_classes: int) -> bool:
        """Whether the loss takes probabilities, and is linear in them."""
        other = (target + 1) % num_classes
        one, two = self._one_hot(target, num_classes), self._one_hot(other, num_classes)
        with torch.no_grad():
            wanted = [task_loss(self._task, output, indices) for indices in (target, other)]
            try:
                got = [task_loss(self._task, output, p) for p in (one, two, (one + two) / 2)]
            except (RuntimeError, ValueError, TypeError, IndexError):
                return False
        if any(not isinstance(loss, torch.Tensor) or loss.numel() != 1 for loss in wanted + got):
            return False
        wanted.append((wanted[0] + wanted[1]) / 2)
        return all(bool(torch.isclose(a, b, rtol=1e-4)) for a, b in zip(got, wanted, strict=True))


def _check_target(target: Any, asked: str) -> None:
    if not isinstance(target, torch.Tensor) or target.is_floating_point() or target.dim() < 1:
        got = (
            f"{target.dtype} tensors" if isinstance(target, torch.Tensor) else type(target).__name__
        )
        raise InvalidInput(
            f"Tricks({asked}=…) needs targets that are class indices, an integer tensor [n, …], "
            f"and they are {got}: leave the trick out"
        )
    if int(target.min()) < 0:
        raise InvalidInput(
            f"Tricks({asked}=…) needs a class for every target, and one is {int(target.min())}: "
            "leave the trick out, or take samples without a label out of the batch"
        )


def _check_inputs(task: Task, call: Call) -> None:
    for leaf in task.inputs.bind(call.args, call.kwargs):
        if leaf.batch_axis() is not None and not leaf.tensor.is_floating_point():
            raise InvalidInput(
                f"Tricks(mixup=…) mixes inputs, and input {leaf.key!r} is {leaf.tensor.dtype}: "
                "only floating inputs can be mixed; leave mixup out"
            )


def _mix(tensor: torch.Tensor, axis: int | None, share: float, order: torch.Tensor) -> torch.Tensor:
    """Each sample with its partner; a tensor without samples is the same for all of them."""
    if axis is None:
        return tensor
    return share * tensor + (1 - share) * tensor.index_select(axis, order)
