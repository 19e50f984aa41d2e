"""The rungs of the recovery ladder, from the cheapest to the dearest.

    batch_norm  statistics measured again on calibration data       no labels, forward passes
    repair      bias and least-squares repair, layer by layer       no labels, one forward pass
    distill     distillation from the original on calibration data  no labels, a short training
    finetune    distillation and the task's loss on train data      labels, a longer training

Each takes the model it is given and returns a better guess and a sentence; it raises NoEffect or
Unsupported where it does not apply. What may change is the same on every rung:

    keep="zeros"  weights that are zero stay zero
    keep="grid"   and every weight keeps its place on its grid: repair changes factors by channel
                  and biases, training changes vectors alone (biases, gains and shifts of norms)

Left out: choosing learning rates by the data; a rung that did harm is dropped, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from burnish.core import Candidate, copied_model
from burnish.distill import distill
from burnish.errors import NoEffect, Unsupported
from burnish.goal import Goal, Task
from burnish.graph import Traced
from burnish.train import Train, reestimate_batch_norm, repair, settle_batch_norm

RESCALED = ("CrossLayerEqualization", "SmoothQuant")
LABELS = 0.1
Watch = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Climb:
    """What every rung knows: the candidate's history, its original, the goal and the settings."""

    candidate: Candidate
    teacher: nn.Module
    goal: Goal
    keep: str
    signals: Sequence[Any]
    distilling: Train
    finetuning: Train
    watch: Watch | None


Attempt = Callable[[nn.Module, Climb], tuple[nn.Module, str]]


def batch_norm(model: nn.Module, climb: Climb) -> tuple[nn.Module, str]:
    """Statistics measured again."""
    found = reestimate_batch_norm(model, climb.goal.task, watch=climb.watch)
    return found, "statistics of every batch-norm measured again on the calibration data"


def closed_form(model: nn.Module, climb: Climb) -> tuple[nn.Module, str]:
    """Biases, factors and weights by least squares."""
    rescaled = [a.step for a in climb.candidate.history if a.step in RESCALED]
    if rescaled:
        raise Unsupported(
            f"{rescaled[0]} rescaled what lies between layers: their outputs differ from the "
            "original's by design, and cannot be compared with them"
        )
    found = repair(
        model,
        climb.teacher,
        climb.goal.task,
        change="weights" if climb.keep == "zeros" else "channels",
        seed=climb.goal.seed,
        watch=climb.watch,
    )
    done = [layer for layer in found.layers if layer.repaired]
    left = len(found.layers) - len(done)
    note = f"{len(done)} layers from {found.samples} samples, {left} left alone"
    return found.model, note


def label_free(model: nn.Module, climb: Climb) -> tuple[nn.Module, str]:
    """Distillation without labels on the calibration data."""
    task = climb.goal.task
    without = replace(task, train=task.data("calibration"), loss=None)
    trained = _distilled(model, climb, without, climb.distilling, None)
    return trained, f"{climb.distilling.epochs} epochs on the calibration data, without labels"


def fine_tuning(model: nn.Module, climb: Climb) -> tuple[nn.Module, str]:
    """Distillation and the task's own loss on the train data."""
    task = climb.goal.task
    if task.train is None or task.loss is None:
        missing = "train=…" if task.train is None else "loss=…"
        raise Unsupported(f"fine-tuning needs labelled data and a loss: give Task({missing})")
    trained = _distilled(model, climb, task, climb.finetuning, LABELS)
    return trained, f"{climb.finetuning.epochs} epochs on the train data, labels weighted {LABELS}"


RUNGS: Mapping[str, Attempt] = MappingProxyType(
    {
        "batch_norm": batch_norm,
        "repair": closed_form,
        "distill": label_free,
        "finetune": fine_tuning,
    }
)


def _distilled(
    model: nn.Module, climb: Climb, task: Task, how: Train, labels: float | None
) -> nn.Module:
    settings: dict[str, Any] = {one.name: getattr(how, one.name) for one in fields(how)}
    settings["tricks"] = replace(how.tricks, keep_zeros=True)
    student = _student(_settled(model, climb), climb.keep)
    fitted = distill(
        student,
        climb.teacher,
        task,
        climb.signals,
        labels=labels,
        seed=climb.goal.seed,
        watch=climb.watch,
        **settings,
    )
    trained: nn.Module = fitted.model
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in trained.named_parameters():
        parameter.requires_grad_(flags.get(name, True))
    return trained


def _settled(model: nn.Module, climb: Climb) -> nn.Module:
    """The same network, its batch-norms ready to normalise by batches; as it is without any."""
    try:
        return settle_batch_norm(model, climb.goal.task, watch=climb.watch)
    except NoEffect:
        return model


def _student(model: nn.Module, keep: str) -> nn.Module:
    """A copy to train, in which only what may change takes gradients.

    Raises:
        Unsupported: nothing does, or the graph holds operators that pass no gradients on.
    """
    if isinstance(model, Traced):
        ours = [node.target for node in model.graph_module.graph.nodes if _is_quantizer(node)]
        if ours:
            raise Unsupported(
                f"the graph holds {len(ours)} quantize operators, which pass no gradients on: "
                "recover the float model, and quantize it afterwards"
            )
    student = copied_model(model)
    if keep == "grid":
        for parameter in student.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter.dim() < 2)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        which = "bias, gain or shift" if keep == "grid" else "parameter"
        raise Unsupported(f"no {which} of the model takes gradients: there is nothing to train")
    return student


def _is_quantizer(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "burnish"


def looks_rounded(model: nn.Module) -> list[str]:
    """The weights of which most channels repeat few values: at most one for every four weights."""
    found = []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or not parameter.is_floating_point() or not len(parameter):
            continue
        channels = parameter.detach().flatten(1)
        few = sum(_repeats(channel[channel != 0]) for channel in channels)
        if 2 * few > len(channels):
            found.append(name)
    return found


def _repeats(values: torch.Tensor) -> bool:
    return len(values) >= 8 and 4 * len(torch.unique(values)) <= len(values)
