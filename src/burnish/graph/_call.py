"""A call of a model, taken apart and described: its tensors by key, and how they nest.

Every tensor in a call has a key: its path, "0" for the first positional argument, "input_ids" for
a keyword, "1.0" for the first item of the second argument. The order of a call's tensors is that
of its positional arguments, then of its keys sorted, never the order in which a caller happened to
write keywords down: two equal calls always give equal tensors in equal order.

A call is described as plain JSON; from the description alone `example_call` builds one of zeros.

Left out: tensors inside objects of the user's own; they are refused by name, because tracing would
take them for constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from burnish.errors import InvalidInput
from burnish.graph._tree import flatten, tensor_keys, unflatten

BATCH = "batch"


def _walk(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, tensor or constant) for all that a call holds; None counts as not given."""
    for index, value in enumerate(args):
        yield from _walk_value(str(index), value)
    for name in sorted(kwargs):
        yield from _walk_value(name, kwargs[name])


def _walk_value(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor | bool | int | float | str):
        yield key, value
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield from _walk_value(f"{key}.{name}", value[name])
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk_value(f"{key}.{index}", item)
    elif value is not None:
        raise InvalidInput(
            f"argument {key!r} of the call is a {type(value).__name__}: a model is traced with "
            "tensors, numbers, strings and None, nested in tuples, lists and dicts; wrap the model "
            "so that it takes those"
        )


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {key: v for key, v in _walk(args, kwargs) if isinstance(v, torch.Tensor)}


def _constants(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v for key, v in _walk(args, kwargs) if not isinstance(v, torch.Tensor)}


def flatten_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """The tensors of a call: of the positional arguments in order, then of the sorted keywords."""
    return tuple(_tensors(args, kwargs).values())


def describe_call(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> dict[str, Any]:
    """A call as plain JSON: {"leaves": [{key, dtype, shape, axes}], "form": how they nest}.

    The leaves are in the order of `flatten_call`. Without `axes`, axis 0 of each tensor that has
    one is "batch".

    Raises:
        InvalidInput: `axes` names a tensor or an axis the call does not have.
    """
    tensors = _tensors(args, kwargs)
    for key, named in (axes or {}).items():
        if key not in tensors:
            raise InvalidInput(
                f"axes names {key!r}, which is no tensor of the call; it has "
                f"{', '.join(map(repr, tensors))}"
            )
        for axis in named:
            if not 0 <= axis < tensors[key].dim():
                raise InvalidInput(
                    f"axis {axis} of input {key!r} does not exist: its shape is "
                    f"{tuple(tensors[key].shape)}"
                )
    leaves = []
    for key, tensor in tensors.items():
        default = {0: BATCH} if tensor.dim() else {}
        mine = default if axes is None else axes.get(key, {})
        leaves.append(
            {
                "key": key,
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "axes": {str(axis): name for axis, name in mine.items()},
            }
        )
    _, form = flatten({"args": list(args), "kwargs": dict(kwargs)}, "the call")
    return {"leaves": leaves, "form": form}


def build_call(
    call: Mapping[str, Any], tensors: Sequence[torch.Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of the described form around `tensors`, in the order of the leaves."""
    keys = [leaf["key"] for leaf in call["leaves"]]
    by_key = dict(zip(keys, tensors, strict=True))
    # The form begins with "args." and "kwargs.", which keys do not.
    places = [path.split(".", 1)[1] for path in tensor_keys(call["form"])]
    built = unflatten(call["form"], [by_key[place] for place in places])
    return tuple(built["args"]), built["kwargs"]


def example_call(call: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of zeros, as described by `describe_call`."""
    return build_call(
        call,
        [
            torch.zeros(leaf["shape"], dtype=getattr(torch, leaf["dtype"]))
            for leaf in call["leaves"]
        ],
    )


def match_call(
    call: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[torch.Tensor, ...]:
    """The tensors of a call of the described form, in the order of its leaves.

    Raises:
        InvalidInput: other tensors than described, or a constant of another value, which the
            traced graph has built in.
    """
    tensors = _tensors(args, kwargs)
    expected = [leaf["key"] for leaf in call["leaves"]]
    if list(tensors) != expected:
        raise InvalidInput(
            f"the model was traced with the tensors {', '.join(map(repr, expected))} and is called "
            f"with {', '.join(map(repr, tensors)) or 'none'}: call it as it was traced"
        )
    traced = _constants(*build_call(call, list(tensors.values())))
    given = _constants(args, kwargs)
    for key in sorted(traced.keys() | given.keys()):
        if key not in traced or key not in given or traced[key] != given[key]:
            raise InvalidInput(
                f"the model was traced with {key}={traced.get(key)!r} and is called with "
                f"{key}={given.get(key)!r}: the value is built into the graph; trace it again"
            )
    return tuple(tensors.values())
