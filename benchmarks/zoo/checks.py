"""The six things a pruned model must do, one after the other, on one model.

    prune     a third of the channels of every free group
    forward   another batch size than the example's
    exact     in float64 the shrunk graph says what the masked one says; so does the user's class,
              where the result is that
    train     one step of SGD: loss and gradients finite, parameters changed
    reload    history on disk, replayed on the original built anew: the same outputs, bit for bit;
              then the trained weights, from safetensors
    onnx      our export for onnxruntime says in a worker what torch says

Each failure is told in the row, and the next check still runs where it can.

Left out: quality. Weights are random.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from burnish import Goal, Task
from burnish.auto import STEPS
from burnish.bundle import Worker
from burnish.core import Applied, Choices, settings_of
from burnish.graph import (
    Traced,
    channel_groups,
    flatten,
    flatten_call,
    mask_channels,
    set_mode,
    shrink_channels,
    trace,
)
from burnish.metrics import top1
from burnish.prune import PruneChannels
from burnish.recipe import load_history, replay, save_history
from burnish.runtimes import export
from zoo.entry import SEED, Entry

STEP = PruneChannels(ratio=1 / 3)
EXAMPLE, OTHER = 2, 3  # images
EXACT = 1e-10  # of the outputs' norm, in float64; asked for is 1e-5
DEPLOYED = 1e-3  # of the outputs' norm, in float32
RATE, CLIP = 0.05, 1.0
CHANGED = 0.5  # of the parameters' tensors, by one step
WORKER_SECONDS = 600.0
Row = dict[str, Any]


class Failed(Exception):
    """A check that ran and did not hold."""


def examine(entry: Entry, folder: Path, tell: Callable[[Row], None]) -> Row:
    """All checks of one model. `tell` gets the row whenever it has grown, so that none is lost."""
    row: Row = {"name": entry.name, "source": entry.source, "pixels": entry.pixels, "checks": {}}
    subject = _Subject(entry, folder, row)
    for name, check in subject.checks().items():
        row["doing"] = name
        tell(row)
        row["checks"][name] = _outcome(check)
        if name == "prune" and not row["checks"][name]["passed"]:
            break
        gc.collect()
    del row["doing"]
    tell(row)
    return row


def _outcome(check: Callable[[], float | None]) -> Row:
    start = time.perf_counter()
    try:
        found: Row = {"passed": True, "figure": check(), "reason": None}
    except Exception as error:
        kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
        found = {"passed": False, "figure": None, "reason": plain(f"{kind}{error}")}
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def plain(text: str) -> str:
    """A message in one line, without this machine's folders."""
    return re.sub(r"[^\s'\"(]*/(?:site-packages|src)/", "", " ".join(text.split()))[:600]


class _Subject:
    """A model, what was chosen for it, and what came of that."""

    def __init__(self, entry: Entry, folder: Path, row: Row) -> None:
        self._entry, self._folder, self._row = entry, folder, row
        self._model: nn.Module = entry.build()
        self._choices = Choices({})
        self._pruned: nn.Module = self._model
        self._trained: nn.Module | None = None

    def checks(self) -> Mapping[str, Callable[[], float | None]]:
        """In their order: `exact` spends the original, `onnx` the memory."""
        return {
            "prune": self.prune,
            "forward": self.forward,
            "exact": self.exact,
            "train": self.train,
            "reload": self.reload,
            "onnx": self.onnx,
        }

    def prune(self) -> None:
        goal = Goal(Task((self._entry.images(EXAMPLE),), top1), seed=SEED)
        self._choices = STEP.choose(self._model, goal)
        self._pruned = STEP.rewrite(self._model, self._choices).eval()
        plan = self._choices.plan
        states: dict[str, str] = {}
        for layer in plan["layers"]:
            states[layer["group"]] = layer["state"]
        reasons = {r["group"]: plain(r["reason"]) for r in plan["layers"] if r["state"] == "frozen"}
        self._row |= {
            "parameters": [_num_parameters(self._model), _num_parameters(self._pruned)],
            "channels removed": sum(map(len, plan["removed"].values())),
            "groups": dict(Counter(states.values())),
            "frozen because": dict(Counter(reasons.values())),
            "form": plan["form"],
            "form because": plain(plan["form because"]),
        }

    def forward(self) -> None:
        for before, after in zip(
            self._run(self._model, OTHER), self._run(self._pruned, OTHER), strict=True
        ):
            if before.shape != after.shape or not bool(torch.isfinite(after).all()):
                raise Failed(f"outputs of shape {tuple(after.shape)}, not all finite or not as was")

    def exact(self) -> float:
        images = self._entry.images(OTHER, torch.float64)
        original = self._model.double()
        self._model = self._pruned  # frees it when this is done
        traced = trace(original, (self._entry.images(EXAMPLE, torch.float64),), share=True)
        del original
        channels, removed = channel_groups(traced, "whole"), self._choices.plan["removed"]
        with torch.no_grad():
            before, _ = flatten(traced(images))
            expected, _ = flatten(mask_channels(channels, removed)(images))
            found, _ = flatten(shrink_channels(channels, removed)(images))
            errors = [_distance(found, expected)]
            self._row["moved"] = _distance(before, expected)
            del traced, channels
            if not isinstance(self._pruned, Traced):
                found, _ = flatten(copy.deepcopy(self._pruned).double()(images))
                errors.append(_distance(found, expected))
        if not max(errors) <= EXACT:
            raise Failed(f"masked and shrunk differ by {max(errors):.1e} of the outputs' norm")
        return max(errors)

    def train(self) -> float:
        graph = isinstance(self._pruned, Traced)
        if isinstance(self._pruned, Traced):
            model: nn.Module = set_mode(self._pruned, True)
        else:
            model = copy.deepcopy(self._pruned).train()
        images = self._entry.images(EXAMPLE)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        loss = self._loss(model, images)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(norm)):
            raise Failed(f"the loss is {float(loss)}, the gradient's norm {float(norm)}")
        changed = [not torch.equal(p, before[name]) for name, p in model.named_parameters()]
        share = sum(changed) / len(changed)
        if share < CHANGED:
            raise Failed(f"a step changed {sum(changed)} of {len(changed)} parameters")
        optimizer.zero_grad(set_to_none=True)
        trained = set_mode(model, False) if graph else model.eval()  # type: ignore[arg-type]
        self._trained = trained
        return share

    @staticmethod
    def _loss(model: nn.Module, images: Any) -> torch.Tensor:
        outputs, _ = flatten(model(images))
        return torch.stack([output.float().square().mean() for output in outputs]).sum()

    def reload(self) -> None:
        folder = self._folder / "history"
        folder.mkdir(parents=True, exist_ok=True)
        save_history(folder, [Applied("PruneChannels", settings_of(STEP), self._choices)])
        again = replay(self._entry.build(), load_history(folder), STEPS).eval()
        self._same(self._pruned, again, "replayed")
        trained = self._trained or self._pruned
        _through_a_file(trained, again, folder / "trained.safetensors")
        self._same(trained, again, "with the trained weights")
        self._trained = None

    def _same(self, one: nn.Module, other: nn.Module, what: str) -> None:
        for x, y in zip(self._run(one, OTHER), self._run(other, OTHER), strict=True):
            if not torch.equal(x, y):
                raise Failed(f"{what}, the outputs differ by {_distance([y], [x]):.1e}")

    def onnx(self) -> float:
        expected = self._run(self._pruned, OTHER)
        example = (self._entry.images(EXAMPLE),)
        traced = trace(self._pruned, example, share=True)
        artifact = export(traced, "onnxruntime", self._folder / "onnx")
        artifact = dataclasses.replace(
            artifact, options=dataclasses.replace(artifact.options, threads=1)
        )
        tensors = flatten_call((self._entry.images(OTHER),), {})
        names = [slot.name for slot in traced.inputs]
        feed = {n: t.numpy() for n, t in zip(names, tensors, strict=True)}
        with Worker(artifact, timeout=WORKER_SECONDS) as worker:
            found = [torch.from_numpy(array) for array in worker.run(feed)]
        error = _distance(found, expected)
        if not error <= DEPLOYED:
            raise Failed(f"onnxruntime and torch differ by {error:.1e} of the outputs' norm")
        return error

    def _run(self, model: nn.Module, batch: int) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(flatten(model(self._entry.images(batch)))[0])


def _through_a_file(one: nn.Module, other: nn.Module, file: Path) -> None:
    """Give `other` the tensors of `one` by way of a file, which holds nothing but tensors.

    The versions that some classes ask for (torchvision's MNASNet) are those of `other`.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in one.state_dict().items()}
    safetensors.torch.save_file(tensors, str(file))
    state = other.state_dict()
    if set(state) != set(tensors):
        raise Failed(f"names of tensors differ: {sorted(set(state) ^ set(tensors))[:4]}")
    state.update(safetensors.torch.load_file(str(file)))
    other.load_state_dict(state)
    file.unlink()


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest of the outputs' differences, each of its norm."""
    pairs = zip(found, expected, strict=True)
    return max(float((x - y).double().norm() / y.double().norm()) for x, y in pairs)
