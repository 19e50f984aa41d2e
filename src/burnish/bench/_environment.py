"""Where a measurement was taken: the machine, and the versions that could change it.

Versions are read from the installed packages' records, so that naming torch's version does not cost
an import of torch. The commit is that of the source tree this package was imported from, when that
is a git checkout.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from burnish import __version__
from burnish.errors import Damaged
from burnish.hardware import Machine, detect

_PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "openvino")
_GIT_SECONDS = 10


@dataclass(frozen=True)
class Environment:
    """The machine, versions by package (None: not installed), and the commit, if any.

    `commit` ends in "+" when the checkout held changes that were not committed.
    """

    machine: Machine
    versions: Mapping[str, str | None]
    commit: str | None

    @classmethod
    def capture(cls) -> Environment:
        """Describe where we are now."""
        versions: dict[str, str | None] = {
            "burnish": __version__,
            "python": platform.python_version(),
        }
        versions |= {name: _version(name) for name in _PACKAGES}
        return cls(detect(), versions, _commit(Path(__file__).resolve().parents[3]))

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of machine and versions; the commit does not count."""
        parts = [self.machine.fingerprint, sorted(self.versions.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Environment.from_json` is its inverse."""
        return {
            "machine": self.machine.to_json(),
            "versions": dict(self.versions),
            "commit": self.commit,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Environment:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            machine = Machine.from_json(record["machine"])
            return cls(machine, dict(record["versions"]), record["commit"])
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"this is no environment's record ({error})") from None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if commit and changed else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", "-C", str(root), *arguments),
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
