"""Inputs without data: drawn as noise, then fitted to what batch-norm remembers of the real ones.

Every batch-norm keeps the mean and variance its inputs had in training. A batch of inputs that
gives the same mean and variance in front of each of them excites the network as real data does,
which is all that calibrating ranges and distilling from the network ask for. Starting from normal
noise, the inputs are optimised by Adam on the mean over layers and channels of the divergence of
two normal distributions, the one the batch has from the one that batch-norm remembers:

    log(s / s_batch) + (s_batch^2 + (m_batch - m)^2) / (2 s^2) - 1/2

It has no units, so that layers count alike, where squared differences (Cai et al., 2020, ZeroQ) let
the layer with the largest numbers rule. Choi et al., 2020 (*Data-free network quantization with
adversarial knowledge distillation*) match batch-norm by the divergence of normal distributions, and
so do Haroush et al., 2020 (*The knowledge within*). Taken the other way round, it hardly pulls at
the mean of a batch that spreads wide, and a few hundred steps did not suffice. Variances get the
batch-norm's own epsilon.

The samples have the statistics of the data as the network was fed them (normalised), not its looks,
and a network without batch-norm remembers nothing.

Left out: drawing samples of a given class, and smoothness (Yin et al., 2020, DeepInversion);
generators; inputs that are no floating tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from burnish.distill._example import Tree, call_of, tensors_of
from burnish.distill._teachers import frozen
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Inputs
from burnish.graph import Traced

RATE = 0.1
Watch = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Synthesized:
    """Batches of made-up inputs, in the form in which a `Task` takes unlabelled data.

    `mismatch` is the divergence from the remembered statistics, before and after, over all batches.
    """

    batches: tuple[Any, ...]
    mismatch: tuple[float, float]


def synthesize(
    teacher: nn.Module,
    inputs: Inputs,
    *,
    num_batches: int = 4,
    batch: int = 32,
    steps: int = 200,
    seed: int = 0,
    watch: Watch | None = None,
) -> Synthesized:
    """Make inputs up from the batch-norm statistics of a trained model.

    Args:
        teacher: with batch-norms that have running statistics; left alone.
        inputs: an example call; it gives shapes, its values do not matter.
        num_batches: how many to make.
        batch: samples in each: as many as it takes to have a variance in each channel.
        steps: of Adam for each batch.
        seed: of the noise to begin with.
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: a setting below 1; an input that is no floating tensor.
        Unsupported: a model without batch-norm statistics; a traced one.
        NoEffect: the statistics of the inputs came no nearer to those remembered.
    """
    for name, value in (("num_batches", num_batches), ("batch", batch), ("steps", steps)):
        if value < 1:
            raise InvalidInput(f"synthesize({name}={value}): at least 1")
    model = frozen(teacher, "teacher")
    layers = _layers(model)
    template, tree = tensors_of(inputs, batch)
    _check_inputs(inputs)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    made, mismatches = [], []
    numbers: Iterable[int] = range(num_batches)
    for _ in numbers if watch is None else watch(numbers, "synthesizing inputs"):
        noise = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in template]
        fitted, first, last = _fitted(model, layers, tree, [one.to(device) for one in noise], steps)
        made.append(_as_batch(tree, fitted))
        mismatches.append((first, last))
    before, after = (sum(values) / num_batches for values in zip(*mismatches, strict=True))
    if not after < before:
        raise NoEffect(
            f"the made-up inputs are no nearer to the model's batch-norm statistics ({after:.3g}) "
            f"than noise is ({before:.3g}): take more steps or larger batches"
        )
    return Synthesized(tuple(made), (before, after))


def _fitted(
    model: nn.Module,
    layers: list[_BatchNorm],
    tree: Tree,
    noise: list[torch.Tensor],
    steps: int,
) -> tuple[list[torch.Tensor], float, float]:
    """The inputs after `steps` of Adam, and their mismatch before and after."""
    tensors = [one.requires_grad_() for one in noise]
    adam = torch.optim.Adam(tensors, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    values = []
    for step in range(steps + 1):
        with torch.enable_grad():
            loss = _mismatch(model, layers, tree, tensors)
        values.append(float(loss.detach()))
        if not math.isfinite(values[-1]):
            raise InvalidInput(
                f"the model's batch-norms see {values[-1]} for made-up inputs at step {step}: look "
                "for NaN in its weights or running statistics"
            )
        if step < steps:
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            schedule.step()
    return [one.detach().cpu() for one in tensors], values[0], values[-1]


def _mismatch(
    model: nn.Module, layers: list[_BatchNorm], tree: Tree, tensors: list[torch.Tensor]
) -> torch.Tensor:
    """The mean divergence over all layers that ran."""
    found: list[torch.Tensor] = []

    def look(layer: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        found.append(divergence(args[0], layer))

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(look).remove)
        args, kwargs = call_of(tree, tensors)
        model(*args, **kwargs)
    if not found:
        raise Unsupported("none of the model's batch-norms runs on the example call")
    return torch.stack(found).mean()


def divergence(values: torch.Tensor, layer: _BatchNorm) -> torch.Tensor:
    """How far what stands before a batch-norm is from what it remembers; mean over channels.

    Args:
        values: [N, C, …].
        layer: with running statistics.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    axes = [axis for axis in range(values.dim()) if axis != 1]
    variance, mean = torch.var_mean(values.float(), axes, correction=0)
    variance = variance + layer.eps
    known = layer.running_var.float() + layer.eps
    distance = (layer.running_mean.float() - mean).square()
    return (0.5 * (known / variance).log() + (variance + distance) / (2 * known) - 0.5).mean()


def _layers(model: nn.Module) -> list[_BatchNorm]:
    if isinstance(model, Traced):
        raise Unsupported(
            "inputs are made up from the batch-norms of a module, and a traced graph has none as "
            "layers: give the module it was traced from"
        )
    found = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not found:
        raise Unsupported(
            "the model has no batch-norm with running statistics, so that nothing in it tells what "
            "its inputs looked like: distil on unlabelled samples of any like source"
        )
    return found


def _check_inputs(inputs: Inputs) -> None:
    for leaf in inputs.leaves():
        if not leaf.tensor.is_floating_point():
            raise InvalidInput(
                f"input {leaf.key!r} is {leaf.tensor.dtype}: inputs are made up by following "
                "gradients, which only floating tensors have"
            )
    if inputs.args and inputs.kwargs:
        raise Unsupported(
            "the example call has positional and keyword arguments, and no form of a batch holds "
            "both: give Inputs(kwargs=…) with all of them by name"
        )


def _as_batch(tree: Tree, tensors: list[torch.Tensor]) -> Any:
    """A bare tensor for one positional argument, a tuple for several, a dict for keywords."""
    args, kwargs = call_of(tree, tensors)
    if kwargs:
        return kwargs
    return args[0] if len(args) == 1 else args
