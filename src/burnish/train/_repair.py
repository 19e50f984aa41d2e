"""Repair without training: layer by layer, the closed form that brings back the original's outputs.

Original and damaged network run side by side over the same samples. At each layer the damaged one
is given the inputs that the network repaired so far really hands it, and the outputs the original
has there; what may change is then set by least squares (`_least_squares`), and the walk goes on.
Each output channel takes the strongest change that lowers its error on samples held out from the
fit, or none: one fifth of the samples is held out.

What may change is the caller's to say, because not every weight is free:

    "weights"   every weight that is not zero; a zeroed weight stays zero, so a mask is kept
    "channels"  a factor for each output channel, and biases: a weight rounded to a grid keeps its
                integer, and its channel's scale takes the factor. Where a batch-norm stands right
                behind, the factor goes into its gain and the weight is left alone altogether
    "biases"    biases, or a batch-norm's shift

In every case a channel whose weights are all zero is left alone: it was pruned, and must stay what
it is for its removal to be exact. No bias is added to a layer that has none.

Reconstruction with the error of earlier layers in the inputs: He, Zhang and Sun, 2017; biases:
Nagel, van Baalen, Blankevoort and Welling, 2019; factors by channel against one for a layer: Zhan,
Chen and Hu, 2026 (there from variances; here by least squares, judged on held-out samples).

Left out: transposed convolutions and recurrent layers; layers whose channels were removed; networks
in which an equalization rescaled what lies between two layers, whose outputs differ by design.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.core import copied_model
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Task
from burnish.graph import Traced, Walk, flatten_call, num_patches, patches, trace, window_of
from burnish.train._evaluate import Watch
from burnish.train._layers import Layer, find_layers, own_name, stored_name, tensors_of
from burnish.train._least_squares import Moments, fit_bias, fit_factor, fit_weights, work
from burnish.train._linear_map import LinearMap

CHANGES = ("weights", "channels", "biases")
LEAST = 8
ROWS = 8192
ROWS_A_COLUMN = 4
HELD = 5
FRONTIER = 1 << 30
MOST_WORK = 1e12
NEGLIGIBLE = 1e-6
NOTHING = "nothing"
TOO_MUCH = "; its weights are too many to solve for: factors and biases alone were tried"
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class RepairedLayer:
    """What became of a layer, and its error on held-out samples before and after.

    Errors are mean squares relative to the variance of the original's outputs; None where the layer
    was not looked at. `note` says what was changed, or why nothing was.
    """

    name: str
    repaired: bool
    note: str
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired copy, what became of each layer with weights, and from how many samples."""

    model: nn.Module
    layers: tuple[RepairedLayer, ...]
    samples: int

    def __str__(self) -> str:
        done = [layer for layer in self.layers if layer.repaired]
        lines = [f"{len(done)} of {len(self.layers)} layers repaired from {self.samples} samples"]
        for layer in self.layers:
            errors = "" if layer.before is None else f"{layer.before:.3g} -> {layer.after:.3g}, "
            lines.append(f"{layer.name}: {errors}{layer.note}")
        return "\n".join(lines)


def repair(
    model: nn.Module,
    original: nn.Module,
    task: Task,
    *,
    change: str = "weights",
    split: str = "calibration",
    samples: int = 512,
    seed: int = 0,
    watch: Watch | None = None,
) -> Repaired:
    """Bring a pruned or rounded network's layers back towards its original's, in closed form.

    Args:
        model: a module that torch.export takes, or a traced graph with float weights; left alone.
        original: the network it was made from, with layers of the same names; left alone.
        task: the example call and the data; targets are not looked at.
        change: what may change, "weights", "channels" or "biases": see the top of this file.
        split: which data.
        samples: how many of them at most; fewer where what both networks hold between two layers
            would not fit into 1 GiB.
        seed: of the output positions that are looked at.
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: a setting out of range, fewer than 8 samples, outputs that are not finite.
        Unsupported: a network that cannot be traced.
        NoEffect: no layer could be repaired, or none got better by it.
    """
    _check(model, original, change, samples)
    ours = trace(model, *task.inputs.to_trace()).copy()
    theirs = trace(original, *task.inputs.to_trace())
    stored = None if isinstance(model, Traced) else frozenset(model.state_dict())
    layers, left = find_layers(ours.graph_module, theirs.graph_module, stored)
    if not layers:
        raise NoEffect(f"no layer can be repaired: {_why(left)}")
    calls, num = _calls(ours, theirs, layers, task, split, samples)
    walks = Walk(ours.graph_module, calls), Walk(theirs.graph_module, calls)
    told = {name: RepairedLayer(name, False, reason) for name, reason in left.items()}
    wrote: dict[str, torch.Tensor] = {}
    watched: Iterable[Layer] = layers if watch is None else watch(layers, "repairing layers")
    with torch.no_grad():
        for index, layer in enumerate(watched):
            generator = torch.Generator().manual_seed(seed + index)
            told[layer.name] = _repaired(ours, layer, walks, change, generator, wrote)
    if not wrote:
        raise NoEffect(
            "no layer got better on held-out samples: "
            + _why({layer.name: told[layer.name].note for layer in layers})
        )
    result = ours if isinstance(model, Traced) else _written(model, wrote)
    return Repaired(result, tuple(told.values()), num)


def _check(model: nn.Module, original: nn.Module, change: str, samples: int) -> None:
    if change not in CHANGES:
        raise InvalidInput(f"repair(change={change!r}): one of {', '.join(CHANGES)}")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < LEAST:
        raise InvalidInput(f"repair(samples={samples!r}): a whole number, at least {LEAST}")
    for what, network in (("model", model), ("original", original)):
        if isinstance(network, Traced) and network.training:
            raise InvalidInput(
                f"repair(): the {what} is a graph in train mode: switch it to eval mode first, by "
                "graph.set_mode(traced, False)"
            )


def _why(reasons: dict[str, str]) -> str:
    first = [f"{name}: {reason}" for name, reason in list(reasons.items())[:3]]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    return "; ".join(first) + more if first else "the model has no convolution or linear layer"


def _written(model: nn.Module, wrote: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the module with the tensors the graph was given, by their own names."""
    changed = copied_model(model)
    mine = changed.state_dict(keep_vars=True)
    for name, tensor in wrote.items():
        mine[own_name(name)].data.copy_(tensor)
    return changed


# --- the samples


def _calls(
    ours: Traced, theirs: Traced, layers: list[Layer], task: Task, split: str, samples: int
) -> tuple[list[tuple[torch.Tensor, ...]], int]:
    """Whole calls up to `samples` samples, or as many as fit; and how many samples that is."""
    found: list[tuple[torch.Tensor, ...]] = []
    num, most = 0, samples
    for call in task.calls(split):
        tensors = flatten_call(call.args, call.kwargs)
        size = _num_samples(ours, tensors)
        if not found:
            few = min(size, 2)
            one = _narrowed(ours, tensors, few)
            held = _most_bytes(ours, [layer.node for layer in layers], one)
            held += _most_bytes(theirs, [layer.original.next for layer in layers], one)
            most = min(samples, max(LEAST, FRONTIER * few // max(held, 1)))
        found.append(_narrowed(ours, tensors, min(size, most - num)))
        num += min(size, most - num)
        if num == most:
            break
    if num < LEAST:
        raise InvalidInput(
            f"repair needs {LEAST} samples at least, and the {split} data has {num}: give more"
        )
    return found, num


def _num_samples(traced: Traced, tensors: tuple[torch.Tensor, ...]) -> int:
    for slot, tensor in zip(traced.inputs, tensors, strict=True):
        if "batch" in slot.shape:
            return int(tensor.shape[slot.shape.index("batch")])
    return 1


def _narrowed(traced: Traced, tensors: tuple[torch.Tensor, ...], size: int) -> Any:
    return tuple(
        tensor.narrow(slot.shape.index("batch"), 0, size) if "batch" in slot.shape else tensor
        for slot, tensor in zip(traced.inputs, tensors, strict=True)
    )


def _most_bytes(traced: Traced, stops: list[Any], tensors: tuple[torch.Tensor, ...]) -> int:
    """What a walk holds at most where it stops."""
    walk, most = Walk(traced.graph_module, [tensors]), 0
    for node in stops:
        walk.advance(node)
        most = max(most, walk.num_bytes())
    return most


# --- one layer


def _repaired(
    ours: Traced,
    layer: Layer,
    walks: tuple[Walk, Walk],
    change: str,
    generator: torch.Generator,
    wrote: dict[str, torch.Tensor],
) -> RepairedLayer:
    """Fit a layer, judge it, and write what got better into the graph and into `wrote`."""
    walks[0].advance(layer.node)
    inputs, wanted = walks[0].inputs(layer.node), walks[1].after(layer.original)
    if wanted is None:
        return RepairedLayer(layer.name, False, "the original computes it in another order")
    parts = tensors_of(ours.graph_module, layer)
    linear = LinearMap(layer, parts, inputs[0].shape)
    fit, held = _moments(layer, linear, inputs, wanted, generator)
    if not (fit.finite() and held.finite()):
        raise InvalidInput(
            f"repair: what goes into layer {layer.name!r}, or comes out of it in the original, is "
            "not finite: look for NaN or infinity in the data and the weights"
        )
    options, factor = _options(fit, linear, change)
    best = _best(held, list(options.values()), NEGLIGIBLE * fit.variance())
    spread = float(fit.variance().sum().clamp_min(1e-30))
    before = float(held.error(linear.v).sum()) / spread
    note = TOO_MUCH if change == "weights" and "weights" not in options else ""
    if not bool((best > 0).any()):
        why = "no channel got better on held-out samples" if len(options) > 1 else "it has no bias"
        return RepairedLayer(layer.name, False, why + note, before, before)
    chosen = {kind: best == index for index, kind in enumerate(options)}
    picked = best[None, ..., None].expand(1, *linear.v.shape)
    v = torch.stack(list(options.values())).gather(0, picked)[0]
    factor = torch.where(chosen.get("factors", best < 0), factor, 1.0)
    for part, tensor in linear.parts_for(v, factor, best > 0).items():
        parts[part].copy_(tensor)
        wrote[stored_name(layer, part)] = parts[part]
    del chosen[NOTHING]
    counts = [f"{kind} of {int(some.sum())}" for kind, some in chosen.items() if bool(some.any())]
    told = f"{', '.join(counts)} of {best.numel()} channels{note}"
    return RepairedLayer(layer.name, True, told, before, float(held.error(v).sum()) / spread)


def _options(
    moments: Moments, linear: LinearMap, change: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What each kind of change makes of a layer, the weakest first, and the factors it takes."""
    v, bias = linear.v, linear.can_shift
    scaled, factor = fit_factor(moments, v, bias)
    found = {NOTHING: v}
    if bias:
        found["biases"] = fit_bias(moments, v)
    if change != "biases":
        found["factors"] = scaled
    if change == "weights" and work(v, bias) <= MOST_WORK:
        found["weights"] = fit_weights(moments, v, bias)
    return found, factor


def _best(held: Moments, options: list[torch.Tensor], least: torch.Tensor) -> torch.Tensor:
    """For each channel the option of least error, [groups, outputs].

    0, the first, where no other is better by `least`, and where the channel was pruned.
    """
    errors = torch.stack([held.error(v) for v in options])
    errors[0] -= least
    best = errors.argmin(0)
    best[(options[0][..., :-1] == 0).all(-1)] = 0
    return best


def _moments(
    layer: Layer,
    linear: LinearMap,
    inputs: list[torch.Tensor],
    wanted: list[torch.Tensor],
    generator: torch.Generator,
) -> tuple[Moments, Moments]:
    """Of sampled output positions: those to fit, and those of the held-out samples."""
    groups, outputs = linear.shape
    columns = linear.v.shape[-1] - 1
    window = window_of(layer.node, linear.weight)
    counts = [num_patches(x, window) for x in inputs]
    most = max(ROWS, ROWS_A_COLUMN * columns)
    by_sample = sum(len(x) for x in inputs) >= HELD
    moments = Moments(groups, columns, outputs), Moments(groups, columns, outputs)
    seen = 0
    for x, y, count in zip(inputs, wanted, counts, strict=True):
        share = -(-most * count // sum(counts))
        chosen = (
            torch.arange(count)
            if count <= share
            else torch.randint(count, (share,), generator=generator)
        )
        flat = y.movedim(1, -1) if window.kernel else y
        flat = flat.reshape(-1, groups, outputs)
        owner = chosen * len(x) // count + seen if by_sample else chosen
        held = owner % HELD == HELD - 1
        for part, sums in zip((chosen[~held], chosen[held]), moments, strict=True):
            most_rows = max(1, _AT_ONCE // (groups * columns))
            for rows in torch.split(part, most_rows) if len(part) else ():
                sums.add(patches(x, window, groups, rows), flat[rows])
        seen += len(x)
    return moments
