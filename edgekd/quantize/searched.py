"""The Search document: everything that a search for a mixture tried, what it chose, and how that was judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError
from edgekd.files import read_json, write_json
from edgekd.gates.verdict import Decision, Gate, gate_from_json
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError
from edgekd.quantize.mixture import Latency, Mixture, Trial

SEARCH_SCHEMA = "edgekd.search/1"
SEARCH_FILE = "search.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Evidence of a search.

    Attributes:
        model: ``{"reference", "artifact"}``: what was asked, and the digest of its float32 file, the reference.
        targets: that were searched.
        metric, unit, max_drop: of the accuracy gate.
        splits: ``select`` and ``test`` -> ``{"reference", "data"}``: data reference, and digest of those rows.
        budget_s, seconds: allowed, and what it took (near nothing where all was in the cache).
        evaluations, races: how often accuracy was judged on the selection split, and times were measured.
        out_of_time: the budget ended it.
        trials: everything that was tried, in order.
        artifacts: label of a trial -> digest of its artifact.
        winner: label of the chosen trial.
        layers: label of a whole-model trial -> its layers' errors, the most sensitive first.
        gate: the winner, judged once on the test split.
        decision: of the search: the gate's, unless the selection rows left a faster mixture open.
        note: one sentence about the decision.
    """

    model: Mapping[str, str]
    targets: tuple[str, ...]
    metric: str
    unit: str
    max_drop: float
    splits: Mapping[str, Mapping[str, str]]
    budget_s: float
    seconds: float
    evaluations: int
    races: int
    out_of_time: bool
    trials: tuple[Trial, ...]
    artifacts: Mapping[str, str]
    winner: str
    layers: Mapping[str, tuple[LayerError, ...]]
    gate: Gate
    decision: Decision
    note: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)
    collected_at: str = ""
    edgekd: str = ""

    @property
    def chosen(self) -> Trial:
        return next(t for t in self.trials if t.mixture.label == self.winner)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SEARCH_SCHEMA,
            "decision": self.decision,
            "note": self.note,
            "model": dict(self.model),
            "targets": list(self.targets),
            "metric": self.metric,
            "unit": self.unit,
            "max_drop": self.max_drop,
            "splits": {k: dict(v) for k, v in self.splits.items()},
            "budget_s": self.budget_s,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
            "races": self.races,
            "out_of_time": self.out_of_time,
            "winner": self.winner,
            "gate": self.gate.to_json(),
            "trials": [_trial_to_json(t, self.artifacts.get(t.mixture.label, "")) for t in self.trials],
            "layers": {label: [x.to_json() for x in found] for label, found in self.layers.items()},
            "measurement": dict(self.measurement),
            "environment": dict(self.environment),
            "collected_at": self.collected_at,
            "edgekd": self.edgekd,
        }

    def save(self, path: Path) -> None:
        """Write ``search.json`` at ``path``."""
        write_json(path, self.to_json())


def _finite(values: Sequence[float] | None) -> list[float | None] | None:
    return None if values is None else [v if math.isfinite(v) else None for v in values]


def _trial_to_json(trial: Trial, artifact: str) -> dict[str, Any]:
    latency = trial.latency
    return {
        "label": trial.mixture.label,
        **trial.mixture.to_json(),
        "artifact": artifact,
        "decision": trial.decision,
        "assured": trial.assured,
        "difference": trial.difference,
        "interval": _finite(trial.interval),
        "n": trial.n,
        "size_bytes": trial.size_bytes,
        "latency": None
        if latency is None
        else {"ratio": latency.ratio, "interval": _finite((latency.lower, latency.upper))},
        "wanted": trial.wanted,
        "reason": trial.reason,
    }


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _trial_from_json(value: Mapping[str, Any]) -> Trial:
    config = value["quantization"]
    known = QuantConfig.__dataclass_fields__
    made = None
    if config is not None:
        # Fields of a later version are ignored; lists were tuples.
        own: dict[str, Any] = {k: _tuples(v) for k, v in config.items() if k in known}
        made = QuantConfig(**own)
    latency, interval = value["latency"], value["interval"]
    return Trial(
        mixture=Mixture(
            target=str(value["target"]), config=made, settings=tuple(sorted(value["settings"].items()))
        ),
        decision=str(value["decision"]),
        assured=bool(value["assured"]),
        difference=value["difference"],
        interval=None if interval is None else _interval(interval),
        n=int(value["n"]),
        size_bytes=int(value["size_bytes"]),
        latency=None
        if latency is None
        else Latency(
            ratio=latency["ratio"],
            lower=_interval(latency["interval"])[0],
            upper=_interval(latency["interval"])[1],
        ),
        wanted=value["wanted"],
        reason=str(value["reason"]),
    )


def _interval(values: Sequence[float | None]) -> tuple[float, float]:
    low, high = values
    return (-math.inf if low is None else low, math.inf if high is None else high)


def load_search(path: Path) -> Search:
    """Read a ``search.json`` back.

    Raises:
        EvidenceError: missing, of another version, or not whole.
    """
    value = read_json(path, SEARCH_SCHEMA)
    try:
        trials = tuple(_trial_from_json(t) for t in value["trials"])
        found = Search(
            model=value["model"],
            targets=tuple(value["targets"]),
            metric=str(value["metric"]),
            unit=str(value["unit"]),
            max_drop=float(value["max_drop"]),
            splits=value["splits"],
            budget_s=float(value["budget_s"]),
            seconds=float(value["seconds"]),
            evaluations=int(value["evaluations"]),
            races=int(value["races"]),
            out_of_time=bool(value["out_of_time"]),
            trials=trials,
            artifacts={t["label"]: t["artifact"] for t in value["trials"] if t["artifact"]},
            winner=str(value["winner"]),
            layers={
                label: tuple(LayerError.from_json(x) for x in found)
                for label, found in value["layers"].items()
            },
            gate=gate_from_json(value["gate"]),
            decision=value["decision"],
            note=str(value["note"]),
            environment=value["environment"],
            measurement=value["measurement"],
            collected_at=str(value["collected_at"]),
            edgekd=str(value["edgekd"]),
        )
        if found.winner not in [t.mixture.label for t in trials]:
            raise EvidenceError(f"{path} names a winner that was not tried", "search again")
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise EvidenceError(f"{path} is not a whole search ({e!r})", "search again") from e
