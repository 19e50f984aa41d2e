"""Learned rounding at 4-bit weights: how much of what plain rounding loses comes back, how fast.

The same network, the same calibration images; each tool simulates both roundings with all else
equal, and answers the same samples. No runtime here computes with 4-bit weights. The share that
comes back is (learned − nearest) / (float − nearest); its interval resamples the samples. Where
plain rounding loses little top-1 that share is noise, so the mean squared error of the logits is
told beside it. A peer is given eight minutes; one that is not done then is ended, and its time is
only known to be longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import Model

from burnish.metrics import scores
from ptq.claims import claim
from ptq.tools import ToolFailed, Tools, ToolTooSlow

OURS, PEERS = "burnish_rounding", ("brevitas_rounding",)
LOST = 0.5  # the share of the loss that may remain
RESAMPLES, CONFIDENCE = 2000, 0.95
PATIENCE = 480.0  # seconds
Watch = Callable[[Iterable[str], str], Iterable[str]]


def rounding(
    tools: Tools, model: Model, num: int, steps: int, watch: Watch
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each tool, and the failures.

    `tools.work` holds the task of `model`; `num` samples answer; the peer takes `steps` a layer.
    """
    rows, failed = [], {}
    for name in watch((OURS, *PEERS), f"{model.name}: learned rounding"):
        out = tools.work / name
        limit = None if name == OURS else PATIENCE
        try:
            done = tools.run(name, out, limit, NUM=str(num), STEPS=str(steps))
        except ToolFailed as error:
            failed[name] = str(error)
            continue
        except ToolTooSlow as error:
            failed[name] = str(error)
            rows.append(unfinished(model, name))
            continue
        rows.append(
            {
                "model": model.name,
                "tool": done["tool"],
                "seconds": done["seconds"],
                "versions": done["versions"],
                "settings": done["settings"],
                "error": errors(out),
                **recovered(_scores(model, out)),
            }
        )
    return rows, failed


def unfinished(model: Model, name: str) -> dict[str, Any]:
    """The row of a tool that was ended: its time is longer than what it was given."""
    return {
        "model": model.name,
        "tool": name,
        "seconds": {"quantize": PATIENCE, "ended": True},
        "recovered": None,
    }


def recovered(found: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Quality with each rounding, and the share of the loss that learning it brings back."""
    n = len(found["float"])
    quality = {name: float(values.mean()) for name, values in found.items()}
    if quality["nearest"] >= quality["float"]:  # nothing was lost: there is no share
        return {"quality": quality, "n": n, "recovered": None, "low": None, "high": None}
    generator = np.random.default_rng(0)
    drawn = [
        _share({name: values[index] for name, values in found.items()})
        for index in (generator.integers(0, n, n) for _ in range(RESAMPLES))
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = (float(value) for value in np.nanpercentile(drawn, (tail, 100 - tail)))
    return {"quality": quality, "n": n, "recovered": _share(found), "low": low, "high": high}


def errors(out: Path) -> dict[str, float]:
    """Mean squared error of the logits with each rounding, against the float ones."""
    whole = np.load(out / "float.npy")
    return {
        name: float(np.mean((np.load(out / f"{name}.npy") - whole) ** 2))
        for name in ("nearest", "learned")
    }


def _share(found: Mapping[str, np.ndarray[Any, Any]]) -> float:
    plain, learned, whole = (float(found[key].mean()) for key in ("nearest", "learned", "float"))
    return (learned - plain) / (whole - plain) if whole != plain else float("nan")


def _scores(model: Model, out: Path) -> dict[str, np.ndarray[Any, Any]]:
    target = torch.cat([batch.target for batch in model.validation])
    found = {}
    for name in ("float", "nearest", "learned"):
        logits = np.load(out / f"{name}.npy")
        found[name] = scores(model.metric, logits, target[: len(logits)])
    return found


def rounding_claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """At least half comes back, and it takes no longer than the peer takes."""
    claims = []
    for row in (row for row in rows if row["tool"] == "burnish AdaRound"):
        text = f"{row['model']}: of what 4-bit weights lose, AdaRound leaves at most half"
        more = {name: row[name] for name in ("n", "quality", "error") if name in row}
        if row["recovered"] is None:
            claims.append(claim(text, None, LOST, missing="plain rounding lost nothing", **more))
        else:
            more |= {"low": 1 - row["high"], "high": 1 - row["low"]}
            claims.append(claim(text, 1 - row["recovered"], LOST, **more))
        for peer in rows:
            if peer["tool"] == row["tool"] or peer["model"] != row["model"]:
                continue
            text = f"{row['model']}: AdaRound takes no longer than {peer['tool']}'s"
            ratio = row["seconds"]["quantize"] / peer["seconds"]["quantize"]
            more = {"theirs": peer["recovered"]}
            if peer["seconds"].get("ended"):
                more["at_most"] = True  # the peer was ended: its own time is longer
            claims.append(claim(text, ratio, 1.0, **more))
    if len(claims) < 2:
        claims.append(claim("AdaRound against a peer's", None, 1.0, missing="one did not run"))
    return claims
