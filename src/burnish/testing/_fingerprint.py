"""Everything about a model that a step must not touch, by name, so that a difference has a name.

A fingerprint holds the bytes of each parameter and buffer (also those a state dict leaves out),
which tensors are one and the same, whether they take gradients, each module's class and training
flag, and the code of graphs. Two models with equal fingerprints compute the same.

Left out: hooks, and plain Python attributes that are not tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from burnish.goal import Inputs
from burnish.graph import flatten


def fingerprint(model: nn.Module) -> dict[str, str]:
    """What the model is: {"weight of layer1.0": hash, "training flag of layer1": "False", …}."""
    found: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"class of {name or 'the model'}"] = type(module).__name__
        found[f"training flag of {name or 'the model'}"] = str(module.training)
        if isinstance(module, fx.GraphModule):
            found[f"graph of {name or 'the model'}"] = module.code
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        owner = owners.setdefault(id(tensor), name)
        found[f"tensor {name}"] = f"{tensor_hash(tensor)} of {owner} {tensor.requires_grad}"
    return found


def tensor_hash(tensor: torch.Tensor) -> str:
    """A hash of dtype, shape and bytes."""
    data = tensor.detach().cpu().contiguous()
    head = f"{data.dtype}{tuple(data.shape)}".encode()
    raw = data.reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(head + raw, digest_size=12).hexdigest()


def data_fingerprint(data: Iterable[Any] | None) -> list[str]:
    """A hash of each tensor in batches of tensors, tuples, lists, dicts and `Inputs`."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(tensor_hash(value))
        elif isinstance(value, Inputs):
            walk((value.args, value.kwargs))
        elif isinstance(value, Mapping):
            walk(list(value.values()))
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)

    walk(list(data or ()))
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The names that differ, the first few of them; "" where none does."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def same_outputs(one: Any, other: Any) -> bool:
    """Whether two outputs nest alike and hold the same bytes."""
    tensors, tree = flatten(one)
    others, other_tree = flatten(other)
    return tree == other_tree and list(map(tensor_hash, tensors)) == list(map(tensor_hash, others))
