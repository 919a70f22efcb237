"""Obligations followed: notices, licence texts, terms to pass on, and the name that a licence asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgekd.errors import PolicyError
from edgekd.files import write_bytes
from edgekd.pipeline.folder import slug
from edgekd.provenance.declared import Subject, TextFile
from edgekd.provenance.obligations import Obligation
from edgekd.provenance.terms import normalised
from edgekd.release.declared import Settled
from edgekd.release.model_card import MODEL_CARD_FILE, plain, waiver_lines
from edgekd.report.github import verbatim

NOTICES_FILE = "NOTICES.md"
FOLDER = "notices"


def plan_notices(
    run_folder: Path, name: str, settled: Settled
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What goes below ``notices/``, and where each obligation is met; nothing is written.

    Args:
        name: of the release.

    Returns:
        path -> text, and obligation id -> paths that meet it.

    Raises:
        PolicyError: the name does not begin as a licence asks, or fewer licence texts were declared than are asked.
    """
    texts = {path: text.text or "" for path, _, text in _declared(settled)}
    met: dict[str, list[str]] = {}
    licences = _licence_texts(run_folder, settled)
    for obligation in settled.assessment.obligations:
        asked = obligation.value
        if obligation.kind == "name-prefix":
            if not name.startswith(asked):
                raise PolicyError(
                    f"{run_folder}: the name '{name}' does not begin with '{asked}', as record {obligation.record} of "
                    f"{obligation.subject} asks (rule name-prefix)",
                    f"call it '{asked}-{name}' in the recipe's `name:` and run again",
                    rule="name-prefix",
                )
            met[obligation.id] = [MODEL_CARD_FILE, "run.json"]
        elif obligation.kind == "licence-text":
            met[obligation.id] = [licences[obligation.id]]
        elif obligation.kind == "notice-file":
            holding = [path for path, text in texts.items() if asked in text]
            if not holding:
                holding = [f"{FOLDER}/{slug(obligation.id)}.txt"]
                texts[holding[0]] = asked + "\n"
            met[obligation.id] = holding
        elif obligation.kind == "state-changes":
            met[obligation.id] = [MODEL_CARD_FILE]
        else:
            places = [MODEL_CARD_FILE, NOTICES_FILE] if obligation.kind == "display-text" else [NOTICES_FILE]
            met[obligation.id] = places
    return texts, {key: sorted(paths) for key, paths in met.items()}


def _declared(settled: Settled) -> Iterator[tuple[str, Subject, TextFile]]:
    """Every text that was declared, with its path in the bundle."""
    taken: set[str] = set()
    for top in settled.declaration.subjects:
        for subject in top.walk():
            for text in subject.texts:
                base = slug(PurePosixPath(text.name.replace("\\", "/")).name)
                stem = f"{FOLDER}/{slug(subject.name)}"
                path = next(
                    p
                    for p in (f"{stem}/{base}", *(f"{stem}/{k}-{base}" for k in range(2, 10_000)))
                    if p not in taken
                )
                taken.add(path)
                yield path, subject, text


def _licence_texts(run_folder: Path, settled: Settled) -> dict[str, str]:
    """Obligation id -> its text's path: a text of its own for each, the one whose file is called like the record first.

    Two licences of one subject are two texts; what is blank is none.
    """
    asked = [o for o in settled.assessment.obligations if o.kind == "licence-text"]
    met: dict[str, str] = {}
    for name in dict.fromkeys(o.subject for o in asked):
        declared = {
            text.sha256: (path, normalised(PurePosixPath(text.name).name))
            for path, subject, text in reversed(list(_declared(settled)))
            if subject.name == name and text.kind == "licence" and (text.text or "").strip()
        }
        free = dict(reversed(declared.values()))
        mine = [o for o in asked if o.subject == name]
        for by_name in (True, False):
            for obligation in (o for o in mine if o.id not in met):
                called = normalised(obligation.record)
                path = next((p for p, file in free.items() if called in file or not by_name), None)
                if path is not None:
                    met[obligation.id] = path
                    del free[path]
        if lacking := next((o for o in mine if o.id not in met), None):
            raise _lacks_text(run_folder, lacking, len(mine), len(declared))
    return met


def _lacks_text(run_folder: Path, asked: Obligation, licences: int, texts: int) -> PolicyError:
    given = f"its {licences} licences have {texts} texts that differ" if texts else "none is declared"
    files = "a file for each licence" if licences > 1 else "the file that came with it"
    return PolicyError(
        f"{run_folder}: the text of {asked.value} is to be in the bundle, as record {asked.record} of {asked.subject} "
        f"asks, and {given} (rule licence-text)",
        f"declare it beside `name: {asked.subject}`: `licence_file: LICENSE`, {files}; one that is blank is none",
        rule="licence-text",
    )


def write_notices(settled: Settled, texts: dict[str, str], folder: Path) -> None:
    """Write :data:`NOTICES_FILE` and the texts.

    Raises:
        StorageError: a write failed.
    """
    for path, text in texts.items():
        write_bytes(folder / path, text.encode())
    write_bytes(folder / NOTICES_FILE, render_notices(settled, texts).encode())


def render_notices(settled: Settled, texts: dict[str, str]) -> str:
    """What those who receive the model have to know of the terms that it came under. Texts stand as the terms give them."""
    lines = ["# Notices", ""]
    obligations = settled.assessment.obligations
    shown = {kind: [o for o in obligations if o.kind == kind] for kind in ("display-text", "pass-on-terms")}
    for kind, title in (
        ("display-text", "To be shown with the model"),
        ("pass-on-terms", "Terms that bind those who receive it"),
    ):
        if shown[kind]:
            lines += [f"## {title}", ""]
            for obligation in shown[kind]:
                lines += [
                    *verbatim(obligation.value),
                    "",
                    f"(for {plain(obligation.subject)}, record {plain(obligation.record)})",
                    "",
                ]
    if texts:
        lines += ["## Texts", "", *(f"- [{path}]({path})" for path in sorted(texts)), ""]
    lines += ["## Where it comes from", ""]
    for subject in (s for top in settled.declaration.subjects for s in top.walk()):
        told = [f"licence: {plain(subject.licence) or 'not stated'}"]
        told += [f"credit: {plain(subject.attribution)}"] if subject.attribution else []
        lines.append(f"- {subject.role} **{plain(subject.name)}** ({'; '.join(told)})")
    if settled.given_by == "release":
        lines += ["", "Declared when it was released, not by its recipe."]
    if waived := waiver_lines(settled):
        lines += ["", "## Waivers", "", *waived]
    if not obligations:
        lines += ["", "No record that applies asks for a notice."]
    lines += ["", "EdgeKD states facts and sources, and gives no legal advice."]
    return "\n".join(lines) + "\n"
