"""ResNet-56 to ResNet-20 on CIFAR-10: with the teacher and without, and every other signal.

A student's seed decides its initial weights. Order and augmentation of the batches are the same
for all of them, so that the teacher's logits are computed once an epoch and kept (`cache`); signals
from features need the teacher's layers and ask it anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from burnish.distill import (
    CRD,
    DIST,
    DKD,
    KD,
    PKT,
    RKD,
    VID,
    AttentionTransfer,
    Hint,
    JensenShannon,
    LogitMSE,
    ReverseKL,
    SimilarityPreserving,
    Standardized,
    Tap,
    distill,
)
from burnish.train import fit
from training import cifar, scores
from training.claims import better
from training.document import Part
from training.watching import watch

SEEDS = (0, 1, 2)
ORDER = 0  # the seed of the batches
EPOCHS, EPOCHS_OF_SIGNALS = 6, 2
TRAINING: Mapping[str, Any] = {
    "learning_rate": 0.1,
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "weight_decay": 5e-4,
    "precision": "bfloat16",
}
ALONE = "labels alone"
MIDDLE, LAST = Tap("layer2"), Tap("layer3")
STAGES = (Tap("layer1"), MIDDLE, LAST)
LOGITS: dict[str, tuple[Any, ...]] = {
    "KD": (KD(),),
    "reverse KL": (ReverseKL(),),
    "Jensen-Shannon": (JensenShannon(),),
    "DKD": (DKD(),),
    "DIST": (DIST(),),
    "KD, standardized logits": (Standardized(KD()),),
    "squared logits": (LogitMSE(),),
}
FEATURES: dict[str, tuple[Any, ...]] = {
    "hint": (Hint(MIDDLE),),
    "attention transfer": tuple(AttentionTransfer(tap) for tap in STAGES),
    "similarity-preserving": (SimilarityPreserving(LAST),),
    "RKD": (RKD(LAST),),
    "CRD": (CRD(LAST),),
    "PKT": (PKT(LAST),),
    "VID": tuple(VID(tap) for tap in STAGES),
}
QUICK = ("KD", "hint", "CRD")


def seeds(part: Part) -> None:
    """Students of several seeds, each with the teacher and without."""
    bench = _Bench(part, EPOCHS)
    chosen = SEEDS[:2] if part.quick else SEEDS
    found = {(name, seed): bench.row(name, seed) for seed in chosen for name in (ALONE, "KD")}
    alone, taught = ([found[name, seed] for seed in chosen] for name in (ALONE, "KD"))
    title = "ResNet-56 to ResNet-20"
    for seed, before, after in zip(chosen, alone, taught, strict=True):
        seen = scores.compared([before], [after])
        part.claims.append(better(f"{title}, seed {seed}: KD beats labels alone", seen))
    seen = scores.compared(alone, taught)
    text = f"{title}, mean of {len(chosen)} seeds: KD beats labels alone"
    part.claims.append(better(text, seen))
    bench.finish()


def signals(part: Part) -> None:
    """Every signal, one seed: each beside the labels, with the weight it has by default."""
    bench = _Bench(part, EPOCHS_OF_SIGNALS)
    seed = SEEDS[0]
    alone = bench.row(ALONE, seed)
    for name in QUICK if part.quick else (*LOGITS, *FEATURES):
        taught = bench.row(name, seed)
        part.rows[-1]["verdict"] = scores.told(scores.compared([alone], [taught]))
    bench.finish()


class _Bench:
    """A part's images, its teacher, and its rows."""

    def __init__(self, part: Part, epochs: int) -> None:
        self.part, self.epochs = part, 1 if part.quick else epochs
        cut = (4 * cifar.BATCH, 500) if part.quick else (None, None)
        self.images = cifar.load(part.sources, *cut)
        self.teacher = cifar.pretrained("resnet56", part.sources)
        known = part.once("teacher", self._teacher)
        part.rows.append({"label": "teacher", "top1": scores.figure(known["answers"])})

    def row(self, name: str, seed: int) -> str:
        """Train a student; its answers."""
        known = self.part.once(f"{name}, seed {seed}", partial(self._train, name, seed))
        told = {key: known[key] for key in ("epoch_seconds", "parts")}
        top1 = scores.figure(known["answers"])
        self.part.rows.append({"label": name, "seed": seed, "top1": top1, **told})
        return str(known["answers"])

    def finish(self) -> None:
        """Say what all rows have in common."""
        self.part.settings |= {
            **TRAINING,
            "epochs": self.epochs,
            "batch": cifar.BATCH,
            "order": ORDER,
            "images": [len(self.images.train.labels), len(self.images.test.labels)],
            "weight of the labels": 1.0,
            "signals": {
                name: [repr(one) for one in several]
                for name, several in (LOGITS | FEATURES).items()
            },
        }

    def _train(self, name: str, seed: int) -> dict[str, Any]:
        start = time.perf_counter()
        student, task = cifar.untrained("resnet20", seed), self.images.task(ORDER)
        common = {**TRAINING, "epochs": self.epochs, "seed": ORDER, "watch": watch}
        if name == ALONE:
            fitted = fit(student, task, **common)
        else:
            signals = (LOGITS | FEATURES)[name]
            kept = self.part.shared / "resnet56-logits" if name in LOGITS else None
            fitted = distill(student, self.teacher, task, signals, labels=1.0, cache=kept, **common)
        epochs = fitted.record.epochs
        return {
            "answers": scores.answers(fitted.model, task, watch),
            "epoch_seconds": [round(epoch.seconds, 2) for epoch in epochs],
            "parts": dict(epochs[-1].parts),
            "took": time.perf_counter() - start,
        }

    def _teacher(self) -> dict[str, Any]:
        start = time.perf_counter()
        answered = scores.answers(self.teacher, self.images.task(ORDER), watch)
        return {"answers": answered, "took": time.perf_counter() - start}
