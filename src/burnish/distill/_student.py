"""A student to start from: a shallower or thinner copy of the teacher, with the teacher's weights.

*Shallower*: of a container of blocks (`nn.Sequential`, `nn.ModuleList`) some are kept, in their
order, and the rest is left away; blocks that keep the shape of what passes through them, as those
of a residual or transformer stage do, can go without anything else being changed. Given a number of
blocks instead of a list, they are spread evenly, first and last among them.

*Thinner*: the widths of a network live in its own code, so the thinner network is the caller's,
`like`, and takes what it can of the teacher's tensors by their names: whole where the shape is
equal, the leading slice along each axis where it is smaller. Leading channels everywhere are the
same channels on both sides of an addition or a concatenation of equal parts.

What was taken whole, what was cut, what had no counterpart and what of the teacher was left behind
is listed: nothing is dropped in silence.

Every second layer of a teacher as the start of a student: Sanh, Debut, Chaumond and Wolf, 2019
(DistilBERT).

Left out: choosing channels by their importance, which needs to know which channels are coupled (the
business of pruning); numbers of blocks that the network's own code has built in.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from burnish.distill._tap import find_layer, layers_of
from burnish.errors import InvalidInput, NoEffect

Kept = int | Sequence[int]
_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Student:
    """A student, and where its tensors come from. Names are those of `state_dict`.

    Args:
        model: the student, in the teacher's train or eval mode.
        taken: its tensors that are the teacher's, whole.
        cut: its tensors that are a leading slice of the teacher's: its shape, and the teacher's.
        fresh: its tensors with no counterpart: they are as `like` had them.
        dropped: the teacher's tensors that nothing was taken from.
    """

    model: nn.Module
    taken: tuple[str, ...]
    cut: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        cut = [f"{name} {list(mine)} of {list(its)}" for name, (mine, its) in self.cut.items()]
        return "\n".join(
            [
                f"{len(self.taken)} tensors taken whole",
                _line(cut, "cut"),
                _line(self.fresh, "without a counterpart, as they were"),
                _line(self.dropped, "of the teacher dropped"),
            ]
        )


def _line(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} {what}" + (f": {shown}" if names else "")


def make_student(
    teacher: nn.Module,
    *,
    layers: Mapping[str, Kept] | None = None,
    like: nn.Module | None = None,
) -> Student:
    """A shallower or thinner student that starts from its teacher's weights.

    Args:
        teacher: left alone.
        layers: the blocks to keep, by the dotted name of their container: `{"encoder.layer": 3}`
            for three of them, spread evenly, or `{"encoder.layer": [0, 3, 5]}`.
        like: a network with the teacher's names and other widths or depths, whose weights a copy of
            it takes from the teacher; None for a copy of the teacher with only `layers` of it.
            Where both are given, the container of `like` has as many blocks as `layers` keeps.

    Raises:
        InvalidInput: neither is given; a name that is no container of blocks; a block that is not
            there, or out of order; a `like` that takes no tensor of the teacher.
        NoEffect: all blocks are kept, and there is no `like`.
    """
    if not layers and like is None:
        raise InvalidInput(
            'make_student() needs layers={"name of a container": blocks to keep}, like=a thinner '
            "network, or both"
        )
    kept = {name: _blocks(teacher, name, of) for name, of in (layers or {}).items()}
    for name in kept:
        inside = [other for other in kept if other.startswith(f"{name}.")]
        if inside:
            raise InvalidInput(
                f"make_student(layers=…) names {name!r} and {inside[0]!r} inside it: cut in turn, "
                "the inner one first"
            )
    model = copy.deepcopy(teacher if like is None else like)
    if like is None:
        _cut(model, kept)
    else:
        _check_depths(model, kept)
    return _filled(model, teacher, kept)


def _blocks(teacher: nn.Module, name: str, kept: Kept) -> list[int]:
    """The numbers of the blocks to keep, checked."""
    container = _container(teacher, name)
    num = len(container)
    if isinstance(kept, bool) or not isinstance(kept, int | Sequence):
        raise InvalidInput(
            f"make_student(layers={{{name!r}: {kept!r}}}): a number of blocks, or a list of them"
        )
    if isinstance(kept, int):
        if not 1 <= kept <= num:
            raise InvalidInput(
                f"make_student(layers={{{name!r}: {kept}}}): from 1 to the {num} blocks there are"
            )
        steps = max(kept - 1, 1)
        return [round(index * (num - 1) / steps) for index in range(kept)]
    blocks = list(kept)
    right = all(isinstance(b, int) and 0 <= b < num for b in blocks)
    if not blocks or not right or sorted(set(blocks)) != blocks:
        raise InvalidInput(
            f"make_student(layers={{{name!r}: {blocks}}}): different blocks from 0 to {num - 1}, "
            "in rising order"
        )
    return blocks


def _container(
    model: nn.Module, name: str, side: Literal["teacher", "student"] = "teacher"
) -> nn.Sequential | nn.ModuleList:
    modules = layers_of(model, side)
    found = find_layer(name, modules, side)
    if isinstance(found, nn.Sequential | nn.ModuleList) and len(found):
        return found
    containers = [
        path
        for path, module in modules.items()
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 1
    ]
    raise InvalidInput(
        f"make_student(layers=…): {name!r} is a {type(found).__name__}, no container of blocks; "
        f"containers are {', '.join(map(repr, containers[:_SHOWN])) or 'not to be found'}"
    )


def _cut(model: nn.Module, kept: Mapping[str, list[int]]) -> None:
    if all(len(blocks) == len(_container(model, name)) for name, blocks in kept.items()):
        raise NoEffect(
            f"make_student(layers=…) keeps every block of {', '.join(kept)}: that is the teacher"
        )
    for name, blocks in kept.items():
        container = _container(model, name)
        gone = [index for index in range(len(container)) if index not in blocks]
        for index in reversed(gone):
            del container[index]


def _check_depths(like: nn.Module, kept: Mapping[str, list[int]]) -> None:
    for name, blocks in kept.items():
        num = len(_container(like, name, "student"))
        if num != len(blocks):
            raise InvalidInput(
                f"make_student(layers=…) keeps {len(blocks)} blocks of {name!r}, and that of "
                f"`like` has {num}: keep {num}"
            )


def _filled(model: nn.Module, teacher: nn.Module, kept: Mapping[str, list[int]]) -> Student:
    """Write the teacher's tensors into the student, and say what became of each."""
    theirs, mine = teacher.state_dict(), model.state_dict()
    taken: list[str] = []
    fresh: list[str] = []
    cut: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    used = set()
    for name, tensor in mine.items():
        source = _counterpart(name, kept)
        wanted = theirs.get(source)
        if not _fits(tensor, wanted):
            fresh.append(name)
            continue
        assert wanted is not None
        used.add(source)
        tensor.copy_(wanted[tuple(slice(size) for size in tensor.shape)])
        if tensor.shape == wanted.shape:
            taken.append(name)
        else:
            cut[name] = (tuple(tensor.shape), tuple(wanted.shape))
    if not taken and not cut:
        raise InvalidInput(
            f"no tensor of `like` has a counterpart in the teacher: it has {_first(mine)}, the "
            f"teacher {_first(theirs)}; names must be equal and no axis longer"
        )
    dropped = tuple(name for name in theirs if name not in used)
    model.train(teacher.training)
    return Student(model, tuple(taken), cut, tuple(fresh), dropped)


def _fits(mine: torch.Tensor, wanted: torch.Tensor | None) -> bool:
    if not isinstance(mine, torch.Tensor) or not isinstance(wanted, torch.Tensor):
        return False
    same_kind = mine.is_floating_point() == wanted.is_floating_point()
    shorter = all(a <= b for a, b in zip(mine.shape, wanted.shape, strict=False))
    return same_kind and mine.dim() == wanted.dim() and shorter


def _counterpart(name: str, kept: Mapping[str, list[int]]) -> str:
    """The teacher's name of a student's tensor: its block's number among the teacher's blocks."""
    for container, blocks in kept.items():
        if name.startswith(f"{container}."):
            number, dot, rest = name.removeprefix(f"{container}.").partition(".")
            if number.isdigit() and int(number) < len(blocks):
                return f"{container}.{blocks[int(number)]}{dot}{rest}"
    return name


def _first(state: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(state.items())[:3])
