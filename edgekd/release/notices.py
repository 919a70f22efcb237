"""Obligations followed: notices, licence texts, terms to pass on, and the name that a licence asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgekd.errors import PolicyError
from edgekd.files import write_bytes
from edgekd.pipeline.folder import slug
from edgekd.provenance.declared import Subject, TextFile
from edgekd.provenance.obligations import Obligation
from edgekd.release.declared import Settled
from edgekd.release.model_card import MODEL_CARD_FILE

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
        PolicyError: the name does not begin as a licence asks, or a licence text is asked for that was not declared.
    """
    texts = {path: text.text or "" for path, _, text in _declared(settled)}
    met: dict[str, list[str]] = {}
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
            met[obligation.id] = _licence_texts(run_folder, settled, obligation)
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


def _licence_texts(run_folder: Path, settled: Settled, obligation: Obligation) -> list[str]:
    found = [
        path for path, subject, text in _declared(settled) if subject.name == obligation.subject and text.kind == "licence"
    ]  # fmt: skip
    if not found:
        raise PolicyError(
            f"{run_folder}: the text of {obligation.value} is to be in the bundle, as record {obligation.record} of "
            f"{obligation.subject} asks, and none is declared (rule licence-text)",
            f"declare it beside `name: {obligation.subject}`: `licence_file: LICENSE`, the file that came with it",
            rule="licence-text",
        )
    return found


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
                    f"> {obligation.value}",
                    "",
                    f"(for {obligation.subject}, record {obligation.record})",
                    "",
                ]
    if texts:
        lines += ["## Texts", "", *(f"- [{path}]({path})" for path in sorted(texts)), ""]
    lines += ["## Where it comes from", ""]
    for subject in (s for top in settled.declaration.subjects for s in top.walk()):
        told = [f"licence: {subject.licence or 'not stated'}"]
        told += [f"credit: {subject.attribution}"] if subject.attribution else []
        lines.append(f"- {subject.role} **{subject.name}** ({'; '.join(told)})")
    if not obligations:
        lines += ["", "No record that applies asks for a notice."]
    lines += ["", "EdgeKD states facts and sources, and gives no legal advice."]
    return "\n".join(lines) + "\n"
