"""The one training loop: a deep copy of the model is trained, the model itself is left alone.

Plain torch in float32, on the device the model and the data are on: one optimizer, one schedule of
the learning rate over all steps, one loss. Shuffling and augmentation are the loader's business;
`seed` sets torch's generator for what the model itself draws (dropout), and the caller's generator
is put back afterwards. A loss that is not finite ends the training at once, because nothing after
it means anything.

Left out: device handling, mixed precision and distribution. The library for those is accelerate;
it comes in with the first step that trains on anything but a CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sized
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from burnish.errors import InvalidInput, Unsupported
from burnish.goal import Task
from burnish.graph import Traced
from burnish.train._evaluate import Watch

WARM_UP = 0.3
FIRST = 1 / 25


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _one_cycle(progress: float) -> float:
    """Up from 1/25 over the first 30 %, then down to 0 (Smith and Topin, 2018)."""
    if progress < WARM_UP:
        return FIRST + (1 - FIRST) * progress / WARM_UP
    return _cosine((progress - WARM_UP) / (1 - WARM_UP))


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}
OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "adamw": AdamW,
    "sgd": lambda parameters, **settings: SGD(parameters, momentum=0.9, nesterov=True, **settings),
}


def fit(
    model: nn.Module,
    task: Task,
    *,
    epochs: int,
    learning_rate: float,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    weight_decay: float = 0.01,
    seed: int = 0,
    watch: Watch | None = None,
) -> nn.Module:
    """A trained deep copy of `model`, its training flags as they were.

    Args:
        model: any module with parameters that take gradients; left alone.
        task: its `train` data and its `loss`.
        epochs: passes over the train data.
        learning_rate: the highest one.
        optimizer: "adamw" (Loshchilov and Hutter, 2019) or "sgd" (Nesterov momentum 0.9).
        schedule: of the learning rate over all steps: "cosine", "one_cycle" or "constant".
        weight_decay: of matrices and kernels; vectors (biases, batch-norm) have none.
        seed: of what the model draws while it trains.
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: no train data, no loss, a loss that is no scalar or is NaN or infinite, a
            setting out of range.
        Unsupported: a traced model, whose batch-norm is fixed in eval mode.
    """
    _check(model, task, epochs, learning_rate, weight_decay)
    shape, make = (
        _named(SCHEDULES, schedule, "schedule"),
        _named(OPTIMIZERS, optimizer, "optimizer"),
    )
    num_batches = _count(task)
    trained = copy.deepcopy(model)
    flags = {name: module.training for name, module in trained.named_modules()}
    steps = make(_parameter_groups(trained, weight_decay), lr=learning_rate)
    devices = sorted({p.device.index or 0 for p in trained.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        trained.train()
        for epoch in range(epochs):
            title = f"training, epoch {epoch + 1} of {epochs}"
            data = task.data("train")
            for index, batch in enumerate(data if watch is None else watch(data, title)):
                progress = min(1.0, (epoch * num_batches + index) / (epochs * num_batches))
                for group in steps.param_groups:
                    group["lr"] = learning_rate * shape(progress)
                steps.zero_grad()
                where = f"step {epoch * num_batches + index} (epoch {epoch + 1}, batch {index})"
                _loss(trained, task, batch, where).backward()  # type: ignore[no-untyped-call]
                steps.step()
    steps.zero_grad()
    for name, module in trained.named_modules():
        module.training = flags[name]
    return trained


def _check(
    model: nn.Module, task: Task, epochs: int, learning_rate: float, weight_decay: float
) -> None:
    if isinstance(model, Traced):
        raise Unsupported(
            "fit() trains the module itself: a traced model has batch-norm and dropout fixed in "
            "eval mode; train first and trace afterwards"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidInput("no parameter of the model takes gradients: there is nothing to train")
    if task.loss is None:
        raise InvalidInput("fit() needs a loss: give Task(loss=lambda output, target: …)")
    if epochs < 1:
        raise InvalidInput(f"fit(epochs={epochs}): at least 1")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise InvalidInput(f"fit(learning_rate={learning_rate}): a finite number above 0")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise InvalidInput(f"fit(weight_decay={weight_decay}): a finite number, 0 or more")


def _named(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise InvalidInput(f"fit({what}={name!r}): one of {', '.join(sorted(table))}")
    return table[name]


def _count(task: Task) -> int:
    """Batches in one pass, by a pass where the data does not say."""
    data = task.data("train")
    num = len(data) if isinstance(data, Sized) else sum(1 for _ in data)
    if not num:
        raise InvalidInput("the train data is empty: it gave no batch")
    return num


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _loss(model: nn.Module, task: Task, batch: Any, where: str) -> torch.Tensor:
    assert task.loss is not None
    call = task.call(batch)
    loss = task.loss(model(*call.args, **call.kwargs), call.target)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        got = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InvalidInput(
            f"the loss at {where} is {got}, not a scalar tensor: average it over the batch"
        )
    if not bool(torch.isfinite(loss)):
        raise InvalidInput(
            f"the loss is {loss.item()} at {where}: lower the learning rate, or look for NaN in "
            "that batch"
        )
    return loss
