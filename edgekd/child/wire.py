"""Messages between parent and child: JSON plus arrays, framed with length and checksum.

A frame is ``b"EKD1"``, the payload's length (u64) and CRC-32 (u32), little-endian; the payload is the JSON's length
(u32), the JSON, and the arrays' bytes one after another.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd.data.example import Array

_MAGIC = b"EKD1"
_HEAD = struct.Struct("<4sQI")
#: A reply larger than this is garbage, not a reply.
MAX_PAYLOAD_BYTES = 1 << 32


class WireError(Exception):
    """A frame that is not whole: wrong magic, length or checksum."""


class WireTimeoutError(Exception):
    """The other side said nothing in time."""


class WireClosedError(Exception):
    """The other side closed the pipe."""


def encode(message: dict[str, Any], arrays: Sequence[Array] = ()) -> bytes:
    """One frame."""
    whole = [np.ascontiguousarray(a) for a in arrays]
    body = {"message": message, "arrays": [{"dtype": a.dtype.str, "shape": list(a.shape)} for a in whole]}
    text = json.dumps(body, allow_nan=True).encode()
    payload = struct.pack("<I", len(text)) + text + b"".join(a.tobytes() for a in whole)
    return _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload


def send(fd: int, frame: bytes) -> None:
    """Write one frame to a file descriptor, however many writes that takes.

    Raises:
        BrokenPipeError: the other side is gone.
    """
    view = memoryview(frame)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int, timeout_s: float | None = None, *, each_part: bool = False) -> bytes:
    """Read one frame, for :func:`decode`.

    Args:
        timeout_s: for the whole frame; with ``each_part``, for its next bytes: a slow link may take its time.

    Raises:
        WireTimeoutError, WireClosedError, WireError.
    """
    poll, deadline = None, 0.0
    if timeout_s is not None:
        # poll() blocks in the kernel: waiting costs the parent no CPU time.
        poll, deadline = select.poll(), time.monotonic() + timeout_s
        poll.register(fd, select.POLLIN)

    def read(count: int) -> bytes:
        nonlocal deadline
        parts: list[bytes] = []
        while count:
            if poll is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not poll.poll(left * 1000):
                    raise WireTimeoutError
            part = os.read(fd, min(count, 1 << 20))
            if not part:
                raise WireClosedError
            parts.append(part)
            count -= len(part)
            if each_part and timeout_s is not None:
                deadline = time.monotonic() + timeout_s
        return parts[0] if len(parts) == 1 else b"".join(parts)

    head = read(_HEAD.size)
    magic, length, _ = _HEAD.unpack(head)
    if magic != _MAGIC or length > MAX_PAYLOAD_BYTES:
        raise WireError(f"a frame starts with {magic!r}")
    return head + read(length)


def decode(frame: bytes) -> tuple[dict[str, Any], list[Array]]:
    """A frame's message and arrays.

    Raises:
        WireError: damaged.
    """
    _, _, checksum = _HEAD.unpack_from(frame)
    payload = memoryview(frame)[_HEAD.size :]
    if zlib.crc32(payload) != checksum:
        raise WireError("a frame's checksum is wrong")
    try:
        (text_length,) = struct.unpack_from("<I", payload)
        body = json.loads(bytes(payload[4 : 4 + text_length]))
        offset = 4 + text_length
        arrays: list[Array] = []
        for spec in body["arrays"]:
            dtype = np.dtype(spec["dtype"])
            count = int(np.prod(spec["shape"], dtype=np.int64))
            arrays.append(np.frombuffer(payload, dtype, count, offset).reshape(spec["shape"]))
            offset += count * dtype.itemsize
        return dict(body["message"]), arrays
    except (ValueError, KeyError, TypeError, struct.error) as e:
        raise WireError(f"a frame's payload is damaged ({e})") from e
