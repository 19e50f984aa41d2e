"""A candidate: a model, how it came to be, and what is known about it.

Its history is a tuple of `Applied`: the step's name, its settings as JSON, and what it decided.
Folding `rewrite` over the history on the original model gives the candidate back, so a candidate is
saved as JSON and safetensors and no class is ever pickled. Decisions that JSON cannot carry
(corrected biases, rounded weights) are tensors, stored under the hash of their bytes.

Values here are compared by identity, since tensors are not compared by `==`; `key()` tells whether
two histories are the same.

Left out: which file anything lies in; that is the run folder's business (`recipe`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from burnish.errors import Damaged
from burnish.goal import Measurement


@dataclass(frozen=True, eq=False)
class Choices:
    """What a step decided: a plan of plain JSON, and the tensors JSON cannot carry.

    The plan names things by module path and occurrence, never by graph node names.
    """

    plan: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The plan, and each tensor's hash in place of the tensor."""
        return {
            "plan": dict(self.plan),
            "tensors": {name: tensor_hash(tensor) for name, tensor in self.tensors.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Choices:
        """Read back, taking each tensor by its hash from `tensors`.

        Raises:
            Damaged: a tensor is not there, or its bytes are not those of its hash.
        """
        found = {}
        for name, key in data["tensors"].items():
            if key not in tensors:
                raise Damaged(f"the tensor {name!r} of a step's choices ({key}) is missing")
            if tensor_hash(tensors[key]) != key:
                raise Damaged(f"the tensor {name!r} of a step's choices ({key}) was altered")
            found[name] = tensors[key]
        return cls(data["plan"], found)


@dataclass(frozen=True, eq=False)
class Applied:
    """A step that was applied: its name in the table of steps, its settings, its choices."""

    step: str
    settings: Mapping[str, Any]
    choices: Choices

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; tensors by hash."""
        return {
            "step": self.step,
            "settings": dict(self.settings),
            "choices": self.choices.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Applied:
        """Read back what `to_json` wrote. Damaged as for `Choices.from_json`."""
        return cls(data["step"], data["settings"], Choices.from_json(data["choices"], tensors))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model, its history and its measurements. Never mutated: `after` gives a new one."""

    model: nn.Module
    history: tuple[Applied, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    def after(self, model: nn.Module, applied: Applied) -> Candidate:
        """The candidate a step made. Measurements are dropped: they described the old model."""
        return Candidate(model, (*self.history, applied))

    def measured(self, *measurements: Measurement) -> Candidate:
        """The same candidate, knowing more."""
        return replace(self, measurements=(*self.measurements, *measurements))

    def key(self) -> str:
        """A hash of the history: equal for equal steps with equal choices."""
        text = json.dumps([applied.to_json() for applied in self.history], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def tensor_hash(tensor: torch.Tensor) -> str:
    """A hash of dtype, shape and bytes."""
    data = tensor.detach().cpu().contiguous()
    hasher = hashlib.blake2b(f"{data.dtype}{tuple(data.shape)}".encode(), digest_size=16)
    hasher.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def model_hash(model: nn.Module) -> str:
    """A hash of a model's class, parameters and buffers: what a run folder knows its model by."""
    hasher = hashlib.blake2b(type(model).__qualname__.encode(), digest_size=12)
    for name, tensor in sorted(model.state_dict(keep_vars=False).items()):
        if isinstance(tensor, torch.Tensor):
            hasher.update(f"{name}:{tensor_hash(tensor)};".encode())
    return hasher.hexdigest()
