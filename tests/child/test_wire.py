"""Frames are whole or refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.child import wire

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def through_a_pipe(data: bytes) -> tuple[dict, list]:
    read, write = os.pipe()
    try:
        os.write(write, data)
        os.close(write)
        return wire.decode(wire.receive(read, 5))
    finally:
        os.close(read)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.lists(st.integers(0, 40), max_size=3))
def test_round_trip(message: dict, sizes: list[int]) -> None:
    arrays = [np.arange(n, dtype=np.float32) for n in sizes]
    found, back = through_a_pipe(wire.encode(message, arrays))
    assert found == message
    assert [b.tolist() for b in back] == [a.tolist() for a in arrays]


@pytest.mark.parametrize("position", [0, 4, 13, 20, 60])
def test_any_flipped_byte_is_refused(position: int) -> None:
    frame = bytearray(wire.encode({"call": "x", "args": {"k": "v" * 20}}, [np.arange(5)]))
    frame[position] ^= 0x41
    with pytest.raises((wire.WireError, wire.WireClosedError)):
        through_a_pipe(bytes(frame))


def test_a_truncated_frame_is_a_closed_pipe() -> None:
    with pytest.raises(wire.WireClosedError):
        through_a_pipe(wire.encode({"a": 1})[:-3])


def test_silence_is_a_time_out() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(wire.WireTimeoutError):
            wire.receive(read, 0.05)
    finally:
        os.close(read)
        os.close(write)
