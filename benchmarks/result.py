"""Where the JSON of a benchmark goes (README.md, "The form of a result")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.files import write_text


def write_result(document: Mapping[str, Any], output: Path) -> None:
    """Write it, its folder too where that is missing, and say where."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, json.dumps(document, indent=1) + "\n")
    print(f"Result: {output}", flush=True)
