"""The one training loop, what it is told, and the one loop that scores a split."""

from __future__ import annotations

from burnish.train._evaluate import Scores, evaluate
from burnish.train._fit import FitSettings, fit
from burnish.train._objective import Moment, Objective, TaskLoss, task_loss
from burnish.train._precision import Precision
from burnish.train._progress import Bar
from burnish.train._record import EpochRecord, Fitted, TrainingRecord
from burnish.train._reestimate import reestimate_batch_norm, settle_batch_norm
from burnish.train._repair import Repaired, repair
from burnish.train._schedule import Schedule
from burnish.train._step import Train, changed_state, load_state
from burnish.train._tricks import Tricks

__all__ = [
    "Bar",
    "EpochRecord",
    "FitSettings",
    "Fitted",
    "Moment",
    "Objective",
    "Precision",
    "Repaired",
    "Schedule",
    "Scores",
    "TaskLoss",
    "Train",
    "TrainingRecord",
    "Tricks",
    "changed_state",
    "evaluate",
    "fit",
    "load_state",
    "reestimate_batch_norm",
    "repair",
    "settle_batch_norm",
    "task_loss",
]
