"""One graph, run over several calls at once, up to a node at a time.

A method that decides layer by layer must see what a layer reads before it decides, and later layers
must see what was decided. Running the network anew for each layer would cost the square of their
number; a `Walk` runs all calls up to the next layer and stands there: its tensors are read when
their turn comes, so what the caller writes into them meanwhile counts for all that follows. What is
held is the frontier: the values that somebody ahead still reads.

Left out: spilling the frontier to disk; the caller bounds it by the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx


def _none(_: fx.Node) -> bool:
    return False


class Walk:
    """Runs a graph over `calls`, without gradients, from node to node.

    Args:
        module: the graph; a flat tuple of tensors goes into each call.
        calls: the tensors of each call, in the order of the graph's inputs.
        late: of a node, whether to put it off until somebody reads it (as dequantizing, whose
            result is four times as large as what it reads).
    """

    def __init__(
        self,
        module: fx.GraphModule,
        calls: Sequence[tuple[torch.Tensor, ...]],
        late: Callable[[fx.Node], bool] = _none,
    ) -> None:
        self.module = module
        self._late = late
        self._nodes = list(module.graph.nodes)
        self._place = {node: index for index, node in enumerate(self._nodes)}
        self._position = 0
        self._given = [iter(tensors) for tensors in calls]
        self._values: list[dict[fx.Node, Any]] = [{} for _ in calls]
        self._dies = self._deaths()

    def _deaths(self) -> dict[int, list[fx.Node]]:
        """For each position what nobody reads behind it. What is put off keeps its source alive."""
        last: dict[fx.Node, int] = {}
        for node in reversed(self._nodes):
            own = [self._place[user] for user in node.users if not self._late(user)]
            put_off = [last[user] for user in node.users if self._late(user)]
            last[node] = max([*own, *put_off, self._place[node]])
        deaths: dict[int, list[fx.Node]] = {}
        for node, position in last.items():
            deaths.setdefault(position, []).append(node)
        return deaths

    def advance(self, stop: fx.Node) -> None:
        """Run all that stands before `stop`; nothing where that is done already."""
        end = self._place[stop]
        with torch.inference_mode():
            for values, given in zip(self._values, self._given, strict=True):
                for index in range(self._position, end):
                    self._run(self._nodes[index], values, given)
                    for dead in self._dies.get(index, ()):
                        values.pop(dead, None)
        self._position = max(self._position, end)

    def inputs(self, node: fx.Node) -> list[torch.Tensor]:
        """What the node the walk stands before reads first, in each call."""
        return self._read_all(node.args[0])

    def after(self, node: fx.Node) -> list[torch.Tensor] | None:
        """Run up to and with `node`: its value in each call; None where nobody keeps it any more.

        That is so where the walk is further on already, and all who read the value have run.
        """
        self.advance(node.next)
        kept = all(node in values for values in self._values)
        return self._read_all(node) if kept else None

    def num_bytes(self) -> int:
        """What is held where the walk stands."""
        held = {
            id(v): v.nbytes
            for values in self._values
            for v in values.values()
            if isinstance(v, torch.Tensor)
        }
        return sum(held.values())

    @classmethod
    def most_bytes(
        cls, module: fx.GraphModule, tensors: tuple[torch.Tensor, ...], stops: Iterable[fx.Node]
    ) -> int:
        """What a walk over one call holds at most where it stops, in the order of the graph."""
        walk, most = cls(module, [tensors]), 0
        for node in stops:
            walk.advance(node)
            most = max(most, walk.num_bytes())
        return most

    def _read_all(self, node: Any) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [self._read(node, values) for values in self._values]

    def _run(self, node: fx.Node, values: dict[fx.Node, Any], given: Iterator[Any]) -> None:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "call_function" and not self._late(node):
            values[node] = self._compute(node, values)

    def _read(self, node: Any, values: dict[fx.Node, Any]) -> Any:
        if not isinstance(node, fx.Node):
            return node
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            return getattr(self.module.get_submodule(owner), leaf)
        return self._compute(node, values) if self._late(node) else values[node]

    def _compute(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        args, kwargs = fx.map_arg(
            (node.args, dict(node.kwargs)), lambda source: self._read(source, values)
        )
        return node.target(*args, **kwargs)  # type: ignore[operator]
