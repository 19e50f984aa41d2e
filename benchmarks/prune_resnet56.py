"""ResNet-56 on CIFAR-10 with half of its multiply-accumulates and fewer: ours, a peer's, chance.

    python benchmarks/prune_resnet56.py [--parts 2.0x 2.57x] [--quick]

For each factor: `PruneTo` as it is by default, on 256 unlabelled train images; torch-pruning as its
README has it (`peers/torch_pruning_resnet56.py`); and channels drawn at random, the same share of
each layer. All are then trained alike, three epochs, and answer the 10,000 test images. Rows tell
top-1 before training (batch-norm statistics taken anew for all) and after it, and the paired
verdict of ours against the other two.

torch-pruning runs in an environment of its own, `.venv-zoo` (benchmarks/README.md), or what
BURNISH_ZOO_PYTHON names.

Left out: the other tools' sparse training before pruning; more than one seed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

import torch  # noqa: E402
from networks.resnet20 import ResNet56  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402
from training import cifar, scores  # noqa: E402
from training.claims import better  # noqa: E402
from training.document import Part, Script, run  # noqa: E402
from training.pruned import keep  # noqa: E402
from training.watching import watch  # noqa: E402

from burnish import Goal, Task  # noqa: E402
from burnish.core import Candidate  # noqa: E402
from burnish.errors import MissingExtra  # noqa: E402
from burnish.profile import profile  # noqa: E402
from burnish.prune import PruneChannels, PruneTo  # noqa: E402
from burnish.train import fit, reestimate_batch_norm  # noqa: E402

SCRIPT = Script(
    "prune_resnet56",
    "ResNet-56 pruned by half and more: ours, torch-pruning's and chance, trained alike.",
    {"2.0x": 25, "2.57x": 20},
    rooms=("burnish/graph", "burnish/prune"),
)
PEER = ROOT / "benchmarks" / "peers" / "torch_pruning_resnet56.py"
WEIGHTS = "resnet56-cifar10-jpeg.safetensors"
NUM_CALIBRATION, NUM_STATISTICS = 256, 2048  # images
SEED = 0
OURS, PEERS, CHANCE = "burnish PruneTo", "torch-pruning", "random channels"


def compare(part: Part) -> None:
    """All rows of one factor, which is the part's name."""
    factor = float(part.name.removesuffix("x"))
    bench = _Bench(part)
    bench.row("original", bench.original, train=False)
    answered = {
        OURS: bench.row(OURS, lambda: bench.ours(factor)),
        PEERS: bench.row(PEERS, lambda: bench.peers(factor)),
        CHANCE: bench.row(CHANCE, lambda: bench.chance(factor)),
    }
    for other in (PEERS, CHANCE):
        found = scores.compared([answered[other]], [answered[OURS]])
        part.claims.append(better(f"{part.name}: {OURS} is better than {other}", found))
    part.settings |= {
        **cifar.FINE_TUNING,
        "epochs": cifar.FINE_TUNING_EPOCHS,
        "batch": cifar.BATCH,
        "calibration images": NUM_CALIBRATION,
        "images": [len(bench.images.train.labels), len(bench.images.test.labels)],
        "torch-pruning": "1.6.1",
    }


class _Bench:
    """The network, its data, and where a row's answers are kept."""

    def __init__(self, part: Part) -> None:
        self.part = part
        cut = (4 * cifar.BATCH, 500) if part.quick else (None, None)
        self.images = cifar.load(part.sources, *cut)

    def task(self, num: int = NUM_CALIBRATION) -> Task:
        unlabelled = [x for x, _ in self.images.train.cut(num).plain(cifar.BATCH)]
        return self.images.task(SEED, calibration=unlabelled)

    def original(self) -> nn.Module:
        return cifar.pretrained("resnet56", self.part.sources)

    def ours(self, factor: float) -> nn.Module:
        step = PruneTo(1 - 1 / factor)
        return step.apply(Candidate(self.original()), Goal(self.task(), seed=SEED)).model

    def chance(self, factor: float) -> nn.Module:
        step = PruneChannels(1 - 1 / factor, of="macs", criterion="random")
        return step.apply(Candidate(self.original()), Goal(self.task(), seed=SEED)).model

    def peers(self, factor: float) -> nn.Module:
        python = os.environ.get("BURNISH_ZOO_PYTHON", str(ROOT / ".venv-zoo" / "bin" / "python"))
        if not Path(python).exists():
            raise MissingExtra(f"torch-pruning's environment is absent: {python}")
        out = self.part.folder / "torch-pruning.safetensors"
        weights = self.part.sources.find(WEIGHTS)
        subprocess.run([python, PEER, str(weights), str(1 / factor), str(out)], check=True)
        return cifar.channels_last(reshaped(ResNet56(), load_file(out))).eval()

    def row(self, label: str, make: Any, train: bool = True) -> str:
        """Pruned, trained, and asked; what it answered."""
        known = self.part.once(label, lambda: self._answers(label, make(), train))
        row = {name: value for name, value in known.items() if name not in ("answered", "took")}
        self.part.rows.append({"label": label, "top1": scores.figure(known["answered"]), **row})
        return str(known["answered"])

    def _answers(self, label: str, network: nn.Module, train: bool) -> dict[str, Any]:
        start = time.perf_counter()
        found: dict[str, Any] = _counted(network, self.task())
        if train:
            network = reestimate_batch_norm(network, self.task(NUM_STATISTICS))
            found["top1 untrained"] = scores.figure(scores.answers(network, self.task(), watch))
            keep(network, self.part.folder / f"{label.replace(' ', '-')}.safetensors")
            network = fit(
                network,
                self.task(),
                epochs=cifar.FINE_TUNING_EPOCHS,
                seed=SEED,
                watch=watch,
                **cifar.FINE_TUNING,
            ).model
        answered = scores.answers(network, self.task(), watch)
        return {**found, "answered": answered, "took": time.perf_counter() - start}


def _counted(network: nn.Module, task: Task) -> dict[str, Any]:
    """Parameters and multiply-accumulates of one image."""
    counted = profile(network, task.inputs, batch=1, runtimes=())
    return {"parameters": counted.num_parameters, "macs": counted.macs}


def reshaped(network: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A network whose tensors have other sizes: those of a state dict."""
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        old = getattr(module, leaf)
        new = nn.Parameter(tensor) if isinstance(old, nn.Parameter) else tensor
        setattr(module, leaf, new)
    return network


if __name__ == "__main__":
    sys.exit(run(SCRIPT, dict.fromkeys(SCRIPT.minutes, compare)))
