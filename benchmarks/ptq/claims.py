"""What we claim about ourselves, worked out from the measurements: met or missed, with the number.

A ratio is our time over theirs, below 1 where we are faster. Against several peers it is taken
with each and the worst counts. A claim is met when its value is within the bound; `decided` tells
whether the whole interval lies on one side of it. A claim without data is missed, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from models import Model
from models.model import groups_of

from burnish.bench import Race
from burnish.errors import BurnishError
from burnish.metrics import Verdict, verdict
from ptq.entrants import OURS, Answers, Entrant

MAX_RATIO = 1.05
QUANTIZED = 0.5  # the share of convolutions in int8 from which a file counts as really quantized
ALLOWED_MEMORY = 300e6
GROWTH = 0.05  # of the peak, with more batches
HALF_A_POINT = 0.005


def claim(text: str, value: float | None, bound: float, **more: Any) -> dict[str, Any]:
    """One claim that a value is at most its bound."""
    met = value is not None and not math.isnan(value) and value <= bound
    row: dict[str, Any] = {"claim": text, "met": met, "value": value, "bound": bound, **more}
    if more.get("low") is not None:
        row["decided"] = more["high"] <= bound or more["low"] > bound
    return row


def quantizing_claim(ratios: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Our quantization takes no longer than nncf.quantize."""
    text = "quantizing (tracing and export apart) takes no longer than nncf.quantize"
    found = ratios.get("nncf_openvino")
    if found is None:
        return claim(text, None, 1.0, missing="nncf failed")
    return claim(text, found["value"], 1.0, low=found["low"], high=found["high"], n=found["n"])


def speed_claims(field: Sequence[Entrant], race: Race, batch: int) -> list[dict[str, Any]]:
    """Ours on each runtime against the worst peer for us there; our fastest against all."""
    running = [e for e in field if e.int8 and race.timing(e.label).failed is None]
    ours = [e for e in running if e.tool == OURS]
    peers = [e for e in running if e.tool != OURS]
    rows = []
    for runtime, suffix in (("onnxruntime", ".onnx"), ("openvino", ".xml")):
        mine = [e for e in ours if e.runtime == runtime and e.artifact.files[0].endswith(suffix)]
        rivals = [e for e in peers if e.runtime == runtime]
        text = f"on {runtime} at batch {batch} our artifact is no slower than the best peer's there"
        rows.append(_against(text, mine, rivals, race, MAX_RATIO))
    text = f"at batch {batch} our pick is no slower than the fastest int8 artifact of any peer"
    rows.append(_against(text, ours, peers, race, 1.0))
    return rows


def torchao_claims(rows: Sequence[Mapping[str, Any]], label: str) -> list[dict[str, Any]]:
    """Our pick against torchao's model, which ran by turns with it and not in the race."""
    claims = []
    for row in (row for row in rows if row["label"] == label):
        for batch, latency in row["latency"].items():
            text = f"at batch {batch} our pick is no slower than {label}"
            theirs = latency["ratio"]
            claims.append(
                claim(
                    text,
                    1 / theirs["value"],
                    1.0,
                    low=1 / theirs["high"],
                    high=1 / theirs["low"],
                    ours=theirs["reference"],
                    against=label,
                )
            )
    return claims


def _against(
    text: str, mine: Sequence[Entrant], rivals: Sequence[Entrant], race: Race, bound: float
) -> dict[str, Any]:
    if not mine or not rivals:
        return claim(text, None, bound, missing="nothing of ours, or of any peer's, ran")
    label = min(mine, key=lambda e: race.timing(e.label).p50).label
    try:
        found = {rival.label: race.ratio(label, rival.label) for rival in rivals}
    except BurnishError as error:
        return claim(text, None, bound, missing=str(error))
    worst = max(found, key=lambda name: found[name].value)
    ratio = found[worst]
    more = {"ours": label, "against": worst, "unreliable": ratio.unreliable}
    return claim(text, ratio.value, bound, low=ratio.low, high=ratio.high, **more)


def agreement_claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each artifact of ours agrees with float as often as the best peer that really quantized."""
    known = [row for row in rows if row["agreement"] is not None and row["precision"] == "int8"]
    peers = [row for row in known if row["tool"] != OURS and _share(row) >= QUANTIZED]
    text = "agreement with float is no lower than the best really quantizing peer's − half a point"
    if not peers:
        return [claim(text, None, HALF_A_POINT, missing="no peer quantized half its convolutions")]
    best = max(peers, key=lambda row: float(row["agreement"]))
    return [
        claim(
            f"{row['label']}: {text}",
            best["agreement"] - row["agreement"],
            HALF_A_POINT,
            ours=row["agreement"],
            best=best["agreement"],
            against=best["label"],
        )
        for row in known
        if row["tool"] == OURS
    ]


def memory_claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What calibrating adds to inference, and that it does not grow with the number of batches."""
    peak = {(row["model"], row["mode"], row["batches"]): row["peak_bytes"] for row in rows}
    claims = []
    if ("lite0", "inference", 8) in peak:
        added = (
            max(peak["lite0", "calibrate", num] for num in (8, 16)) - peak["lite0", "inference", 8]
        )
        text = "lite0: calibration's peak memory is at most the float model's inference's + 300 MB"
        claims.append(claim(text, added / 1e6, ALLOWED_MEMORY / 1e6, unit="MB"))
    for model, few, many in (("lite0", 8, 16), ("resnet20", 10, 1000)):
        if (model, "calibrate", few) in peak:
            grown = peak[model, "calibrate", many] / peak[model, "calibrate", few] - 1
            text = f"{model}: calibrating with {few} or {many} batches has the same peak memory"
            claims.append(claim(text, abs(grown), GROWTH))
    return claims


def quality_claims(
    model: Model, field: Sequence[Entrant], found: Mapping[str, Answers]
) -> list[dict[str, Any]]:
    """On each runtime: our artifact's quality is no worse than NNCF's, sample by sample.

    `value` is how much more NNCF's has, and is at most 0 or within its paired interval of it.
    """
    claims = []
    for runtime, suffix in (("onnxruntime", ".onnx"), ("openvino", ".xml")):
        there = [
            e
            for e in field
            if e.int8 and e.runtime == runtime and e.artifact.files[0].endswith(suffix)
            if e.execution == "float32" and e.label in found
        ]
        mine = [e for e in there if e.tool == OURS]
        rivals = [e for e in there if e.tool.startswith("nncf")]
        text = f"on {runtime} our artifact's quality is not worse than NNCF's (paired)"
        if not mine or not rivals:
            claims.append(claim(text, None, 0.0, missing="ours or NNCF's did not run"))
            continue
        ours, theirs = found[mine[0].label].scores, found[rivals[0].label].scores
        seen = paired(model, ours, theirs)
        row = claim(text, seen.difference, 0.0, low=seen.low, high=seen.high)
        row |= {"met": seen.low <= 0, "ours": mean(ours), "theirs": mean(theirs), "n": seen.n}
        claims.append(row)
    return claims


def paired(model: Model, before: Sequence[float], after: Sequence[float]) -> Verdict:
    """The interval of after - before on the validation data."""
    return verdict(
        before,
        after,
        max_drop=0.0,
        kind="binary" if model.metric.kind == "binary" else "continuous",
        groups=groups_of(model),
    )


def _share(row: Mapping[str, Any]) -> float:
    int8, total = row["coverage"]["convolutions"]
    return float(int8) / total if total else 0.0
