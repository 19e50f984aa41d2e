"""Batch-norm statistics measured again, for a network whose weights were changed behind them.

Pruning and rounding move the means and variances of what a batch-norm reads, while its running
statistics still describe the network as it was. One pass over some data without targets puts that
right and changes nothing else: every batch-norm normalises by its batch, as in training, so that
later ones see what they will see once the earlier ones are right, and the mean and variance of all
that a batch-norm read replace its running ones. They are exact over all batches, not a moving
average; with one batch they are what one training pass with momentum 1 would leave.

A channel that never changes keeps its old variance: dividing by nearly nothing would blow up the
first sample on which it does. A batch-norm that the data do not reach keeps its statistics.

`settle_batch_norm` does the same without changing an answer, for a network that is to be trained
on: the statistics become those of what each batch-norm reads, and its gain and shift take back what
that would change. Otherwise the first step in train mode, which normalises by the batch, begins
somewhere else than eval mode stood (a ResNet-56 whose layers were repaired: logit error 3.1 in eval
mode, 5.8 in train mode, and no training made up for it).

As a repair after pruning: Li, Wu, Su and Wang, 2020 (EagleEye); exact statistics in place of moving
averages: Wu and Johnson, 2021.

Left out: batches of one value per channel, which have no variance; they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from burnish.core import copied_model
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Task
from burnish.graph import Traced, flatten_call, operator_names, tensor_of
from burnish.train._evaluate import Watch

_BATCH_NORM = torch.ops.aten.batch_norm.default
_SMALLEST_BATCH = "give batches of more samples"


def reestimate_batch_norm(
    model: nn.Module, task: Task, *, split: str = "calibration", watch: Watch | None = None
) -> nn.Module:
    """A copy of `model` whose batch-norms have the statistics of what they read now.

    Args:
        model: a module, or a traced graph, in eval mode; left alone.
        task: its data; targets are not looked at.
        split: which data, all of it.
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: no data; a batch with one value per channel; statistics that are not finite.
        NoEffect: the model has no batch-norm with running statistics, or none that the data reach.
    """
    return _measured(model, task, split, watch, settle=False)


def settle_batch_norm(
    model: nn.Module, task: Task, *, split: str = "calibration", watch: Watch | None = None
) -> nn.Module:
    """A copy of `model` that answers the same in eval mode, and begins there in train mode.

    Batch-norms without a gain and a shift are left as they are. Arguments and errors as of
    `reestimate_batch_norm`.
    """
    return _measured(model, task, split, watch, settle=True)


def _measured(
    model: nn.Module, task: Task, split: str, watch: Watch | None, *, settle: bool
) -> nn.Module:
    changed = copied_model(model)
    if isinstance(changed, Traced):
        seeing = _in_graph(changed, settle)
    else:
        seeing = _in_modules(changed, settle)
    data: Iterable[Any] = task.data(split)
    if watch is not None:
        data = watch(data, "measuring batch-norm statistics")
    with torch.no_grad(), seeing as (run, seen):
        if not seen:
            raise NoEffect(
                "the model has no batch-norm with running statistics: there is nothing to measure "
                "again (in a quantized graph they are folded into the weights)"
            )
        for batch in data:
            call = task.call(batch)
            run(*call.args, **call.kwargs)
    if not any(statistics.count for statistics in seen.values()):
        raise NoEffect(f"the {split} data reach none of the {len(seen)} batch-norms")
    with torch.no_grad():
        for statistics in seen.values():
            statistics.write(settle)
    return changed


class _Statistics:
    """Mean and squared deviation of each channel, over all that one batch-norm has read.

    `running` are its mean and variance, `affine` its gain and shift where it has them.
    """

    def __init__(
        self,
        name: str,
        running: tuple[torch.Tensor, torch.Tensor],
        affine: tuple[torch.Tensor, torch.Tensor] | None,
        eps: float,
    ) -> None:
        self.name, self.running, self.affine, self.eps = name, running, affine, eps
        mean, variance = running
        self.count = 0
        self.mean = torch.zeros_like(mean, dtype=torch.float64)
        self.squares = torch.zeros_like(variance, dtype=torch.float64)

    def add(self, x: torch.Tensor) -> None:
        """Take one batch in, [n, channels, ...] (Chan, Golub and LeVeque, 1983)."""
        count = x.numel() // x.shape[1]
        if count < 2:
            raise InvalidInput(
                f"batch-norm {self.name!r} reads {list(x.shape)}, one value per channel, which has "
                f"no variance: {_SMALLEST_BATCH}"
            )
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = (part.double() for part in torch.var_mean(wide, axes, correction=0))
        total, apart = self.count + count, mean - self.mean
        self.squares += variance * count + apart.square() * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total

    def write(self, settle: bool) -> None:
        """Replace the running statistics, variance unbiased as torch has it.

        To `settle`, gain and shift are changed so that what comes out is the same.
        """
        if not self.count or (settle and self.affine is None):
            return
        if not bool(torch.isfinite(self.mean).all() and torch.isfinite(self.squares).all()):
            raise InvalidInput(
                f"what batch-norm {self.name!r} reads is not finite: look for NaN in the data and "
                "in the weights before it"
            )
        mean, variance = self.running
        measured = self.squares / (self.count - 1)
        found = torch.where(measured > 0, measured, variance.double())
        if settle:
            assert self.affine is not None
            gain, shift = self.affine
            step = gain.double() / (variance.double() + self.eps).sqrt()
            shift.copy_(shift.double() + step * (self.mean - mean.double()))
            gain.copy_(step * (found + self.eps).sqrt())
        mean.copy_(self.mean)
        variance.copy_(found)


_Estimating = tuple[Callable[..., Any], dict[str, _Statistics]]


@contextmanager
def _in_modules(model: nn.Module, settle: bool) -> Iterator[_Estimating]:
    """The model to run, its batch-norms telling what they read.

    They normalise by the batch, or, to `settle`, as in eval mode.
    """
    flags = {module: module.training for module in model.modules()}
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and module.running_mean is not None
    }
    seen: dict[str, _Statistics] = {}
    hooks = []
    model.eval()
    for name, norm in norms.items():
        assert norm.running_mean is not None and norm.running_var is not None
        affine = None if norm.weight is None or norm.bias is None else (norm.weight, norm.bias)
        running = norm.running_mean, norm.running_var
        seen[name] = _Statistics(name, running, affine, norm.eps)
        hooks.append(norm.register_forward_pre_hook(_tells(seen[name])))
        if not settle:
            norm.train()
            norm.track_running_stats = False  # the running ones stand still until all is seen
    try:
        yield model, seen
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms.values():
            norm.track_running_stats = True
        for module, training in flags.items():
            module.training = training


def _tells(statistics: _Statistics) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        statistics.add(args[0])

    return hook


@contextmanager
def _in_graph(traced: Traced, settle: bool) -> Iterator[_Estimating]:
    """The same of a graph: a way to run it, and what its batch-norms will read."""
    module = traced.graph_module
    names = operator_names(module)
    seen: dict[str, _Statistics] = {}
    for node in module.graph.nodes:
        if node.target is not _BATCH_NORM:
            continue
        gain, shift, mean, variance = (tensor_of(module, node.args[at]) for at in (1, 2, 3, 4))
        if mean is not None and variance is not None:
            affine = None if gain is None or shift is None else (gain, shift)
            eps = float(node.args[7])
            statistics = _Statistics(names[node], (mean, variance), affine, eps)
            seen.setdefault(str(node.args[3]), statistics)
    estimator = _Estimator(module, seen, settle)
    yield lambda *args, **kwargs: estimator.run(*flatten_call(args, kwargs)), seen


class _Estimator(fx.Interpreter):
    """Runs a graph, its batch-norms telling what they read, and normalising by the batch unless
    they are to settle."""

    def __init__(self, module: fx.GraphModule, seen: dict[str, _Statistics], settle: bool) -> None:
        super().__init__(module)
        self._seen = seen
        self._settle = settle
        self._reads = ""

    def run_node(self, n: fx.Node) -> Any:
        self._reads = str(n.args[3]) if n.target is _BATCH_NORM else ""
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._reads not in self._seen:
            return super().call_function(target, args, kwargs)
        x, weight, bias, _, _, _, _, eps, cudnn = args
        self._seen[self._reads].add(x)
        if self._settle:
            return super().call_function(target, args, kwargs)
        return _BATCH_NORM(x, weight, bias, None, None, True, 0.0, eps, cudnn)
