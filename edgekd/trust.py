"""What the user vouches for on the command line: files that are refused without their word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.errors import UsageError

_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Of one command.

    Attributes:
        allow_pickle: ``--allow-pickle``: pickled weights are converted to safetensors, in a child without network.
        engines: ``--trust-engine``: SHA-256 of TensorRT plans that may be loaded.
    """

    allow_pickle: bool = False
    engines: frozenset[str] = frozenset()


def read_trust_options(allow_pickle: bool, engines: Sequence[str]) -> Trust:
    """What ``--allow-pickle`` and ``--trust-engine`` say.

    Raises:
        UsageError: what was given is no SHA-256.
    """
    digests = set()
    for text in engines:
        match = _SHA256.fullmatch(text.strip().lower())
        if match is None:
            raise UsageError(
                f"--trust-engine {text!r} is no SHA-256", "give 64 hexadecimal digits: sha256sum model.plan"
            )
        digests.add(match[1])
    return Trust(allow_pickle=allow_pickle, engines=frozenset(digests))
