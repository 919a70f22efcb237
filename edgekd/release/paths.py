"""Paths of the machine stay on it: what a bundle says is the same wherever the run was made."""

from __future__ import annotations

import re
from typing import Any

#: A whole value that is an absolute path: POSIX, a home folder, a drive or a share of Windows, a file URL.
_ABSOLUTE = re.compile(r"(?:file://|~[\w.-]*/|/|[A-Za-z]:[\\/]|\\\\)")
#: An absolute path within prose, below a folder that machines have; a node of a graph (`/layer1/conv/Conv`) is none.
_IN_PROSE = re.compile(
    r"(?<![\w./\\-])(?:/(?:home|root|Users|tmp|var|mnt|media|opt|srv|data|work|workspace|workspaces|builds|private|"
    r"usr|etc|run|scratch)(?:/[^\s/:;,'\"()<>]+)+|[A-Za-z]:\\(?:[^\s\\:;,'\"()<>]+\\)*[^\s\\:;,'\"()<>]+)"
)


def portable(value: Any) -> Any:
    """Plain data in which every string that is an absolute path is its last part alone.

    What follows ``#`` or ``?`` in a data source stays, and so does ``python:module:factory``. A licence or notice text,
    which has its SHA-256 beside it, stays as its author wrote it.

    >>> portable({"train": "/data/cifar/train.npz#0:1000", "test": "test.npz"})
    {'train': 'train.npz#0:1000', 'test': 'test.npz'}
    """
    if isinstance(value, str):
        return portable_prose(_last(value) if _ABSOLUTE.match(value) else value)
    if isinstance(value, dict):
        kept = ("text", "sha256") if "text" in value and "sha256" in value else ()
        return {key: item if key in kept else portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    return value


def portable_prose(text: str) -> str:
    """A sentence whose absolute paths are their last parts.

    >>> portable_prose("failed: cannot read /home/ada/runs/a.onnx: no such file")
    'failed: cannot read a.onnx: no such file'
    """
    return _IN_PROSE.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    end = min((i for i in (path.find("#"), path.find("?")) if i >= 0), default=len(path))
    name = re.split(r"[/\\]", path[:end].rstrip("/\\"))[-1]
    return (name or "root") + path[end:]
