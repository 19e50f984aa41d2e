"""Weights in 8 or 4 bits, everything else in float: the step and the function.

    trace → fold batch-norm → choose layers → round, pack, release, one layer after the other

Each block of a weight's row has a scale and a zero point. Activations are never quantized, so that
no calibration is needed to begin with and no layer is sensitive to its inputs' range; what is
gained is memory, file size, and time wherever reading weights is what takes it (small batches,
large matrices). How the integers are chosen is a method's:

    nearest   each value by itself; needs no data
    hqq       zero points moved so that few large errors count less (Badri and Shaji, 2023); no data
    gptq      column by column, each error made good by the columns still to come (Frantar et al.,
              2022); calibration data
    awq       channels with large inputs scaled up before rounding (Lin et al., 2023); calibration
              data

The graph shares the user's tensors while it is made: what is held is the model, what is packed, and
one layer. The plan holds the names; integers are in the choices only where the model alone does not
give them again.

Left out: bits for single layers (`include` and `exclude` choose layers; mixed precision chooses
bits), activations in int8, which both runtimes can add at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from burnish.core import Choices, Rewrite
from burnish.errors import InvalidInput
from burnish.goal import Goal, Inputs
from burnish.graph import DEQUANTIZE_BLOCKS, Traced
from burnish.quantize._blocks.insert import insert_blocks
from burnish.quantize._blocks.methods import METHODS, WITH_DATA, round_layers
from burnish.quantize._blocks.place import RUNTIMES, place
from burnish.quantize._blocks.round import BlockSpec
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._graphs.entry import (
    calibration_calls,
    float_graph,
    fold,
    folded_with_calls,
    trace_for,
)
from burnish.quantize._graphs.setting import one_of, patterns
from burnish.quantize._smooth.smooth import sampled


@dataclass(frozen=True)
class QuantizeWeights(Rewrite):
    """Weight-only quantization in blocks.

    Args:
        runtime: "onnxruntime" or "openvino"; both keep the same layers compressed.
        bits: 8 or 4.
        block_size: numbers of a row that share a scale: 16, 32, 64, 128 or 256.
        method: "nearest", "hqq", "gptq" or "awq".
        symmetric: no zero points: a little less to store, and a coarser grid. Not with "hqq", which
            lives by them.
        include: only these operators: names of the coverage table, module paths (with all below
            them), patterns. Empty for all.
        exclude: operators to leave in float.

    Raises:
        InvalidInput: a setting that is not known, or two that do not go together.
    """

    runtime: str = "onnxruntime"
    bits: int = 4
    block_size: int = 32
    method: str = "nearest"
    symmetric: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("QuantizeWeights", "runtime", self.runtime, RUNTIMES)
        one_of("QuantizeWeights", "method", self.method, METHODS)
        _ = self.spec
        for name in ("include", "exclude"):
            object.__setattr__(self, name, patterns(name, getattr(self, name)))
        if self.method == "hqq" and self.symmetric:
            raise InvalidInput(
                "QuantizeWeights(method='hqq', symmetric=True): HQQ moves zero points, and a "
                "symmetric grid has none; set symmetric=False or take another method"
            )

    @property
    def spec(self) -> BlockSpec:
        """The grid of each weight."""
        return BlockSpec(self.bits, self.block_size, self.symmetric)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Choose layers, and integers where the method does; reads the data where it needs any."""
        folded = fold(trace_for(model, goal, share=True), share=True)
        data = sampled(folded, calibration_calls(goal)) if self.method in WITH_DATA else None
        return self.choose_from(folded, data)

    def choose_from(self, folded: Traced, sample: Sample | None = None) -> Choices:
        """Choose layers of a folded graph, float or quantized in parts; reads it, no more.

        The plan: {"call", "runtime", "bits", "block_size", "symmetric", "method", "operators":
        {name: kind}, "groups": [{"producer", "readers"}] of AWQ, "coverage": rows}. Tensors:
        "packed:", "scale:" and "zero:" of each weight that a method rounded, by name; "made:" and
        "read:" of each layer whose channels AWQ scales.

        Args:
            folded: its tensors may be another model's.
            sample: of the calibration data, for the methods that need it.

        Raises:
            InvalidInput: a pattern that matches nothing that could be quantized, a graph whose
                weights are in blocks already, no data for a method that needs it.
            NoEffect: there is nothing to quantize, or nothing for the method to do better.
        """
        refuse_blocks(folded)
        placed = place(folded.graph_module, self.runtime, self.bits, self.include, self.exclude)
        rounded = round_layers(folded, placed.operators, self.method, self.spec, sample)
        rows = [asdict(row) for row in placed.coverage]
        for row in rows:
            told = (row["reason"], rounded.notes.get(row["operator"], ""))
            row["reason"] = "; ".join(part for part in told if part)
        plan: dict[str, Any] = {
            "call": dict(folded.call),
            "runtime": self.runtime,
            **asdict(self.spec),
            "method": self.method,
            "operators": placed.operators,
            "groups": rounded.groups,
            "coverage": rows,
        }
        return Choices(plan, rounded.tensors)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The graph with packed weights. Pure: equal choices give equal graphs."""
        graph = float_graph(model, choices, share=True)
        refuse_blocks(graph)
        return insert_blocks(graph, choices)


def quantize_weights(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    runtime: str = "onnxruntime",
    bits: int = 4,
    block_size: int = 32,
    method: str = "nearest",
    symmetric: bool = False,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Traced:
    """Store a model's weights in 8 or 4 bits a number.

    Args:
        model: in eval mode; left as it was, and not copied.
        calibration: batches: a tensor, a tuple of the model's positional arguments, a dict of its
            keyword ones, or `Inputs`; or one such tensor, dict or `Inputs` alone. The first is the
            example the model is traced with, and all that "nearest" and "hqq" look at.
        runtime, bits, block_size, method, symmetric, include, exclude: as of `QuantizeWeights`.

    Returns:
        A module called like the original that computes what the runtimes compute.

    Raises:
        InvalidInput: no batch, or a setting that matches nothing.
        NoEffect: there is nothing to quantize, or nothing for the method to do better.
        Unsupported: the model cannot be exported.
    """
    step = QuantizeWeights(runtime, bits, block_size, method, symmetric, include, exclude)
    alone = isinstance(calibration, torch.Tensor | Mapping | Inputs)
    batches = [calibration] if alone else calibration
    folded, calls = folded_with_calls("quantize_weights", model, batches, share=True)
    data = sampled(folded, calls) if method in WITH_DATA else None
    result = step.rewrite(folded, step.choose_from(folded, data))
    assert isinstance(result, Traced)
    return result


def refuse_blocks(traced: Traced) -> None:
    """InvalidInput for a graph whose weights are in blocks already."""
    if any(node.target is DEQUANTIZE_BLOCKS for node in traced.graph_module.graph.nodes):
        raise InvalidInput(
            "QuantizeWeights: the model's weights are in blocks already: give the model from "
            "before that"
        )
