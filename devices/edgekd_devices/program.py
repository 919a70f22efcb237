"""Links that are another program's work: which program, and how it is started."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from typing import IO

from edgekd.errors import MissingDependencyError, UsageError


def program(variable: str, default: str) -> list[str]:
    """A link's program and its first arguments, from an environment variable.

    Raises:
        UsageError: a quotation mark without its twin.
    """
    asked = os.environ.get(variable, "")
    try:
        return shlex.split(asked) or [default]
    except ValueError as e:
        raise UsageError(f"{variable}={asked!r} cannot be read ({e})", "close the quotation") from e


def start(argv: Sequence[str], log: IO[bytes], *, install: str) -> subprocess.Popen[bytes]:
    """Start it with pipes, in a session of its own: Ctrl-C is for us to handle, so that the board is left clean.

    Raises:
        MissingDependencyError: it is not there; the message says how to ``install`` it.
    """
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as e:
        raise MissingDependencyError(f"{argv[0]} cannot be started ({e.strerror})", install) from e
