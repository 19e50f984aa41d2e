"""What we claim about ourselves, worked out from the measurements: met or missed, with the number.

A ratio is our time over theirs, below 1 where we are faster. Against several peers it is taken
with each and the worst counts. A claim is met when its value is within the bound; `decided` tells
whether the whole interval lies on one side of it. A claim without data is missed, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.bench import Race
from burnish.errors import BurnishError
from ptq.entrants import OURS, Entrant

MAX_RATIO = 1.05
QUANTIZED = 0.5  # the share of convolutions in int8 from which a file counts as really quantized
ALLOWED_MEMORY = 300e6
GROWTH = 0.05  # of the peak, from 8 to 16 batches
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
    """Calibrating adds at most 300 MB to inference, however many batches."""
    peak = {(row["mode"], row["batches"]): row["peak_bytes"] for row in rows}
    short, long = peak["calibrate", 8], peak["calibrate", 16]
    added = max(short, long) - peak["inference", 8]
    return [
        claim(
            "calibration's peak memory is at most the float model's inference's + 300 MB",
            added / 1e6,
            ALLOWED_MEMORY / 1e6,
            unit="MB",
        ),
        claim(
            "calibration's peak memory does not grow with the number of batches (8 to 16)",
            long / short - 1,
            GROWTH,
        ),
    ]


def _share(row: Mapping[str, Any]) -> float:
    int8, total = row["coverage"]["convolutions"]
    return float(int8) / total if total else 0.0
