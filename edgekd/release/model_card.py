"""``MODEL_CARD.md``: licence, base model, data, figures with their intervals; with the front matter that hubs read.

Keys of the front matter: https://huggingface.co/docs/hub/model-cards. ``base_model_relation`` says ``distilled``; the
Hub itself names adapter, merge, quantized and finetune, of which none is true of a student.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.files import write_bytes
from edgekd.provenance.declared import Subject
from edgekd.provenance.rules import NONE_STATED, OWN, normalised
from edgekd.release.declared import Settled
from edgekd.release.model_metrics import Metric, figures_of
from edgekd.release.story import Story
from edgekd.report import words
from edgekd.report.github import escape, table, verbatim
from edgekd.report.provenance import waiver_sentence

MODEL_CARD_FILE = "MODEL_CARD.md"


def plain(text: str) -> str:
    """A text of the declaration or the evidence in a file of the bundle: no markup, addresses whole."""
    return escape(text, linked=True)


def write_model_card(story: Story, folder: Path) -> None:
    """Write :data:`MODEL_CARD_FILE`.

    Raises:
        StorageError: the write failed.
    """
    write_bytes(folder / MODEL_CARD_FILE, render_model_card(story).encode())


def front_matter(story: Story) -> dict[str, Any]:
    """The metadata block as plain data."""
    declared = story.provenance.declaration
    found: dict[str, Any] = {"license": "other", "license_name": _licence_name(declared.subjects)}
    if any(o.kind in ("licence-text", "notice-file") for o in story.provenance.assessment.obligations):
        found["license_link"] = "NOTICES.md"
    if declared.teachers:
        found["base_model"] = [s.name for s in declared.teachers]
        found["base_model_relation"] = "distilled"
    if declared.data:
        found["datasets"] = [s.name for s in declared.data]
    found["library_name"] = story.shipped[0].artifact.format
    found["tags"] = [
        "knowledge-distillation",
        "edgekd",
        *dict.fromkeys(s.artifact.dtype for s in story.shipped),
    ]
    task = story.recipe.get("task")
    kind = str(task["kind"]) if isinstance(task, dict) and task.get("kind") else "other"
    # A hub shows these as the model's own scores: differences and ratios to the teacher are no such thing.
    results = [
        {"type": m.gate.metric, "name": m.label, "value": m.value}
        for m in (m for g in story.gates for m in figures_of(g))
        if m.alone
    ]
    if results:
        data = {
            "name": ", ".join(s.name for s in declared.data) or "undeclared",
            "type": "local",
            "split": "test",
        }
        found["model-index"] = [
            {"name": story.name, "results": [{"task": {"type": kind}, "dataset": data, "metrics": results}]}
        ]
    return found


def _licence_name(subjects: Sequence[Subject]) -> str:
    named = [s.licence for s in subjects if normalised(s.licence) not in NONE_STATED | OWN]
    return " AND ".join(dict.fromkeys(named)) or ("own work" if subjects else "not stated")


def render_model_card(story: Story) -> str:
    """The card; the same story gives the same bytes."""
    import yaml

    head = yaml.safe_dump(front_matter(story), sort_keys=False, allow_unicode=True, width=10_000)
    parts = [
        [f"# {plain(story.name)}"],
        _shown(story),
        [_summary(story)],
        ["## Licence", "", *_licence(story)],
        ["## Base model and data", "", *_bases(story)],
        ["## Figures", "", *_figures(story)],
        ["## Intended use", "", "Not stated by this release: whoever publishes the model says here what it is for, and what not."],
        ["## What was changed", "", *_changes(story)],
        ["## Files", "", *_files(story)],
        ["## Not in this bundle", "", *(f"- {plain(s)}" for s in story.missing)] if story.missing else [],
        _waivers(story),
    ]  # fmt: skip
    body = "\n\n".join("\n".join(lines) for lines in parts if lines)
    return f"---\n{head}---\n\n{body}\n"


def _shown(story: Story) -> list[str]:
    """Texts that a licence asks to be shown, word for word."""
    texts = [o.value for o in story.provenance.assessment.obligations if o.kind == "display-text"]
    return [line for text in dict.fromkeys(texts) for line in (*verbatim(text), "")][:-1]


def _summary(story: Story) -> str:
    teachers = ", ".join(plain(s.name) for s in story.provenance.declaration.teachers)
    passed = sum(1 for g in story.gates if g.decision == "pass")
    taught = f"A student of {teachers}" if teachers else "A student"
    return (
        f"{taught} that passed {passed} gate{'' if passed == 1 else 's'} of its release policy. Evidence collected at "
        f"{story.run.collected_at}; the verdict is in `verdict.json`, the page to read in `report.html`."
    )


def _licence(story: Story) -> list[str]:
    """Under what terms its knowledge came; the student's own licence is for whoever publishes it to state."""
    own = "The student's own licence is stated by whoever publishes it."
    named = story.provenance.assessment.obligations
    said = (
        "1 obligation of those terms is"
        if len(named) == 1
        else f"{len(named)} obligations of those terms are"
    )
    asked = f" {said} met in this bundle: see [NOTICES.md](NOTICES.md)." if named else ""
    return [
        f"Its knowledge came under: {plain(_licence_name(story.provenance.declaration.subjects))}. {own}{asked}"
    ]


def _bases(story: Story) -> list[str]:
    declared = story.provenance.declaration
    rows = [
        [
            "base model, distilled from" if s.role == "teacher" else "data",
            plain(s.name) + (f" {plain(s.version)}" if s.version else ""),
            plain(s.licence or "not stated"),
            plain(s.access or words.DASH),
            plain(s.source or words.DASH),
        ]
        for top in declared.subjects
        for s in top.walk()
    ]
    lines = table(("relation", "name", "licence or terms", "reached by", "source"), rows, left=(1, 2, 3, 4))
    use = "for commercial use" if declared.use == "commercial" else "for research"
    when = " when it was released, not by its recipe" if story.provenance.given_by == "release" else ""
    return [
        *lines,
        "",
        f"Declared {use}{when}. Terms asked of those who pass it on are in [NOTICES.md](NOTICES.md).",
    ]


def _figures(story: Story) -> list[str]:
    metrics = [m for g in story.gates for m in figures_of(g)]
    if not metrics:
        return ["No gate of what ships has a figure."]
    rows = [
        [plain(m.label), f"{m.value:.6g}", _bounds(m), _limit(m), words.DASH if m.alone else m.gate.decision]
        for m in metrics
    ]
    levels = sorted({f"{100 * m.confidence:.4g} %" for m in metrics if m.confidence is not None})
    note = f"Bounds are one-sided, at {', '.join(levels)} each." if levels else ""
    lines = table(("figure", "value", "bounds", "limit", "decision"), rows)
    return [*lines, *(["", note] if note else [])]


def _bounds(metric: Metric) -> str:
    if metric.lower is None and metric.upper is None:
        return words.DASH
    low, high = ("none" if b is None else f"{b:.6g}" for b in (metric.lower, metric.upper))
    return f"{low} to {high}"


def _limit(metric: Metric) -> str:
    return words.DASH if metric.alone or metric.gate.limit is None else f"{metric.gate.limit:.6g}"


def _changes(story: Story) -> list[str]:
    """How the student differs from its base model; statements that a licence asks for, word for word."""
    distill = story.recipe.get("distill")
    lines = []
    if isinstance(distill, dict):
        lines.append(
            f"- trained as another network by distillation, method {plain(str(distill.get('method', 'not stated')))}"
        )
    for shipped in story.shipped:
        made = shipped.artifact.lineage.get("quantization")
        how = f", {made.get('mode')} quantization" if isinstance(made, dict) and made.get("mode") else ""
        lines.append(f"- {plain(shipped.name)}: {shipped.artifact.format}, {shipped.artifact.dtype}{how}")
    asked = [o.value for o in story.provenance.assessment.obligations if o.kind == "state-changes"]
    return [*lines, *(line for text in dict.fromkeys(asked) for line in ("", *verbatim(text)))]


def _files(story: Story) -> list[str]:
    rows = [[f"`{f.path}`", f"{f.size_bytes:,}", f"`{f.sha256}`"] for s in story.shipped for f in s.files]
    return table(("file", "bytes", "SHA-256"), rows, left=(2,))


def _waivers(story: Story) -> list[str]:
    said = waiver_lines(story.provenance)
    return ["## Waivers", "", *said] if said else []


def waiver_lines(settled: Settled) -> list[str]:
    """Who took which rule upon themselves, an entry of a list each."""
    return [f"- {plain(waiver_sentence(w))}" for w in settled.declaration.waivers]
