"""The Measurement noun: raw call times of several arms, interleaved, with what the machine did meanwhile."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError, UsageError
from edgekd.evidence.rows import load_rows
from edgekd.files import read_json, refuse_failing_disk, sha256_file, write_bytes, write_json
from edgekd.inspect import inspect_file
from edgekd.inspect.limits import SAMPLES

MEASUREMENT_SCHEMA = "edgekd.measurement/1"

#: Arm names: the baseline, its hidden second copy, and the candidates ``candidate``, ``candidate_2``, ...
BASELINE = "baseline"
TWIN = "baseline_twin"
CANDIDATE = "candidate"

#: LoadGen's words for how queries arrive.
SINGLE_STREAM = "single-stream"
MULTI_STREAM = "multi-stream"
OFFLINE = "offline"
SERVER = "server"


def level_of(percentile: str) -> float:
    """The level of a percentile as users write it.

    >>> level_of("p99"), level_of("p99.9")
    (0.99, 0.999)

    Raises:
        UsageError: not ``p`` and a number above 0 and below 100.
    """
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d{1,4})?)", percentile)
    if match is None or not float(match[1]):
        raise UsageError(f"{percentile!r} is not a percentile", "write p50, p90, p99 or p99.9")
    return round(float(match[1]) / 100, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """One restart: every arm in a fresh child, measured in interleaved rounds.

    Attributes:
        blocks: arm -> one int64 (calls,) array of nanoseconds per round.
        order: arms in the order their children were started.
        cpus: CPU numbers the children were pinned to; empty where pinning is not possible.
        warmup: arm -> seconds, calls and whether it became steady.
        children: arm -> load time, peak memory, placement read back.
        ledger: what the machine did during the rounds; absent readings are ``None``.
        cpu_blocks: as ``blocks``, by the CPU clock; only of arms whose calls last a millisecond or more.
        cold_blocks: where ``blocks`` are times by device events: the same with the device's cache flushed before
            every call.
        wall_blocks: where ``blocks`` are times by device events: calls of their own by the host's clock, each waited
            for; what a user waits for, and what percentiles are taken of.
        enqueue_blocks: where ``blocks`` are times by device events: what the host took to enqueue a call of each
            sample.
    """

    blocks: Mapping[str, tuple[Array, ...]]
    order: tuple[str, ...]
    cpus: tuple[int, ...]
    warmup: Mapping[str, Mapping[str, Any]]
    children: Mapping[str, Mapping[str, Any]]
    ledger: Mapping[str, Any]
    cpu_blocks: Mapping[str, tuple[Array, ...]] = field(default_factory=dict)
    cold_blocks: Mapping[str, tuple[Array, ...]] = field(default_factory=dict)
    wall_blocks: Mapping[str, tuple[Array, ...]] = field(default_factory=dict)
    enqueue_blocks: Mapping[str, tuple[Array, ...]] = field(default_factory=dict)

    def single_calls(self, arm: str) -> tuple[Array, ...]:
        """Blocks of single calls as a user would wait for them: never means over several calls.

        A sample of ``blocks`` by device events may be such a mean (``warmup[arm]["device"]["replays"]``).
        """
        return self.wall_blocks.get(arm) or self.blocks.get(arm, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Evidence of latency.

    Attributes:
        arms: arm name -> ``{"name", "artifact", "dtype", "size_bytes", "threads", "batch", "settings"}``; always
            holds ``baseline``. With candidates it also holds ``baseline_twin``, which is the same artifact again.
        target: where it ran; scenario: LoadGen's word (``single-stream``).
        batch, threads: examples per call; intra-op threads of the session.
        inputs: where the feeds came from: ``{"kind": "data" | "drawn", ...}``.
        protocol: the numbers of the protocol: rounds, calls and milliseconds per block, warm-up.
        restarts: in the order they were made; those that were redrawn are counted, not kept.
        redrawn: how many restarts the ledger threw away, with reasons.
        environment: machine, versions.
        parent_cpu: share of one core that the parent used while children measured.
        collected_at: UTC.
        resources: arm -> what one more child of it showed after the race: load time, memory, energy, cost, profile.
        queries: raw latencies of a scenario that is not made of blocks (Server), int64 (queries,) nanoseconds each,
            by a name that ``scenario_detail`` explains.
        scenario_detail: the scenario's rules and what came of them; plain data.
    """

    arms: Mapping[str, Mapping[str, Any]]
    target: str
    scenario: str
    batch: int
    threads: int
    inputs: Mapping[str, Any]
    protocol: Mapping[str, Any]
    restarts: tuple[Restart, ...]
    redrawn: tuple[str, ...]
    environment: Mapping[str, Any]
    parent_cpu: float
    collected_at: str
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    queries: Mapping[str, Array] = field(default_factory=dict)
    scenario_detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(a for a in self.arms if a not in (BASELINE, TWIN))

    def session_batch(self, arm: str) -> int:
        """Examples of a query that one session of an arm is given: all, or its part where several work side by side."""
        record = self.arms[arm]
        return int(record.get("batch") or self.batch) // int(record.get("sessions", 1))

    def emulated(self, arm: str) -> str:
        """The precision that an arm's session only emulated, by its own placement: its times are no latency of it."""
        placed = (r.children.get(arm, {}).get("placement") or {} for r in self.restarts)
        return next((str(d) for p in placed if (d := (p.get("detail") or {}).get("emulated"))), "")

    def calls_ns(self, arm: str) -> Array:
        """All call times of an arm, int64 (calls,) nanoseconds, restarts and rounds in order: single calls.

        Of the server scenario: latencies of its queries at the asked rate; a search for a rate has none.
        """
        if self.scenario == SERVER:
            asked = self.scenario_detail.get("target_qps") is not None
            trials = self.scenario_detail.get("trials", ()) if asked else ()
            queries = [self.queries[t["queries_of"]] for t in trials if t["arm"] == arm]
            return np.concatenate(queries) if queries else np.zeros(0, np.int64)
        parts = [b for r in self.restarts for b in r.single_calls(arm)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


#: Kinds of blocks beside those by device events; each has its own number of calls.
_BESIDE = ("cold", "wall", "enqueue")


def _rows(measurement: Measurement) -> bytes:
    arrays: dict[str, Array] = {}
    for i, restart in enumerate(measurement.restarts):
        for arm, blocks in restart.blocks.items():
            arrays[f"{i}.{arm}.ns"] = np.concatenate(blocks) if blocks else np.zeros(0, np.int64)
            arrays[f"{i}.{arm}.calls"] = np.asarray([len(b) for b in blocks], np.int64)
        for arm, blocks in restart.cpu_blocks.items():
            arrays[f"{i}.{arm}.cpu_ns"] = np.concatenate(blocks) if blocks else np.zeros(0, np.int64)
        for kind in _BESIDE:
            for arm, blocks in getattr(restart, f"{kind}_blocks").items():
                arrays[f"{i}.{arm}.{kind}_ns"] = np.concatenate(blocks) if blocks else np.zeros(0, np.int64)
                arrays[f"{i}.{arm}.{kind}_calls"] = np.asarray([len(b) for b in blocks], np.int64)
    arrays |= {f"query.{name}": np.asarray(ns, np.int64) for name, ns in measurement.queries.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def save_measurement(measurement: Measurement, path: Path) -> None:
    """Write ``measurement.json`` at ``path`` and the raw samples beside it as .npz; the JSON is written last."""
    rows = path.with_suffix(".npz")
    write_bytes(rows, _rows(measurement))
    write_json(
        path,
        {
            "schema": MEASUREMENT_SCHEMA,
            "arms": {k: dict(v) for k, v in measurement.arms.items()},
            # JSON objects are written in sorted order; the arms' own order is kept here.
            "arm_order": list(measurement.arms),
            "target": measurement.target,
            "scenario": measurement.scenario,
            "batch": measurement.batch,
            "threads": measurement.threads,
            "inputs": dict(measurement.inputs),
            "protocol": dict(measurement.protocol),
            "restarts": [
                {
                    "order": list(r.order),
                    "cpus": list(r.cpus),
                    "warmup": {k: dict(v) for k, v in r.warmup.items()},
                    "children": {k: dict(v) for k, v in r.children.items()},
                    "ledger": dict(r.ledger),
                    "block_minima_ns": {
                        arm: [int(b.min()) for b in blocks] for arm, blocks in r.blocks.items()
                    },
                }
                for r in measurement.restarts
            ],
            "redrawn": list(measurement.redrawn),
            "environment": dict(measurement.environment),
            "parent_cpu": measurement.parent_cpu,
            "resources": {k: dict(v) for k, v in measurement.resources.items()},
            "scenario_detail": dict(measurement.scenario_detail),
            "samples": rows.name,
            "samples_sha256": sha256_file(rows),
            "collected_at": measurement.collected_at,
        },
    )


def load_measurement(path: Path) -> Measurement:
    """Read a measurement back, raw samples included.

    Raises:
        EvidenceError: missing, altered, or not whole.
    """
    value = read_json(path, MEASUREMENT_SCHEMA)
    try:
        if Path(value["samples"]).name != value["samples"]:
            raise EvidenceError(
                f"{path} names samples outside its folder: {value['samples']!r}", "do not use it"
            )
        rows = path.with_name(value["samples"])
        if not rows.is_file():
            raise EvidenceError(f"{rows}, the samples of {path.name}, is missing", "measure again")
        if sha256_file(rows) != value["samples_sha256"]:
            raise EvidenceError(f"{rows} was altered since it was written", "measure again")
        inspect_file(rows, limits=SAMPLES, digest=False)
        arrays = load_rows(rows)
        arms = {name: value["arms"][name] for name in value["arm_order"]}
        restarts = tuple(
            Restart(
                blocks={arm: _split(arrays[f"{i}.{arm}.ns"], arrays[f"{i}.{arm}.calls"]) for arm in arms},
                order=tuple(r["order"]),
                cpus=tuple(r["cpus"]),
                warmup=r["warmup"],
                children=r["children"],
                ledger=r["ledger"],
                cpu_blocks={
                    arm: _split(arrays[f"{i}.{arm}.cpu_ns"], arrays[f"{i}.{arm}.calls"])
                    for arm in arms
                    if f"{i}.{arm}.cpu_ns" in arrays
                },
                **{f"{kind}_blocks": _beside(arrays, i, kind, tuple(arms)) for kind in _BESIDE},
            )
            for i, r in enumerate(value["restarts"])
        )
        queries = {k.removeprefix("query."): v for k, v in arrays.items() if k.startswith("query.")}
        # Written since 0.2, as resources are; a measurement without them is whole.
        detail = value.get("scenario_detail", {})
        for ns in queries.values():
            _check_whole_numbers(ns)
        for trial in detail.get("trials", ()):
            if trial["arm"] not in arms:
                raise EvidenceError(f"{path} has no arm {trial['arm']!r}", "measure again")
            if trial["queries_of"] not in queries:
                raise EvidenceError(f"{rows} lacks the queries {trial['queries_of']!r}", "measure again")
        return Measurement(
            arms=arms,
            target=str(value["target"]),
            scenario=str(value["scenario"]),
            batch=int(value["batch"]),
            threads=int(value["threads"]),
            inputs=value["inputs"],
            protocol=value["protocol"],
            restarts=restarts,
            redrawn=tuple(value["redrawn"]),
            environment=value["environment"],
            parent_cpu=float(value["parent_cpu"]),
            collected_at=str(value["collected_at"]),
            resources=value.get("resources", {}),
            scenario_detail=detail,
            queries=queries,
        )
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        if isinstance(e, OSError):
            refuse_failing_disk(e, path)
        raise EvidenceError(f"{path} is not a whole measurement ({e!r})", "measure again") from e


def _beside(
    arrays: Mapping[str, Array], restart: int, kind: str, arms: tuple[str, ...]
) -> dict[str, tuple[Array, ...]]:
    """Blocks of one kind by arm, where there are any."""
    return {
        arm: _split(arrays[f"{restart}.{arm}.{kind}_ns"], arrays[f"{restart}.{arm}.{kind}_calls"])
        for arm in arms
        if f"{restart}.{arm}.{kind}_ns" in arrays
    }


def _check_whole_numbers(array: Array) -> None:
    if array.dtype.kind not in "iu" or array.ndim != 1 or (array < 0).any():
        raise ValueError(f"{array.dtype} of {array.ndim} dimensions, expected whole numbers in a row")


def _split(ns: Array, calls: Array) -> tuple[Array, ...]:
    for array in (ns, calls):
        _check_whole_numbers(array)
    if calls.sum() != len(ns):
        raise ValueError(f"{len(ns)} times of {calls.sum()} calls")
    return tuple(np.split(ns, np.cumsum(calls)[:-1])) if len(calls) else ()
