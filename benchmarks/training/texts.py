"""MiniLM-L6 to three layers on Banking77: with labels, with a handful of them, and with none.

The teacher is that of models/minilm.py. The student begins as every second of its layers, with its
embeddings and its head. Rows with a teacher see the same batches; where a text has no label, only
the teacher says what it means. The row with a handful of labels alone takes as many steps as the
others on the texts that have one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from models import minilm

from burnish import Task
from burnish.distill import KD, distill, make_student
from burnish.train import fit
from training import banking, scores
from training.banking import Texts
from training.claims import better
from training.document import Part
from training.watching import watch

LAYERS = [0, 2, 4]
FEW = 5  # labels of each class, where there are a handful
NO_LABEL = -100  # what `distill` takes for it
BATCH = 32
EPOCHS, SEED = 4, 0
TRAINING: Mapping[str, Any] = {
    "learning_rate": 1e-4,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "precision": "bfloat16",
}


@dataclass(frozen=True)
class Row:
    """Labels of each class (None: all), whether a teacher helps, and the row it stands against."""

    labels: int | None
    taught: bool
    against: str | None = None


ROWS: Mapping[str, Row] = {
    "labels alone": Row(None, False),
    "labels and teacher": Row(None, True, "labels alone"),
    "teacher alone, no label": Row(0, True, "labels alone"),
    "5 labels a class alone": Row(FEW, False),
    "5 labels a class and teacher": Row(FEW, True, "5 labels a class alone"),
}


def texts(part: Part) -> None:
    """A student each row."""
    bench = _Bench(part)
    teacher = part.once("teacher", bench.teachers)["answers"]
    part.rows.append({"label": "teacher", "top1": scores.figure(teacher)})
    answered: dict[str, str] = {}
    for name, row in ROWS.items():
        known = part.once(name, partial(bench.train, row))
        answered[name] = known.pop("answers")
        top1_ = scores.figure(answered[name])
        part.rows.append({"label": name, "top1": top1_, "against": row.against, **known})
        if row.against is not None:
            seen = scores.compared([answered[row.against]], [answered[name]])
            part.rows[-1]["verdict"] = scores.told(seen)
    few, taught = list(ROWS)[3:]
    seen = scores.compared([answered[few]], [answered[taught]])
    text = (
        "MiniLM to 3 layers, 5 labels a class: the teacher on unlabelled texts beats labels alone"
    )
    part.claims.append(better(text, seen))
    part.settings |= {
        **TRAINING,
        "epochs": bench.epochs,
        "batch": BATCH,
        "seed": SEED,
        "layers": LAYERS,
        "texts": [len(bench.train_texts.labels), len(bench.test_texts.labels)],
        "signal": repr(KD()),
    }


class _Bench:
    """The part's texts and its teacher."""

    def __init__(self, part: Part) -> None:
        self.part, self.epochs = part, 1 if part.quick else EPOCHS
        minilm.load(part.sources)  # trains the teacher's head where the cache has none
        self.teacher = minilm.network(part.sources)
        cut = (16 * BATCH, 256) if part.quick else (None, None)
        self.train_texts, self.test_texts = banking.load(part.sources, SEED, *cut)

    def train(self, row: Row) -> dict[str, Any]:
        """A row's student: its answers, and what it was trained on."""
        start = time.perf_counter()
        student = make_student(self.teacher, layers={"encoder.encoder.layer": LAYERS}).model
        task, num, epochs = self._task(row)
        common = {**TRAINING, "epochs": epochs, "seed": SEED, "watch": watch}
        if row.taught:
            weight = None if row.labels == 0 else 1.0
            kept = self.part.shared / "minilm-logits"
            fitted = distill(
                student, self.teacher, task, (KD(),), labels=weight, cache=kept, **common
            )
        else:
            fitted = fit(student, task, **common)
        return {
            "answers": scores.answers(fitted.model, task, watch),
            "texts": num,
            "epochs": epochs,
            "epoch_seconds": [round(epoch.seconds, 2) for epoch in fitted.record.epochs],
            "parts": dict(fitted.record.epochs[-1].parts),
            "took": time.perf_counter() - start,
        }

    def teachers(self) -> dict[str, Any]:
        """The teacher's own answers."""
        start = time.perf_counter()
        answered = scores.answers(self.teacher, self._task(ROWS["labels alone"])[0], watch)
        return {"answers": answered, "took": time.perf_counter() - start}

    def _task(self, row: Row) -> tuple[Task, int, int]:
        """A row's task, how many texts it trains on, and for how many epochs."""
        given, epochs = self.train_texts, self.epochs
        few = given.few(FEW)
        if row.labels == FEW and row.taught:
            known = torch.full_like(given.labels, NO_LABEL)
            known[few] = given.labels[few]
            given = Texts(given.ids, given.mask, known)
        elif row.labels == FEW:
            epochs *= (len(given.labels) // BATCH) // (len(few) // BATCH)
            given = Texts(given.ids[few], given.mask[few], given.labels[few])
        task = banking.task(given, self.test_texts, SEED, BATCH, labelled=row.labels != 0)
        return task, len(given.labels), epochs
