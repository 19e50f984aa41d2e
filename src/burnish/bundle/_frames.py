"""How parent and child talk: frames of a JSON header and raw array bytes over a pipe.

A frame is eight bytes (the header's length, little-endian), the header in UTF-8 JSON, then the
bytes of the arrays it lists, one after another. Nothing is pickled, so that neither side can make
the other execute anything, and an array of any size costs one copy.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from burnish.bundle._record import Json

_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 1 << 28
_CACHE_LINE = 64


def send(
    stream: BinaryIO, header: dict[str, Json], arrays: Sequence[np.ndarray[Any, Any]] = ()
) -> None:
    """Write one frame and flush it."""
    listed = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]
    text = json.dumps({**header, "arrays": listed}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in arrays:
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Json], list[np.ndarray[Any, Any]]]:
    """Read one frame. Raises `EOFError` when the other side has gone."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > _LONGEST_HEADER:
        raise EOFError(f"a header of {length} bytes is none of ours")
    header = json.loads(_exactly(stream, length))
    arrays = []
    for item in header.pop("arrays"):
        dtype, shape = np.dtype(item["dtype"]), tuple(item["shape"])
        data = _aligned(math.prod(shape) * dtype.itemsize)
        _fill(stream, data.data)
        arrays.append(data.view(dtype).reshape(shape))
    return header, arrays


def _aligned(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # On a cache line in every process: where an array happens to lie must not decide a race.
    data = np.empty(count + _CACHE_LINE, np.uint8)
    start = -data.ctypes.data % _CACHE_LINE
    return data[start : start + count]


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = bytearray(count)
    _fill(stream, memoryview(data))
    return bytes(data)


def _fill(stream: BinaryIO, view: memoryview) -> None:
    have = 0
    while have < len(view):
        got = stream.readinto(view[have:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the pipe was closed")
        have += got
