"""Stages that several processes go through together: the first one keeps the store, the others follow it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.distill.group import ALONE, Group, launched_processes
from edgekd.errors import InfrastructureError, InputError, UsageError
from edgekd.files import digest_of
from edgekd.stages import StageResult, StageStore

#: Stages that all processes work on; the first one makes the others alone.
_TOGETHER = ("train",)
#: Wrong input is wrong for every process alike: the first one says so, and the launcher ends the others.
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class _Leading(StageStore):
    group: Group = ALONE

    def run(
        self, kind: str, name: str, key: Mapping[str, Any], build: Callable[[Path, Path], None], *, reuse: bool = True
    ) -> StageResult:  # fmt: skip
        def together(out: Path, resume: Path) -> None:
            self.group.agree({"build": [str(out), str(resume)]})
            build(out, resume)

        result = super().run(kind, name, key, together if kind in _TOGETHER else build, reuse=reuse)
        self.group.agree({"done": [str(result.folder), result.digest]})
        return result


@dataclass(frozen=True)
class _Following(StageStore):
    group: Group = ALONE

    def run(
        self, kind: str, name: str, key: Mapping[str, Any], build: Callable[[Path, Path], None], *, reuse: bool = True
    ) -> StageResult:  # fmt: skip
        started = time.monotonic()
        told = self.group.agree(None)
        if "build" in told:
            out, resume = told["build"]
            build(Path(out), Path(resume))
            told = self.group.agree(None)
        folder, digest = told["done"]
        if digest != digest_of({"kind": kind, **key}):
            raise InfrastructureError(
                f"process {self.group.rank} sees other inputs for '{name}' than the first process",
                "all must read the same recipe, data and packages",
            )
        seconds = time.monotonic() - started
        return StageResult(name=name, folder=Path(folder), digest=digest, cached=False, seconds=seconds)


def store_of(group: Group, store: StageStore) -> StageStore:
    """The store as this process of the group uses it: the first one writes and locks, the others read what it made."""
    if group.size < 2:
        return store
    kind = _Leading if group.leads else _Following
    return kind(root=store.root, fresh=store.fresh, report=store.report, group=group)


@contextlib.contextmanager
def following(group: Group) -> Iterator[None]:
    """Silence a process that does not lead, and end the group with the block."""
    if group.leads:
        yield
        group.leave()
        return
    sys.stdout.flush()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        except InputError:
            time.sleep(_PATIENCE_S)
            raise
    group.leave()


def refuse_several(verb: str, environ: Mapping[str, str]) -> None:
    """Refuse a verb that one process must do alone.

    Raises:
        UsageError: several were launched.
    """
    size = launched_processes(environ)
    if size > 1:
        raise UsageError(
            f"edgekd {verb} was launched as {size} processes; it works in one",
            "launch `edgekd distill` in several first: this verb then finds the student in the cache",
        )
