"""What ships, and the worker process that loads, runs and times it.

An `Artifact` is model files with the record of how to feed them; a `Worker` is a child process with
one artifact loaded; a `Bundle` is an artifact with its proof, which `verify` checks on any machine.
Importing this room loads numpy and safetensors, no runtime.
"""

from __future__ import annotations

from burnish.bundle._artifact import Artifact, OpTime, Options, Port
from burnish.bundle._bundle import Bundle
from burnish.bundle._counts import Counts
from burnish.bundle._inductor import without_compiler
from burnish.bundle._process import Worker
from burnish.bundle._program import save_program
from burnish.bundle._verify import Verification, verify

__all__ = [
    "Artifact",
    "Bundle",
    "Counts",
    "OpTime",
    "Options",
    "Port",
    "Verification",
    "Worker",
    "save_program",
    "verify",
    "without_compiler",
]
