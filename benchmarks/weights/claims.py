"""What we claim of 4-bit weights: better than to nearest, no slower and no worse than the peers.

Scores are paired sample by sample; a time is the ratio of ours to theirs in runs that took turns.
A claim whose peer did not run is missed, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptq.claims import claim
from ptq.costs import ratio

from burnish.metrics import Verdict, verdict

Scores = Mapping[str, Mapping[str, NDArray[np.float64]]]  # by an entry's label, by score
RIVALS = (
    ("hqq", "onnxruntime", "onnxruntime"),
    ("gptq", "onnxruntime", "onnxruntime"),
    ("gptq", "nncf", "openvino"),
)
_KINDS = {"top1": "binary", "agreement": "binary", "closeness": "continuous"}


def rounding_claims(found: Scores) -> list[dict[str, Any]]:
    """GPTQ and HQQ are better than to nearest: `value` is how much less they have, below 0."""
    claims = []
    for runtime in ("onnxruntime", "openvino"):
        for method in ("hqq", "gptq"):
            for score in ("top1", "closeness"):
                names = (f"burnish {method} on {runtime}", f"burnish nearest on {runtime}")
                text = f"4-bit weights by {method} beat those to nearest on {runtime}: {score}"
                claims.append(_better(text, found, names, score, strictly=True))
    return claims


def quality_claims(found: Scores) -> list[dict[str, Any]]:
    """Ours are no worse than the peers' by the same method on the same runtime."""
    claims = []
    for method, tool, runtime in RIVALS:
        for score in ("top1", "closeness"):
            names = (f"burnish {method} on {runtime}", f"{tool} {method} on {runtime}")
            text = f"{method}: ours is not worse than {tool}'s on {runtime}: {score}"
            claims.append(_better(text, found, names, score, strictly=False))
    return claims


def time_claims(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Ours takes no longer than the peers' by the same method."""
    claims = []
    for method, tool, _ in RIVALS:
        text = f"{method}: choosing and packing takes no longer than {tool}'s"
        mine, theirs = seconds.get(f"burnish {method}"), seconds.get(f"{tool} {method}")
        if not mine or not theirs:
            claims.append(claim(text, None, 1.0, missing="ours or theirs did not run"))
            continue
        found = ratio(list(mine), list(theirs))
        more = {"ours_seconds": median(mine), "theirs_seconds": median(theirs)}
        claims.append(claim(text, found.pop("value"), 1.0, **found, **more))
    return claims


def paired(before: NDArray[np.float64], after: NDArray[np.float64], score: str) -> Verdict:
    """The interval of the mean of after - before."""
    kind: Any = _KINDS[score]
    return verdict(before, after, max_drop=0.0, kind=kind)


def _better(
    text: str, found: Scores, names: tuple[str, str], score: str, strictly: bool
) -> dict[str, Any]:
    """Met where the first is better for certain, or, not `strictly`, not worse for certain."""
    if any(name not in found for name in names):
        return claim(text, None, 0.0, missing="one of the two did not run")
    ours, theirs = (found[name][score] for name in names)
    seen = paired(theirs, ours, score)
    row = claim(text, -seen.difference, 0.0, low=-seen.high, high=-seen.low, n=seen.n)
    met = seen.low > 0 if strictly else seen.high >= 0
    return row | {"met": met, "ours": float(ours.mean()), "theirs": float(theirs.mean())}
