"""A runtime whose settings have planted costs; plain enough for a measuring child."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.target import SessionOptions
from edgekd.testing import FakeRuntime
from edgekd.testing.fakes import FakeSession

#: Setting -> what a call takes with it switched on.
COSTS = {"fast": 0.5, "idle": 1.0, "wrong": 0.4}


class WrongSession(FakeSession):
    """Answers otherwise."""

    def _answer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {name: -value for name, value in super()._answer(feeds).items()}


class PlantedRuntime(FakeRuntime):
    """``fast`` halves the time, ``idle`` does nothing, ``wrong`` changes answers."""

    def sweepable(self, device: str, provider: str, cpus: int) -> dict[str, tuple[Any, ...]]:
        return dict.fromkeys(COSTS, (False, True))

    def open(self, path: Path, options: SessionOptions) -> FakeSession:
        asked = dict(options.settings or {})
        if unknown := sorted(set(asked) - set(COSTS)):
            raise UsageError(f"planted has no setting '{unknown[0]}'", f"it knows {', '.join(COSTS)}")
        session = super().open(path, options)
        for name, on in asked.items():
            if on:
                session.latency_ns = [int(ns * COSTS[name]) for ns in session.latency_ns]
        if asked.get("wrong"):
            session = WrongSession(**{f: getattr(session, f) for f in session.__dataclass_fields__})
        session.placement = replace(session.placement, detail={"settings": asked})
        return session
