"""How long finding the groups of coupled channels takes, beside torch-pruning's dependency graph.

    .venv-zoo/bin/python benchmarks/prune_groups.py [--output FILE]

ResNet-50 and ViT-B/16 as torchvision builds them. Both tools look at the same example; ours gets
the traced graph, torch-pruning the module, which it calls once to find its graph; that call is
timed where it happens and taken off. They take turns, one thread; the ratio is the median over
rounds with its interval. Memory is the growth of a process's peak while it builds, each in a
process of its own.

Runs in the environment of prune_zoo.py with torch-pruning 1.6.1 besides (benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from result import write_result  # noqa: E402

from burnish.bench import Environment  # noqa: E402
from burnish.graph import Traced, channel_groups, trace  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "prune_groups.json"
MODELS = ("resnet50", "vit_b_16")
OURS, THEIRS, CALL = "burnish", "torch-pruning", "its call"
ROUNDS = 15


def model_of(name: str) -> torch.nn.Module:
    import torchvision

    torch.manual_seed(0)
    found: torch.nn.Module = torchvision.models.get_model(name, weights=None).eval()
    return found


def example() -> torch.Tensor:
    return torch.zeros(1, 3, 224, 224)


def theirs(model: torch.nn.Module) -> tuple[float, float]:
    """Seconds of torch-pruning's graph, and those of them in the call that it traces by."""
    import torch_pruning

    at: list[float] = []
    hooks = (
        model.register_forward_pre_hook(lambda *_: at.append(time.perf_counter())),
        model.register_forward_hook(lambda *_: at.append(time.perf_counter())),
    )
    start = time.perf_counter()
    graph = torch_pruning.DependencyGraph().build_dependency(model, (example(),))
    groups = list(graph.get_all_groups())
    took = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    assert groups
    (before, after) = at  # it calls the model once
    return took, after - before


def ours(traced: Traced) -> float:
    """Seconds of our groups."""
    start = time.perf_counter()
    groups = channel_groups(traced)
    assert groups.free
    return time.perf_counter() - start


def race(name: str) -> dict[str, Any]:
    """All three in turns."""
    torch.set_num_threads(1)
    model = model_of(name)
    traced = trace(model, (torch.zeros(2, 3, 224, 224),))
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: [], CALL: []}
    for number in range(ROUNDS + 1):
        mine = ours(traced)
        whole, called = theirs(model)
        if number:
            for tool, taken in ((OURS, mine), (THEIRS, whole), (CALL, called)):
                seconds[tool].append(taken)
    apart = np.array(seconds[THEIRS]) - np.array(seconds[CALL])
    ratios = np.array(seconds[OURS]) / apart
    with_call = np.array(seconds[OURS]) / np.array(seconds[THEIRS])
    return {
        "model": name,
        "ratio": _interval(ratios),
        "ratio with tracing": _interval(with_call),
        "medians": {tool: float(np.median(values)) for tool, values in seconds.items()},
    }


def _interval(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """The median and a distribution-free interval at 95 % (the 4th of 15 values from each end)."""
    ordered = np.sort(values)
    rank = 3
    return {
        "value": float(np.median(ordered)),
        "low": float(ordered[rank]),
        "high": float(ordered[-1 - rank]),
        "rounds": len(ordered),
    }


def peak() -> int:
    """The process's peak so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(name: str, tool: str) -> None:
    """Print the peak's growth while a tool builds its graph, and the model's bytes."""
    model = model_of(name)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    traced = trace(model, (torch.zeros(2, 3, 224, 224),)) if tool == OURS else None
    # Fill up to the peak of what was before, so that only what is built now adds.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    resident = next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")
    )
    filler = bytearray(max(0, peak() - resident))
    before = peak()
    if traced is not None:
        ours(traced)
    else:
        theirs(model)
    print(json.dumps({"grown": peak() - before, "model": size, "filler": len(filler)}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        memory(*given.memory)
        return
    rows, claims = [], []
    for name in MODELS:
        row = race(name)
        for tool in (OURS, THEIRS):
            command = [sys.executable, __file__, "--memory", name, tool]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row.setdefault("memory", {})[tool] = json.loads(said.splitlines()[-1])
        rows.append(row)
        taken, held = row["ratio"], row["memory"][OURS]
        claims.append(
            {
                "claim": f"{name}: groups take no longer than torch-pruning's, tracing apart",
                "met": taken["value"] <= 1,
                "value": taken["value"],
                "bound": 1.0,
                "low": taken["low"],
                "high": taken["high"],
            }
        )
        share = held["grown"] / held["model"]
        claims.append(
            {
                "claim": f"{name}: memory of at most twice the model",
                "met": share <= 2,
                "value": share,
                "bound": 2.0,
            }
        )
        print(json.dumps(row, indent=1))
    document = {
        "schema": 1,
        "benchmark": "prune_groups",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": Environment.capture().to_json(),
        "settings": {"threads": 1, "rounds": ROUNDS, "torch-pruning": "1.6.1"},
        "rows": rows,
        "claims": claims,
    }
    write_result(document, given.output)
    for claim in claims:
        print("met   " if claim["met"] else "MISSED", f"{claim['value']:.3g}", claim["claim"])


if __name__ == "__main__":
    main()
