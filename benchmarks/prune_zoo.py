"""A third of the channels out of every model of torchvision and of fifty timm families, checked.

    python benchmarks/prune_zoo.py [NAME ...] [--fresh]

Each model is pruned in a process of its own and must then do six things (zoo/checks.py). A row is
kept in `burnish-runs/prune_zoo` when it is done; rows of names that are given are made anew, with
--fresh all are. The result and docs/methods/prune_zoo.md are written from all rows there are.
It needs an environment with torchvision and timm: benchmarks/README.md.

Left out: quality and speed. Weights are random, images small.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "benchmarks"):
    sys.path.insert(0, str(_folder))

from zoo.page import page, passes  # noqa: E402

from burnish.bench import Environment  # noqa: E402
from burnish.files import write_text  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "prune_zoo.json"
PAGE = ROOT / "docs" / "methods" / "prune_zoo.md"
GIGABYTES, SECONDS = 16.0, 1800.0  # of one model's process


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="models, or patterns of them")
    parser.add_argument("--fresh", action="store_true", help="forget the rows that are kept")
    parser.add_argument("--work", type=Path, default=ROOT / "burnish-runs" / "prune_zoo")
    parser.add_argument("--gigabytes", type=float, default=GIGABYTES, help="limit of one model")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of one model")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--docs", action="store_true", help=f"only write {PAGE.name} from the JSON")
    return parser.parse_args(arguments)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Make the rows that are asked for and missing; the document of all there are."""
    # The processes inherit these.
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "src", ROOT / "benchmarks")))
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    from zoo.checks import DEPLOYED, EXACT, STEP
    from zoo.child import examined
    from zoo.entry import SEED
    from zoo.models import entries

    known = entries()
    asked = [n for n in known if any(fnmatchcase(n, pattern) for pattern in given.names or ["*"])]
    again = bool(given.names) or given.fresh
    environment = Environment.capture()
    rows: list[dict[str, Any]] = []
    for name in known:
        folder = given.work / name.replace(": ", "--").replace(" ", "-")
        kept = folder / "kept.json"
        if name in asked and (again or not kept.is_file()):
            row = examined(name, folder, gigabytes=given.gigabytes, seconds=given.seconds)
            row |= {"source": known[name].source, "commit": environment.commit}
            write_text(kept, json.dumps(row))
            print(line(row, asked.index(name) + 1, len(asked)), flush=True)
        if kept.is_file():
            rows.append(json.loads(kept.read_text(encoding="utf-8")))
    told = environment.to_json()
    told["versions"] |= {name: metadata.version(name) for name in ("torchvision", "timm")}
    return {
        "schema": 1,
        "benchmark": "prune_zoo",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "environment": told,
        "settings": {
            "step": repr(STEP),
            "seed": SEED,
            "threads": 1,
            "gigabytes": given.gigabytes,
            "seconds": given.seconds,
            "exact": EXACT,
            "deployed": DEPLOYED,
        },
        "rows": sorted(rows, key=lambda row: (row["source"] == "timm", row["source"], row["name"])),
        "missing": [name for name in known if name not in {row["name"] for row in rows}],
        "claims": claims_of(rows, len(known)),
    }


def claims_of(rows: Sequence[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """How many pass all checks, of all there are."""
    passed = sum(map(passes, rows))
    claim = "models that pass all six checks"
    return [{"claim": claim, "value": passed, "bound": num, "met": passed == num}]


def line(row: dict[str, Any], number: int, num: int) -> str:
    """A row in short, as it is done."""
    said = " ".join(
        name if check["passed"] else f"{name.upper()}({(check['reason'] or '')[:200]})"
        for name, check in row["checks"].items()
    )
    form, seconds = row.get("form", "-"), row["seconds"]
    return f"{number:3}/{num} {row['name']:34} {form:7}{seconds:6.0f} s  {said}"


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    if given.docs:
        document = json.loads(given.output.read_text(encoding="utf-8"))
    else:
        document = measure(given)
        write_text(given.output, json.dumps(document, indent=1) + "\n")
    if given.output == RESULT:
        write_text(PAGE, page(document))
    claim = document["claims"][0]
    print(f"{claim['value']} of {claim['bound']} {claim['claim']}; result: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
