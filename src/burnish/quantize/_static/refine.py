"""Weights and biases decided layer by layer, each on what the network quantized so far hands it.

The walk of `lockstep` stops before every quantized layer. There its bias is corrected (`bias`),
then its rounding is learned with that bias (`round`), both are written into the quantized graph,
and the walk goes on: later layers see what earlier ones really do. The bias is not corrected again
for the learned integers: they have learned to make up for what it left, and a second correction by
means was seen to undo that.

Left out: going back to a layer once later ones are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from burnish.core import Choices
from burnish.errors import InvalidInput
from burnish.graph import Traced, num_patches, operator, patches, tensor_of, window_of
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._graphs.matrix import has_matrix, matrix_of, weight_of
from burnish.quantize._graphs.node import bias_of, bounds, groups_of, readers, weight_axis
from burnish.quantize._graphs.policy import WEIGHTED
from burnish.quantize._static.bias import fast_shift, sequential_shift
from burnish.quantize._static.insert import equalized, input_params, insert, rounded_weight
from burnish.quantize._static.lockstep import Meeting, lockstep
from burnish.quantize._static.round import Bank, learn
from burnish.quantize._static.settings import Settings
from burnish.quantize._tensors.weights import Grid, along

LEAST = 8
ROWS = 8192
BYTES = 64 * 2**20
_HELD = 5


@dataclass
class Refined:
    """What was decided: tensors of the choices, and notes for the coverage table by operator."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def refine(
    folded: Traced,
    choices: Choices,
    layers: Sequence[str],
    sample: Sample,
    means: Mapping[str, torch.Tensor],
    settings: Settings,
    seed: int,
) -> Refined:
    """Round the weights and correct the biases of `layers`.

    Args:
        folded: the float graph.
        choices: placement, ranges, gains and grids.
        layers: the quantized operators with stored weights.
        sample: whole inputs of the network.
        means: of each input channel of a layer in the float network, for fast correction.
        settings: of the step.
        seed: of learned rounding.

    Raises:
        InvalidInput: fewer than `LEAST` samples to learn rounding from.
    """
    learns = settings.weights.rounding == "learned"
    if learns and sample.num < LEAST:
        raise InvalidInput(
            f"learned rounding needs {LEAST} different calibration samples at least and was given "
            f'{sample.num}: give more, or Weights(rounding="nearest")'
        )
    real = folded.copy()
    nodes = equalized(real, choices)
    work = _Work(real, nodes, layers, choices, settings, means, seed)
    with torch.no_grad():
        if not learns and settings.bias_correction != "sequential":
            for name in layers:
                work.layer(name, None)
            return work.found
        int8 = insert(folded.copy(), work.with_biases())
        for meeting in lockstep(real, int8, layers, sample):
            integers, bias = work.layer(meeting.name, meeting)
            _write(int8.graph_module, meeting, integers, bias)
    return work.found


def _bias(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The bias of a layer, zeros where it has none."""
    bias, weight = bias_of(module, node), tensor_of(module, node.args[1])
    assert weight is not None
    if bias is not None:
        return bias.detach().clone()
    transposed = operator(node).startswith("conv_transpose")
    return torch.zeros(weight.shape[1] * groups_of(node) if transposed else weight.shape[0])


def _tied(module: fx.GraphModule, nodes: Mapping[str, fx.Node], layers: Sequence[str]) -> set[str]:
    """The layers whose weight another layer reads, too."""
    users: dict[int, list[str]] = {}
    for name in layers:
        users.setdefault(id(tensor_of(module, nodes[name].args[1])), []).append(name)
    return {name for shared in users.values() if len(shared) > 1 for name in shared}


class _Work:
    """What deciding a layer needs to know, and what was decided so far."""

    def __init__(
        self,
        real: Traced,
        nodes: Mapping[str, fx.Node],
        layers: Sequence[str],
        choices: Choices,
        settings: Settings,
        means: Mapping[str, torch.Tensor],
        seed: int,
    ) -> None:
        self.module, self.nodes, self.layers = real.graph_module, nodes, layers
        self.choices, self.settings, self.means = choices, settings, means
        self.seeds = {name: seed + index for index, name in enumerate(layers)}
        self.tied = _tied(self.module, nodes, layers)
        self.inputs = input_params(nodes, choices.plan)
        self.found = Refined()

    def with_biases(self) -> Choices:
        """The choices with a bias for every layer that can have one, so that it can be written."""
        biased = [name for name in self.layers if operator(self.nodes[name]) in WEIGHTED]
        biases = {f"bias:{name}": _bias(self.module, self.nodes[name]) for name in biased}
        return replace(self.choices, tensors={**self.choices.tensors, **biases})

    def layer(self, name: str, meeting: Meeting | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decide the integers and the bias of one layer."""
        node = self.nodes[name]
        weight = tensor_of(self.module, node.args[1])
        assert weight is not None
        learns = self.settings.weights.rounding == "learned"
        grid = Grid(**self.choices.plan["grids"].get(name, {}))
        bias = _bias(self.module, node) if operator(node) in WEIGHTED else None
        input_scale = self.inputs[name]["scale"] if bias is not None else 1.0
        integers, scale = rounded_weight(
            weight, weight_axis(node), name, self.choices, bias, input_scale
        )
        corrected, absurd = self._corrected(name, meeting, weight, integers, scale)
        if learns and meeting is not None:
            biases = (bias, bias if corrected is None else corrected)
            integers = self._learned(meeting, weight, biases, integers, scale, grid)
        if learns or grid.clips:
            self.found.tensors[f"weight:{name}"] = integers
            self.found.tensors[f"scale:{name}"] = scale
        if absurd:
            self._note(name, f"{absurd} channels keep their bias: the correction was absurd")
        if corrected is None:
            return integers, bias
        self.found.tensors[f"bias:{name}"] = corrected
        return integers, corrected

    def _corrected(
        self,
        name: str,
        meeting: Meeting | None,
        weight: torch.Tensor,
        integers: torch.Tensor,
        scale: torch.Tensor,
    ) -> tuple[torch.Tensor | None, int]:
        """The bias that goes with these integers, and the number of channels left as they were.

        None where the bias is not to be corrected.
        """
        node, kind = self.nodes[name], self.settings.bias_correction
        if operator(node) not in WEIGHTED:
            return None, 0
        bias = _bias(self.module, node)
        rounded = integers.double() * along(scale, weight, weight_axis(node)).double()
        if kind == "sequential" and meeting is not None:
            shift, absurd = sequential_shift(
                node, meeting.real, meeting.int8, (weight, rounded.float()), bias
            )
        elif kind == "fast" and name in self.means:
            shift, absurd = fast_shift(node, weight, rounded, self.means[name]), 0
        else:
            return None, 0
        return (bias.double() - shift).float(), absurd

    def _note(self, name: str, text: str) -> None:
        known = self.found.notes.get(name)
        self.found.notes[name] = text if known is None else f"{known}; {text}"

    def _learned(
        self,
        meeting: Meeting,
        weight: torch.Tensor,
        biases: tuple[torch.Tensor | None, torch.Tensor | None],
        integers: torch.Tensor,
        scale: torch.Tensor,
        grid: Grid,
    ) -> torch.Tensor:
        """The learned integers of a layer, or those to nearest where learning cannot help."""
        node, name = meeting.real_node, meeting.name
        if not has_matrix(node):
            self._note(name, f"rounded to nearest: learning knows no {operator(node)}")
            return integers
        if name in self.tied:
            self._note(name, "rounded to nearest: its weight is tied to another layer's")
            return integers
        matrix = matrix_of(node, weight.detach())
        shape = (matrix.shape[0], 1, matrix.shape[1])
        real_bias, start = (
            torch.zeros(shape) if b is None else b.float().reshape(shape) for b in biases
        )
        banks = _banks(meeting, weight, matrix, real_bias, self.seeds[name])
        scales = matrix_of(node, along(scale, weight, weight_axis(node)).expand_as(weight))
        learned = learn(matrix, scales[..., :1], start, grid, banks, self.seeds[name])
        if not learned.error < learned.nearest:
            self._note(name, "rounded to nearest: learning did not lower the held-out error")
            return integers
        return weight_of(node, learned.integers, weight).to(torch.int8)


def _banks(
    meeting: Meeting, weight: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor, seed: int
) -> tuple[Bank, Bank]:
    """Rows to learn a layer from, and to judge by, sampled over all calls."""
    node = meeting.real_node
    window, groups = window_of(node, weight), matrix.shape[0]
    generator = torch.Generator().manual_seed(seed)
    counts = [num_patches(x, window) for x in meeting.int8]
    samples = [x.shape[0] for x in meeting.int8]
    most = min(ROWS, max(_HELD, BYTES // (4 * matrix.shape[0] * matrix.shape[2])))
    inputs, wanted, owners, seen = [], [], [], 0
    for real, int8, count, num in zip(meeting.real, meeting.int8, counts, samples, strict=True):
        share = -(-most * num // sum(samples))
        chosen = (
            torch.arange(count)
            if count <= share
            else torch.randint(count, (share,), generator=generator)
        )
        out = torch.baddbmm(
            bias, patches(real, window, groups, chosen).transpose(0, 1), matrix.transpose(1, 2)
        )
        inputs.append(patches(int8, window, groups, chosen).transpose(0, 1))
        wanted.append(out.clamp_(*_clamp(node)))
        owners.append(chosen * num // count + seen)
        seen += num
    owner = torch.cat(owners) if seen >= _HELD else torch.arange(sum(len(o) for o in owners))
    held = owner % _HELD == _HELD - 1
    x, y = torch.cat(inputs, 1), torch.cat(wanted, 1)
    parts = [Bank(x[:, part], y[:, part], _clamp(node)) for part in (~held, held)]
    return parts[0], parts[1]


def _clamp(node: fx.Node) -> tuple[float, float]:
    """What the activation that alone reads a layer clamps to."""
    users = readers(node)
    found = bounds(users[0]) if len(users) == 1 else None
    return found if found is not None else (-float("inf"), float("inf"))


def _write(
    module: fx.GraphModule, meeting: Meeting, integers: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """Put integers and a bias where a quantized layer reads them.

    A linear layer that became a matrix product stores its weight transposed.
    """
    node = meeting.int8_node
    target = tensor_of(module, _source(node.args[1]))
    assert target is not None
    as_product = operator(meeting.real_node) == "linear" and operator(node) == "matmul"
    target.copy_(integers.t() if as_product else integers)
    if bias is None:
        return
    if operator(node) in WEIGHTED:
        held, grid = (tensor_of(module, arg) for arg in node.args[2].args[:2])  # type: ignore[union-attr]
        assert held is not None and grid is not None
        held.copy_((bias.double() / grid.double()).round().clamp(-(2**31) + 1, 2**31 - 1))
    else:
        (addition,) = readers(node)
        offset = tensor_of(module, addition.args[1])
        assert offset is not None
        offset.copy_(bias)


def _source(node: object) -> fx.Node:
    assert isinstance(node, fx.Node)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source
