"""Everything is tried on the example call before anything is trained.

A layer that is not there, shapes that do not fit, an output without logits, a signal that makes no
sense beside the others: all of it is an error before the first batch is read. Adapters are grown
here, from the shapes their layers gave.

A teacher is asked twice. It answers in eval mode, so both answers are equal and no buffer changes;
where that is not so, something in it is random or learning whatever its flags say (dropout called
with `training=True`, a graph traced in train mode), and it would teach noise.

Left out: trying losses on features, some of which need more samples than an example has, and those
that read labels, which an example does not have. They speak at the first batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from burnish.core import tensor_hash
from burnish.distill._balance import Balanced, Scale
from burnish.distill._example import call_of, tensors_of
from burnish.distill._outputs import logits_of
from burnish.distill._setting import Setting, at, check_setting
from burnish.distill._tap import Tap, tapped
from burnish.distill._teachers import Panel, frozen, most_confident
from burnish.errors import BurnishError, InvalidInput
from burnish.goal import Task
from burnish.train import Moment

LABELS = "labels"
SAMPLES = 4
STILL = 1e-3
START = Moment(progress=0.0, epoch=0, step=0, batch=0, draw=0)


@dataclass(frozen=True, eq=False)
class Part:
    """A signal in use: its name in the record, the layers it taps, what it learns, its weight."""

    name: str
    signal: Any
    taps: tuple[Tap, ...] = ()
    adapter: nn.Module | None = None
    ratio: Setting = 1.0
    scale: Scale | None = None

    def weight(
        self, anchor: torch.Tensor | None, own: torch.Tensor, moment: Moment
    ) -> torch.Tensor | float:
        """What the signal's loss is multiplied by: as it says itself, or by the losses' ratio."""
        if self.scale is None:
            return at(self.signal.weight, moment)
        if min(float(own.detach()), 0.0 if anchor is None else float(anchor.detach())) < 0:
            raise InvalidInput(
                f"{self.name} is Balanced, and its loss or the one it is held to is below 0, as "
                "that of VID may be: a ratio means nothing there; give it a weight of its own"
            )
        weight: torch.Tensor = at(self.ratio, moment) * self.scale(anchor, own)
        return weight


def check_signals(
    signals: Sequence[Any], panel: Panel, task: Task, labels: Setting | None, cached: bool
) -> None:
    """InvalidInput where the signals, the teachers, the labels and the cache do not go together."""
    if not isinstance(signals, list | tuple) or not signals:
        raise InvalidInput(
            f"distill(signals={signals!r}): give a tuple of at least one signal, as (KD(),); "
            "without any, fit() trains on the labels alone"
        )
    for one in signals:
        if not all(hasattr(bare(one), name) for name in ("loss", "weight", "name", "needs_labels")):
            raise InvalidInput(
                f"distill(signals=…) holds a {type(bare(one)).__name__}, which is no signal: give "
                "values as KD(temperature=4.0) or Hint(Tap('layer3')), or a LogitSignal or "
                "FeatureSignal of your own"
            )
    if labels is not None:
        check_setting("distill", "labels", labels, zero=True)
        if task.loss is None:
            raise InvalidInput(
                f"distill(labels={labels!r}) weights the task's loss, and the task has none: give "
                "Task(loss=lambda output, target: …), or say labels=None to learn from the "
                "teacher alone"
            )
    elif isinstance(signals[0], Balanced):
        raise InvalidInput(
            "the first signal is Balanced and there are no labels to balance it with: the others "
            "are held at a ratio of the first, so give that one a weight of its own"
        )
    tapping = [bare(one).name for one in signals if taps_of(one)]
    if tapping and len(panel.copies) > 1:
        raise InvalidInput(
            f"{tapping[0]} taps a layer, and there are {len(panel.copies)} teachers: signals on "
            "features learn from one teacher; distil from one, or by signals on outputs"
        )
    if cached and tapping:
        raise InvalidInput(
            f"{tapping[0]} needs the teacher's layers, and a cache keeps its outputs: leave out "
            "cache=…, or the signal"
        )
    if cached and panel.average is not None:
        raise InvalidInput("a SelfTeacher changes at every step: its outputs cannot be cached")


def tried(
    student: nn.Module, panel: Panel, task: Task, signals: Sequence[Any], seed: int
) -> tuple[Part, ...]:
    """The signals, ready for use, after a run of student and teachers on the example call.

    Args:
        student: left as it is; a copy of it runs.
        panel: the teachers; they are moved to the student's device.
        task: its example call, with 4 samples.
        signals: checked.
        seed: of the adapters' first weights.

    Raises:
        InvalidInput: what does not fit, named.
    """
    copied, args, kwargs = example_call(student, task)
    panel.to(device_of(copied))
    taps = [tap for one in signals for tap in taps_of(one)]
    with torch.no_grad(), tapped(copied, taps, "student") as seen:
        output = copied(*args, **kwargs)
    logits, taught = _asked_twice(panel, args, kwargs, taps, any(not taps_of(s) for s in signals))
    if logits and panel.by_confidence:
        logits = [most_confident(logits)]
    names = _unique([bare(one).name for one in signals])
    parts = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, one in zip(names, signals, strict=True):
            signal, mine = bare(one), taps_of(one)
            if not mine:
                _try_on_outputs(signal, logits_of(output, "the student"), logits, panel.names)
            part = Part(name, signal, mine, _grown(signal, seen, taught))
            if isinstance(one, Balanced):
                part = replace(part, ratio=one.ratio, scale=Scale())
            parts.append(part)
    return tuple(parts)


def example_call(model: nn.Module, task: Task) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A frozen copy of a student, and the example call with 4 samples, on the student's device."""
    copied = frozen(model, "student")
    tensors, tree = tensors_of(task.inputs, SAMPLES)
    args, kwargs = call_of(tree, [tensor.to(device_of(copied)) for tensor in tensors])
    return copied, args, kwargs


def bare(signal: Any) -> Any:
    """A signal without the wrapper that balances it."""
    return signal.signal if isinstance(signal, Balanced) else signal


def taps_of(signal: Any) -> tuple[Tap, ...]:
    """The layers a signal taps; none where it compares outputs."""
    return tuple(getattr(bare(signal), "taps", ()))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the CPU for one that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _grown(
    signal: Any, seen: Mapping[Tap, torch.Tensor], taught: Mapping[Tap, torch.Tensor]
) -> nn.Module | None:
    """What a signal on features learns itself, from the shapes at its taps."""
    taps = taps_of(signal)
    if not taps:
        return None
    built: nn.Module | None = signal.build(
        [seen[tap].shape for tap in taps], [taught[tap].shape for tap in taps]
    )
    return built


def _asked_twice(
    panel: Panel, args: Any, kwargs: Any, taps: Sequence[Tap], on_outputs: bool
) -> tuple[list[torch.Tensor], dict[Tap, torch.Tensor]]:
    """The teachers' logits (if any signal compares them) and features, once both answers agree."""
    before = _buffers(panel)
    answers = []
    for _ in range(2):
        try:
            outputs, seen = panel.ask(args, kwargs, taps)
        except BurnishError:
            raise
        except Exception as error:
            raise InvalidInput(
                f"a teacher fails on the example call, {type(error).__name__}: {error}; teachers "
                "are called as the student is: wrap one that wants another input"
            ) from error
        logits = (
            [logits_of(one, f"the {who}") for one, who in zip(outputs, panel.names, strict=True)]
            if on_outputs
            else []
        )
        answers.append((logits, seen))
    (logits, seen), (again, seen_again) = answers
    pairs = list(zip(logits, again, strict=True)) + [(seen[tap], seen_again[tap]) for tap in taps]
    if before != _buffers(panel) or not all(_equal(one, two) for one, two in pairs):
        raise InvalidInput(
            "a teacher gives two answers to one call, or changes its own buffers while it answers: "
            "something in it is in train mode although eval() was called (dropout with "
            "training=True, a graph traced in train mode); "
            "mend it, or it teaches noise"
        )
    return logits, seen


def _buffers(panel: Panel) -> list[str]:
    return [tensor_hash(buffer) for model in panel.copies for buffer in model.buffers()]


def _equal(one: torch.Tensor, two: torch.Tensor) -> bool:
    largest = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, two, rtol=0.0, atol=STILL * largest, equal_nan=True)


def _try_on_outputs(
    signal: Any, student: torch.Tensor, logits: Sequence[torch.Tensor], names: Sequence[str]
) -> None:
    """Whatever a signal refuses of these shapes, it refuses now; one that reads labels, later."""
    if signal.needs_labels:
        return
    for theirs, who in zip(logits, names, strict=False):  # one, where the surest was chosen
        try:
            with torch.no_grad():
                signal.loss(student, theirs, None, START)
        except InvalidInput as error:
            raise error if len(logits) == 1 else InvalidInput(f"{who}: {error}") from error


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where one is taken: by another signal, or by the loss on the labels."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name} {number}" for number in itertools.count(2))
        free = (one for one in itertools.chain([name], numbered) if one not in (LABELS, *found))
        found.append(next(free))
    return found
