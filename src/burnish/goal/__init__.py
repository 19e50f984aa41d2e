"""What is wanted: the task, the target, the budget, and the measurements that answer to them.

Everything here is a frozen value. A `Goal` has a fingerprint, by which a run folder knows its own.
Left out: how anything is achieved (that is a `Step`, in `core`) and how it is timed (`bench`).
"""

from __future__ import annotations

from burnish.goal._census import sample_hashes
from burnish.goal._goal import Goal
from burnish.goal._inputs import Inputs
from burnish.goal._limits import Budget, Measurement, Target
from burnish.goal._task import Call, Task

__all__ = ["Budget", "Call", "Goal", "Inputs", "Measurement", "Target", "Task", "sample_hashes"]
