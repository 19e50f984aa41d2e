"""How much faster bfloat16 trains than float32, and what `fit` costs beyond a loop by hand.

    python benchmarks/train_precision.py [--parts precision overhead] [--quick]

Trainings of ResNet-20 on CIFAR-10 run in processes of their own that take turns, a stretch of
batches each (training/turns.py), so that ratios are taken between neighbours in time. In
"precision" the faster layout of each type is found first (contiguous or channels-last), then the
two train to the end and answer the same test images, in float32; from three seeds, since two
trainings of any kind differ by more than the samples tell. In "overhead" `fit` and a loop
written by hand train the same network with the same settings; their weights must come out equal.

Left out: float16, which this kind of processor computes in float32; GPUs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from training import cifar, scores  # noqa: E402
from training.claims import alike, at_least, at_most  # noqa: E402
from training.document import Part, Script, run  # noqa: E402
from training.loops import LEARNING_RATE, SEED, WEIGHT_DECAY, Training  # noqa: E402
from training.turns import Ran, take_turns, time_ratio  # noqa: E402
from training.watching import console  # noqa: E402

SCRIPT = Script(
    "train_precision",
    "How much faster bfloat16 trains than float32, and what fit costs beyond a loop by hand.",
    {"precision": 25, "overhead": 5},
)
FASTER, OVERHEAD = 1.5, 1.03
EPOCHS, STRETCH = 3, 30
SEEDS = (0, 1, 2)
PILOT = (60, 6)  # batches of each layout, in stretches of so many
WORKLOADS = ("resnet20, float32", "resnet20, bfloat16", "lstm, float32")
NUM_BATCHES, EPOCHS_OF_LSTM = 200, 12
SHORT = {"resnet20": 10, "lstm": 40}  # stretches of so many, where fit is compared
QUICK = 8  # stretches of one batch


def precision(part: Part) -> None:
    """bfloat16 against float32, each in its faster layout."""
    cifar.load(part.sources)  # so that not every process reads the archive
    pilot = part.once("layouts", lambda: _pilot(part))
    layouts = {name: pilot["faster"][name] for name in ("float32", "bfloat16")}
    epochs = 1 if part.quick else EPOCHS
    base = Training("resnet20", "float32", epochs, part.sources, part.threads)
    if part.quick:
        base = replace(base, num_train=QUICK * cifar.BATCH, num_test=500)
    jobs = {
        name: replace(base, precision=name, contiguous=layout == "contiguous")
        for name, layout in layouts.items()
    }
    seeds, stretch = (SEEDS[:2], 1) if part.quick else (SEEDS, STRETCH)
    found = [
        part.once(f"trainings, seed {seed}", partial(_raced, _seeded(jobs, seed), stretch))
        for seed in seeds
    ]
    exact, mixed = ([one["ran"][name] for one in found] for name in layouts)
    seen = scores.compared(
        [row["answers"] for row in exact], [row["answers"] for row in mixed], max_drop=0.01
    )
    ratio = time_ratio(*(Ran(_all_seconds(rows), None) for rows in (exact, mixed)))
    part.settings |= {
        **_settings(),
        "epochs": epochs,
        "seeds": list(seeds),
        "layouts": pilot["batch_ms"],
    }
    part.rows += [
        {
            "label": name,
            "seed": seed,
            "layout": layouts[name],
            "batch_ms": row["batch_ms"],
            "epoch_seconds": row["batch_ms"] * _batches(base) / 1e3,
            "top1": scores.figure(row["answers"]),
        }
        for name, rows in zip(layouts, (exact, mixed), strict=True)
        for seed, row in zip(seeds, rows, strict=True)
    ]
    part.rows[-1] |= {"verdict": scores.told(seen), "speed_up": ratio}
    part.claims += [
        at_least(
            "an epoch of ResNet-20 in bfloat16 is at least 1.5 times faster than in float32",
            ratio["value"],
            FASTER,
            low=ratio["low"],
            high=ratio["high"],
        ),
        alike("its final accuracy cannot be told from float32's (paired, mean of seeds)", seen),
    ]


def overhead(part: Part) -> None:
    """`fit` against the loop by hand, for each workload."""
    cifar.load(part.sources)
    for label in WORKLOADS:
        workload, dtype = label.split(", ")
        num = QUICK if part.quick else NUM_BATCHES
        base = Training(workload, dtype, 1, part.sources, part.threads, num_test=500)
        if workload == "resnet20":
            base = replace(base, num_train=num * cifar.BATCH)
        else:
            base = replace(base, epochs=1 if part.quick else EPOCHS_OF_LSTM)
        jobs = {"fit": base, "by hand": replace(base, by_hand=True)}
        stretch = 1 if part.quick else SHORT[workload]
        found = part.once(label, partial(_raced, jobs, stretch))
        ratio = found["ratios"]["fit / by hand"]
        times = {name: row["batch_ms"] for name, row in found["ran"].items()}
        same = found["ran"]["fit"]["weights"] == found["ran"]["by hand"]["weights"]
        part.rows.append({"label": label, "batch_ms": times, "ratio": ratio, "same_weights": same})
        part.claims.append(
            at_least(f"{label}: fit's weights are those of the loop by hand", float(same), 1.0)
        )
        if workload == "resnet20":
            part.claims.append(
                at_most(
                    f"{label}: fit takes at most 3 % longer than the loop by hand",
                    ratio["value"],
                    OVERHEAD,
                    low=ratio["low"],
                    high=ratio["high"],
                )
            )


def _pilot(part: Part) -> dict[str, Any]:
    """Milliseconds of a batch in each type and layout, and the faster layout of each type."""
    num, stretch = (QUICK, 1) if part.quick else PILOT
    base = Training("resnet20", "float32", 1, part.sources, part.threads)
    base = replace(base, num_train=num * cifar.BATCH, num_test=250)
    layouts = {"contiguous": True, "channels-last": False}
    jobs = {
        f"{name}, {layout}": replace(base, precision=name, contiguous=contiguous)
        for name in ("float32", "bfloat16")
        for layout, contiguous in layouts.items()
    }
    found = _raced(jobs, stretch)
    times = {name: row["batch_ms"] for name, row in found["ran"].items()}
    faster = {
        name: min(layouts, key=lambda layout: times[f"{name}, {layout}"])
        for name in ("float32", "bfloat16")
    }
    return {"batch_ms": times, "faster": faster, "took": found["took"]}


def _raced(jobs: Mapping[str, Training], stretch: int) -> dict[str, Any]:
    """Both trainings in turns: batches' times, answers, weights, and the ratio of the times."""
    with Progress(console=console, transient=True) as bar:
        shown = {name: bar.add_task(f"{name}, stretches of {stretch}", total=None) for name in jobs}

        def watch(name: str, done: int) -> None:
            bar.update(shown[name], completed=done)

        ran = take_turns(jobs, stretch, SEED, watch)
    first, *_, last = ran
    return {
        "ran": {
            name: {
                "batch_ms": median(found.seconds) / stretch * 1e3,
                "seconds": list(found.seconds),
                **found.result,
            }
            for name, found in ran.items()
        },
        "ratios": {f"{first} / {last}": time_ratio(ran[first], ran[last])},
        "took": sum(_total(found) for found in ran.values()),
    }


def _seeded(jobs: Mapping[str, Training], seed: int) -> dict[str, Training]:
    return {name: replace(job, seed=seed) for name, job in jobs.items()}


def _all_seconds(rows: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """Of the stretches of several trainings, one after the other."""
    return tuple(second for row in rows for second in row["seconds"])


def _total(ran: Ran) -> float:
    return sum(ran.seconds)


def _batches(job: Training) -> int:
    """In an epoch."""
    return (job.num_train or 50_000) // cifar.BATCH


def _settings() -> dict[str, Any]:
    return {
        "optimizer": "sgd, Nesterov momentum 0.9",
        "schedule": "cosine",
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "batch": cifar.BATCH,
        "augmentation": "cut from 4 black pixels around, turned left to right",
    }


if __name__ == "__main__":
    sys.exit(run(SCRIPT, {"precision": precision, "overhead": overhead}))
