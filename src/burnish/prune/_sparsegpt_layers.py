"""SparseGPT over a network: each layer pruned for what the pruned layers before it hand it.

Samples run through the traced graph once (`graph.Walk`). Before each layer the second moments of
what it reads are summed, of a convolution's over the patches under its window at output positions
drawn at random, its weight is pruned, and the pruned weight takes its place for all that follows:
the order of the paper, whose layers read the outputs of pruned ones.

A weight that several operators read (tied to an embedding, or of a layer called twice) has no one
moment, and another operator's reading would not forgive an update: it is masked by magnitude at the
start, and not updated. So is one that read nothing but zeros.

Left out: data on disk. What the walk holds bounds the number of samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from burnish.core import copied_model
from burnish.errors import InvalidInput
from burnish.goal import Call, Inputs
from burnish.graph import (
    Traced,
    Walk,
    flatten_call,
    num_patches,
    patches,
    tensor_of,
    trace,
    window_of,
)
from burnish.prune._gradients import first_samples
from burnish.prune._mask import is_masked, remove_masks
from burnish.prune._pattern import GONE, Pattern, masks_for
from burnish.prune._sparsegpt import prune_sparsegpt
from burnish.prune._weight_layers import Weight, stored_name

MOST_SAMPLES = 512
FRONTIER = 1 << 30  # bytes a walk may hold
ROWS, ROWS_A_COLUMN = 8192, 8
_AT_ONCE = 1 << 22  # numbers of patches


@dataclass(frozen=True)
class Decided:
    """Masks by the names of the weights, those that were updated, and notes on single ones."""

    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    updated: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def sparsegpt_layers(
    model: nn.Module,
    weights: Sequence[Weight],
    calls: Iterable[Call],
    pattern: Pattern,
    sparsity: float | None,
    *,
    inputs: Inputs | None = None,
    seed: int = 0,
) -> Decided:
    """Prune the weights of a model one after another.

    Args:
        model: stays as it is.
        weights: of it, no biases.
        calls: data; whole calls up to `MOST_SAMPLES` samples, or as many as fit.
        pattern: where zeros may stand.
        sparsity: the share of zeros; N:M has its own.
        inputs: an example call with its dynamic axes, to trace with; else the first of `calls`.
        seed: of the output positions that are looked at.

    Raises:
        InvalidInput: no data, a layer that reads what is not finite, or that the model does not
            call.
        Unsupported: the model cannot be traced.
    """
    given = list(first_samples(calls))
    if not given:
        raise InvalidInput("criterion='sparsegpt' needs data, and there is none")
    example = inputs or Inputs(given[0].args, given[0].kwargs)
    plain = remove_masks(model) if is_masked(model) else copied_model(model)
    work = trace(plain, *example.to_trace())
    module, readers = work.graph_module, _readers(plain, work.graph_module)
    missing = [weight.name for weight in weights if weight.name not in readers]
    if missing:
        raise InvalidInput(
            f"criterion='sparsegpt': the model does not call the layer of {missing[0]!r}, so "
            f"nothing is known of what it reads: ignore=({missing[0]!r},)"
        )
    found = Decided()
    places = {node: at for at, node in enumerate(module.graph.nodes)}
    layers = [(weight, readers[weight.name][0]) for weight in weights]
    for weight, node in layers:
        if _is_shared(module, node):
            _by_magnitude(weight, pattern, sparsity, found, "several operators read it")
            _write(module, node, weight.value * found.masks[weight.name])
    alone = [pair for pair in layers if pair[0].name not in found.masks]
    alone.sort(key=lambda pair: places[pair[1]])
    walk = Walk(module, _samples(work, given, [node for _, node in alone]))
    for index, (weight, node) in enumerate(alone):
        walk.advance(node)
        generator = torch.Generator().manual_seed(seed + index)
        moments = _moments(weight, node, walk.inputs(node), generator)
        if not bool(moments.any()):
            _by_magnitude(weight, pattern, sparsity, found, "it read nothing but zeros")
            continue
        mask, updated = prune_sparsegpt(weight.value, moments, pattern, sparsity, weight.kept)
        found.masks[weight.name], found.updated[weight.name] = mask, updated
        _write(module, node, updated)
    return found


def _by_magnitude(
    weight: Weight, pattern: Pattern, sparsity: float | None, found: Decided, why: str
) -> None:
    magnitude = weight.value.detach().abs().cpu()
    scored = {weight.name: magnitude.masked_fill(~weight.kept, GONE)}
    found.masks.update(masks_for(scored, pattern, sparsity, "layer"))
    found.notes[weight.name] = f"by magnitude, not updated: {why}"


def _samples(
    work: Traced, calls: Sequence[Call], stops: list[fx.Node]
) -> list[tuple[torch.Tensor, ...]]:
    """The tensors of calls, cut to as many samples as the walk may hold."""
    found: list[tuple[torch.Tensor, ...]] = []
    num, most = 0, MOST_SAMPLES
    for call in calls:
        tensors = flatten_call(call.args, call.kwargs)
        size = work.num_samples(tensors)
        if not found:
            few = min(size, 2)
            held = Walk.most_bytes(work.graph_module, work.narrowed(tensors, few), stops)
            most = max(1, min(most, FRONTIER * few // max(held, 1)))
        found.append(work.narrowed(tensors, min(size, most - num)))
        num += min(size, most - num)
        if num >= most:
            break
    return found


def _readers(plain: nn.Module, module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """The layers of a graph that read each weight of the model it came from, by its name there."""
    found: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        stored = stored_name(module, node)
        if stored is not None:
            found.setdefault(stored, []).append(node)
    if isinstance(plain, Traced):
        return found
    # The tracer holds the module as "model", and a tied weight under one of its names.
    names: dict[int, list[str]] = {}
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        name: nodes
        for stored, nodes in found.items()
        for name in names[id(plain.get_parameter(stored.removeprefix("model.")))]
    }


def _is_shared(module: fx.GraphModule, reader: fx.Node) -> bool:
    """Whether several operators read the weight that one reads."""
    users: Counter[int] = Counter()
    for node in module.graph.nodes:
        tensor = tensor_of(module, node)
        if tensor is not None:
            users[id(tensor)] += len(node.users)
    return users[id(_stored(module, reader))] > 1


def _stored(module: fx.GraphModule, reader: fx.Node) -> nn.Parameter:
    name = stored_name(module, reader)
    assert name is not None
    return module.get_parameter(name)


def _write(module: fx.GraphModule, reader: fx.Node, weight: torch.Tensor) -> None:
    with torch.no_grad():
        _stored(module, reader).copy_(weight)


def _moments(
    weight: Weight, node: fx.Node, inputs: list[torch.Tensor], generator: torch.Generator
) -> torch.Tensor:
    """[groups, columns, columns], float64: the sum of x xᵀ of what a layer reads."""
    value = weight.value
    window = window_of(node, value)
    if window.kernel:  # called without a batch
        inputs = [x.unsqueeze(0) if x.dim() < value.dim() else x for x in inputs]
    groups = inputs[0].shape[1] // value.shape[1] if window.kernel else 1
    columns = value[0].numel()
    counts = [num_patches(x, window) for x in inputs]
    most = max(ROWS, ROWS_A_COLUMN * columns)
    total = torch.zeros(groups, columns, columns, dtype=torch.float64)
    for x, count in zip(inputs, counts, strict=True):
        share = -(-most * count // sum(counts))
        chosen = (
            torch.arange(count)
            if count <= share
            else torch.randint(count, (share,), generator=generator)
        )
        for rows in torch.split(chosen, max(1, _AT_ONCE // (groups * columns))):
            each = patches(x, window, groups, rows).double().cpu().transpose(0, 1)
            total += each.mT @ each
    if not bool(torch.isfinite(total).all()):
        raise InvalidInput(
            f"criterion='sparsegpt': what goes into the layer of {weight.name!r} is not finite: "
            "look for NaN or infinity in the data and the weights"
        )
    return total
