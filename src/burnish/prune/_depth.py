"""Depth removed: residual blocks dropped whole, those whose absence the outputs notice least.

    trace → residual blocks (`_residual`) → drop one after another → graph, or class, without them

One block is dropped at a time, each time the one whose removal moves the outputs least for what it
saves, given those that are gone already: two blocks may stand in for each other, so a ranking made
once would drop both. What is counted is measured on calibration data, without labels.

A block is skipped in the graph by reading what passes by it. In the user's own class an identity
takes the place of a module that was such a block, where the class then says what the graph says.

Left out: several blocks weighed against each other at once, and against width (`PruneTo` does); a
block replaced by something smaller.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx, nn

from burnish.core import Choices, Rewrite, copied_model
from burnish.errors import Infeasible, InvalidInput, NoEffect, Unsupported
from burnish.goal import Call, Goal, Inputs
from burnish.graph import (
    Traced,
    channel_groups,
    finish,
    operator_names,
    retrace,
)
from burnish.prune._cost import COSTS, cost_of
from burnish.prune._distance import Reference, reference
from burnish.prune._given import calls_of, traced_for
from burnish.prune._module import GRAPH, MODULE, form_of
from burnish.prune._parts import OfWhatIsLeft
from burnish.prune._residual import ResidualBlock, residual_blocks
from burnish.prune._settings import check_ratio, check_words, left_alone, settle_ignore

OF = ("blocks", *COSTS)
CRITERIA = ("outputs", "random")
DROPPED, KEPT, FROZEN = "dropped", "kept", "frozen"
_NONE = (
    "it has none: no sum of an earlier value and of what layers with weights make of it, read by "
    "nothing else"
)


@dataclass(frozen=True)
class BlockRow:
    """What became of a block: "dropped", "kept" or "frozen", with the reason.

    `layers` are those with weights in it; `error` is the squared error of the outputs, as a share
    of their power, with this block alone dropped; None where nothing was measured.
    """

    block: str
    layers: tuple[str, ...]
    error: float | None
    state: str
    reason: str


@dataclass(frozen=True)
class DropBlocks(OfWhatIsLeft, Rewrite):
    """A copy of the model without some of its residual blocks.

    Args:
        ratio: how much goes, from 0 up to, not including, 1: blocks go until it is reached.
        of: what the ratio is a share of: "blocks", or the whole model's "parameters", "bytes" or
            "macs".
        criterion: which go first: "outputs", those whose absence the outputs notice least, on
            calibration data, or "random".
        ignore: blocks that stay: names of blocks or of layers in them, module paths, patterns.

    Raises:
        InvalidInput: a setting out of range.
    """

    ratio: float = 0.3
    of: str = "blocks"
    criterion: str = "outputs"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ratio(self)
        check_words(self, {"of": OF, "criterion": CRITERIA})
        settle_ignore(self)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Drop blocks of a traced copy, one after another.

        Raises:
            InvalidInput: no calibration data for "outputs"; otherwise as `choose_from`.
        """
        traced = traced_for(model, goal.task.inputs)
        calls = goal.task.calls("calibration") if self.criterion == "outputs" else ()
        choices = self.choose_from(traced, calls, goal.seed)
        return with_form(model, traced, goal.task.inputs, choices)

    def choose_from(self, traced: Traced, calls: Iterable[Call] = (), seed: int = 0) -> Choices:
        """Decide for a traced model.

        Raises:
            InvalidInput: no calls for "outputs", an entry of `ignore` that matches nothing.
            NoEffect: no residual block, none that may go, or a ratio that asks for none.
            Infeasible: the blocks that may go do not save so much; `result` is the share they do.
        """
        blocks = residual_blocks(traced)
        ignored = ignored_blocks(blocks, self.ignore)
        free = [block for block in blocks if block.name not in ignored]
        if not free:
            reasons = [f"{name}: {why}" for name, why in list(ignored.items())[:8]] or [_NONE]
            listed = "\n  ".join(reasons)
            raise NoEffect(f"no residual block of this model may be dropped:\n  {listed}")
        saved = _Saved(traced, self.of, free)
        if self.ratio == 0:
            raise NoEffect("DropBlocks(ratio=0) drops no block: ask for a share above 0")
        alone: dict[str, float] = {}
        if self.criterion == "random":
            order = iter(random.Random(seed).sample(free, len(free)))
        else:
            truth = reference(traced, calls, "DropBlocks(criterion='outputs')")
            order = _greedy(traced, free, truth, saved, alone)
        dropped = _until(order, saved, self.ratio)
        return Choices(
            {
                "call": traced.call,
                "dropped": [block.name for block in dropped],
                "saved": saved.by(dropped) / saved.whole,
                "blocks": block_rows(blocks, alone, [block.name for block in dropped], ignored),
                "form": GRAPH,
                "form because": "it was chosen for a graph",
            }
        )

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The model without the chosen blocks, in the form that was chosen: module or graph.

        Raises:
            InvalidInput: the plan names blocks the model does not have.
        """
        plan = choices.plan
        traced = model if isinstance(model, Traced) else retrace(model, plan["call"])
        if plan["form"] == MODULE and not isinstance(model, Traced):
            return module_without(model, traced, plan["dropped"])
        return without_blocks(traced, plan["dropped"])


def without_blocks(traced: Traced, names: Collection[str]) -> Traced:
    """A copy of the graph in which each of these blocks is what passes by it.

    Raises:
        InvalidInput: a name that is no residual block's.
    """
    small = traced.copy()
    blocks = {block.name: block for block in residual_blocks(small)}
    unknown = [name for name in names if name not in blocks]
    if unknown:
        raise InvalidInput(
            f"this plan drops {unknown[0]!r}, which is no residual block of the model; those are "
            f"{', '.join(blocks) or 'none'}"
        )
    passing = {blocks[name].end: blocks[name].skip for name in names}
    for end, skip in passing.items():
        # What passes by a block may be the end of another one that is gone.
        while skip in passing:
            skip = passing[skip]
        end.replace_all_uses_with(skip)
    finish(small.graph_module)
    return small


def module_without(model: nn.Module, traced: Traced, names: Collection[str]) -> nn.Module:
    """A copy of the user's module with an identity for each module that is made of these blocks.

    Raises:
        Unsupported: a block is no module of its own.
    """
    dropped = [block for block in residual_blocks(traced) if block.name in set(names)]
    gone = {node for block in dropped for node in block.nodes}
    by_path: dict[str, set[fx.Node]] = {}
    for node, name in operator_names(traced.graph_module).items():
        if node.op == "call_function":
            parts = name.rpartition(":")[0].split(".")
            for length in range(1, len(parts) + 1):
                by_path.setdefault(".".join(parts[:length]), set()).add(node)
    whole = {path for path, nodes in by_path.items() if path and nodes <= gone}
    outermost = sorted(p for p in whole if p.rpartition(".")[0] not in whole)
    inside = {node for path in outermost for node in by_path[path]}
    left = [block for block in dropped if block.end not in inside]
    if left:
        raise Unsupported(
            f"block {left[0].name!r} is no module of its own, its sum stands in the code of the "
            "module around it; the graph is used instead"
        )
    copied = copied_model(model)
    for path in outermost:
        owner, _, leaf = path.rpartition(".")
        mode = copied.get_submodule(path).training
        setattr(copied.get_submodule(owner), leaf, nn.Identity().train(mode))
    return copied


def with_form(model: nn.Module, traced: Traced, inputs: Inputs, choices: Choices) -> Choices:
    """The choices, for the user's own class where that computes what the graph does."""
    if isinstance(model, Traced):
        return choices
    names = choices.plan["dropped"]
    small = without_blocks(traced, names)
    form = form_of(lambda: module_without(model, traced, names), small, inputs)
    return Choices(dict(choices.plan) | form, choices.tensors)


class Skipping(fx.Interpreter):
    """Runs a graph as if some of its blocks were not there; takes and gives flat tensors."""

    def __init__(self, traced: Traced, blocks: Iterable[ResidualBlock]) -> None:
        super().__init__(traced.graph_module)
        self._skips = {block.end: block.skip for block in blocks}
        self._dead = {node for block in blocks for node in block.nodes}
        # Values are kept to the end of a run: a skip is read after its last user was skipped.
        self.garbage_collect_values = False

    def run_node(self, n: fx.Node) -> Any:
        if n in self._skips:
            return self.env[self._skips[n]]
        return None if n in self._dead else super().run_node(n)


def _greedy(
    traced: Traced,
    free: Iterable[ResidualBlock],
    truth: Reference,
    saved: _Saved,
    alone: dict[str, float],
) -> Iterator[ResidualBlock]:
    """Blocks in the order in which they go; `alone` is told the error of each by itself."""
    left, gone = list(free), list[ResidualBlock]()
    now = 0.0
    while left:
        errors = {b.name: truth.error(Skipping(traced, [*gone, b]).run) for b in left}
        for name, error in errors.items():
            alone.setdefault(name, error)
        before = saved.by(gone)
        rise = {b: (errors[b.name] - now) / (saved.by([*gone, b]) - before) for b in left}
        best = min(left, key=rise.__getitem__)
        gone.append(best)
        now = errors[best.name]
        yield best
        dead = {node for block in gone for node in block.nodes}
        left = [block for block in left if block.end not in dead]


class _Saved:
    """What dropping blocks saves, in the unit asked for, and what the whole model has of it."""

    def __init__(self, traced: Traced, of: str, blocks: Iterable[ResidualBlock]) -> None:
        self._of = of
        if of == "blocks":
            self.whole = float(len(list(blocks)))
            return
        channels = channel_groups(traced)
        self._cost, self._alive = cost_of(channels, of), channels.alive({})
        self.whole = self._cost.at(self._alive)

    def by(self, blocks: Iterable[ResidualBlock]) -> float:
        """What all of them save together."""
        if self._of == "blocks":
            return float(len(list(blocks)))
        gone = {node for block in blocks for node in block.nodes}
        return self.whole - self._cost.at(self._alive, gone)


def _until(order: Iterator[ResidualBlock], saved: _Saved, ratio: float) -> list[ResidualBlock]:
    """As many of the blocks as it takes. Infeasible where all are not enough."""
    gone: list[ResidualBlock] = []
    for block in order:
        gone.append(block)
        if saved.by(gone) >= ratio * saved.whole * (1 - 1e-9):
            return gone
    most = saved.by(gone) / saved.whole
    raise Infeasible(
        f"DropBlocks(ratio={ratio:g}) cannot be reached: all {len(gone)} residual blocks that may "
        f"go save {most:.3f}; prune channels besides",
        result=most,
    )


def block_rows(
    blocks: Iterable[ResidualBlock],
    errors: Mapping[str, float],
    dropped: Collection[str],
    ignored: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The table as plain JSON; `errors` where they were measured, `ignored`: why blocks stay."""
    rows = []
    for block in blocks:
        state, reason = _state(block, dropped, ignored)
        row = BlockRow(block.name, block.layers, errors.get(block.name), state, reason)
        rows.append(asdict(row) | {"layers": list(block.layers)})
    return rows


def ignored_blocks(blocks: Iterable[ResidualBlock], ignore: Sequence[str]) -> dict[str, str]:
    """Why a block stays at the user's wish, by its name."""
    return left_alone({block.name: (block.name, *block.layers) for block in blocks}, ignore)


def _state(
    block: ResidualBlock, dropped: Collection[str], ignored: Mapping[str, str]
) -> tuple[str, str]:
    if block.name in dropped:
        return DROPPED, ""
    if block.name in ignored:
        return FROZEN, ignored[block.name]
    return KEPT, "the share asked for was reached without it"


def dropped_blocks(choices: Choices) -> tuple[BlockRow, ...]:
    """The table of a removal of depth: every residual block, and what became of it."""
    return tuple(
        BlockRow(**{**row, "layers": tuple(row["layers"])}) for row in choices.plan["blocks"]
    )


def drop_blocks(
    model: nn.Module,
    example: Any,
    ratio: float = 0.3,
    *,
    calibration: Iterable[Any] = (),
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """A copy of a model without some of its residual blocks.

    Args:
        model: in eval mode; left as it was.
        example: an example call, as of `prune_channels`.
        ratio: how much to remove, as of `DropBlocks`.
        calibration: batches, each as `example`, for criterion="outputs".
        seed: of criterion="random".
        settings: the others of `DropBlocks`.

    Returns:
        The user's own class where the blocks are modules of it; else a graph called like it.

    Raises:
        InvalidInput, NoEffect, Infeasible: as of `DropBlocks`.
        Unsupported: the model cannot be exported.
    """
    step = DropBlocks(ratio, **settings)
    inputs = Inputs.of(example)
    traced = traced_for(model, inputs)
    choices = step.choose_from(traced, calls_of(calibration), seed)
    choices = with_form(model, traced, inputs, choices)
    return step.rewrite(model, choices)
