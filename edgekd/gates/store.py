"""What the judge reads: documents of a run folder, each once, and the checks that they are about what they should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import Evaluation, load_evaluation
from edgekd.evidence.measurement import Measurement, load_measurement
from edgekd.evidence.placement import OpPlacement, load_placement
from edgekd.evidence.run import Candidate, Failure
from edgekd.files import sha256_file
from edgekd.gates.verdict import Decision, ErrorKind, Gate


@dataclass(frozen=True)
class Store:
    """Evidence of a run folder, each document read once, with the digests of what was read."""

    folder: Path
    digests: dict[str, str] = field(default_factory=dict)
    _evaluations: dict[str, Evaluation] = field(default_factory=dict)
    _measurements: dict[str, Measurement] = field(default_factory=dict)

    def evaluation(self, path: str) -> Evaluation:
        if path not in self._evaluations:
            self._evaluations[path] = load_evaluation(self._seen(path))
        return self._evaluations[path]

    def measurement(self, path: str) -> Measurement:
        if path not in self._measurements:
            self._measurements[path] = load_measurement(self._seen(path))
        return self._measurements[path]

    def placement(self, path: str) -> OpPlacement:
        return load_placement(self._seen(path))

    def _seen(self, path: str) -> Path:
        file = self.folder / path
        if not file.resolve().is_relative_to(self.folder.resolve()):
            raise EvidenceError(f"{file} leads out of the run folder", "do not use it")
        if file.is_file():
            self.digests[path] = "sha256:" + sha256_file(file)
        return file


def same_artifact(found: str, wanted: str, where: str) -> None:
    if found != wanted:
        raise EvidenceError(
            f"{where} is evidence of {found[:19] or 'nothing'}…, not of {wanted[:19]}…", "collect it again"
        )


def same_target(found: str, wanted: str, where: str) -> None:
    if found != wanted:
        raise EvidenceError(f"{where} was collected on {found}, not on {wanted}", "collect it again")


def plain_gate(
    candidate: Candidate,
    gate: str,
    decision: Decision,
    reason: str,
    against: str,
    kind: ErrorKind | None = None,
    metric: str = "latency",
) -> Gate:
    """A gate without figures."""
    return Gate(
        gate=gate,
        decision=decision,
        metric=metric,
        against=against,
        artifact=candidate.artifact,
        target=candidate.target,
        reason=reason,
        error_kind=kind,
    )


def failed_gate(
    candidate: Candidate, gate: str, failure: Failure, against: str, metric: str = "latency"
) -> Gate:
    """The answer where evidence could not be collected: an error, with what was said then."""
    kinds: dict[str, ErrorKind] = {"input": "input", "policy": "policy"}
    return plain_gate(
        candidate, gate, "error", failure.reason, against, kinds.get(failure.kind, "infrastructure"), metric
    )
