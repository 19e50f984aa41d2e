"""LSTM(64) to LSTM(8) on the watch's windows, asked about people nobody was trained on.

In each fold a teacher is trained on the others' windows, and students of several seeds with it and
without. Every person is held out once, so the scores of all folds together are one set of answers;
windows of one person are not independent, and so people are the unit of every interval.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from burnish.distill import KD, distill
from burnish.train import Fitted, fit
from training import scores, windows
from training.document import Part
from training.watching import watch

TEACHER, STUDENT = 64, 8  # units
SEEDS = (0, 1, 2)
ORDER = 0  # the seed of the batches
EPOCHS = 30
TRAINING: Mapping[str, Any] = {
    "learning_rate": 1e-2,
    "optimizer": "adamw",
    "schedule": "one_cycle",
}
ALONE, TAUGHT, UNLABELLED = "labels alone", "labels and teacher", "teacher alone, no label"


def people(part: Part) -> None:
    """Each kind of student over all folds, and how it does against the one without a teacher."""
    bench = _Bench(part)
    folds = range(2 if part.quick else windows.NUM_FOLDS)
    seeds = SEEDS[:1] if part.quick else SEEDS
    groups = np.concatenate([bench.data.fold(index).groups for index in folds])
    teacher = "".join(bench.teacher(index)["answers"] for index in folds)
    units = len(np.unique(groups))
    part.rows.append({"label": f"teacher, LSTM({TEACHER})", "top1": scores.figure(teacher)})
    answered: dict[str, list[str]] = {}
    for name in (ALONE, TAUGHT, UNLABELLED):
        answered[name] = [
            "".join(bench.student(name, index, seed)["answers"] for index in folds)
            for seed in seeds
        ]
        figures = [scores.figure(text) for text in answered[name]]
        row = {"label": f"LSTM({STUDENT}), {name}", "top1": float(np.mean(figures))}
        part.rows.append({**row, "seeds": figures, "people": units})
        if name != ALONE:
            seen = scores.compared(answered[ALONE], answered[name], groups=groups)
            part.rows[-1] |= {"against": ALONE, "verdict": scores.told(seen)}
    part.settings |= {
        **TRAINING,
        "epochs": bench.epochs,
        "batch": windows.BATCH,
        "order": ORDER,
        "seeds": list(seeds),
        "folds": len(folds),
        "windows": len(groups),
        "people": units,
        "signal": repr(KD()),
    }


class _Bench:
    """The part's windows and its teachers, one a fold."""

    def __init__(self, part: Part) -> None:
        self.part, self.epochs = part, 2 if part.quick else EPOCHS
        self.data = windows.load(part.sources, every=4 if part.quick else 1)

    def teacher(self, index: int) -> dict[str, Any]:
        """A fold's teacher: its answers. Its weights lie in the part's folder."""
        return self.part.once(f"fold {index}, teacher", partial(self._teach, index))

    def student(self, name: str, index: int, seed: int) -> dict[str, Any]:
        """A fold's student: its answers."""
        key = f"fold {index}, {name}, seed {seed}"
        return self.part.once(key, partial(self._train, name, index, seed))

    def _teach(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        fold = self.data.fold(index)
        task = fold.task(ORDER)
        fitted = fit(fold.untrained(TEACHER, ORDER), task, **self._common())
        save_file(fitted.model.state_dict(), self._weights(index))
        return self._told(fitted, index, start)

    def _train(self, name: str, index: int, seed: int) -> dict[str, Any]:
        start = time.perf_counter()
        fold = self.data.fold(index)
        student, task = fold.untrained(STUDENT, seed), fold.task(ORDER)
        if name == ALONE:
            return self._told(fit(student, task, **self._common()), index, start)
        teacher = fold.untrained(TEACHER, ORDER)
        teacher.load_state_dict(load_file(self._weights(index)))
        weight = None if name == UNLABELLED else 1.0
        fitted = distill(student, teacher, task, (KD(),), labels=weight, **self._common())
        return self._told(fitted, index, start)

    def _told(self, fitted: Fitted, index: int, start: float) -> dict[str, Any]:
        answered = scores.answers(fitted.model, self.data.fold(index).task(ORDER))
        return {"answers": answered, "took": time.perf_counter() - start}

    def _common(self) -> dict[str, Any]:
        return {**TRAINING, "epochs": self.epochs, "seed": ORDER, "watch": watch}

    def _weights(self, index: int) -> Any:
        return self.part.folder / f"teacher-{index}.safetensors"
