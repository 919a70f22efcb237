"""Evidence of whether a quantized artifact is faster than its float twin, ``speedup-….json`` in a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekd.errors import EvidenceError
from edgekd.files import read_json, write_json
from edgekd.quantize.reason import Ratio, Reason

SPEEDUP_SCHEMA = "edgekd.speedup/1"

Answer = Literal["faster", "slower", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """A quantized artifact beside its float twin on one target.

    Attributes:
        label, artifact, dtype: of the quantized one; ``twin_label``, ``twin``, ``twin_dtype``: of the float one
            (digests; the dtype is the file's).
        ratio: its time / the twin's per example, estimate with the bounds of 95 %: of calls measured interleaved.
        batch, threads: of the calls whose operators were looked at.
        operators: how many ran, in the twin and in the quantized one; None where the runtime does not tell.
        operator_ns: their times together, likewise.
        reasons: why it is not faster; empty where it is.
        problem: why what ran is not known, in one line; else empty.
        measurement: path of the measurement that the ratio is of, relative to the run folder; empty where it has none.
    """

    label: str
    artifact: str
    dtype: str
    twin_label: str
    twin: str
    twin_dtype: str
    target: str
    ratio: Ratio
    batch: int
    threads: int
    operators: tuple[int, int] | None = None
    operator_ns: tuple[float, float] | None = None
    reasons: tuple[Reason, ...] = ()
    problem: str = ""
    measurement: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> Answer:
        """Whether it is faster; undecided where the interval holds 1."""
        if self.ratio[2] < 1:
            return "faster"
        return "slower" if self.ratio[1] > 1 else "undecided"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def save_speedup(found: Speedup, path: Path) -> None:
    """Write the document; equal evidence gives equal bytes."""
    write_json(
        path,
        {
            "schema": SPEEDUP_SCHEMA,
            "label": found.label,
            "artifact": found.artifact,
            "dtype": found.dtype,
            "twin_label": found.twin_label,
            "twin": found.twin,
            "twin_dtype": found.twin_dtype,
            "target": found.target,
            "ratio": {
                k: _finite(v) for k, v in zip(("estimate", "lower", "upper"), found.ratio, strict=True)
            },
            "answer": found.answer,
            "batch": found.batch,
            "threads": found.threads,
            "operators": None if found.operators is None else list(found.operators),
            "operator_ns": None if found.operator_ns is None else list(found.operator_ns),
            "reasons": [r.to_json() for r in found.reasons],
            "problem": found.problem,
            "measurement": found.measurement,
            "environment": dict(found.environment),
        },
    )


def load_speedup(path: Path) -> Speedup:
    """Read the document back.

    Raises:
        EvidenceError: missing, of another version, or not whole.
    """
    value = read_json(path, SPEEDUP_SCHEMA)
    try:
        return Speedup(
            **{k: str(value[k]) for k in _TEXTS},
            ratio=_ratio(value["ratio"]),
            batch=int(value["batch"]),
            threads=int(value["threads"]),
            operators=_pair(value["operators"], int),
            operator_ns=_pair(value["operator_ns"], float),
            reasons=tuple(
                Reason(
                    kind=str(r["kind"]),
                    sentence=str(r["sentence"]),
                    nodes=tuple(map(str, r["nodes"])),
                    time_share=None if r["time_share"] is None else float(r["time_share"]),
                    fix=str(r["fix"]),
                )
                for r in value["reasons"]
            ),
            environment=dict(value["environment"]),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise EvidenceError(f"{path} is not a whole speedup ({e!r})", "collect it again") from e


_TEXTS = (
    "label",
    "artifact",
    "dtype",
    "twin_label",
    "twin",
    "twin_dtype",
    "target",
    "problem",
    "measurement",
)


def _ratio(value: Mapping[str, Any]) -> Ratio:
    estimate = float(value["estimate"])
    if not (math.isfinite(estimate) and estimate > 0):
        raise ValueError(f"a ratio of {estimate}")
    upper = value["upper"]
    return estimate, float(value["lower"]), math.inf if upper is None else float(upper)


def _pair(value: Sequence[Any] | None, kind: type) -> Any:
    if value is None:
        return None
    first, second = value
    return kind(first), kind(second)
