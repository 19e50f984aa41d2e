"""A result in the terminal: the table of artifacts, and the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print both."""
    for model, seconds in document["settings"]["race_seconds"].items():
        rows = [row for row in document["rows"] if row["model"] == model]
        console.print(_table(model, list(seconds), rows))
    for item in document["claims"]:
        value = "no data" if item["value"] is None else f"{item['value']:.4f}"
        interval = f" [{item['low']:.3f}, {item['high']:.3f}]" if "low" in item else ""
        state = "[green]met[/green]   " if item["met"] else "[red]MISSED[/red]"
        bound = f"at most {item['bound']:g}"
        console.print(f"{state} {item['claim']}: {value}{interval}, {bound}", highlight=False)


def _table(model: str, batches: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"{model}, int8 after training")
    for name in ("artifact", "convolutions", "linears", "quality", "agreement"):
        table.add_column(name)
    for batch in batches:
        table.add_column(f"ms, batch {batch}", justify="right")
        table.add_column("of float32", justify="right")
    for row in rows:
        counts = row["coverage"] or {"convolutions": ("?", "?"), "linears": ("?", "?")}
        cells = [f"{counts[kind][0]}/{counts[kind][1]}" for kind in ("convolutions", "linears")]
        for figure in (row.get("quality"), row["agreement"]):
            cells.append("–" if figure is None else f"{figure:.4f}")
        for latency in row["latency"].values():
            ratio = latency and latency["ratio"]
            cells.append(f"{latency['median_ms']:.2f}" if latency else "failed")
            cells.append(
                f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else ""
            )
        table.add_row(row["label"], *cells)
    return table
