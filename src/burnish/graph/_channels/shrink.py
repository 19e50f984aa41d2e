"""A graph without some of its channels: smaller tensors, and every size that was written down.

Each tensor of the graph keeps the positions that live. Operators that name a size (a view, a split,
a number of groups) are given the one their labels now have, so that a hard-coded 512 is no
obstacle. What a size meant beyond the shape stays as it was: attention keeps the scale it had for
its old width. A shuffle becomes a selection by number.

No value is computed here: the result is the original's own numbers, fewer of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from burnish.graph._channels.axis import ONE, Axis, Tiled, Value, ids_of, is_ids
from burnish.graph._channels.flow import Flow, argument, first, kind, sizes
from burnish.graph._channels.groups import Alive, Channels
from burnish.graph._channels.mask import readers
from burnish.graph._channels.pieces import amounts, slice_of
from burnish.graph._channels.views import VIEWS
from burnish.graph._edit import add_tensor, finish, tensor_of
from burnish.graph._trace import Traced

aten = torch.ops.aten


def shrink_channels(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Traced:
    """The graph without the numbered channels of the named groups.

    Raises:
        InvalidInput: as for `Channels.alive`.
    """
    alive = channels.alive(removed)
    small = channels.traced.copy()
    module = small.graph_module
    pairs = dict(zip(channels.flow.module.graph.nodes, list(module.graph.nodes), strict=True))
    work = _Shrinking(channels.flow, alive, module, pairs)
    biases = work.constants()
    work.tensors()
    work.fold(biases)
    for old, new in pairs.items():
        if old.op == "call_function":
            work.operator(old, new)
    work.sizes()
    finish(module)
    return small


class _Shrinking:
    """The labels of the old graph, what lives, and the copy that is written into."""

    def __init__(
        self,
        flow: Flow,
        alive: Alive,
        module: fx.GraphModule,
        pairs: Mapping[fx.Node, fx.Node],
    ) -> None:
        self.flow, self.alive, self.module, self.pairs = flow, alive, module, pairs

    def kept(self, axis: Axis) -> npt.NDArray[np.int64]:
        """The positions of an axis that live."""
        return np.flatnonzero(self.alive[ids_of(axis)])

    def size(self, axis: Axis, old: Any) -> Any:
        """How long an axis is now."""
        return len(self.kept(axis)) if is_ids(axis) else old

    def changed(self, axis: Axis) -> bool:
        """Whether anything is gone from it."""
        return not self.alive[ids_of(axis)].all()

    def value(self, node: Any) -> Value:
        """The labels of a tensor."""
        return self.flow.of(node)

    def constants(self) -> dict[fx.Node, torch.Tensor]:
        """The biases of layers to whose outputs removed channels would have added something."""
        biases: dict[fx.Node, torch.Tensor] = {}
        for read in readers(self.flow, self.alive):
            if read.constant is None:
                continue
            new = self.pairs[read.node]
            weight = tensor_of(self.module, argument(new, "weight"))
            bias = tensor_of(self.module, argument(new, "bias"))
            assert weight is not None
            lives = torch.from_numpy(self.alive[ids_of(self.value(read.source)[read.axis])])
            columns = weight.detach()[:, ~lives.to(weight.device)]
            added = read.constant * columns.double().flatten(1).sum(1)
            total = added if bias is None else bias.detach().double() + added
            rows = torch.from_numpy(self.kept(self.value(argument(read.node, "weight"))[0]))
            kept = total[rows.to(total.device)] if len(rows) else total
            biases[read.node] = kept.to(weight.dtype)
        return biases

    def fold(self, biases: Mapping[fx.Node, torch.Tensor]) -> None:
        """Write layers' biases, each into the tensor it has where nobody else reads that."""
        nodes = [n for n in self.module.graph.nodes if n.op == "get_attr" for _ in n.users]
        for old, bias in biases.items():
            new = self.pairs[old]
            own = argument(new, "bias")
            if own is not None and sum(node.target == own.target for node in nodes) == 1:
                _replace(self.module, str(own.target), bias)
                continue
            with self.module.graph.inserting_before(new):
                node = add_tensor(self.module, f"{self.flow.names[old]}_bias", bias)
            node.meta["val"] = new.meta["val"].new_empty(bias.shape)
            name = str(node.target)
            delattr(self.module, name)
            self.module.register_parameter(name, nn.Parameter(bias))
            set_argument(new, "bias", node)

    def tensors(self) -> None:
        """The graph's own tensors, each once."""
        done: set[str] = set()
        for old, new in self.pairs.items():
            tensor = tensor_of(self.module, new)
            if tensor is None or str(new.target) in done or old not in self.flow.values:
                continue
            done.add(str(new.target))
            small = tensor.detach()
            for axis, label in enumerate(self.value(old)):
                if self.changed(label):
                    kept = torch.from_numpy(self.kept(label)).to(small.device)
                    small = small.index_select(axis, kept)
            if small.shape != tensor.shape:
                _replace(self.module, str(new.target), small.contiguous())

    def operator(self, old: fx.Node, new: fx.Node) -> None:
        """Write new sizes into an operator's arguments."""
        if old in self.flow.shuffles:
            self._shuffle(old, new)
            return
        if old.target in VIEWS:
            self._view(old, new)
            return
        resize = _RESIZE.get(kind(old))
        if resize is not None:
            resize(self, old, new)

    def sizes(self) -> None:
        """The sizes that later readers of the graph find on its nodes."""
        for old, new in self.pairs.items():
            labels = self.flow.values.get(old)
            value = new.meta.get("val")
            if isinstance(labels, list):
                assert isinstance(value, list | tuple)
                new.meta["val"] = [
                    self._resized(one, label) for one, label in zip(value, labels, strict=True)
                ]
            elif isinstance(value, torch.Tensor) and labels:
                new.meta["val"] = self._resized(value, labels)

    def _resized(self, value: torch.Tensor, labels: Value) -> torch.Tensor:
        if not any(map(self.changed, labels)):
            return value
        shape = [
            size // len(label.ids) * len(self.kept(label))
            if isinstance(label, Tiled)
            else self.size(label, size)
            for size, label in zip(value.shape, labels, strict=True)
        ]
        return value.new_empty(shape)

    def _shuffle(self, old: fx.Node, new: fx.Node) -> None:
        shuffle = self.flow.shuffles[old]
        label = self.value(shuffle.source)[shuffle.axis]
        if not self.changed(label):
            return
        lives = self.alive[ids_of(label)]
        place = np.cumsum(lives) - 1
        order = shuffle.order[lives[shuffle.order]]
        name = self.flow.names[old]
        self.select(new, name, self.pairs[shuffle.source], shuffle.axis, place[order])

    def select(self, new: fx.Node, name: str, source: fx.Node, axis: int, numbers: Any) -> None:
        """Make `new` the entries `numbers` of an axis of `source`."""
        with self.module.graph.inserting_before(new):
            tensor = torch.from_numpy(np.asarray(numbers, np.int64))
            index = add_tensor(self.module, f"{name}_order", tensor)
        index.meta["val"] = source.meta["val"].new_empty([len(numbers)], dtype=torch.int64)
        new.target, new.args, new.kwargs = aten.index_select.default, (source, axis, index), {}

    def _view(self, old: fx.Node, new: fx.Node) -> None:
        name = {aten.unflatten.int: "sizes", aten.reshape.default: "shape"}.get(old.target, "size")  # type: ignore[call-overload]
        if old.target in (aten.flatten.using_ints, aten.view_as.default, aten.reshape_as.default):
            return
        given = list(argument(old, name))
        start = 0
        if old.target is aten.unflatten.int:
            start = int(argument(old, "dim")) % len(sizes(first(old)))
        labels = self.value(old)[start : start + len(given)]
        for place, label in enumerate(labels):
            if isinstance(label, Tiled) and self.changed(label):
                given[place] = -1
            elif given[place] != -1 and is_ids(label):
                given[place] = len(self.kept(label))
        set_argument(new, name, given, self.pairs)


def _replace(module: fx.GraphModule, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, leaf)
    if isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        setattr(owner, leaf, tensor)


def set_argument(
    node: fx.Node, name: str, value: Any, pairs: Mapping[fx.Node, fx.Node] | None = None
) -> None:
    """Set an operator's argument by its name in the schema; `pairs`: the new nodes of old ones."""
    value = fx.map_arg(value, lambda n: (pairs or {}).get(n, n))
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [formal.name for formal in node.target._schema.arguments]
    index = names.index(name)
    if index < len(node.args):
        node.args = (*node.args[:index], value, *node.args[index + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}


def _convolution(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    """The number of groups: as many as there are channels for, of each group's size."""
    groups = argument(old, "groups")
    if groups == 1:
        return
    weight = work.value(argument(old, "weight"))
    transposed = "transpose" in str(old.target)
    if transposed:
        channel = len(work.value(old)) - len(weight) + 1
        whole = work.value(old)[channel]
    else:
        whole = work.value(old.args[0])[len(work.value(old.args[0])) - len(weight) + 1]
    if is_ids(whole):
        set_argument(new, "groups", len(work.kept(whole)) // work.size(weight[1], 1))


def _group_norm(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    label, groups = work.value(old.args[0])[1], int(argument(old, "num_groups"))
    if groups > 1 and is_ids(label):
        set_argument(new, "num_groups", len(work.kept(label)) // (len(label) // groups))


def _layer_norm(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    shape = list(argument(old, "normalized_shape"))
    labels = work.value(old)[-len(shape) :]
    new_shape = [work.size(label, size) for label, size in zip(labels, shape, strict=True)]
    set_argument(new, "normalized_shape", new_shape)


def _attention(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    width = work.value(old.args[0])[-1]
    if work.changed(width) and argument(old, "scale") is None:
        query = first(old)
        set_argument(new, "scale", 1 / math.sqrt(int(sizes(query)[-1])))


def _stretch(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    """expand, zeros: an axis is as long as what it meets."""
    given = list(argument(old, "size"))
    for place, label in enumerate(work.value(old)):
        if is_ids(label) and given[place] != -1:
            given[place] = len(work.kept(label))
    set_argument(new, "size", given, work.pairs)


def _repeat(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    name = "repeats" if "repeat" in str(old.target) else "dims"
    given = list(argument(old, name))
    source = first(old)
    before = work.value(source)
    offset = len(given) - len(before)
    for place, label in enumerate(work.value(old)[-len(given) :]):
        if is_ids(label) and (place < offset or before[place - offset] is ONE):
            given[place] = len(work.kept(label))
    set_argument(new, name, given, work.pairs)


def _repeat_each(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    axis = argument(old, "dim")
    if isinstance(axis, int) and work.value(old.args[0])[axis] is ONE:
        label = work.value(old)[axis]
        if is_ids(label):
            new.args = (new.args[0], len(work.kept(label)), *new.args[2:])


def _parts(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    """Parts of unlike sizes, written out."""
    axis = int(argument(old, "dim"))
    if not work.changed(work.value(old.args[0])[axis]):
        return
    values = work.flow.values[old]
    assert isinstance(values, list)
    lengths = [work.size(value[axis], 1) for value in values]
    new.target, new.kwargs = aten.split_with_sizes.default, {}
    new.args = (new.args[0], lengths, axis)


def _slice(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    axis = int(argument(old, "dim"))
    label = work.value(old.args[0])[axis]
    window = slice_of(old)
    if not is_ids(label) or not work.changed(label) or window is None:
        return
    lives = work.alive[label]
    place = np.cumsum(lives) - 1
    numbers = np.arange(len(label))[window]
    numbers = place[numbers[lives[numbers]]]
    if len(numbers) and (np.diff(numbers) == 1).all():
        set_argument(new, "start", int(numbers[0]))
        set_argument(new, "end", int(numbers[-1]) + 1)
        set_argument(new, "step", 1)
    else:
        work.select(new, work.flow.names[old], first(new), axis, numbers)


def _pad(work: _Shrinking, old: fx.Node, new: fx.Node) -> None:
    """As many new positions as live of them; as many cut as live of what is cut."""
    source = first(old)
    before, after = work.value(source), work.value(old)
    given = list(argument(old, "pad"))
    for axis, left, right in amounts(old, len(before)):
        label, end = before[axis], after[axis]
        if not is_ids(label) or not is_ids(end):
            continue
        place = 2 * (len(before) - 1 - axis)
        lives = work.alive[label]
        ends = work.alive[end]
        given[place] = int(ends[:left].sum()) if left >= 0 else -int(lives[:-left].sum())
        given[place + 1] = (
            int(ends[len(ends) - right :].sum()) if right >= 0 else -int(lives[right:].sum())
        )
    set_argument(new, "pad", given, work.pairs)


_Resize = Callable[[_Shrinking, fx.Node, fx.Node], None]
_RESIZE: dict[str, _Resize] = {
    **dict.fromkeys(
        (
            *("conv1d", "conv2d", "conv3d"),
            *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        ),
        _convolution,
    ),
    "group_norm": _group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "scaled_dot_product_attention": _attention,
    "expand": _stretch,
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), _stretch),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _repeat_each,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _parts),
    "slice": _slice,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
}
