"""The code of a page of the documentation, run as a reader would: block after block, names kept."""

from __future__ import annotations

import re
from pathlib import Path


def run(page: Path) -> int:
    """Run the Python blocks of a page one after another; how many there were."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.stem, "exec"), names)
    return len(blocks)
