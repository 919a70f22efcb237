"""Flips: the examples that what ships answers worse than the teacher, as a table and, for images, a contact sheet."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from edgekd.report import words
from edgekd.report.flips import CROSS_ENTROPY, Flip, FlipTable
from edgekd.report.html.markup import Child, Html, el
from edgekd.report.html.parts import section, table

#: A contact sheet of thumbnails stays well under the weight that a mail or a pull request takes.
MAX_PNG_BYTES = 64 * 1024


def flips_section(flips: Sequence[FlipTable]) -> Html | None:
    """The worst flips per artifact that ships; None where the run holds no chain to compare."""
    if not flips:
        return None
    parts: list[Child] = []
    for found in flips:
        if len(flips) > 1:
            parts.append(el("h3", f"{found.label} on {found.target}"))
        parts += _one(found)
    return section("flips", "Flips: what the student gets wrong and the teacher does not", *parts)


def _one(found: FlipTable) -> list[Child]:
    worse, better = ("worse", "better") if found.graded else ("lost", "gained")
    first = ", ".join(f"{n:,} on {label}" for label, n in found.lost_on.items() if n)
    where = f" Flipped first: {first}." if first else ""
    parts: list[Child] = [
        el(
            "p",
            f"'{found.label}' against the teacher, on {found.n:,} examples: {found.lost:,} {worse}, {found.gained:,} "
            f"{better}.{where}",
        )
    ]
    if not found.rows:
        return parts
    if pictures := [r for r in found.rows if 0 < len(r.png) <= MAX_PNG_BYTES]:
        parts.append(el("ul", *(_picture(r) for r in pictures), class_="sheet"))
    unit = "nats" if found.loss == CROSS_ENTROPY else found.loss
    sliced = list(dict.fromkeys(name for r in found.rows for name in r.slices))
    header = (
        "example", "right answer", "teacher's answer", "student's answer", f"teacher's loss, {unit}",
        f"student's loss, {unit}", "flipped on", *sliced,
    )  # fmt: skip
    rows = [
        [
            r.id,
            _shown(r.label),
            _shown(r.teacher),
            _shown(r.student),
            f"{r.teacher_loss:.3f}",
            f"{r.student_loss:.3f}",
            r.hop,
            *(r.slices.get(name, words.DASH) for name in sliced),
        ]
        for r in found.rows
    ]
    many = (
        f"The {len(rows)} of {found.lost:,} with the greatest excess loss over the teacher."
        if found.lost > len(rows)
        else "By excess loss over the teacher."
    )
    left = (1, 2, 3, 6, *range(7, 7 + len(sliced)))
    parts.append(table(many, header, rows, name=f"Flips of {found.label}", left=left))
    return parts


def _shown(value: object) -> str:
    """An answer in one line: long ones (JSON, texts, boxes) are cut."""
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def _picture(flip: Flip) -> Html:
    source = "data:image/png;base64," + base64.b64encode(flip.png).decode("ascii")
    right, teacher, student = (_shown(v) for v in (flip.label, flip.teacher, flip.student))
    alt = f"example {flip.id}: right is {right}, the teacher says {teacher}, the student {student}"
    caption = el("figcaption", el("b", student), f" for {right}", el("small", flip.id))
    return el("li", el("figure", el("img", src=source, alt=alt), caption))
