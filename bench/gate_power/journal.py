"""A study's trials on disk: one JSON line each, written through as soon as it is done; a restart goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "edgekd.gate_power/1"
FILE = "trials.jsonl"


class JournalError(Exception):
    """A study's file cannot be used as asked; the message says why and what to do."""


@dataclass(slots=True)
class Journal:
    """An open study.

    Attributes:
        key: what may not change within one file: models, machine, protocol, condition.
        info: what is only recorded: commit, command.
        trials: in the order they were made.
    """

    path: Path
    key: Mapping[str, Any]
    info: Mapping[str, Any]
    trials: list[dict[str, Any]] = field(default_factory=list)

    def append(self, trial: Mapping[str, Any]) -> None:
        """Write a trial through to the disk."""
        _write_line(self.path, {"kind": "trial", **trial})
        self.trials.append(dict(trial))


def _write_line(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("ab") as f:
        f.write(json.dumps(value, sort_keys=True, allow_nan=False).encode() + b"\n")
        f.flush()
        os.fsync(f.fileno())


def _lines(path: Path, *, mend: bool) -> list[dict[str, Any]]:
    """Every whole line; a torn last one (a kill in the middle of a write) is cut off where ``mend`` is set."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data) and mend:
        with path.open("r+b") as f:
            f.truncate(whole)
            os.fsync(f.fileno())
    lines = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("no object")
            lines.append(value)
        except (ValueError, RecursionError) as e:
            raise JournalError(
                f"{path}:{number} is not JSON ({e}); the file was altered: start another"
            ) from e
    return lines


def read_journal(folder: Path, *, mend: bool = False) -> Journal:
    """Read a study back.

    Raises:
        JournalError: there is none, or it is damaged in the middle.
    """
    path = folder / FILE
    if not path.is_file():
        raise JournalError(f"{path} does not exist; run the study first")
    lines = _lines(path, mend=mend)
    if not lines or lines[0].get("schema") != SCHEMA:
        raise JournalError(f"{path} does not begin with a {SCHEMA} header; give another folder")
    header = lines[0]
    if not isinstance(header.get("key"), dict) or not isinstance(header.get("info"), dict):
        raise JournalError(f"{path}:1 has no whole header; the file was altered: start another")
    trials = [line for line in lines[1:] if line.get("kind") == "trial"]
    return Journal(path=path, key=header["key"], info=header["info"], trials=trials)


def open_journal(folder: Path, key: Mapping[str, Any], info: Mapping[str, Any]) -> Journal:
    """Start a study in ``folder``, or go on with the one that is there.

    Raises:
        JournalError: it was made under another key (protocol, machine, models, condition), or is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    wanted = json.loads(json.dumps(key))  # as it will be read back: tuples are lists there
    if not path.is_file() or b"\n" not in path.read_bytes():
        path.unlink(missing_ok=True)
        _write_line(path, {"kind": "header", "schema": SCHEMA, "key": wanted, "info": dict(info)})
        return Journal(path=path, key=wanted, info=info)
    journal = read_journal(folder, mend=True)
    changed = sorted(k for k in {*wanted, *journal.key} if wanted.get(k) != journal.key.get(k))
    if changed:
        raise JournalError(
            f"{path} was begun under another {', '.join(changed)} and cannot be mixed with this; give another --out"
        )
    _write_line(path, {"kind": "resumed", "info": dict(info), "trials": len(journal.trials)})
    return journal
