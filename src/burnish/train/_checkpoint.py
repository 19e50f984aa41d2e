"""The state of a training between two epochs, in one file, and whose state it is.

A checkpoint holds everything the next epoch depends on: weights, optimizer, scaler, average, the
best epoch's weights, the states of the data's own generators and the record so far. The global
generators are not in it: each epoch seeds them anew. So a training that goes on from a checkpoint
computes the same numbers as one that was never interrupted, bit for bit on a CPU in float32.

It also holds the settings and a hash of the model it started from. A folder with another run's
checkpoint is refused, by what differs: to go on with another learning rate is a new training, and
would make the record a lie.

The file is torch's own archive, read with `weights_only=True`: tensors and plain values, no code is
run. It is written beside its place and renamed, so a kill leaves the old one.

Left out: keeping more than the last one, and resuming within an epoch.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from burnish.errors import Damaged, InvalidInput
from burnish.files import replacing

FILE = "checkpoint.pt"
SCHEMA = 1
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    pickle.UnpicklingError,
)


class Checkpoints:
    """The checkpoint in a folder, of one run.

    Args:
        folder: made where it is not there.
        identity: plain JSON that says which run this is.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = Path(folder)
        self._identity = dict(identity)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"fit(checkpoints={str(folder)!r}): {error}") from error

    @property
    def file(self) -> Path:
        """Where it is, once it is there."""
        return self._folder / FILE

    def save(self, state: Mapping[str, Any]) -> None:
        """Write it, whole or not at all. OSError where the disk does not take it."""
        with replacing(self.file) as unfinished:
            torch.save({"schema": SCHEMA, "identity": self._identity, **state}, unfinished)

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is none.

        Raises:
            InvalidInput: it belongs to another run; what differs is named.
            Damaged: it does not read.
        """
        if not self.file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
            schema, identity = state["schema"], state["identity"]
        except _UNREADABLE as error:
            raise Damaged(
                f"the checkpoint {self.file} does not read as tensors and plain values: {error}"
            ) from None
        if schema != SCHEMA:
            raise InvalidInput(
                f"the checkpoint {self.file} has schema {schema}, and {SCHEMA} is read here: "
                "delete it, or give another folder"
            )
        different = _differences(identity, self._identity)
        if different:
            raise InvalidInput(
                f"the checkpoint {self.file} belongs to another run ({'; '.join(different)}): "
                "give another folder, delete it, or train as before"
            )
        return state


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two values of plain JSON, by path."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    # Tuples and lists are the same here.
    same = old == new or (isinstance(old, list | tuple) and list(old) == list(new or ()))
    return [] if same else [f"{path} was {old!r} and is {new!r}"]
