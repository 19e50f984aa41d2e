"""The one training loop: batches, losses, steps, epochs.

A batch goes to the device, the objective gives the parts of its loss inside autocast, their sum is
scaled and sent backwards; after `accumulate` such batches the gradients are clipped and the
optimizer steps. In several processes the gradients are averaged in the last of those backward
passes, and only there.

The loss is looked at once an optimizer step, before the step: its mean over the step's batches and
over all processes, so that all of them see the same number and stop together.

Left out: a model spread over several devices (FSDP, pipelines). The models this is for fit on one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Call, Task
from burnish.graph import set_progress
from burnish.train._average import MovingAverage
from burnish.train._checkpoint import Checkpoints
from burnish.train._data import Batches, generators_kept
from burnish.train._divergence import Watchdog, diverged_scale, diverged_weights
from burnish.train._early_stop import Patience
from burnish.train._evaluate import Watch, evaluate
from burnish.train._objective import Growing, Learner, Moment, Objective, Regularizer
from burnish.train._optimizer import Rate, make_optimizer
from burnish.train._plan import Plan, name_of
from burnish.train._progress import Bar
from burnish.train._record import EpochRecord, Tally, epoch_from_json
from burnish.train._samples import refuse_overlap
from burnish.train._soften import Softener
from burnish.train._student import Student, not_finite
from burnish.train._zeros import hold_zeros


class Training:
    """One training, from its first step to its last.

    Args:
        machine: accelerate's `Accelerator`: the device, and this process among the others.
    """

    def __init__(
        self,
        student: Student,
        task: Task,
        plan: Plan,
        objective: Objective,
        regularizer: Regularizer | None,
        machine: Any,
        watch: Watch | None,
    ) -> None:
        self.student, self.task, self.plan, self.machine = student, task, plan, machine
        self.objective, self.regularizer = objective, regularizer
        self.watch = watch if machine.is_main_process else None
        self.batches = Batches(task, plan.seed, machine.process_index, machine.num_processes)
        self.steps_per_epoch = -(-self.batches.per_process // plan.tricks.accumulate)
        self.num_steps = plan.epochs * self.steps_per_epoch
        self.held = hold_zeros(student.module) if plan.tricks.keep_zeros else []
        self.extras = objective.modules()
        self.bare = Learner(student.module, objective, regularizer).to(machine.device)
        self.softener = self._softener()
        self.learner = machine.prepare_model(self.bare)
        self.optimizer = make_optimizer(
            plan.optimizer, self.bare, plan.learning_rate, plan.weight_decay
        )
        self.rate = Rate(self.optimizer, plan.learning_rate, plan.schedule, self.num_steps)
        self.scaler = plan.precision.scaler(machine.device)
        decay, patience = plan.tricks.ema, plan.tricks.patience
        self.average = None if decay is None else MovingAverage(student.module, decay)
        higher = task.metric.higher_is_better
        self.patience = None if patience is None else Patience(patience, higher)
        self.watchdog = Watchdog()
        self.checkpoints: Checkpoints | None = None
        self.epochs: list[EpochRecord] = []
        self.step = 0

    def settings(self) -> dict[str, Any]:
        """What is being done, as plain JSON. InvalidInput where the objective's part is not."""
        penalty: Any = None if self.regularizer is None else name_of(self.regularizer)
        if isinstance(self.regularizer, Growing):
            penalty = _plain(self.regularizer)
        aim = _plain(self.objective)
        return {**self.plan.to_json(), "objective": aim, "regularizer": penalty}

    def run(self) -> str:
        """Train; why it ended. Goes on after the epochs that are in `epochs` already."""
        bar = self.watch if isinstance(self.watch, Bar) else None
        self.optimizer.zero_grad()
        if bar is not None:
            bar.begin(self.num_steps, self.step)
        try:
            for epoch in range(len(self.epochs), self.plan.epochs):
                if self.patience is not None and self.patience.over(epoch - 1):
                    break
                self._epoch(epoch, bar)
        finally:
            if bar is not None:
                bar.end()
        if self.patience is not None and len(self.epochs) < self.plan.epochs:
            return (
                f"no better validation score in {self.plan.tricks.patience} epochs after epoch "
                f"{self.patience.epoch + 1}"
            )
        return f"all {self.plan.epochs} epochs done"

    def _epoch(self, epoch: int, bar: Bar | None) -> None:
        started, tally = time.perf_counter(), Tally()
        draw = self.batches.begin(epoch)
        title = f"training, epoch {epoch + 1} of {self.plan.epochs}"
        size, parts = self.plan.tricks.accumulate, dict[str, float]()
        for position, (index, call) in enumerate(self.batches.epoch(title, self.watch)):
            if epoch == 0 and position == 0:
                self._refuse_overlap(call)
            begun = position - position % size
            num = min(size, self.batches.per_process - begun)
            last = position == begun + num - 1
            moment = Moment(self.step / self.num_steps, epoch, self.step, index, draw)
            set_progress(self.student.module, moment.progress)
            for name, value in self._backward(self._ready(call, moment), moment, num, last).items():
                parts[name] = parts.get(name, 0.0) + value / num
            if last:
                self._step(parts, moment, tally)
                if bar is not None:
                    bar.step(tally.losses[-1], tally.rates[-1])
                parts = {}
        self._synchronise()
        self._refuse_broken_weights(epoch)
        validation = self._validate(epoch)
        self.epochs.append(tally.record(epoch, time.perf_counter() - started, validation))
        if self.checkpoints is not None and self.machine.is_main_process:
            self.checkpoints.save(self.state_dict())
        self.machine.wait_for_everyone()

    def _ready(self, call: Call, moment: Moment) -> Call:
        """The batch on the device, softened where that was asked for."""
        call = self._moved(call)
        return call if self.softener is None else self.softener(call, moment.epoch, moment.batch)

    def _backward(self, call: Call, moment: Moment, num: int, last: bool) -> dict[str, float]:
        """Add a batch's share to the gradients; the parts of its loss."""
        waiting = contextlib.nullcontext() if last else self.machine.no_sync(self.learner)
        with waiting:
            with self.plan.precision.autocast(self.machine.device):
                parts = self.learner(call, moment)
                stacked = torch.stack(tuple(parts.values()))
            total = stacked.sum() / num
            if not total.requires_grad:
                raise InvalidInput(
                    f"the loss ({', '.join(parts)}) depends on no parameter that takes gradients: "
                    "look for a detach(), a no_grad() or an argmax in the model or its loss"
                )
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return dict(zip(parts, stacked.detach().tolist(), strict=True))

    def _step(self, parts: Mapping[str, float], moment: Moment, tally: Tally) -> None:
        """One optimizer step with the gradients of all its batches."""
        self.rate.set(self.step)
        rate = self.rate.now
        where = f"step {self.step} (epoch {moment.epoch + 1}, batch {moment.batch})"
        parts = self._over_processes(parts)
        self.watchdog.look(parts, self.step, where, rate, self._last_good())
        norm = None
        if self.plan.tricks.clip is not None:
            self.scaler.unscale_(self.optimizer)
            trained = [p for p in self.bare.parameters() if p.requires_grad]
            norm = float(nn.utils.clip_grad_norm_(trained, self.plan.tricks.clip))
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.get_scale() < scale
        self.optimizer.zero_grad()
        if skipped and self.scaler.get_scale() < 1:
            raise diverged_scale(self.scaler.get_scale(), self.step, where, rate, self._last_good())
        if not skipped:
            self.rate.stepped(self.step)
            if self.average is not None:
                self.average.update()
        tally.add(parts, rate, norm, skipped)
        self.step += 1

    def _over_processes(self, parts: Mapping[str, float]) -> Mapping[str, float]:
        """The mean of each part over all processes, some of which may not have it."""
        if self.machine.num_processes == 1:
            return parts
        from accelerate.utils import gather_object

        gathered: list[Mapping[str, float]] = gather_object([dict(parts)])
        names = dict.fromkeys(name for one in gathered for name in one)
        return {name: sum(one.get(name, 0.0) for one in gathered) / len(gathered) for name in names}

    def _synchronise(self) -> None:
        """Running statistics are each process's own after its last batch: the first's count."""
        if self.machine.num_processes > 1:
            from accelerate.utils import broadcast

            averaged = [] if self.average is None else self.average.mean
            broadcast([*self.bare.buffers(), *averaged])

    def _refuse_broken_weights(self, epoch: int) -> None:
        """A last step may spoil weights that no loss was computed with any more."""
        name = not_finite(self.student.module)
        if name is not None:
            where = f"step {self.step - 1} (the end of epoch {epoch + 1})"
            raise diverged_weights(name, self.step - 1, where, self.rate.now, self._last_good())

    def _validate(self, epoch: int) -> float | None:
        """The score on the validation data, of the weights that would be given back."""
        if self.patience is None:
            return None
        averaged = contextlib.nullcontext() if self.average is None else self.average.applied()
        with averaged, self.student.evaluating() as model:
            scores = evaluate(self._answering(model), self.task, "validation", watch=self.watch)
            self.patience.see(epoch, scores.figure, self.student.module)
        return scores.figure

    def _answering(self, model: nn.Module) -> Any:
        from accelerate.utils import send_to_device

        def answer(*args: Any, **kwargs: Any) -> Any:
            """The metric compares with targets that stayed where the data is."""
            args, kwargs = send_to_device((args, kwargs), self.machine.device)
            return send_to_device(model(*args, **kwargs), "cpu")

        return answer

    def _softener(self) -> Softener | None:
        tricks = self.plan.tricks
        if not (tricks.label_smoothing or tricks.mixup):
            return None
        call = self._moved(self.batches.first())
        with self.student.evaluating() as model:
            return Softener(self.task, tricks, self.plan.seed, model, call)

    def _moved(self, call: Call) -> Call:
        from accelerate.utils import send_to_device

        moved = send_to_device((call.args, call.kwargs, call.target), self.machine.device)
        return Call(*moved)

    def _refuse_overlap(self, call: Call) -> None:
        """A look at other data, which may not change what this epoch draws."""
        with generators_kept(self.machine.device):
            refuse_overlap(self.task, call, "test")
            if self.patience is not None:
                refuse_overlap(self.task, call, "validation")

    def _last_good(self) -> Path | None:
        """The checkpoint, where one was written."""
        return self.checkpoints.file if self.checkpoints is not None and self.epochs else None

    def state_dict(self) -> dict[str, Any]:
        """Everything the next epoch depends on."""
        return {
            "model": self.student.module.state_dict(),
            "extras": {} if self.extras is None else self.extras.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "patience": None if self.patience is None else self.patience.state_dict(),
            "generators": self.batches.generators(),
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave, of a training with the same settings."""
        self.student.module.load_state_dict(state["model"])
        if self.extras is not None:
            self.extras.load_state_dict(state["extras"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.patience is not None:
            self.patience.load_state_dict(state["patience"])
        self.batches.restore(state["generators"])
        self.epochs = [epoch_from_json(epoch) for epoch in state["epochs"]]
        losses = [loss for epoch in self.epochs for loss in epoch.losses]
        self.step, self.watchdog = len(losses), Watchdog(losses)


def _plain(part: Objective | Growing) -> dict[str, Any]:
    """Its settings. InvalidInput where they are not plain JSON."""
    settings = dict(part.settings())
    try:
        json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the settings of {type(part).__name__} are not plain JSON ({error}): "
            "name what JSON cannot hold, so that a record of the training can be written"
        ) from error
    return settings
