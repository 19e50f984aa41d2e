"""What `fit` minimises while it distils: the task's loss on the labels, plus signals from teachers.

    labels * task.loss(student) + sum of weight * signal(student, teacher)

Student and teachers see the same batch, augmentation included. Logits and features come from one
run of each model; the parts are named, so that the training record shows each. Every weight may be
a schedule, or be held at a ratio of the labels' part (`_balance`).

Labels may be missing. Without a weight for them (`labels=None`) they are not looked at. With one,
samples whose target is -100 teach through the signals alone, and the loss of the others counts by
their share of the batch, so that a labelled sample weighs the same in whatever batch it falls. A
batch with no target at all is refused, and so is an epoch in which not one sample had a label.

Left out: projecting gradients where signals disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.distributed
from torch import nn

from burnish.distill._cache import OutputCache
from burnish.distill._outputs import logits_of, rows_of, with_label
from burnish.distill._setting import Setting, at
from burnish.distill._tap import Tap, tapped
from burnish.distill._teachers import Panel, most_confident
from burnish.distill._tryout import LABELS, Part, device_of
from burnish.errors import InvalidInput
from burnish.goal import Call, Task
from burnish.train import Moment, task_loss


class Distillation:
    """The objective of `fit`; see above.

    Args:
        panel: the teachers.
        parts: the signals, as `tried` on the example call.
        task: its `loss` is the one on the labels.
        labels: the weight of that loss; None where labels are not looked at.
        cache: where the teachers' logits are kept, if anywhere.
        settings: all of it as plain JSON, for the record and the checkpoints.

    A context: entered before the training and left after it.
    """

    def __init__(
        self,
        panel: Panel,
        parts: Sequence[Part],
        task: Task,
        *,
        labels: Setting | None,
        cache: OutputCache | None,
        settings: Mapping[str, Any],
    ) -> None:
        self.panel = panel
        self.parts = tuple(parts)
        self.task = task
        self.labels = labels
        self.cache = cache
        self._settings = settings
        self.taps = tuple(tap for part in parts for tap in part.taps)
        self.device: torch.device | None = None
        self.epoch: int | None = None
        self.num_labelled = 0

    def modules(self) -> nn.Module | None:
        """Adapters, running means and a self-teacher: what is trained or kept along."""
        held = nn.ModuleDict()
        adapters = [part.adapter for part in self.parts if part.adapter is not None]
        scales = [part.scale for part in self.parts if part.scale is not None]
        if adapters:
            held["adapters"] = nn.ModuleList(adapters)
        if scales:
            held["scales"] = nn.ModuleList(scales)
        if self.panel.average is not None:
            held["average"] = self.panel.average
        return held if len(held) else None

    def settings(self) -> Mapping[str, Any]:
        """Teachers, signals and weights, as plain JSON."""
        return self._settings

    def __call__(self, model: nn.Module, call: Call, moment: Moment) -> dict[str, torch.Tensor]:
        """The weighted parts of the loss of one batch.

        Raises:
            InvalidInput: labels that are asked for and missing; whatever a signal refuses.
        """
        self._look_at(call.target, moment)
        self._settle(model, moment)
        with tapped(model, self.taps, "student") as seen:
            output = model(*call.args, **call.kwargs)
        logits, taught = self._taught(call, moment)
        parts: dict[str, torch.Tensor] = {}
        anchor: torch.Tensor | None = None
        if self.labels is not None:
            loss = self._of_labels(output, call.target)
            anchor = None if loss is None else at(self.labels, moment) * loss
            parts[LABELS] = torch.zeros((), device=self.device) if anchor is None else anchor
        for part in self.parts:
            own = self._of_signal(part, output, seen, logits, taught, call.target, moment)
            parts[part.name] = part.weight(anchor, own, moment) * own
            if self.labels is None and anchor is None:
                anchor = parts[part.name]
        return parts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """The training is over. InvalidInput where its last epoch had not one label."""
        finished = kind is None
        if self.cache is not None:
            self.cache.close(finished)
        if finished:
            self._check_labels()

    def _settle(self, model: nn.Module, moment: Moment) -> None:
        """Teachers go where the student is; a self-teacher takes in its last step."""
        device = device_of(model)
        if device != self.device:
            self.panel.to(device)
            self.device = device
        if self.panel.average is not None:
            self.panel.average.follow(model, moment.step)

    def _taught(
        self, call: Call, moment: Moment
    ) -> tuple[list[torch.Tensor], dict[Tap, torch.Tensor]]:
        """What the teachers say: logits to learn from, and the features of the first."""
        features: dict[Tap, torch.Tensor] = {}

        def ask() -> list[torch.Tensor]:
            outputs, seen = self.panel.ask(call.args, call.kwargs, self.taps)
            features.update(seen)
            if all(part.taps for part in self.parts):
                return []
            names = self.panel.names
            return [logits_of(one, f"the {who}") for one, who in zip(outputs, names, strict=True)]

        logits = ask() if self.cache is None else self.cache.answers(call, moment, ask)
        if self.panel.by_confidence and logits:
            logits = [most_confident(logits)]
        return logits, features

    def _of_signal(
        self,
        part: Part,
        output: Any,
        seen: dict[Tap, torch.Tensor],
        logits: Sequence[torch.Tensor],
        taught: dict[Tap, torch.Tensor],
        target: Any,
        moment: Moment,
    ) -> torch.Tensor:
        """A signal's own loss, not yet weighted; the mean over teachers."""
        if part.taps:
            ours = tuple(seen[tap] for tap in part.taps)
            theirs = tuple(taught[tap] for tap in part.taps)
            loss: torch.Tensor = part.signal.loss(ours, theirs, part.adapter, target, moment)
            return loss
        student = logits_of(output, "the student")
        shares = self.panel.shares
        losses = [
            share * part.signal.loss(student, theirs, target, moment)
            for share, theirs in zip(shares, logits, strict=True)
        ]
        return torch.stack(losses).sum()

    def _of_labels(self, output: Any, target: Any) -> torch.Tensor | None:
        """The task's loss, by the share of samples that have a label; None where none has."""
        known = with_label(target)
        if known is None:
            self.num_labelled += 1
            return task_loss(self.task, output, target)
        count = int(known.sum())
        self.num_labelled += count
        if not count:
            return None
        loss = task_loss(self.task, rows_of(output, known), target[known])
        return loss * (count / len(known))

    def _look_at(self, target: Any, moment: Moment) -> None:
        """Whether there are labels to learn from, where there should be."""
        if self.labels is None:
            return
        if target is None:
            raise InvalidInput(
                f"batch {moment.batch} of the train data has no labels, and distill() gives the "
                "task's loss on them a weight: say labels=None to learn from the teacher alone, or "
                "mark the samples without a label by the target -100"
            )
        if moment.epoch != self.epoch:
            self._check_labels()
            self.epoch, self.num_labelled = moment.epoch, 0

    def _check_labels(self) -> None:
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several or self.labels is None or self.epoch is None or self.num_labelled:
            return
        raise InvalidInput(
            f"not one sample of epoch {self.epoch} has a label (every target is -100), and "
            "distill() gives the task's loss on labels a weight: say labels=None, or label some"
        )
