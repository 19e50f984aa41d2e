"""One model in a process of its own, with a limit on memory and time: a crash is a row, too.

The process writes its row to a file whenever it has grown. What it was doing when it ended stands
in there, so the row of a process that was killed names the check and what ended it. A server
process that has torch imported already forks them, which spares each a dozen seconds.

Left out: systems without /proc, where the limit on memory does not hold.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from burnish.files import write_text

_POLL_SECONDS = 0.25
_PRELOADED = ["torch", "torchvision", "timm", "onnxscript", "zoo.checks", "zoo.models"]


def examined(name: str, folder: Path, *, gigabytes: float, seconds: float) -> dict[str, Any]:
    """The row of one model; its process has ended when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "row.json"
    path.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_child, args=(name, str(folder)))
    start, peak, ended = time.monotonic(), 0, ""
    process.start()
    while process.is_alive():
        process.join(_POLL_SECONDS)
        peak = max(peak, _resident(process.pid))
        if peak > gigabytes * 1e9:
            ended = f"it needed more than {gigabytes:g} GB of memory"
        elif time.monotonic() - start > seconds:
            ended = f"it took more than {seconds:g} seconds"
        if ended:
            process.kill()
            process.join()
    row: dict[str, Any] = {"name": name, "checks": {}}
    if path.is_file():
        row = json.loads(path.read_text(encoding="utf-8"))
    doing = row.pop("doing", None)
    if doing is not None or not row["checks"]:
        reason = ended or f"its process ended ({_how(process)})"
        row["checks"][doing or "prune"] = {
            "passed": False,
            "figure": None,
            "reason": reason,
            "seconds": None,
        }
    row["seconds"] = round(time.monotonic() - start, 1)
    row["peak_gb"] = round(peak / 1e9, 2)
    return row


def _how(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _child(name: str, folder: str) -> None:
    # What libraries print goes to a file: the parent shows rows.
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    from zoo.checks import examine
    from zoo.models import entries

    torch.set_num_threads(1)
    path = Path(folder) / "row.json"
    examine(entries()[name], Path(folder), lambda row: write_text(path, json.dumps(row)))


def _resident(pid: int | None) -> int:
    """Bytes of a process and of those it started."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        begun = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return 0
    own = next((line for line in status.splitlines() if line.startswith("VmRSS")), "VmRSS: 0 kB")
    return int(own.split()[1]) * 1024 + sum(_resident(int(child)) for child in begun)
