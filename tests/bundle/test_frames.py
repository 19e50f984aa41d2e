"""Frames: whatever goes in comes out, and a stream cut anywhere is an end, not a lie."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from burnish.bundle._frames import receive, send

DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool", "complex64"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)


@given(st.lists(ARRAYS, max_size=3), st.text())
def test_what_is_sent_is_received(arrays: list[np.ndarray[Any, Any]], text: str) -> None:
    stream = io.BytesIO()
    send(stream, {"text": text}, arrays)
    send(stream, {"second": True})
    stream.seek(0)
    header, received = receive(stream)
    assert header == {"text": text}
    assert len(received) == len(arrays)
    for ours, theirs in zip(received, arrays, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.ctypes.data % 64 == 0 or ours.size == 0
        np.testing.assert_array_equal(ours, theirs)
    assert receive(stream)[0] == {"second": True}


def test_a_stream_cut_anywhere_is_an_end() -> None:
    stream = io.BytesIO()
    send(stream, {"do": "run"}, [np.arange(4.0)])
    whole = stream.getvalue()
    for length in range(len(whole)):
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:length]))


def test_a_header_beyond_reason_is_not_read() -> None:
    with pytest.raises(EOFError, match="none of ours"):
        receive(io.BytesIO(b"\xff" * 64))
