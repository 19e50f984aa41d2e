"""Where probes are kept: one file for each machine, set of versions, number of threads and masks.

`BURNISH_CACHE` names the folder; else it is where the platform keeps what can be made again. The
file's name holds a hash of what it depends on, and its contents are compared with it once more: a
folder may be shared by machines, and hashes are short. A file that is damaged counts as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from burnish.bench import Environment
from burnish.errors import Damaged
from burnish.files import cache_folder, write_text
from burnish.profile._probe import Probe

VARIABLE = "BURNISH_CACHE"


@dataclass(frozen=True)
class Conditions:
    """What a probe depends on."""

    environment: str
    masks: Mapping[str, str]
    threads: int

    @classmethod
    def of(cls, environment: Environment, threads: int) -> Conditions:
        return cls(environment.fingerprint, dict(environment.machine.masks), threads)

    @property
    def path(self) -> Path:
        """The file of a probe under these conditions."""
        parts = [self.environment, sorted(self.masks.items()), self.threads]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return cache_folder() / f"probe-{digest}.json"

    def hold_for(self, probe: Probe) -> bool:
        """Whether a probe was measured under these conditions."""
        return self == Conditions(probe.environment, dict(probe.masks), probe.threads)


def kept(conditions: Conditions) -> Probe | None:
    """The probe measured under these conditions; None where none is kept or can be read."""
    try:
        probe = Probe.from_json(json.loads(conditions.path.read_text(encoding="utf-8")))
    except (OSError, ValueError, Damaged):
        return None
    return probe if conditions.hold_for(probe) else None


def keep(conditions: Conditions, probe: Probe) -> str | None:
    """Keep a probe. Gives a sentence where that is not possible."""
    path = conditions.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(probe.to_json(), indent=1) + "\n")
    except OSError as error:
        return (
            f"this probe could not be kept in {path.parent} ({error.strerror}): it will be "
            f"measured again; set {VARIABLE} to a folder that can be written"
        )
    return None
