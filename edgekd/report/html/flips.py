"""Flips: the examples that what ships answers worse than the teacher, as a table and, for images, a contact sheet."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from edgekd.report import words
from edgekd.report.amounts import plural, shortened
from edgekd.report.flips import ERROR, Flip, FlipTable
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
    return section("flips", _TITLES[all(f.graded for f in flips)], *parts)


#: Of right-or-wrong scores, and of graded ones, where an example does not flip but gets better or worse.
_TITLES = {
    False: "Flips: what the student gets wrong and the teacher does not",
    True: "Largest worsenings: what the student answers worse than the teacher",
}


def flips_word(flips: Sequence[FlipTable]) -> str:
    """What the contents call the section."""
    return "Worsenings" if flips and all(f.graded for f in flips) else "Flips"


def _one(found: FlipTable) -> list[Child]:
    first = ", ".join(f"{n:,} on {label}" for label, n in found.lost_on.items() if n)
    where = f" {'Lost most' if found.graded else 'Flipped first'}: {first}." if first else ""
    parts: list[Child] = [
        el(
            "p",
            f"'{found.label}' against the teacher, on {plural(found.n, 'example')}: {words.flip_counts(found)}.{where}",
        )
    ]
    if not found.rows:
        return parts
    if pictures := [r for r in found.rows if 0 < len(r.png) <= MAX_PNG_BYTES]:
        parts.append(el("ul", *(_picture(r) for r in pictures), class_="sheet"))
    sliced = list(dict.fromkeys(name for r in found.rows for name in r.slices))
    losses = words.flip_header(found)[4:7]
    header = ("example", "right answer", "teacher's answer", "student's answer", *losses, *sliced)
    rows = [
        [
            shortened(r.id),
            _cell(_shown(r.label)),
            _cell(_shown(r.teacher)),
            _cell(_shown(r.student)),
            words.loss_value(r.teacher_loss, found),
            words.loss_value(r.student_loss, found),
            r.hop,
            *(_cell(shortened(r.slices.get(name, words.DASH))) for name in sliced),
        ]
        for r in found.rows
    ]
    loss = "error" if found.loss == ERROR else "loss"
    many = (
        f"The {len(rows)} of {found.lost:,} with the greatest excess {loss} over the teacher."
        if found.lost > len(rows)
        else f"By excess {loss} over the teacher."
    )
    left = (1, 2, 3, 6, *range(7, 7 + len(sliced)))
    parts.append(table(many, header, rows, name=f"{flips_word([found])} of {found.label}", left=left))
    return parts


def _shown(value: object) -> str:
    """An answer in one line: long ones (JSON, texts, boxes) are cut."""
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def _cell(text: str) -> Child:
    """Long texts have lines of their own; short ones stay on one."""
    return el("span", text, class_="long") if len(text) > 24 else text


def _picture(flip: Flip) -> Html:
    source = "data:image/png;base64," + base64.b64encode(flip.png).decode("ascii")
    right, teacher, student = (_shown(v) for v in (flip.label, flip.teacher, flip.student))
    alt = f"example {flip.id}: right is {right}, the teacher says {teacher}, the student {student}"
    caption = el("figcaption", el("b", student), f" for {right}", el("small", flip.id))
    return el("li", el("figure", el("img", src=source, alt=alt), caption))
