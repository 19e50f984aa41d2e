"""Which kernels torch calls to multiply matrices, by oneDNN's own account.

torch's profiler names operators, which are the same whatever computes them. oneDNN names the kernel
it chose, with its instruction set, when ONEDNN_VERBOSE is set before it is loaded; so this is asked
in a process of its own, of the operator that the eager runtime runs. A type that leaves no line was
computed by something else: the BLAS torch was built with, or torch's own loops.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping

_ASK = """
import torch
for dtype in (torch.float32, torch.bfloat16):
    x, w, b = (torch.ones(shape, dtype=dtype) for shape in ((16, 1024), (1024, 1024), (1024,)))
    with torch.inference_mode():
        torch.nn.functional.linear(x, w, b)
print(torch.__config__.show())
"""
_NAMES = {"f32": "float32", "bf16": "bfloat16"}
_PRODUCTS = ("matmul", "inner_product")
_SECONDS = 120.0


class TorchKernels:
    """The question, asked in the background from the moment this is made."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _ASK],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "ONEDNN_VERBOSE": "1", "ONEDNN_VERBOSE_TIMESTAMP": "0"},
        )

    def names(self) -> Mapping[str, str]:
        """What computed each type: {"bfloat16": "oneDNN brg_matmul:avx512_core_bf16"}.

        Empty where the process failed or gave no answer; waits for it.
        """
        try:
            text, _ = self._process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            return {}
        return kernels(text) if self._process.returncode == 0 else {}

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def kernels(text: str) -> dict[str, str]:
    """What computed float32 and bfloat16, from oneDNN's lines and torch's build settings."""
    blas = re.search(r"BLAS_INFO=(\w+)", text)
    found = {
        "float32": f"no oneDNN kernel: {blas[1] if blas else 'the BLAS torch was built with'}",
        "bfloat16": "no oneDNN kernel: torch's own loops",
    }
    for line in text.splitlines():
        fields = line.split(",")
        if fields[0] != "onednn_verbose" or "exec" not in fields:
            continue
        match fields[fields.index("exec") + 1 :]:
            case [_, primitive, kernel, _, tensors, *_] if primitive in _PRODUCTS:
                source = re.search(r"src:(\w+)", tensors)
                if source is not None and source[1] in _NAMES:
                    found[_NAMES[source[1]]] = f"oneDNN {kernel}"
    return found
