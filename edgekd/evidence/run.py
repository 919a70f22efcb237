"""A run folder's index: which artifacts, on which targets, with which evidence. ``gate RUN`` judges from it alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd.errors import EvidenceError
from edgekd.files import read_json, write_json

RUN_SCHEMA = "edgekd.run/1"
RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyEvidence:
    """Paths of evaluations, relative to the run folder.

    Attributes:
        references: ``teacher``, ``naive``, ``float32``, ``baseline`` -> what the candidate is compared with.
        baseline: the first of them: all that readers of the first version know.
    """

    candidate: str
    references: Mapping[str, str]
    baseline: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", next(iter(self.references.values()), ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Evidence that could not be collected.

    Attributes:
        kind: ``input`` (the data, the model's answers, the metric), ``infrastructure`` or ``policy``.
        reason: one line.
    """

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyEvidence:
    """Path of a measurement, relative to the run folder, and the candidate's arm in it.

    Attributes:
        builds: arms of other builds of the candidate, made the same way: the worst of them all is judged.
    """

    measurement: str
    arm: str
    builds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence of one candidate on one split (latency: of one occasion).

    Attributes:
        latency: timings beside the teacher; regression: beside the last release.
        alone: timings of the candidate by itself, where an absolute limit is all that was asked.
        placement: path of what ran where, relative to the run folder; empty where it was not asked.
        failures: what could not be collected, by what it was for: a field of this class.
    """

    accuracy: AccuracyEvidence | None = None
    latency: LatencyEvidence | None = None
    regression: LatencyEvidence | None = None
    alone: LatencyEvidence | None = None
    placement: str = ""
    failures: Mapping[str, Failure] = field(default_factory=dict)

    @property
    def timings(self) -> tuple[LatencyEvidence, ...]:
        """Every measurement of the candidate, the one that says most about it alone first."""
        return tuple(e for e in (self.alone, self.latency, self.regression) if e is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A precision x format x settings on a target.

    Attributes:
        artifact, baseline: digests, keys of :attr:`Run.artifacts`; ``baseline`` may be empty where no teacher was given.
        references: name -> digest of what was evaluated as that for this candidate; the run's own where empty: a teacher
            has another digest in another format.
        select: evidence that was chosen by; test: evidence that is judged on, for the selected one only.
        speedup: path of whether it is faster than its float twin, relative to the run folder; empty where it has none.
    """

    artifact: str
    target: str
    dtype: str
    baseline: str = ""
    references: Mapping[str, str] = field(default_factory=dict)
    select: Evidence = field(default_factory=Evidence)
    test: Evidence | None = None
    speedup: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One link of the chain teacher -> naive -> distilled -> exported -> quantized -> as run.

    Attributes:
        hop: ``teacher``, ``naive``, ``distilled``, ``exported``, ``quantized`` or ``as_run``.
        label: what the report calls it, e.g. ``"naive student 2"``.
        evaluation: path relative to the run folder.
    """

    hop: str
    label: str
    evaluation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentTarget:
    """A target that was asked for and is not here."""

    target: str
    required: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The index of a run folder, ``run.json``.

    Attributes:
        policy: the gates block the run was made under (as in a recipe).
        artifacts: digest -> ``{"name", "folder", "dtype", "format", "size_bytes"}``; folder relative to the run.
        selected: target -> digest of the candidate that is judged.
        chain: evaluations on the test split, hop by hop.
        notes: sentences for the report (why this margin, what was skipped).
        optional: targets that are here but whose gates do not decide (``required: false``).
        regression_baseline: ``present``, ``first-run`` (none yet, accepted as such) or empty (not asked).
        references: ``teacher``, ``naive``, ``float32``, ``baseline`` -> digest of what was evaluated as that.
    """

    name: str
    policy: Mapping[str, Any]
    artifacts: Mapping[str, Mapping[str, Any]]
    candidates: tuple[Candidate, ...]
    selected: Mapping[str, str]
    absent: tuple[AbsentTarget, ...] = ()
    optional: tuple[str, ...] = ()
    chain: tuple[Hop, ...] = ()
    notes: tuple[str, ...] = ()
    regression_baseline: str = ""
    references: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    collected_at: str = ""
    edgekd: str = ""

    def save(self, folder: Path) -> None:
        """Write ``run.json`` into the run folder."""
        write_json(folder / RUN_FILE, {"schema": RUN_SCHEMA, **asdict(self)})


def fidelity_reference(available: Collection[str]) -> str:
    """What fidelity is measured against where the policy does not say.

    >>> fidelity_reference(["teacher", "float32"])
    'float32'
    """
    return next((name for name in ("float32", "teacher", "baseline") if name in available), "float32")


def _inside(path: str, where: Path) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not path or "\0" in path or len(path) > 1000:
        raise EvidenceError(f"{where} names {path!r}, outside the run folder", "do not use it")
    return path


def _accuracy(value: Mapping[str, Any] | None, where: Path) -> AccuracyEvidence | None:
    if value is None:
        return None
    # The first version knew one reference, the teacher.
    references = value["references"] if "references" in value else {"teacher": value["baseline"]}
    return AccuracyEvidence(
        candidate=_inside(value["candidate"], where),
        references={str(name): _inside(path, where) for name, path in references.items()},
    )


def _latency(value: Mapping[str, Any] | None, where: Path) -> LatencyEvidence | None:
    if value is None:
        return None
    return LatencyEvidence(
        measurement=_inside(value["measurement"], where),
        arm=value["arm"],
        builds=tuple(map(str, value.get("builds", ()))),
    )


def _evidence(value: Mapping[str, Any], where: Path) -> Evidence:
    return Evidence(
        accuracy=_accuracy(value.get("accuracy"), where),
        latency=_latency(value.get("latency"), where),
        regression=_latency(value.get("regression"), where),
        alone=_latency(value.get("alone"), where),
        placement=_inside(value["placement"], where) if value.get("placement") else "",
        failures={
            str(what): Failure(kind=str(f["kind"]), reason=str(f["reason"]))
            for what, f in value.get("failures", {}).items()
        },
    )


def load_run(folder: Path) -> Run:
    """Read a run folder's index.

    Raises:
        EvidenceError: not a run folder, or a damaged index.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise EvidenceError(
            f"{folder} is not a run folder (no {RUN_FILE})", "name a folder that `edgekd run` or `gate` wrote"
        )
    value = read_json(path, RUN_SCHEMA)
    try:
        for key in ("artifacts", "selected", "policy", "environment", "provenance"):
            if not isinstance(value[key], dict):
                raise TypeError(f"'{key}' is no mapping")
        if not isinstance(value.get("references", {}), dict):
            raise TypeError("'references' is no mapping")
        for record in value["artifacts"].values():
            _inside(record["folder"], path)
        return Run(
            name=value["name"],
            policy=value["policy"],
            artifacts=value["artifacts"],
            candidates=tuple(
                Candidate(
                    artifact=c["artifact"],
                    target=c["target"],
                    dtype=c["dtype"],
                    baseline=c["baseline"],
                    references={str(k): str(v) for k, v in c.get("references", {}).items()},
                    select=_evidence(c["select"], path),
                    test=None if c["test"] is None else _evidence(c["test"], path),
                    speedup=_inside(c["speedup"], path) if c.get("speedup") else "",
                )
                for c in value["candidates"]
            ),
            selected=value["selected"],
            absent=tuple(
                AbsentTarget(target=a["target"], required=a["required"], reason=a["reason"])
                for a in value["absent"]
            ),
            optional=tuple(value.get("optional", ())),
            chain=tuple(
                Hop(hop=h["hop"], label=h["label"], evaluation=_inside(h["evaluation"], path))
                for h in value["chain"]
            ),
            notes=tuple(value["notes"]),
            regression_baseline=value["regression_baseline"],
            references=value.get("references", {}),
            environment=value["environment"],
            provenance=value["provenance"],
            collected_at=value["collected_at"],
            edgekd=value["edgekd"],
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise EvidenceError(f"{path} is not a whole run index ({e!r})", "make the run again") from e
