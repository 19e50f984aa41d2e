"""What low-rank factorization does to the quality of two networks, before any training.

    python benchmarks/factorize_table.py [--models resnet20 minilm] [--quick]

ResNet-20 and MiniLM lose a share of their MACs by `Factorize`, once by what the layers compute on
calibration data and once by their weights alone, and answer all validation samples in torch. A
row's difference is paired with the float network's answers.

Left out: time, which does not follow from MACs; training after it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from models import Model, Sources, load  # noqa: E402
from models.model import CACHE, DATA  # noqa: E402

from burnish import Goal  # noqa: E402
from burnish.bench import Environment  # noqa: E402
from burnish.core import Candidate  # noqa: E402
from burnish.errors import BurnishError  # noqa: E402
from burnish.metrics import verdict  # noqa: E402
from burnish.prune import Factorize, factorized_layers  # noqa: E402

MODELS = ("resnet20", "minilm")
RATIOS = (0.15, 0.3, 0.45)
CRITERIA = ("activation", "weight")
SEED = 0
QUICK = 64  # samples
MAX_DROP = 0.01
Scores = NDArray[np.float64]


def answers(network: nn.Module, model: Model) -> torch.Tensor:
    """The logits of all validation samples."""
    with torch.inference_mode():
        return torch.cat([network(*batch.args) for batch in model.validation])


def rows_of(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The float network's row, and one for each share and criterion."""
    model = load(name, Sources(given.data, given.cache, QUICK if given.quick else None, SEED))
    labels = torch.cat([batch.target for batch in model.validation])
    whole = answers(model.network, model)
    goal = Goal(model.task(), seed=SEED)
    rows = [row(name, None, None, whole, whole, labels)]
    for ratio in RATIOS:
        for criterion in CRITERIA:
            step = Factorize(ratio, criterion=criterion)
            candidate = step.apply(Candidate(model.network), goal)
            plan = candidate.history[-1].choices
            table = factorized_layers(plan)
            found = row(name, criterion, ratio, answers(candidate.model, model), whole, labels)
            found["saved"] = plan.plan["saved"]
            found["layers"] = [sum(r.state == "factorized" for r in table), len(table)]
            rows.append(found)
            print(json.dumps(found), flush=True)
    return rows


def row(
    name: str,
    criterion: str | None,
    ratio: float | None,
    logits: torch.Tensor,
    whole: torch.Tensor,
    labels: torch.Tensor,
) -> dict[str, Any]:
    """What some logits are worth, beside the float network's."""
    before, after = _right(whole, labels), _right(logits, labels)
    paired = verdict(before, after, max_drop=MAX_DROP)
    log_p, log_q = whole.double().log_softmax(1), logits.double().log_softmax(1)
    return {
        "model": name,
        "criterion": criterion,
        "ratio": ratio,
        "n": len(labels),
        "top1": float(after.mean()),
        "difference": [paired.difference, paired.low, paired.high],
        "agreement": float((logits.argmax(1) == whole.argmax(1)).double().mean()),
        "divergence": float((log_p.exp() * (log_p - log_q)).sum(1).mean()),
    }


def _right(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    right: Scores = (logits.argmax(1) == labels).double().numpy()
    return right


def claims(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """On data less is lost than by the weights alone: in divergence, at every share."""
    by = {(r["model"], r["ratio"], r["criterion"]): r["divergence"] for r in rows if r["ratio"]}
    found = []
    for name, ratio, criterion in by:
        if criterion == CRITERIA[0]:
            value = by[name, ratio, CRITERIA[0]] / by[name, ratio, CRITERIA[1]]
            text = f"{name}, {ratio:.0%} of the MACs: divergence by activation over by weight"
            found.append({"claim": text, "value": value, "bound": 1.0, "met": value < 1})
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE, help="the trained head, weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few samples: does it work at all")
    results = ROOT / "benchmarks" / "results" / "factorize_table.json"
    parser.add_argument("--output", type=Path, help=f"default {results}; with --quick: none")
    given = parser.parse_args(arguments)
    given.output = given.output or (None if given.quick else results)
    return given


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    torch.set_num_threads(given.threads)
    start = time.monotonic()
    try:
        rows = [found for name in given.models for found in rows_of(name, given)]
    except BurnishError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    settings = {"seed": SEED, "threads": given.threads, "quick": given.quick, "round_to": 8}
    document = {
        "schema": 1,
        "benchmark": "factorize_table",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "environment": Environment.capture().to_json(),
        "settings": settings,
        "rows": rows,
        "claims": claims(rows),
    }
    for claim in document["claims"]:
        print("met" if claim["met"] else "MISSED", claim["claim"], f"{claim['value']:.3f}")
    if given.output is not None:
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"Result: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
