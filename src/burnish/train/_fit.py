"""`fit`: the one way anything here is trained. A deep copy learns, the model itself is left alone.

This file checks what it is given and puts a training together; `_loop` runs it. Devices and
processes are accelerate's: the copy goes to the device accelerate names (a GPU where there is one;
ACCELERATE_USE_CPU=1 keeps it on the CPU), several processes started by `accelerate launch` or
`torchrun` share the batches, and the trained copy comes back to the device the model was on. Only
CPUs have been tried here.

Left out: whatever is not training. Data is loaded by its loader, scores are computed by `evaluate`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from burnish.core import model_hash
from burnish.errors import InvalidInput
from burnish.goal import Task
from burnish.train._checkpoint import Checkpoints
from burnish.train._data import generators_kept
from burnish.train._evaluate import Watch
from burnish.train._loop import Training
from burnish.train._memory import memory_kept
from burnish.train._objective import Objective, Regularizer, TaskLoss
from burnish.train._optimizer import OptimizerFactory, SchedulerFactory
from burnish.train._plan import Plan, as_schedule
from burnish.train._precision import Precision, as_precision
from burnish.train._record import Fitted, Kept, TrainingRecord
from burnish.train._schedule import Schedule
from burnish.train._student import Student
from burnish.train._tricks import Tricks, as_tricks


class FitSettings(TypedDict, total=False):
    """The keywords of `fit` that a function built on it hands on (`**settings`)."""

    epochs: int
    learning_rate: float
    optimizer: str | OptimizerFactory
    schedule: str | Schedule | SchedulerFactory
    weight_decay: float
    precision: str | Precision
    tricks: Tricks
    regularizer: Regularizer | None
    seed: int
    checkpoints: Path | None
    watch: Watch | None


def fit(
    model: nn.Module,
    task: Task,
    *,
    epochs: int,
    learning_rate: float,
    optimizer: str | OptimizerFactory = "adamw",
    schedule: str | Schedule | SchedulerFactory = "cosine",
    weight_decay: float = 0.01,
    precision: str | Precision = "float32",
    tricks: Tricks | None = None,
    objective: Objective | None = None,
    regularizer: Regularizer | None = None,
    seed: int = 0,
    checkpoints: Path | None = None,
    watch: Watch | None = None,
) -> Fitted:
    """Train a deep copy of `model`; its mode and its device stay as they were.

    Args:
        model: any module, or a traced graph (which trains without what is in `Traced.lost`).
        task: its `train` data, and its `loss` where there is no `objective`.
        epochs: passes over the train data.
        learning_rate: the highest one.
        optimizer: "adamw" (Loshchilov and Hutter, 2019), "sgd" (Nesterov momentum 0.9), or a
            function or class that is given parameter groups and `lr`.
        schedule: a kind of `Schedule`; a `Schedule`, as shares of `learning_rate`; or a function of
            optimizer and number of steps that makes a torch scheduler, stepped once a step.
        weight_decay: of matrices and kernels; vectors (biases, batch-norm) have none.
        precision: "float32", "bfloat16", "float16" or a `Precision`.
        tricks: accumulation, clipping, averaging, label smoothing, mixup, early stopping.
        objective: what is minimised; by default the task's loss of the model's output.
        regularizer: a function of the model whose value is added to the loss; or an object whose
            `at(progress)` gives one and whose `settings()` are recorded (`prune.group_penalty`).
        seed: of order, augmentation and dropout; the global generators are put back afterwards.
        checkpoints: a folder to save the state in after each epoch. A call with the same model and
            settings that finds its own state there carries on from it.
        watch: wraps an iterable with a title, as a progress bar does; a `Bar` shows more.

    Raises:
        InvalidInput: a frozen model, no train data, no loss, a loss that is no scalar, a setting
            out of range, train data that is also test data, another run's checkpoint.
        Diverged: a loss or a weight that is not finite, or a loss that exploded.
        Unsupported, Damaged: a model that cannot be copied; a checkpoint that does not read.
    """
    shape, numbers, more = as_schedule(schedule), as_precision(precision), as_tricks(tricks)
    plan = Plan(epochs, learning_rate, optimizer, shape, weight_decay, numbers, more, seed)
    aim = TaskLoss(task) if objective is None else objective
    student, machine = Student(model), _machine()
    with generators_kept(machine.device), torch.enable_grad(), memory_kept():
        torch.manual_seed(seed)
        training = Training(student, task, plan, aim, regularizer, machine, watch)
        settings = training.settings()
        if checkpoints is not None:
            _resume(training, settings, checkpoints, model)
        return _fitted(training, settings, training.run())


def _machine() -> Any:
    """accelerate's view of the devices and processes there are."""
    from accelerate import Accelerator

    try:
        machine = Accelerator(mixed_precision="no")
    except ValueError as error:
        raise InvalidInput(
            f"accelerate was set up for this process with settings that fit() cannot share "
            f"({error}): set it up without mixed_precision, which fit(precision=…) takes"
        ) from error
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != machine.num_processes:
        raise InvalidInput(
            f"this was started as one of {started} processes, and accelerate sees "
            f"{machine.num_processes}: on a machine without a GPU, set ACCELERATE_USE_CPU=1"
        )
    return machine


def _resume(
    training: Training, settings: Mapping[str, Any], folder: Path, model: nn.Module
) -> None:
    """Save from now on, and carry on from the state that is there."""
    identity = {
        "settings": dict(settings),
        "model": model_hash(model),
        "batches": training.batches.num_batches,
        "processes": training.machine.num_processes,
    }
    training.checkpoints = Checkpoints(folder, identity)
    state = training.checkpoints.load()
    if state is not None:
        training.load_state_dict(state)


def _fitted(training: Training, settings: Mapping[str, Any], stopped: str) -> Fitted:
    """The trained model, with the weights that are given back written into it."""
    for hook in training.held:
        hook.remove()
    kept: Kept = "last"
    if training.patience is not None:
        training.patience.apply(training.student.module)
        kept = "best"
    elif training.average is not None:
        training.average.apply()
        kept = "average"
    record = TrainingRecord(
        settings=settings,
        num_parameters=sum(p.numel() for p in training.bare.parameters() if p.requires_grad),
        num_processes=training.machine.num_processes,
        device=str(training.machine.device),
        epochs=tuple(training.epochs),
        kept=kept,
        stopped=stopped,
    )
    return Fitted(training.student.result(), record)
