"""What a sweep searches over and what it finds: configurations of a session, and how each of them fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

#: Names that are no settings of the runtime: threads of the session, and examples per call.
THREADS, BATCH = "threads", "batch"

Value = str | int | bool


@runtime_checkable
class SweepableRuntime(Protocol):
    """A runtime plugin that says which settings are worth trying; this is optional."""

    def sweepable(self, device: str, provider: str, cpus: int) -> Mapping[str, Sequence[Value]]:
        """Setting -> values, its default first, for a session that may use ``cpus`` threads.

        ``threads`` is the session's thread count, the others are ``SessionOptions.settings``. The sweep asks again
        with the threads that it chose, so that what needs several of them is left out for one.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How a session is opened.

    Attributes:
        threads: of the session; batch: examples per call.
        settings: what is handed to the runtime: every setting that is not at its default.
    """

    threads: int
    batch: int
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Equal for equal configurations."""
        return repr((self.threads, self.batch, sorted(self.settings.items())))

    def having(self, changes: Mapping[str, Any]) -> Configuration:
        """The same with some values changed; ``threads`` and ``batch`` are among the names."""
        settings = {**self.settings, **{k: v for k, v in changes.items() if k not in (THREADS, BATCH)}}
        return Configuration(
            threads=changes.get(THREADS, self.threads),
            batch=changes.get(BATCH, self.batch),
            settings=settings,
        )

    def changes_from(self, other: Configuration) -> dict[str, Any]:
        """What differs from ``other``, by name."""
        changed: dict[str, Any] = {k: v for k, v in self.settings.items() if other.settings.get(k) != v}
        if self.batch != other.batch:
            changed[BATCH] = self.batch
        if self.threads != other.threads:
            changed[THREADS] = self.threads
        return dict(sorted(changed.items()))


def shown(changes: Mapping[str, Any]) -> str:
    """Changes as one writes them; ``default`` where there are none.

    >>> shown({"arena": False, "threads": 2})
    'arena=false threads=2'
    """
    parts = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in changes.items()]
    return " ".join(parts) or "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration in one race.

    Attributes:
        stage: ``batch``, ``threads``, ``settings``, ``together`` or ``confirmation``.
        changes: from the default.
        time_ns: per example: the median of block minima; None where it did not run.
        ratio, lower, upper: of its time per example to the default's, with the two-sided 95 % interval; ``upper`` is
            None as well where there were too few restarts for one.
        restarts: behind these figures; clock: ``wall`` or ``CPU``, which of them the ratio was taken by.
        outcome: ``better`` than what it raced, ``tie``, ``slower``, ``other answers``, ``failed`` or ``not measured``.
        reason: why it failed, or by how much its answers differ.
    """

    stage: str
    changes: Mapping[str, Any]
    time_ns: float | None
    ratio: float | None
    lower: float | None
    upper: float | None
    restarts: int
    clock: str
    outcome: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "changes": dict(self.changes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep found.

    Attributes:
        default, best: configurations; equal where nothing beat the default.
        default_time_ns: per example, in the first race.
        trials: in the order they ran.
        confirmation: the winner against the default in fresh restarts; None where nothing won.
        difference: largest difference of the best one's answers, relative to the largest answer; None for the default.
        runtime: name and version, read back.
        seconds: how long it took.
    """

    default: Configuration
    best: Configuration
    default_time_ns: float
    trials: tuple[Trial, ...]
    confirmation: Trial | None
    difference: float | None
    runtime: str
    seconds: float
