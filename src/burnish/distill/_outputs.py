"""What signals read of a model's output, and which samples of a batch have labels.

Signals on outputs work on one tensor of logits: the output itself, its `logits` where it is a dict
or an object that has them, or the first of a tuple or list; the same rule by which the metrics read
an output.

A sample without a label has -100 for its target, which is torch's own `ignore_index`: the one
integer, or all of them where a sample has many (a label for each token or pixel). Targets that are
no integers are always labels.

Left out: a mark for missing labels in regression. A loss that passes over NaN does that by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from burnish.errors import InvalidInput, Unsupported
from burnish.graph import flatten, unflatten

NO_LABEL = -100


def logits_of(output: Any, who: str) -> torch.Tensor:
    """The tensor that signals on outputs compare. InvalidInput, naming `who`, where there is none.

    Args:
        output: what a model returned.
        who: "the student", "the teacher", …
    """
    found = output
    if isinstance(found, Mapping):
        if "logits" not in found and len(found) != 1:
            raise InvalidInput(
                f"{who} returns a dict with the keys {', '.join(map(repr, found))}, and none is "
                "'logits': wrap the model so that it returns the tensor to distil from"
            )
        found = found["logits"] if "logits" in found else next(iter(found.values()))
    elif hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, list | tuple) and found:
        found = found[0]
    if not isinstance(found, torch.Tensor):
        raise InvalidInput(
            f"{who} returns a {type(output).__name__} in which no tensor of logits is found: wrap "
            "the model so that it returns a tensor, or a dict or object with 'logits'"
        )
    return found


def with_label(target: Any) -> torch.Tensor | None:
    """Which samples have a label, bool [n]; None where every sample has one."""
    if not isinstance(target, torch.Tensor) or target.dim() == 0 or target.is_floating_point():
        return None
    known: torch.Tensor = (target != NO_LABEL).reshape(len(target), -1).any(1)
    return None if bool(known.all()) else known


def rows_of(output: Any, rows: torch.Tensor) -> Any:
    """An output with only those samples that are True in `rows`, bool [n].

    Raises:
        InvalidInput: a tensor that does not have its samples along axis 0.
    """
    try:
        tensors, tree = flatten(output)
    except Unsupported as error:
        raise InvalidInput(f"the labelled samples cannot be picked out: {error}") from None
    for tensor in tensors:
        if tensor.dim() == 0 or len(tensor) != len(rows):
            raise InvalidInput(
                f"the student returns a tensor of shape {list(tensor.shape)} for a batch of "
                f"{len(rows)} targets, some of them -100: where only some samples have labels, "
                "they must lie along axis 0 of the output; wrap the model, or label all or none"
            )
    return unflatten(tree, [tensor[rows] for tensor in tensors])
