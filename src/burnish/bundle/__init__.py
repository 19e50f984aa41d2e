"""What ships, and the worker process that loads, runs and times it.

An `Artifact` is model files with the record of how to feed them; a `Worker` is a child process with
one artifact loaded; a `Bundle` is an artifact with its proof, which `verify` checks and
`time_bundle` times on any machine. Importing this room loads numpy and safetensors, no runtime.
"""

from __future__ import annotations

from burnish.bundle._artifact import Artifact, OpTime, Options, Port
from burnish.bundle._bundle import Bundle
from burnish.bundle._eager import save_program
from burnish.bundle._process import Worker
from burnish.bundle._timing import Timings, time_bundle
from burnish.bundle._verify import Verification, verify

__all__ = [
    "Artifact",
    "Bundle",
    "OpTime",
    "Options",
    "Port",
    "Timings",
    "Verification",
    "Worker",
    "save_program",
    "time_bundle",
    "verify",
]
