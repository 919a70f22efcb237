"""Session settings that a sweep found best, kept with the artifact: in ``artifact.json``, or beside a bare file.

They name a target, a machine and an objective, and are used nowhere else. The artifact's digest names the bytes of
its files and stays what it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.artifact import ARTIFACT_FILE, ARTIFACT_SCHEMA, Artifact
from edgekd.errors import EvidenceError
from edgekd.files import digest_of, read_json, write_json

TUNED_SCHEMA = "edgekd.tuned/1"
#: ``student.onnx`` keeps its settings in ``student.onnx.edgekd.json``.
TUNED_ENDING = ".edgekd.json"

LATENCY, THROUGHPUT = "latency", "throughput"

#: What of :func:`edgekd.measure.ledger.machine` decides whether settings carry over: not the kernel, nor the boot.
_MACHINE_KEYS = ("machine", "cpu", "cpu_flags", "cpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The best settings of one artifact on one target, on one kind of machine, for one objective.

    Attributes:
        objective: ``latency`` (time per call at ``batch``) or ``throughput`` (time per example, ``batch`` chosen).
        threads, settings: of the session; ``settings`` is all that is handed to the runtime.
        machine: ``{"digest", "cpu", "cpus"}`` of where they were found.
        evidence: how that was found: ratio to the default with interval, restarts, trials; plain data.
    """

    objective: str
    batch: int
    threads: int
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    evidence: Mapping[str, Any]


def machine_key(machine: Mapping[str, Any]) -> dict[str, Any]:
    """``{"digest", "cpu", "cpus"}`` of a machine as :func:`edgekd.measure.ledger.machine` describes it."""
    return {
        "digest": digest_of({k: machine.get(k) for k in _MACHINE_KEYS}),
        "cpu": machine.get("cpu"),
        "cpus": machine.get("cpus"),
    }


def tuned_of(artifact: Artifact, target: str) -> tuple[Tuned, ...]:
    """Every record of an artifact for a target.

    Raises:
        EvidenceError: the metadata is damaged.
    """
    records = artifact.tuned.get(target, ())
    try:
        return tuple(
            Tuned(
                objective=str(r["objective"]),
                batch=int(r["batch"]),
                threads=int(r["threads"]),
                settings=dict(r["settings"]),
                machine=dict(r["machine"]),
                evidence=dict(r["evidence"]),
            )
            for r in records
        )
    except (KeyError, TypeError, ValueError) as e:
        raise EvidenceError(
            f"the tuned settings of {artifact.path} for {target} are damaged ({e!r})", "sweep again"
        ) from e


def find_tuned(
    artifact: Artifact, target: str, *, objective: str, batch: int, machine: Mapping[str, Any]
) -> tuple[Tuned | None, str]:
    """The settings to use here, or why there are none.

    Args:
        batch: of the calls to come; settings for latency hold for the batch they were found at.
        machine: :func:`edgekd.measure.ledger.machine` of here.

    Returns:
        ``(settings, "")``, or ``(None, why)``; ``why`` is empty where the artifact was never swept for this target.
    """
    records = tuned_of(artifact, target)
    if not records:
        beside = _beside(artifact)
        document = _document(beside, TUNED_SCHEMA)
        if document is not None and document.get("artifact") != artifact.digest:
            return None, f"{beside.name} was made for other bytes than {artifact.path.name} has now"
        return None, ""
    fitting = [r for r in records if r.objective == objective]
    if objective == LATENCY:
        fitting = [r for r in fitting if r.batch == batch]
    if not fitting:
        have = ", ".join(sorted({f"{r.objective} at batch {r.batch}" for r in records}))
        return None, f"its settings were swept for {have}"
    here = machine_key(machine)
    for record in fitting:
        if record.machine.get("digest") == here["digest"]:
            available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else here["cpus"]
            if available is not None and record.threads > available:
                return (
                    None,
                    f"its settings use {record.threads} threads, this process may use {available} CPUs",
                )
            return record, ""
    other = fitting[0].machine
    return None, (
        f"its settings were swept on another machine ({other.get('cpu')}, {other.get('cpus')} CPUs; "
        f"here {here['cpu']}, {here['cpus']} CPUs)"
    )


def with_record(
    tuned: Mapping[str, Sequence[Mapping[str, Any]]], target: str, record: Tuned
) -> dict[str, list[dict[str, Any]]]:
    """The metadata with one record put in, in the place of the one that it replaces."""

    def slot(r: Mapping[str, Any]) -> tuple[Any, ...]:
        batch = r["batch"] if r["objective"] == LATENCY else None
        return r["objective"], batch, r["machine"].get("digest")

    new = asdict(record)
    kept = [dict(r) for r in tuned.get(target, ()) if slot(r) != slot(new)]
    return {**{k: [dict(r) for r in v] for k, v in tuned.items()}, target: [*kept, new]}


def keep_tuned(artifact: Artifact, target: str, record: Tuned) -> Path:
    """Write a record into the artifact's metadata and return the file: ``artifact.json``, or one beside a bare file.

    Raises:
        StorageError: it cannot be written; EvidenceError: what is there is damaged.
    """
    path = artifact.folder / ARTIFACT_FILE
    document = _document(path, ARTIFACT_SCHEMA)
    if document is not None and (document.get("digest"), document.get("entry")) == (
        artifact.digest,
        artifact.entry,
    ):
        write_json(path, {**document, "tuned": with_record(document.get("tuned", {}), target, record)})
        return path
    path = _beside(artifact)
    document = _document(path, TUNED_SCHEMA)
    known = document["tuned"] if document and document.get("artifact") == artifact.digest else {}
    write_json(
        path,
        {"schema": TUNED_SCHEMA, "artifact": artifact.digest, "tuned": with_record(known, target, record)},
    )
    return path


def read_beside(artifact: Artifact) -> Mapping[str, Any]:
    """What is kept beside a bare file; empty where nothing is, or where it is of other bytes than these."""
    document = _document(_beside(artifact), TUNED_SCHEMA)
    if document is None or document.get("artifact") != artifact.digest:
        return {}
    try:
        return {str(t): [dict(r) for r in records] for t, records in dict(document["tuned"]).items()}
    except (KeyError, TypeError, ValueError) as e:
        raise EvidenceError(f"{_beside(artifact)} is damaged ({e!r})", "remove it and sweep again") from e


def _beside(artifact: Artifact) -> Path:
    return artifact.path.with_name(artifact.path.name + TUNED_ENDING)


def _document(path: Path, schema: str) -> dict[str, Any] | None:
    """The document at ``path``; None where there is none, or one of another kind."""
    if not path.is_file():
        return None
    try:
        return read_json(path, schema)
    except EvidenceError:
        if schema == TUNED_SCHEMA:
            raise
        return None  # an artifact.json of another kind is not this file's
