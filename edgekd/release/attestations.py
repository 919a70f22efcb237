"""``attestations/``: in-toto Statements v1 about what ships: how each artifact was made, and what each gate found.

SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance) for each artifact, Test Result v0.1
(https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md) for each gate. They are unsigned: the
manifest lists them, and the bundle's signature covers the manifest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import FileRecord
from edgekd.files import canonical_json, write_json
from edgekd.gates.verdict import PROVENANCE, Gate
from edgekd.lazy import require
from edgekd.release.paths import portable
from edgekd.release.story import Shipped, Story
from edgekd.release.verify_statements import result_name

FOLDER = "attestations"
#: Characters of a file name that say which gate; slices may have long values, file names may not (255 bytes).
_NAME = 120

PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
#: URNs, as nobody has given EdgeKD an address that would stay; docs/bundle.md describes both.
BUILD_TYPE = "urn:edgekd:build:release:1"
BUILDER_ID = "urn:edgekd:builder:local"
#: Key of a digest set for EdgeKD's own digests, which are over names and hashes of files, or over rows, not over one file.
EDGEKD_DIGEST = "edgekd_sha256"


def write_attestations(story: Story, bundle: Path) -> list[str]:
    """Write every statement.

    Returns:
        Their paths in the bundle, sorted.

    Raises:
        MissingDependencyError: the extra ``release`` is not installed; StorageError: a write failed.
    """
    made: dict[str, dict[str, Any]] = {}
    for shipped in story.shipped:
        made[f"provenance-{shipped.slug}"] = statement(
            _subjects([shipped]), PROVENANCE_TYPE, build_provenance(story, shipped)
        )
    for gate in story.attested:
        judged = [s for s in story.shipped if s.digest == gate.artifact] or story.shipped
        name = _free(made, "-".join(("test", *([judged[0].slug] if gate.artifact else []), _slug(gate))))
        made[name] = statement(_subjects(judged), TEST_RESULT_TYPE, gate_result(story, gate))
    paths = {f"{FOLDER}/{name}.intoto.json": value for name, value in made.items()}
    for path, value in paths.items():
        write_json(bundle / path, value)
    return sorted(paths)


def _slug(gate: Gate) -> str:
    from edgekd.pipeline.folder import slug

    said = (gate.gate, gate.slice or "", gate.metric, gate.against, gate.target)
    return slug(" ".join(filter(None, said)))[:_NAME]


def _free(taken: Mapping[str, Any], name: str) -> str:
    return next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)


def statement(subjects: Sequence[FileRecord], kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto Statement v1 as plain JSON, built and checked by the in-toto-attestation package.

    Raises:
        MissingDependencyError: the extra ``release`` is not installed.
    """
    purpose = "writing attestations"
    described = require("in_toto_attestation.v1.resource_descriptor", extra="release", purpose=purpose)
    module = require("in_toto_attestation.v1.statement", extra="release", purpose=purpose)
    as_json = require("google.protobuf.json_format", extra="release", purpose=purpose)
    subject = [described.ResourceDescriptor(name=f.path, digest={"sha256": f.sha256}).pb for f in subjects]
    made = module.Statement(subject, kind, dict(predicate))
    made.validate()
    # Protobuf's Struct has floats alone: an opset of 18 would come back as 18.0.
    return {**as_json.MessageToDict(made.pb), "predicate": dict(predicate)}


def _subjects(shipped: Iterable[Shipped]) -> list[FileRecord]:
    return [record for item in shipped for record in item.files]


def build_provenance(story: Story, shipped: Shipped) -> dict[str, Any]:
    """SLSA provenance v1: the recipe, what it took in, and what made it."""
    artifact = shipped.artifact
    outside = {"recipe": dict(story.recipe)} if story.recipe else {"run": story.name}
    inside = {
        k: v for k, v in portable(dict(artifact.lineage)).items() if k not in ("tools", "parity", "sqnr_db")
    }
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {**outside, "format": artifact.format, "dtype": artifact.dtype},
        "internalParameters": {"lineage": inside},
        "resolvedDependencies": _dependencies(story, shipped),
    }
    metadata = {
        "invocationId": story.digest,
        **({"finishedOn": story.run.collected_at} if story.run.collected_at else {}),
    }
    builder = {"id": BUILDER_ID, **({"version": {"edgekd": story.run.edgekd}} if story.run.edgekd else {})}
    return {"buildDefinition": definition, "runDetails": {"builder": builder, "metadata": metadata}}


def _dependencies(story: Story, shipped: Shipped) -> list[dict[str, Any]]:
    """Teacher, data, calibration, what it was exported and quantized from, and tools; each with what pins it."""
    found: list[dict[str, Any]] = []
    for role, subjects in (
        ("teacher", story.provenance.declaration.teachers),
        ("data", story.provenance.declaration.data),
    ):
        for subject in subjects:
            entry: dict[str, Any] = {"name": f"{role}: {subject.name}"}
            source = subject.source
            if source.startswith(("https://", "http://")):
                entry["uri"] = source
            if digest := subject.digest.removeprefix("sha256:"):
                entry["digest"] = {"sha256": digest} if len(digest) == 64 else {"declared": digest}
            told = {"licence": subject.licence, "version": subject.version, "access": subject.access}
            found.append({**entry, "annotations": {k: v for k, v in told.items() if v}})
    if story.teacher_digest:
        found.append({"name": "teacher as it was run", "digest": _own(story.teacher_digest)})
    found += [{"name": f.path, "digest": {"sha256": f.sha256}} for f in story.teacher]
    lineage = shipped.artifact.lineage
    calibration = lineage.get("calibration")
    digests = {
        "training data": story.training.get("data"),
        "teacher that the student learned from": story.training.get("teacher"),
        "student as it was trained": lineage.get("model"),
        "quantized from": lineage.get("quantized_from"),
        "converted from": lineage.get("source"),
        "calibration data": calibration.get("digest") if isinstance(calibration, dict) else None,
        **{f"{split} split": digest for split, digest in story.splits.items()},
    }
    found += [
        {"name": name, "digest": _own(str(digest))}
        for name, digest in digests.items()
        if str(digest or "").startswith("sha256:")
    ]
    found += [
        {"name": f"tool: {name}", "uri": f"pkg:pypi/{name}@{version}", "annotations": {"version": version}}
        for name, version in story.tools.items()
    ]
    return found


def _own(digest: str) -> dict[str, str]:
    return {EDGEKD_DIGEST: digest.removeprefix("sha256:")}


def gate_result(story: Story, gate: Gate) -> dict[str, Any]:
    """Test Result v0.1 of one gate; its configuration is the policy, whole and by digest."""
    result = outcome(story, gate)
    policy = canonical_json(dict(story.verdict.policy))
    name = result_name(gate.to_json())
    lists = {"PASSED": "passedTests", "WARNED": "warnedTests", "FAILED": "failedTests"}
    configuration = {
        "name": "policy",
        "digest": {"sha256": hashlib.sha256(policy).hexdigest()},
        "mediaType": "application/json",
        "content": base64.b64encode(policy).decode(),
    }
    return {
        "result": result,
        "configuration": [configuration],
        **{key: [name] if kind == result else [] for kind, key in lists.items()},
    }


def outcome(story: Story, gate: Gate) -> str:
    """``PASSED``; ``WARNED`` where a person's word stands in for the answer; else ``FAILED``, undecided ones too.

    A gate of an optional target may fail in a bundle: it does not decide.
    """
    if gate.decision != "pass":
        return "FAILED"
    waived = gate.gate == PROVENANCE and story.provenance.assessment.waived
    return "WARNED" if waived else "PASSED"
