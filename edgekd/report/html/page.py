"""The page: the verdict first, then what it rests on."""

from __future__ import annotations

import re
from importlib.resources import files

from edgekd.report import words
from edgekd.report.html.candidates import candidates_section
from edgekd.report.html.fidelity import fidelity_section
from edgekd.report.html.flips import flips_section, flips_word
from edgekd.report.html.gates import gates_section, verdict_card
from edgekd.report.html.latency import latency_section
from edgekd.report.html.links import chain_section
from edgekd.report.html.markup import Html, el, join
from edgekd.report.html.record import again_section, environment_section, notes_section, provenance_section
from edgekd.report.html.slices import slices_section
from edgekd.report.html.speedup import speedup_section
from edgekd.report.view import View

#: Nothing may be loaded and nothing may run: the page holds all it needs, and names in it stay names.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_CONTENTS = (
    ("gates", "Gates"),
    ("chain", "Chain"),
    ("candidates", "Candidates"),
    ("latency", "Latency"),
    ("faster", "Is it faster?"),
    ("slices", "Slices"),
    ("fidelity", "Fidelity"),
    ("flips", "Flips"),
    ("notes", "Notes"),
    ("provenance", "Provenance"),
    ("environment", "Environment"),
    ("again", "Judge again"),
)


def render_html(view: View) -> str:
    """A whole HTML document; equal views give equal text."""
    verdict = view.verdict
    word = words.DECISION_WORDS[verdict.decision]
    sections = {
        "gates": gates_section(view),
        "chain": None if view.chain is None else chain_section(view.chain),
        "candidates": candidates_section(view),
        "latency": latency_section(view),
        "faster": speedup_section(view.speedups),
        "slices": slices_section(view),
        "fidelity": fidelity_section(view.fidelity),
        "flips": flips_section(view.flips),
        "notes": notes_section(view),
        "provenance": provenance_section(view),
        "environment": environment_section(view),
        "again": again_section(view),
    }
    contents = {**dict(_CONTENTS), "flips": flips_word(view.flips)}
    present = [(anchor, title) for anchor, title in contents.items() if sections[anchor]]
    head = el(
        "head",
        Html('<meta charset="utf-8">'),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"{view.run.name}: {word}"),
        el("style", Html(_style())),
    )
    links = [el("li", el("a", title, href=f"#{anchor}")) for anchor, title in present]
    collected = (
        f"Collected at {verdict.collected_at or 'an unknown time'}, judged by EdgeKD {verdict.edgekd}."
    )
    body = el(
        "body",
        el("a", "Skip to the verdict", class_="skip", href="#main"),
        el(
            "header",
            el("p", "EdgeKD report", class_="eyebrow"),
            el("h1", view.run.name),
            el("p", collected, class_="soft"),
        ),
        el("nav", el("ul", *links), aria_label="Contents"),
        el(
            "main", verdict_card(view), *(sections[anchor] for anchor, _ in present), id="main", tabindex="-1"
        ),
        el(
            "footer", el("p", "This page is a view; ", el("code", "verdict.json"), " beside it is the truth.")
        ),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _style() -> str:
    """The style sheet without comments and indentation."""
    sheet = files("edgekd.report.html").joinpath("style.css").read_text(encoding="utf-8")
    sheet = re.sub(r"/\*.*?\*/", "", sheet, flags=re.S)
    return join(Html("\n".join(line.strip() for line in sheet.splitlines() if line.strip())))
