"""``bom.cdx.json``: a CycloneDX 1.6 ML-BOM of what ships, whom it learned from, and what it was made with.

Components are built and written by cyclonedx-python-lib; the model card, which it does not model yet, is added here
(https://cyclonedx.org/docs/1.6/json/#components_items_modelCard).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edgekd.files import write_json
from edgekd.lazy import require
from edgekd.provenance.declared import Subject
from edgekd.provenance.rules import NONE_STATED, OWN, normalised
from edgekd.release.model_metrics import figures_of
from edgekd.release.story import Shipped, Story
from edgekd.report.provenance import waiver_sentence
from edgekd.spec import TensorSpec

BOM_FILE = "bom.cdx.json"

#: Names the release in UUID version 5 (RFC 9562, section 5.5); any fixed namespace does.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:edgekd:bundle")

#: Licences written as SPDX ids, by their id in lower case; all others are written by name. A list of our own: the
#: library's grows with its version, and the same evidence must give the same bytes. Source: the SPDX licence list 3.24.
_SPDX = {
    name.lower(): name
    for name in (
        "0BSD", "AFL-3.0", "AGPL-3.0-only", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0",
        "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0",
        "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "EPL-2.0", "EUPL-1.2", "GPL-2.0-only",
        "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1-only", "LGPL-3.0-only", "MIT", "MIT-0",
        "MPL-2.0", "MS-PL", "MS-RL", "NCSA", "ODbL-1.0", "ODC-By-1.0", "PDDL-1.0", "PostgreSQL", "Unlicense", "Zlib",
    )
}  # fmt: skip


def write_bom(story: Story, folder: Any) -> None:
    """Write :data:`BOM_FILE` into the bundle.

    Raises:
        MissingDependencyError: the extra ``release`` is not installed; StorageError: the write failed.
    """
    write_json(folder / BOM_FILE, make_bom(story))


def make_bom(story: Story) -> dict[str, Any]:
    """The document as plain JSON; the same story gives the same, whatever the library's version.

    Raises:
        MissingDependencyError: the extra ``release`` is not installed.
    """
    purpose = "writing the bill of materials"
    model = require("cyclonedx.model.bom", extra="release", purpose=purpose)
    output = require("cyclonedx.output.json", extra="release", purpose=purpose)
    parts = _Parts(purpose)
    student = parts.student(story)
    artifacts = [parts.artifact(story, shipped) for shipped in story.shipped]
    data = [parts.data(i, subject) for i, subject in enumerate(story.provenance.declaration.data)]
    tools = [parts.tool(name, version) for name, version in story.tools.items()]
    bom = model.Bom(components=[*artifacts, *data, *tools])
    bom.metadata.component = student
    bom.serial_number = uuid.uuid5(_NAMESPACE, story.digest)
    # The library stamps the time at which it runs, and the bytes must not depend on it.
    bom.metadata.timestamp = _time(story.run.collected_at)
    bom.metadata.tools.components.clear()
    bom.register_dependency(student, artifacts)
    for artifact in artifacts:
        bom.register_dependency(artifact, [*data, *tools])
    document = json.loads(output.JsonV1Dot6(bom).output_as_string())
    return _finished(document, story)


def _time(collected_at: str) -> datetime:
    # Python 3.10 reads no "Z".
    return datetime.fromisoformat(collected_at.replace("Z", "+00:00"))


def _finished(document: dict[str, Any], story: Story) -> dict[str, Any]:
    """What the library has no words for: the model card, and that data are data sets."""
    document["metadata"]["timestamp"] = story.run.collected_at
    document["metadata"]["component"]["modelCard"] = model_card(story)
    for component in document.get("components", ()):
        if component["type"] == "data":
            component["data"] = [{"type": "dataset", "name": component["name"]}]
    return document


class _Parts:
    """Components of the library's kind."""

    def __init__(self, purpose: str) -> None:
        self.component = require("cyclonedx.model.component", extra="release", purpose=purpose)
        self.model = require("cyclonedx.model", extra="release", purpose=purpose)
        self.license = require("cyclonedx.model.license", extra="release", purpose=purpose)

    def student(self, story: Story) -> Any:
        teachers = [
            self.subject(s, f"teacher:{i}", "MACHINE_LEARNING_MODEL")
            for i, s in enumerate(story.provenance.declaration.teachers)
        ]
        return self.component.Component(
            name=story.name,
            version=story.digest.removeprefix("sha256:")[:12],
            type=self.component.ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"model:{story.name}",
            description="A student that passed its gates; its artifacts are components of their own.",
            pedigree=self.component.Pedigree(ancestors=teachers, notes="Distilled from its ancestors.")
            if teachers
            else None,
            properties=[
                *self.properties({"edgekd:provenance_given_by": story.provenance.given_by}),
                *(
                    self.model.Property(name="edgekd:waiver", value=waiver_sentence(w))
                    for w in story.provenance.declaration.waivers
                ),
            ],
        )

    def artifact(self, story: Story, shipped: Shipped) -> Any:
        """One artifact, with a component of type ``file`` for each of its files."""
        files = [
            self.component.Component(
                name=record.path,
                type=self.component.ComponentType.FILE,
                bom_ref=f"file:{record.path}",
                hashes=[self.sha256(record.sha256)],
                properties=self.properties({"edgekd:size_bytes": str(record.size_bytes)}),
            )
            for record in shipped.files
        ]
        entry = next(f for f in shipped.files if f.path == f"{shipped.folder}/{shipped.artifact.entry}")
        return self.component.Component(
            name=f"{story.name}/{shipped.slug}",
            version=shipped.digest.removeprefix("sha256:")[:12],
            type=self.component.ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"artifact:{shipped.slug}",
            hashes=[self.sha256(entry.sha256)],
            components=files,
            properties=self.properties(
                {
                    "edgekd:digest": shipped.digest,
                    "edgekd:format": shipped.artifact.format,
                    "edgekd:dtype": shipped.artifact.dtype,
                    "edgekd:targets": ", ".join(shipped.targets),
                }
            ),
        )

    def data(self, index: int, subject: Subject) -> Any:
        return self.subject(subject, f"data:{index}", "DATA")

    def subject(self, subject: Subject, ref: str, kind: str) -> Any:
        """A declared teacher or data set, with what it derives from as its own ancestors."""
        ancestors = [self.subject(s, f"{ref}.{i}", kind) for i, s in enumerate(subject.derived_from)]
        told = {
            "edgekd:licence": subject.licence,
            "edgekd:source": subject.source,
            "edgekd:access": subject.access,
            "edgekd:terms": ", ".join(subject.terms),
            "edgekd:attribution": subject.attribution,
        }
        digest = subject.digest.removeprefix("sha256:").lower()
        whole = len(digest) == 64 and all(c in "0123456789abcdef" for c in digest)
        return self.component.Component(
            name=subject.name,
            version=subject.version or None,
            type=self.component.ComponentType[kind],
            bom_ref=ref,
            hashes=[self.sha256(digest)] if whole else [],
            licenses=self.licences(subject.licence),
            external_references=self.references(subject.source),
            pedigree=self.component.Pedigree(ancestors=ancestors) if ancestors else None,
            properties=self.properties({k: v for k, v in told.items() if v}),
        )

    def tool(self, name: str, version: str) -> Any:
        return self.component.Component(
            name=name,
            version=version,
            type=self.component.ComponentType.LIBRARY,
            bom_ref=f"tool:{name}",
            scope=self.component.ComponentScope.EXCLUDED,
        )

    def licences(self, licence: str) -> list[Any]:
        plain = normalised(licence)
        if plain in NONE_STATED:
            return []
        if plain in OWN:
            return [self.license.DisjunctiveLicense(name="own work")]
        spdx = _SPDX.get(licence.lower())
        return [
            self.license.DisjunctiveLicense(id=spdx)
            if spdx
            else self.license.DisjunctiveLicense(name=licence)
        ]

    def references(self, source: str) -> list[Any]:
        if not source.startswith(("https://", "http://")) or any(c.isspace() for c in source):
            return []
        kind = self.model.ExternalReferenceType.DISTRIBUTION
        return [self.model.ExternalReference(type=kind, url=self.model.XsUri(source))]

    def sha256(self, content: str) -> Any:
        return self.model.HashType(alg=self.model.HashAlgorithm.SHA_256, content=content)

    def properties(self, values: Mapping[str, str]) -> list[Any]:
        return [self.model.Property(name=name, value=value) for name, value in values.items()]


def model_card(story: Story) -> dict[str, Any]:
    """The student's model card: how it was made, how it scored with intervals, and what a user should know."""
    first = story.shipped[0].artifact
    declared = story.provenance.declaration
    parameters: dict[str, Any] = {}
    if story.recipe.get("distill"):
        # It learned from a teacher and from data with labels.
        parameters["approach"] = {"type": "supervised"}
    task = story.recipe.get("task")
    if isinstance(task, dict) and task.get("kind"):
        parameters["task"] = str(task["kind"])
    if first.lineage.get("factory"):
        parameters["modelArchitecture"] = str(first.lineage["factory"])
    if declared.data:
        parameters["datasets"] = [{"ref": f"data:{i}"} for i, _ in enumerate(declared.data)]
    parameters["inputs"] = [{"format": _spec(s)} for s in first.inputs]
    parameters["outputs"] = [{"format": _spec(s)} for s in first.outputs]
    metrics = [metric for gate in story.gates for metric in figures_of(gate)]
    card: dict[str, Any] = {"bom-ref": f"card:{story.name}", "modelParameters": parameters}
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": [m.to_cyclonedx() for m in metrics]}
    card["considerations"] = _considerations(story)
    properties = [{"name": f"edgekd:data:{split}", "value": digest} for split, digest in story.splits.items()]
    if properties:
        card["properties"] = properties
    return card


def _considerations(story: Story) -> dict[str, Any]:
    limits = [f"Judged on {t} only." for t in dict.fromkeys(t for s in story.shipped for t in s.targets)]
    limits += [f"Not judged on {a['target']}: {a['reason']}." for a in story.verdict.not_run]
    trade = [
        g.reason for g in story.gates if g.reason and g.gate in ("accuracy", "latency", "size", "fidelity")
    ]
    found: dict[str, Any] = {"technicalLimitations": [*limits, *story.missing]}
    return {**found, "performanceTradeoffs": trade} if trade else found


def _spec(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]"
