"""What each method of rounding has to decide before weights are packed.

"nearest" decides nothing: `rewrite` rounds the model's own weights again. "hqq" and "gptq" give
integers, packed as they come. "awq" gives factors of channels; the weights scaled by them are
rounded to nearest, again by `rewrite`. "gptq" and "awq" look at what a layer reads, which is a
matrix's rows only where the layer is a product: other weights are rounded to nearest, with a note.

Left out: how the methods work; each has files of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from burnish.errors import InvalidInput, NoEffect
from burnish.graph import Traced, operator_names, tensor_of
from burnish.quantize._blocks.awq_layers import awq_groups
from burnish.quantize._blocks.gptq_layers import gptq_layers
from burnish.quantize._blocks.hqq import round_hqq
from burnish.quantize._blocks.place import as_rows, weights_of
from burnish.quantize._blocks.round import BlockSpec, Rounded, stored_parts
from burnish.quantize._calibration.sample import Sample

METHODS = ("nearest", "hqq", "gptq", "awq")
WITH_DATA = frozenset({"gptq", "awq"})


@dataclass(frozen=True, eq=False)
class RoundedLayers:
    """Tensors for the choices, AWQ's groups for the plan, and notes for the coverage, by layer."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, rounded: Rounded, spec: BlockSpec) -> None:
        """Pack a weight's integers."""
        for part, tensor in stored_parts(rounded, spec).items():
            self.tensors[f"{part}:{name}"] = tensor

    def scale(self, name: str, factor: torch.Tensor) -> None:
        """Factors for a layer's channels, "made:" or "read:" and its name, on top of others."""
        before = self.tensors.get(name)
        self.tensors[name] = factor if before is None else before * factor


def round_layers(
    folded: Traced,
    operators: Mapping[str, str],
    method: str,
    spec: BlockSpec,
    sample: Sample | None,
) -> RoundedLayers:
    """What a method decides about the weights of `operators`, by name and kind.

    Raises:
        InvalidInput: no data for a method that needs it.
        NoEffect: a method that finds nothing to do, so that all would be rounded to nearest.
    """
    if method == "nearest":
        return RoundedLayers()
    if method == "hqq":
        return _hqq(folded, operators, spec)
    if sample is None or not sample.num:
        raise InvalidInput(
            f"method={method!r} looks at what the layers read: give calibration data (one batch "
            "at least; 100 samples and more are usual), or take method='hqq', which needs none"
        )
    linear = [name for name, kind in operators.items() if kind == "linear"]
    others = [name for name in operators if name not in linear]
    if not linear:
        raise NoEffect(
            f"method={method!r} rounds linear layers, and none of {', '.join(others[:4])} is one: "
            "take method='hqq' or 'nearest'"
        )
    found = _gptq if method == "gptq" else _awq
    rounded = found(folded, sample, linear, others, spec)
    rounded.notes.update(
        dict.fromkeys(others, f"rounded to nearest: {method.upper()} takes linear layers")
    )
    return rounded


def _hqq(folded: Traced, operators: Mapping[str, str], spec: BlockSpec) -> RoundedLayers:
    module = folded.graph_module
    nodes = {name: node for node, name in operator_names(module).items()}
    rounded = RoundedLayers()
    for name, kind in operators.items():
        for label, source in weights_of(module, nodes[name], kind):
            weight = tensor_of(module, source)
            assert weight is not None, name
            rows = as_rows(weight, nodes[name])
            rounded.keep(f"{name}{label}", round_hqq(rows, spec), spec)
    return rounded


def _gptq(
    folded: Traced, sample: Sample, linear: list[str], others: list[str], spec: BlockSpec
) -> RoundedLayers:
    rounded = RoundedLayers()
    for layer in gptq_layers(folded, sample, linear, spec, others):
        if layer.rounded is not None:
            rounded.keep(layer.layer, layer.rounded, spec)
        if layer.note:
            rounded.notes[layer.layer] = layer.note
    return rounded


def _awq(
    folded: Traced, sample: Sample, linear: list[str], others: list[str], spec: BlockSpec
) -> RoundedLayers:
    del others
    found = awq_groups(folded, sample, linear, spec)
    if not found.groups:
        reasons = "".join(f"\n  {name}: {why}" for name, why in list(found.left.items())[:4])
        raise NoEffect(
            f"method='awq': no layer gains from scaled channels, and all would be rounded to "
            f"nearest: take 'nearest', 'hqq' or 'gptq'{reasons}"
        )
    rounded = RoundedLayers(notes=dict(found.left))
    for group in found.groups:
        rounded.groups.append({"producer": group.producer, "readers": list(group.readers)})
        rounded.scale(f"made:{group.producer}", group.made)
        for reader in group.readers:
            rounded.scale(f"read:{reader}", group.scale)
            scaled = f"its input channels are scaled inside {group.producer}, alpha {group.alpha:g}"
            rounded.notes[reader] = f"{scaled}; {group.note}" if group.note else scaled
    return rounded
