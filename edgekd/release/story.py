"""What a bundle says of itself, gathered once: its documents are all written from this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, FileRecord, load_artifact
from edgekd.errors import EvidenceError
from edgekd.evidence.run import Run
from edgekd.files import digest_of, read_json
from edgekd.gates.verdict import PROVENANCE, Gate, Verdict
from edgekd.model import MODEL_FILE, MODEL_SCHEMA
from edgekd.release.declared import Settled

#: An execution plan of one GPU: rebuilt elsewhere from its ONNX file.
_PLAN = "tensorrt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """An artifact in the bundle.

    Attributes:
        name: what the run calls it; folder: in the bundle, ``artifacts/<name>``.
        files: every file of it with its path in the bundle, ``artifact.json`` too.
        targets: where it was judged.
    """

    name: str
    folder: str
    artifact: Artifact
    files: tuple[FileRecord, ...]
    targets: tuple[str, ...]

    @property
    def digest(self) -> str:
        return self.artifact.digest

    @property
    def slug(self) -> str:
        """Last part of its folder: unique in the bundle, and a file name."""
        return self.folder.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A run that is being released.

    Attributes:
        recipe: as resolved, without paths of the machine; empty where ``gate`` made the run.
        training: ``{"data", "teacher", …}``: lineage of the trained student, where the run has it.
        teacher: files of the teacher that was compared with, ``teacher/<path>``, where the run has them.
        splits: split -> digest of its rows, from the evidence.
        missing: what a reader may look for and not find, a sentence each.
    """

    run: Run
    verdict: Verdict
    recipe: Mapping[str, Any]
    shipped: tuple[Shipped, ...]
    provenance: Settled
    training: Mapping[str, Any] = field(default_factory=dict)
    teacher: tuple[FileRecord, ...] = ()
    teacher_digest: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def digest(self) -> str:
        """Names the release: what ships, what was declared, and the evidence that it rests on."""
        return digest_of(
            {
                "name": self.name,
                "shipped": sorted(s.digest for s in self.shipped),
                "evidence": dict(self.verdict.evidence),
                "policy": dict(self.verdict.policy),
                "declared": self.provenance.declaration.to_json(),
            }
        )

    @property
    def tools(self) -> dict[str, str]:
        """Package -> version, of what made the artifacts, as the evidence has it; EdgeKD as it collected."""
        found = {"edgekd": self.run.edgekd} if self.run.edgekd else {}
        for shipped in self.shipped:
            tools = shipped.artifact.lineage.get("tools")
            found |= (
                {str(k): str(v) for k, v in tools.items() if k != "stage"} if isinstance(tools, dict) else {}
            )
        return dict(sorted(found.items()))

    @property
    def gates(self) -> list[Gate]:
        """Gates of what ships, then those of the run as a whole; what was not run is none."""
        asked = [g for g in self.verdict.gates if g.decision != "not_run"]
        return [g for s in self.shipped for g in asked if g.artifact == s.digest] + [
            g for g in asked if not g.artifact
        ]

    @property
    def attested(self) -> list[Gate]:
        """The gates, and always provenance: where no gate asked for it, ``release`` did."""
        if any(g.gate == PROVENANCE for g in self.gates):
            return self.gates
        settled = self.provenance.assessment
        return [
            *self.gates,
            Gate(
                gate=PROVENANCE, decision=settled.decision, metric="terms", against="", artifact="", target="",
                method="terms table, strictest layer", reason="judged at release",
            ),
        ]  # fmt: skip


def gather(
    run_folder: Path,
    run: Run,
    verdict: Verdict,
    recipe: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    provenance: Settled,
) -> Story:
    """Read what the documents of a bundle need.

    Args:
        records: of the artifacts that ship, with ``digest``, ``folder`` as in the run and ``files`` as in the bundle.

    Raises:
        EvidenceError: an artifact, model or evidence document that is damaged.
    """
    shipped = tuple(_shipped(run_folder, run, record) for record in records)
    reference = run.references.get("teacher", "")
    if not reference:
        chosen = {s.digest for s in shipped}
        reference = next((c.baseline for c in run.candidates if c.artifact in chosen and c.baseline), "")
    teacher = run.artifacts.get(reference)
    return Story(
        run=run,
        verdict=verdict,
        recipe=recipe,
        shipped=shipped,
        provenance=provenance,
        training=_training(run_folder, shipped),
        teacher=() if teacher is None else _files(run_folder / teacher["folder"], "teacher"),
        teacher_digest=reference,
        splits=_splits(run_folder, verdict),
        missing=tuple(_missing(run, shipped)),
    )


def _shipped(run_folder: Path, run: Run, record: Mapping[str, Any]) -> Shipped:
    artifact = load_artifact(run_folder / record["folder"], check=False)
    folder = f"artifacts/{Path(record['folder']).name}"
    targets = tuple(t for t, digest in run.selected.items() if digest == record["digest"])
    return Shipped(
        name=str(record["name"]),
        folder=folder,
        artifact=artifact,
        files=tuple(record["files"]),
        targets=targets,
    )


def _files(folder: Path, label: str) -> tuple[FileRecord, ...]:
    found = load_artifact(folder, check=False).files
    return tuple(
        FileRecord(path=f"{label}/{f.path}", size_bytes=f.size_bytes, sha256=f.sha256) for f in found
    )


def _training(run_folder: Path, shipped: Sequence[Shipped]) -> Mapping[str, Any]:
    """Lineage of the trained student, if it is the model that what ships was exported from."""
    made = {str(s.artifact.lineage.get("model", "")) for s in shipped} - {""}
    for path in sorted((run_folder / "models").glob(f"*/{MODEL_FILE}")):
        value = read_json(path, MODEL_SCHEMA)
        lineage = value.get("lineage")
        if path.parent.name.startswith("student") and made and isinstance(lineage, dict):
            return lineage
    return {}


def _splits(run_folder: Path, verdict: Verdict) -> Mapping[str, str]:
    """Digest of each split's rows. The evidence was judged a moment ago, so it is whole."""
    import json

    found: dict[str, str] = {}
    for path in sorted(verdict.evidence):
        if not path.endswith(".json"):
            continue
        try:
            value = json.loads((run_folder / path).read_bytes())
        except (OSError, ValueError) as e:
            raise EvidenceError(f"{run_folder / path} cannot be read ({e})", "make the run again") from e
        if str(value.get("data", "")).startswith("sha256:") and value.get("split"):
            found[str(value["split"])] = str(value["data"])
    return dict(sorted(found.items()))


def _missing(run: Run, shipped: Sequence[Shipped]) -> list[str]:
    """What a plan would be rebuilt from elsewhere and the run did not keep."""
    said = []
    here = {s.digest for s in shipped}
    for item in shipped:
        if item.artifact.format != _PLAN:
            continue
        lineage = item.artifact.lineage
        if str(lineage.get("source", "")) not in here:
            said.append(
                f"The ONNX file that {item.name} was built from is not in this bundle: the run did not keep it."
            )
        options = lineage.get("options")
        cache = options.get("timing_cache") if isinstance(options, dict) else ""
        if not any(f.path.endswith(".cache") for f in item.files):
            named = f" ({cache})" if cache else ""
            said.append(
                f"The timing cache of {item.name}{named} is not in this bundle: a build elsewhere measures its kernels again."
            )
    return said
