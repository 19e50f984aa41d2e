"""A candidate again: its history folded over the original model.

A history on the disk is JSON beside safetensors that hold the tensors of its choices under their
hashes. Steps are found in a table of names that is handed in, never imported by a name out of a
file, and each step's `rewrite` uses neither data nor clock, so the result is the same model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from burnish.core import Applied, Choices, Rewrite, copied_model, tensor_hash
from burnish.errors import Damaged, InvalidInput
from burnish.files import write_text

HISTORY, TENSORS = "history.json", "weights.safetensors"
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    safetensors.SafetensorError,
)


def replay(
    model: nn.Module, history: Sequence[Applied], steps: Mapping[str, Callable[..., Rewrite]]
) -> nn.Module:
    """Fold `rewrite` over a history.

    Args:
        model: the original; left as it was.
        history: what was applied, in order.
        steps: the table of step names.

    Raises:
        InvalidInput: a step that is not in the table, or settings it does not have.
    """
    model = copied_model(model)
    for applied in history:
        if applied.step not in steps:
            raise InvalidInput(
                f"the history names the step {applied.step!r}; known are {', '.join(sorted(steps))}"
            )
        try:
            step = steps[applied.step](**applied.settings)
        except TypeError as error:
            raise InvalidInput(f"step {applied.step!r} in the history: {error}") from None
        model = step.rewrite(model, applied.choices)
    return model


def save_history(folder: Path, history: Sequence[Applied]) -> None:
    """Write `history.json` and `weights.safetensors` into a candidate's folder.

    Raises OSError where the disk does not take it.
    """
    tensors = {
        # A copy: safetensors refuses tensors that share memory.
        tensor_hash(tensor): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for applied in history
        for tensor in applied.choices.tensors.values()
    }
    try:
        safetensors.torch.save_file(tensors, str(folder / TENSORS))
    except safetensors.SafetensorError as error:
        raise OSError(f"{error}") from error
    write_text(folder / HISTORY, json.dumps([applied.to_json() for applied in history]))


def load_history(folder: Path) -> tuple[Applied, ...]:
    """Read back what `save_history` wrote. Damaged where it does not read or a hash is wrong."""
    try:
        records: list[dict[str, Any]] = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(str(folder / TENSORS))
        wrong = [key for key, tensor in tensors.items() if tensor_hash(tensor) != key]
        if wrong:
            raise Damaged(f"{folder / TENSORS}: tensor {wrong[0]} is not what its hash says")
        return tuple(
            Applied(item["step"], item["settings"], Choices.from_json(item["choices"], tensors))
            for item in records
        )
    except _UNREADABLE as error:
        raise Damaged(f"the history in {folder} does not read: {error}") from None
