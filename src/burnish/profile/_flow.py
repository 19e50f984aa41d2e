"""What each node of a traced graph reads and gives at a batch, without computing anything.

The graph runs once on tensors that have a shape, a dtype and a storage but no memory (torch's fake
tensors), so every size is the number it has at that batch, and two tensors share a storage exactly
where they do in a real run: a view is known from a copy without a list of operators.

A node is *constant* where no input of the model reaches it: parameters and buffers, and what is
computed from them alone, which a runtime folds away when it loads the file.

Left out: graphs whose sizes depend on values (`nonzero`); they are refused by the operator's name.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced, operator_names

_NOISY = "torch._subclasses.fake_tensor"
_RANDOM = torch.Tag.nondeterministic_seeded


@dataclass(frozen=True)
class Step:
    """A node as it runs: its arguments with fake tensors in them, what it reads, what it gives.

    `operands` are the tensors it reads in the order of its arguments, each with whether it is
    constant; `results` the tensors it gives. `constant`: no input of the model reaches it.
    """

    node: fx.Node
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: tuple[tuple[torch.Tensor, bool], ...]
    results: tuple[torch.Tensor, ...]
    constant: bool

    @property
    def is_view(self) -> bool:
        """It moves no data: each result shares its storage with an operand that it leaves as is."""
        if not self.results or writes(self.node):
            return False
        storages = {storage(tensor) for tensor, _ in self.operands}
        return all(storage(tensor) in storages for tensor in self.results)


@dataclass(frozen=True)
class Flow:
    """All operators of a graph in order; the tensors that come in, are stored, and go out."""

    steps: tuple[Step, ...]
    inputs: tuple[torch.Tensor, ...]
    stored: dict[str, torch.Tensor]  # by name in the graph's module
    outputs: tuple[torch.Tensor, ...]


def storage(tensor: torch.Tensor) -> int:
    """What two tensors have in common where they share memory."""
    return int(tensor.untyped_storage()._cdata)


def writes(node: fx.Node) -> bool:
    """Whether it changes a tensor it reads."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def flow(traced: Traced, batch: int) -> Flow:
    """Follow a graph at `batch` samples; further dynamic axes have the size of the example.

    Raises:
        InvalidInput: `batch` is below 1, or the graph does not take so many samples.
        Unsupported: sizes that depend on values.
    """
    if batch < 1:
        raise InvalidInput(f"batch={batch}: at least one sample")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    walk = _Walk(traced.graph_module, mode, batch)
    with torch.no_grad(), _quiet(), mode:
        inputs = traced.example(batch)
        outputs = walk.run(*inputs)
    return Flow(tuple(walk.steps), inputs, walk.stored, tuple(tensors(outputs)))


class _Walk(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode, batch: int) -> None:
        # All tensors are kept: the number of a storage is given again once it is freed.
        super().__init__(module, garbage_collect_values=False)
        self.steps: list[Step] = []
        self.stored: dict[str, torch.Tensor] = {}
        self._mode = mode
        self._batch = batch
        self._names = operator_names(module)
        self._constant: set[fx.Node] = set()

    def run_node(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        try:
            value = getattr(self, node.op)(node.target, args, kwargs)
        except Exception as error:
            raise self._refusal(node, error) from error
        if node.op == "get_attr":
            self._constant.add(node)
        elif node.op == "call_function":
            if self._is_constant(node):
                self._constant.add(node)
            operands = tuple(
                (tensor, source in self._constant)
                for source in _sources((node.args, node.kwargs))
                for tensor in tensors(self.env[source])
            )
            self.steps.append(
                Step(
                    node=node,
                    name=self._names[node],
                    args=args,
                    kwargs=kwargs,
                    operands=operands,
                    results=tuple(tensors(value)),
                    constant=node in self._constant,
                )
            )
        return value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        if not isinstance(value, torch.Tensor):
            return value
        if str(target) not in self.stored:
            self.stored[str(target)] = self._mode.from_tensor(value)
        return self.stored[str(target)]

    def _is_constant(self, node: fx.Node) -> bool:
        drawn = isinstance(node.target, torch._ops.OpOverload) and _RANDOM in node.target.tags
        return not drawn and all(source in self._constant for source in node.all_input_nodes)

    def _refusal(self, node: fx.Node, error: Exception) -> Exception:
        name = self._names.get(node, node.name)
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        if isinstance(error, DynamicOutputShapeException | DataDependentOutputException):
            return Unsupported(f"{name}: its sizes depend on the values it reads ({reason})")
        return InvalidInput(f"at batch={self._batch} the model fails in {name} ({reason})")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch logs of an operator that fails stands in our refusal."""
    logger = logging.getLogger(_NOISY)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _sources(value: Any) -> Iterator[fx.Node]:
    """The nodes in an operator's arguments, in order, repeated where they are."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _sources(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _sources(item)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
