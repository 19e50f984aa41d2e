"""The result as Markdown: docs/methods/prune_zoo.md is this and nothing else.

A test holds the committed page against the committed JSON, so that they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CHECKS = ("prune", "forward", "exact", "train", "reload", "onnx")
HEAD = """\
# Channel pruning, model by model

**{passed} of {ran} models pass all six checks.**{left} (torch-pruning 1.6.1 reports 77 of 85
models of torchvision, on the shape of the forward alone.) This page is made from
`benchmarks/results/prune_zoo.json` by `benchmarks/prune_zoo.py --docs`; nothing in it is written by
hand.

Every classifier and segmenter that torchvision builds, what carries the channels of its ssdlite and
Faster R-CNN, and {timm} models of timm, one or two a family; weights at random, drawn so that a
wrong channel shows. `{step}`
takes a third of the channels of every group that may lose any. Then:

- **forward**: runs on another batch size than the example's, outputs of the same shape and finite.
- **exact**: masked and shrunk agree, in float64: the largest difference of an output, of its norm
  (at most {exact:.0e} passes). Where the form is *module*, the user's own class is compared as
  well. **moved**: how far pruning moved the outputs, by the same measure, so that agreement is no
  accident.
- **train**: one step of SGD in train mode; loss and gradients finite, parameters changed.
- **reload**: history (JSON, safetensors) replayed on the original built anew: the same outputs, bit
  for bit; then the trained weights from safetensors, the same again.
- **onnx**: exported for onnxruntime and run there: the difference from torch in float32 (at most
  {deployed:.0e} passes).

A check that did not pass is bold, and its reason stands below. Seconds are of a machine that had
other work.
"""
COLUMNS = (
    *("model", "pixels", "parameters, M", "groups pruned", "kept", "frozen", "form"),
    *("forward", "exact", "moved", "train", "reload", "onnx", "s"),
)


def passes(row: Mapping[str, Any]) -> bool:
    """Whether all six checks ran and passed."""
    checks = row["checks"]
    return all(name in checks and checks[name]["passed"] for name in CHECKS)


def page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    environment, settings = document["environment"], document["settings"]
    machine, versions, rows = environment["machine"], environment["versions"], document["rows"]
    missing = document["missing"]
    wanted = ("torch", "torchvision", "timm", "onnxruntime")
    named = ", ".join(f"{name} {versions[name]}" for name in wanted)
    head = HEAD.format(
        passed=document["claims"][0]["value"],
        ran=len(rows),
        left=f" {len(missing)} more have not run yet: see below." if missing else "",
        timm=sum(row["source"] == "timm" for row in rows),
        step=settings["step"],
        exact=settings["exact"],
        deployed=settings["deployed"],
    )
    commits = Counter((row["commit"] or "none")[:12] for row in rows)
    listed = ", ".join(f"{commit} ({num} rows)" for commit, num in commits.items())
    parts = [
        head,
        f"Measured {document['created'][:10]} on {machine['cpu']}, one thread; {named}; commit "
        f"{listed}.\n",
    ]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.\n")
    for source in dict.fromkeys(row["source"] for row in rows):
        parts += [f"## {source}\n", _table([row for row in rows if row["source"] == source])]
    return "\n".join([*parts, *_failures(rows), *_forms(rows), *_frozen(rows)])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows)]) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    groups, checks = row.get("groups", {}), row["checks"]
    parameters = [f"{number / 1e6:.3g}" for number in row.get("parameters", ())]
    return [
        row["name"].removeprefix("timm: "),
        str(row.get("pixels", "–")),
        " → ".join(parameters) or "–",
        *(str(groups.get(state, 0)) for state in ("pruned", "kept", "frozen")),
        row.get("form", "**refused**"),
        _said(checks, "forward"),
        _said(checks, "exact", "{:.0e}"),
        f"{row['moved']:.2f}" if "moved" in row else "–",
        _said(checks, "train"),
        _said(checks, "reload"),
        _said(checks, "onnx", "{:.0e}"),
        f"{row['seconds']:.0f}",
    ]


def _said(checks: Mapping[str, Any], name: str, form: str = "pass") -> str:
    check = checks.get(name)
    if check is None:
        return "–"
    return form.format(check["figure"]) if check["passed"] else "**fails**"


def _failures(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"- {row['name']}, {name}: {_safe(check['reason'])}"
        for row in rows
        for name, check in row["checks"].items()
        if not check["passed"]
    ]
    return ["## What did not pass\n", "\n".join(lines) + "\n"] if lines else []


def _forms(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    found = [row for row in rows if row.get("form") == "graph"]
    lines = [f"- {row['name']}: {_safe(row['form because'])}" for row in found]
    if not lines:
        return []
    said = f"{len(lines)} models come back as a graph, the rest as their own class, smaller.\n"
    return ["## Why a graph\n", said, "\n".join(lines) + "\n"]


def _frozen(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    groups: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for row in rows:
        for reason, num in row.get("frozen because", {}).items():
            groups[_kind(reason)] += num
            models[_kind(reason)] += 1
    if not groups:
        return []
    lines = ["| reason | groups | models |", "|---|---|---|"]
    for reason, num in groups.most_common():
        lines.append(f"| {_safe(reason)} | {num} | {models[reason]} |")
    return ["## Why groups are frozen\n", "\n".join(lines) + "\n"]


def _kind(reason: str) -> str:
    """A reason without the name of the operator and the line it stands on."""
    return reason.split(" at ")[0].split(" (")[0]


def _safe(text: str) -> str:
    return (text if len(text) < 400 else text[:400] + "…").replace("|", "\\|")
