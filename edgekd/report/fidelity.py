"""How far the answers of what ships are displaced, asked or not: a view, made from stored evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import Evaluation
from edgekd.evidence.run import Run
from edgekd.gates.fidelity_figures import FIGURES, Figure, fidelity_figures
from edgekd.report.chain import TEACHER, Link, comparable, ends_of

#: More rows than that, and a report would take seconds to make; the gates judge any number.
MOST_ROWS = 200_000

TITLES = {
    "flips": "answers that differ",
    "agreement": "agreement",
    "kl_mean": "KL divergence, mean",
    "kl_median": "KL divergence, median",
    "kl_p99": "KL divergence, 99th percentile",
    "kl_max": "KL divergence, greatest",
    "ece_change": "growth of the calibration error, equal width",
    "ece_change_equal_mass": "growth of the calibration error, equal mass",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityTable:
    """The figures of one end of the chain against one of its earlier links.

    Attributes:
        label, target: of what ships; against: label of the link that it is compared with.
        figures: in the order of :data:`edgekd.gates.fidelity_figures.FIGURES`.
    """

    label: str
    target: str
    against: str
    n: int
    figures: tuple[Figure, ...]


def fidelity_tables(links: Sequence[Link], run: Run) -> tuple[FidelityTable, ...]:
    """What ships against the teacher, and against its own float32 where it is not that itself."""
    found = []
    for end in ends_of(tuple(links), run.selected):
        mine = links[end].evaluation
        references = [link for link in links if link.hop == TEACHER]
        parent = links[end].parent
        while parent is not None:
            link = links[parent]
            if link.hop == "exported" and link.evaluation.artifact != mine.artifact:
                references.append(link)
                break
            parent = link.parent
        for reference in references:
            made = _figures(reference.evaluation, mine)
            if made:
                found.append(
                    FidelityTable(
                        label=links[end].label,
                        target=mine.target,
                        against=reference.label,
                        n=mine.n,
                        figures=made,
                    )
                )
    return tuple(found)


def _figures(reference: Evaluation, mine: Evaluation) -> tuple[Figure, ...]:
    """None where the answers are graded, of other examples, or too many to look at in a report."""
    graded = mine.logits is None and (
        mine.aggregate == "average_precision" or np.asarray(mine.predictions).dtype.kind == "f"
    )
    if not comparable(reference, mine) or graded or mine.n > MOST_ROWS:
        return ()
    wanted = FIGURES if mine.logits is not None and reference.logits is not None else ("flips", "agreement")
    try:
        return tuple(fidelity_figures(mine, reference, wanted=wanted).values())
    except EvidenceError:
        # Answers without flips are told where logits cannot be compared (other classes, say).
        return tuple(fidelity_figures(mine, reference, wanted=("flips", "agreement")).values())


def figure_words(figure: Figure) -> tuple[str, str]:
    """An estimate and its bounds, as a report writes them."""
    if figure.unit == "nats":
        shown, bound = f"{figure.estimate:.4g} nats", "{:.4g}"
    elif figure.name.startswith("ece"):
        shown, bound = f"{100 * figure.estimate:+.2f} points", "{:+.2f}"
    else:
        shown, bound = f"{100 * figure.estimate:.2f} %", "{:.2f}"
    scale = 1.0 if figure.unit == "nats" else 100.0
    if figure.lower is None or figure.upper is None:
        return shown, "–"
    return shown, f"[{bound.format(scale * figure.lower)}, {bound.format(scale * figure.upper)}]"
