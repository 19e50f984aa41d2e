"""What each rung of the recovery ladder regains of a damaged ResNet-56, and what it costs.

    python benchmarks/recover_table.py [--parts rounded weights channels] [--quick]

"rounded": weights of 4 bits, which stay on their grid. "weights": half of each layer's weights are
masked. "channels": half of each block's inner channels are. The budget is one that only a better
network than the original would meet, so that every rung is climbed; a row's verdict is at a user's
budget of one point, and `stops` names the first rung that meets it. The original is the teacher;
calibration data have no labels and are a part of the train images; the test images are the
validation data of the ladder.

Left out: rungs on their own. Each begins where the best before it ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from networks.resnet20 import ResNet  # noqa: E402
from torch import nn  # noqa: E402
from training import cifar, damage  # noqa: E402
from training.claims import at_least  # noqa: E402
from training.document import Part, Script, run  # noqa: E402
from training.watching import watch  # noqa: E402

from burnish import Budget, Goal, Task  # noqa: E402
from burnish.auto import recover  # noqa: E402
from burnish.core import Candidate, settings_of  # noqa: E402
from burnish.metrics import Verdict  # noqa: E402
from burnish.train import Train  # noqa: E402

SCRIPT = Script(
    "recover_table",
    "What each rung of the recovery ladder regains of a damaged ResNet-56, and what it costs.",
    {"rounded": 12, "weights": 12, "channels": 12},
    rooms=("burnish/auto", "burnish/distill"),
)
MAX_DROP = 0.01  # a user's
NUM_CALIBRATION, NUM_TRAIN = 1024, 25_600  # images
SEED = 0
LEARNING_RATE = 5e-4
EPOCHS = {"distilling": 20, "finetuning": 2}
QUICK = {"distilling": 2, "finetuning": 1}


@dataclass(frozen=True)
class Damage:
    """What is done, what the ladder must keep of it, and whether it did."""

    harm: Callable[[ResNet], ResNet]
    keep: str
    kept: Callable[[nn.Module, nn.Module], bool]


def still_zero(damaged: nn.Module, mended: nn.Module) -> bool:
    """Every masked weight is still 0."""
    pairs = zip(damage.zeros(damaged), damage.zeros(mended), strict=True)
    return all(bool(after[before].all()) for before, after in pairs)


def still_on_grid(damaged: nn.Module, mended: nn.Module) -> bool:
    """No output channel has more distinct weights than 4 bits can say."""
    return damage.most_levels(mended) <= 2 * damage.LEVELS + 1


DAMAGES = {
    "rounded": Damage(damage.rounded, "grid", still_on_grid),
    "weights": Damage(damage.masked_weights, "zeros", still_zero),
    "channels": Damage(damage.masked_channels, "zeros", still_zero),
}


def ladder(part: Part) -> None:
    """Damage the network, climb, and tell each rung."""
    done = DAMAGES[part.name]
    teacher = cifar.pretrained("resnet56", part.sources)
    trainings = _trainings(part)
    known = part.once("ladder", lambda: _climb(done, teacher, _task(part), trainings))
    part.rows += [{"label": "original", "top1": known["original"]}, *known["rungs"]]
    stays = [row for row in known["rungs"] if row["state"] in ("given", "kept")]
    met = [row["label"] for row in stays if row["verdict"]["state"] == "holds"]
    part.settings |= {
        **{name: settings_of(training) for name, training in trainings.items()},
        "keep": done.keep,
        "images": _sizes(part),
        "seed": SEED,
        "max_drop": MAX_DROP,
        "stops": met[0] if met else None,
        "notes": known["notes"],
    }
    text = f"{part.name}: what was {'rounded' if done.keep == 'grid' else 'masked'} still is"
    part.claims.append(at_least(text, float(known["kept"]), 1.0))


def _sizes(part: Part) -> dict[str, int]:
    if part.quick:
        return {"calibration": 256, "train": 2 * cifar.BATCH, "validation": 500}
    return {"calibration": NUM_CALIBRATION, "train": NUM_TRAIN, "validation": 10_000}


def _trainings(part: Part) -> dict[str, Train]:
    """How the two rungs that train do it."""
    return {
        name: Train(epochs=epochs, learning_rate=LEARNING_RATE, precision="bfloat16")
        for name, epochs in (QUICK if part.quick else EPOCHS).items()
    }


def _task(part: Part) -> Task:
    """Calibration images come first among those of the train split, as they are."""
    sizes = _sizes(part)
    images = cifar.load(part.sources, sizes["train"], sizes["validation"])
    unlabelled = [x for x, _ in images.train.cut(sizes["calibration"]).plain(cifar.BATCH)]
    return images.task(SEED, calibration=unlabelled)


def _climb(
    done: Damage, teacher: ResNet, task: Task, trainings: Mapping[str, Train]
) -> dict[str, Any]:
    start, damaged = time.perf_counter(), done.harm(teacher)
    goal = Goal(task, budget=Budget(max_drop=0.0, minutes=None), seed=SEED)
    found = recover(Candidate(damaged), teacher, goal, keep=done.keep, watch=watch, **trainings)
    return {
        "original": found.original,
        "rungs": [
            {
                "label": rung.name,
                "state": rung.state,
                "top1": rung.figure,
                "gain": rung.gain,
                "seconds": round(rung.seconds, 1),
                "note": rung.note,
                "verdict": None if rung.verdict is None else _at_budget(rung.verdict),
            }
            for rung in found.rungs
        ],
        "notes": list(found.notes),
        "kept": done.kept(damaged, found.candidate.model),
        "took": time.perf_counter() - start,
    }


def _at_budget(answer: Verdict) -> dict[str, Any]:
    """The interval, which no budget changes, and what it says of a user's."""
    state = (
        "holds" if answer.low > -MAX_DROP else "fails" if answer.high < -MAX_DROP else "cannot tell"
    )
    interval = {name: getattr(answer, name) for name in ("difference", "low", "high", "n")}
    return {**interval, "max_drop": MAX_DROP, "state": state}


if __name__ == "__main__":
    sys.exit(run(SCRIPT, dict.fromkeys(DAMAGES, ladder)))
