"""The result as Markdown: docs/methods/quantize_table.md is this and nothing else.

A test holds the committed page against the committed JSON, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """\
# Quantization, measured

What each technique does to quality, speed and size, on four networks. This page is made from
`benchmarks/results/quantize_table.json` by `benchmarks/quantize_table.py --docs`; nothing in it is
written by hand.

- **quality**: top-1 of the exported artifact on all validation samples; the float model's is in the
  title. **difference** is candidate − float with its paired 95 % interval; the verdict asks for a
  loss of at most one point (`verdict.md`), and *n* is about how many samples would decide.
- **agreement**: the share of samples given the float model's class.
- **time**: at batch 1, over the time of the fastest float32 artifact, all artifacts taking turns in
  one race; below 1 is faster.
- **quantized**: operators in int8, or with weights in few bits, of those that compute. **prepared
  in**: calibration, choosing, rewriting and training, in seconds; export and tracing apart (rows of
  weights in few bits hold a tracing).
- A refinement is one change to plain static quantization, on onnxruntime. Weights in few bits are
  in blocks of 32 with zero points. "QAT" trains for about 256 steps on the float network's answers
  alone, without a label, on 2,048 samples at most (on Lite0 the 128 that calibrate).
- Precisions mixed within one network, under a budget of milliseconds: `mixed_precision.md`.
"""
COLUMNS = (
    "technique",
    "top-1",
    "difference",
    "verdict",
    "agreement",
    "time",
    "size, MB",
    "quantized",
    "prepared in",
)


def page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    environment = document["environment"]
    machine, versions = environment["machine"], environment["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "openvino"))
    isa = ", ".join(machine["isa"])
    parts = [
        HEAD,
        f"Measured {document['created'][:10]} on {machine['cpu']}, "
        f"{document['settings']['threads']} threads ({isa}); {named}; "
        f"commit {(environment['commit'] or 'none')[:12]}.\n",
    ]
    parts += [_later(run) for run in document.get("renewed", ())]
    for name, model in document["models"].items():
        rows = [row for row in document["rows"] if row["model"] == name]
        parts += [_title(model), _table(rows), *_failures(rows)]
    parts.append(_claims(document["claims"]))
    return "\n".join(parts)


def _later(run: Mapping[str, Any]) -> str:
    """The rows of a later run. Their ratios are to float artifacts of its own races."""
    said = [
        f"{what} at commit {run['commit']}: {'; '.join(run[key])}."
        for key, what in (("rows", "Measured again"), ("new", "Added"))
        if run[key]
    ]
    return " ".join(said) + " Ratios are to the float artifacts of the same race.\n"


def _title(model: Mapping[str, Any]) -> str:
    groups = f", {model['groups']} people" if model["groups"] else ""
    return (
        f"## {model['title']}\n\n{model['size']}; calibrated on {model['calibration']} samples; "
        f"float top-1 {model['baseline']:.4f} on {model['n']:,} samples{groups}.\n"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        if row["failed"] is None:
            lines.append(f"| {' | '.join(_cells(row))} |")
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    answer, seconds = row["verdict"], row["seconds"]
    points = [f"{100 * answer[name]:+.2f}" for name in ("difference", "low", "high")]
    state = answer["state"]
    if state == "cannot tell":
        state += f" (n = {answer['needed']:,})" if answer["needed"] else " (no n would)"
    timed = row["latency"]
    ratio = timed and timed["ratio"]
    return [
        row["label"],
        f"{row['quality']['value']:.4f}",
        f"{points[0]} ({points[1]} to {points[2]})",
        state,
        f"{row['agreement']:.4f}",
        f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "–",
        f"{row['size_mb']:.2f}",
        f"{row['int8'][0]}/{row['int8'][1]}" if row["int8"][1] else "–",
        f"{sum(seconds.values()):.1f} s" if seconds else "–",
    ]


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows without an artifact, and what was passed over in others."""
    failed = [(row["label"], row["failed"]) for row in rows if row["failed"] is not None]
    noted = [(row["label"], note) for row in rows for note in row["notes"] or ()]
    lines = [f"- {label}: {_first(reason)}" for label, reason in failed]
    lines += [f"- {label}, without {_first(note)}" for label, note in noted]
    return ["Not in the table, and passed over:\n\n" + "\n".join(lines) + "\n"] if lines else []


def _first(text: str) -> str:
    return text.splitlines()[0].rstrip(":").replace("|", "\\|")


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## Static int8 at a margin of one point\n",
        "| artifact | state | n |",
        "|---|---|---|",
    ]
    for item in (item for item in claims if "state" in item):
        n = f"{item['n']:,}" if item["n"] else "–"
        more = f", about {item['needed']:,} would decide" if item["needed"] else ""
        missed = "" if item["met"] else " **missed**"
        lines.append(f"| {item['claim'].split(':')[0]} | {item['state']}{missed} | {n}{more} |")
    regained = [item for item in claims if "loss" in item]
    if regained:
        lines += [
            "\n## What quantization-aware training regains\n",
            "Where static int8 loses half a point of top-1 or more; half of that is asked for.\n",
            "| artifact | static int8 loses, points | share that came back |",
            "|---|---|---|",
        ]
    for item in regained:
        share = "no artifact" if item["value"] is None else f"{item['value']:.2f}"
        missed = "" if item["met"] else " **missed**"
        name, lost = item["claim"].split(":")[0], 100 * item["loss"]
        lines.append(f"| {name} | {lost:.2f} | {share}{missed} |")
    return "\n".join(lines) + "\n"
