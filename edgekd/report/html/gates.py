"""The verdict and its gates: each question with its interval drawn beside its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekd.gates.verdict import PROVENANCE, Decision, Gate
from edgekd.report import words
from edgekd.report.amounts import plural, shortened
from edgekd.report.html.markup import Html, el, join
from edgekd.report.html.parts import (
    allowed,
    anchored,
    chip,
    fold,
    interval_marks,
    section,
    share,
    table,
)
from edgekd.report.html.scale import Scale, scale_over
from edgekd.report.view import CandidateRow, View

_SLICE = "slice"
_ORDER: tuple[Decision, ...] = ("error", "reject", "inconclusive", "pass", "not_run")


def is_slice(gate: Gate) -> bool:
    """Whether a gate is of one part of the data: those have a section of their own."""
    return gate.gate.partition(":")[0] == _SLICE


def passes_above(gate: Gate) -> bool:
    """Whether values above the limit pass; differences to a reference do, times and sizes do not."""
    return gate.gate.partition(":")[0] in ("accuracy", _SLICE, "placement")


def slack(gate: Gate) -> float:
    """How far the deciding bound is from the limit, as a share of what the limit allows; negative beyond it."""
    if gate.limit is None or gate.estimate is None:
        return math.inf
    above = passes_above(gate)
    bound = gate.estimate
    if gate.interval is not None and (end := gate.interval[0 if above else 1]) is not None:
        bound = end
    room = (bound - gate.limit) if above else (gate.limit - bound)
    return room / (abs(gate.limit) or 1.0)


def worst_gate(gates: Sequence[Gate]) -> Gate | None:
    """The gate that decided; of several alike the one with the least room before its limit."""
    if not gates:
        return None
    return min(gates, key=lambda g: (_ORDER.index(g.decision), slack(g)))


def verdict_card(view: View) -> Html:
    """Decision, what it means, what was judged, and the gate that decided."""
    verdict = view.verdict
    decision = verdict.decision
    parts = [
        el("p", chip(decision), class_="decision"),
        el("p", words.HEADLINES[decision], class_="headline"),
    ]
    parts += [el("p", _judged(row)) for row in view.candidates if row.selected]
    worst = worst_gate([g for g in verdict.gates if g.target not in verdict.optional])
    if worst is not None:
        lead = "Nearest to its limit" if worst.decision == "pass" else "Decided by"
        parts.append(el("p", el("b", f"{lead}: {question(worst)}."), f" {_sentence(worst)}"))
    counts = [(d, sum(g.decision == d for g in verdict.gates)) for d in _ORDER]
    spoken = ", ".join(f"{n} {words.DECISION_WORDS[d].lower()}" for d, n in counts if n)
    parts.append(el("p", f"{plural(len(verdict.gates), 'gate')}: {spoken or 'none'}.", class_="soft"))
    return el("section", *parts, class_=f"verdict {decision}", id="verdict", aria_label="Verdict")


def _judged(row: CandidateRow) -> Html:
    """The selected candidate with the figures that matter most."""
    figures = [words.mebibytes(row.size_bytes)]
    if (time := row.gate("latency")) is not None and time.estimate is not None:
        figures.append(f"{words.figure(time, time.estimate)} of the {time.against}'s time")
    if (accuracy := row.gate("accuracy")) is not None and accuracy.estimate is not None:
        figures.append(f"{words.figure(accuracy, accuracy.estimate)} against the {accuracy.against}")
    kind = f"({row.verdict.dtype}, {row.format}) on {row.verdict.target}"
    return join(el("b", row.name), f" {kind}: {', '.join(figures)}.")


def _sentence(gate: Gate) -> str:
    """The reason with a capital and a full stop; a path or a slice's name that it starts with stays as it is."""
    reason = words.reason(gate)
    if reason.partition(" ")[0].isalpha() and not is_slice(gate):
        reason = reason[:1].upper() + reason[1:]
    return reason if reason.endswith(".") else f"{reason}."


def question(gate: Gate) -> str:
    """What a gate asks, in a few words."""
    name = gate.gate if gate.slice is None else f"{gate.gate.replace(':', ' ')} = {shortened(gate.slice)}"
    metric = f" ({gate.metric})" if gate.metric and gate.metric != gate.gate else ""
    return f"{name}{metric}" + (f" against the {gate.against}" if gate.against else "")


def gates_section(view: View) -> Html:
    """A card per gate, then the same as a table; slices are elsewhere, absent targets are told once."""
    judged = [g for g in view.verdict.gates if g.artifact or g.gate == PROVENANCE]
    ordered = sorted((g for g in judged if not is_slice(g)), key=lambda g: _ORDER.index(g.decision))
    absent = [g for g in view.verdict.gates if g not in judged]
    if not ordered and not absent:
        return section("gates", "Gates", el("p", "No gate was judged."))
    legend = (
        "The dot is the estimate, the bar joins the two one-sided bounds that decide, the line is the limit, and "
        "the shaded side of it passes."
    )
    cards = [_card(g, i, optional=g.target in view.verdict.optional) for i, g in enumerate(ordered)]
    told = dict.fromkeys((g.decision, g.reason) for g in absent)
    for decision, reason in told:
        asked = ", ".join(
            dict.fromkeys(g.gate for g in absent if (g.decision, g.reason) == (decision, reason))
        )
        cards.append(
            el(
                "li",
                el("div", el("h3", "not judged"), chip(decision), class_="top"),
                el("p", reason),
                el("p", f"asked: {asked}", class_="soft small"),
                class_=f"card {decision}",
            )
        )
    rows = [[question(g), chip(g.decision), *words.gate_row(g)[2:]] for g in (*ordered, *absent)]
    return section(
        "gates",
        "Gates",
        el("p", legend, class_="soft"),
        el("ul", *cards, class_="cards"),
        fold("The gates as a table", table("", words.GATE_HEADER, rows, name="Gates", left=words.GATE_WORDS)),
    )


def _card(gate: Gate, index: int, *, optional: bool) -> Html:
    name = gate.gate if gate.slice is None else f"{gate.gate} = {shortened(gate.slice)}"
    metric = gate.metric if gate.metric and gate.metric != gate.gate else ""
    sub = " ".join(x for x in (metric, f"against the {gate.against}" if gate.against else "") if x)
    return el(
        "li",
        el("div", el("h3", name, el("small", sub) if sub else None), chip(gate.decision), class_="top"),
        el("p", words.reason(gate)),
        gate_plot(gate, index),
        el("p", _small_print(gate, optional=optional), class_="soft small"),
        class_=f"card {gate.decision}",
    )


def _small_print(gate: Gate, *, optional: bool) -> str:
    row = words.gate_row(gate)
    level = "" if gate.confidence is None else f" (one-sided {100 * gate.confidence:.4g} %)"
    said = []
    if gate.estimate is not None:
        said.append(f"estimate {row[2]}")
    if gate.interval is not None:
        said.append(f"bounds {row[3]}{level}")
    if gate.limit is not None:
        said.append(f"limit {row[4]}")
    if gate.n is not None:
        said.append(row[5])
    said += [x for x in (gate.method, gate.scenario or "", gate.target) if x]
    said += ["optional target, does not decide"] if optional else []
    return " · ".join(said)


def gate_scale(gates: Sequence[Gate]) -> Scale:
    """One axis for gates of the same unit."""
    values: list[float | None] = [neutral_of(g) for g in gates]
    for g in gates:
        values += [g.estimate, g.limit, *(g.interval or ())]
    return scale_over(values)


def neutral_of(gate: Gate) -> float:
    """The value that means no difference; 0 for what is not a comparison."""
    return 1.0 if gate.unit == "ratio" else 0.0


def tick_words(gate: Gate, value: float) -> str:
    """A tick in the unit of the gate, short."""
    if gate.unit == "fraction":
        return f"{100 * value:+.4g}" if value and gate.gate != "fidelity" else f"{100 * value:.4g}"
    if gate.unit == "ratio":
        return f"{100 * (value - 1):+.4g} %" if gate.gate == "regression" else f"{value:.4g}x"
    return f"{value:.4g}"


def gate_plot(gate: Gate, index: int) -> Html | None:
    """Estimate and interval beside the limit, to scale; None where there is no figure or no limit."""
    if gate.limit is None or gate.estimate is None or not math.isfinite(gate.estimate):
        return None
    scale = gate_scale([gate])
    limit = scale.at(gate.limit)
    zero = scale.at(neutral_of(gate))
    marks = [
        el("rect", x=0, y=18, width="100%", height=24, class_="track"),
        allowed(scale, gate.limit, above=passes_above(gate), y=18, height=24),
        el("line", x1=share(zero), x2=share(zero), y1=18, y2=42, class_="neutral"),
        el("line", x1=share(limit), x2=share(limit), y1=14, y2=46, class_="limit"),
        el(
            "text",
            f"limit {words.figure(gate, gate.limit)}",
            x=share(limit),
            y=10,
            text_anchor=anchored(limit, 0.25),
            class_="strong",
        ),
        interval_marks(scale, gate.estimate, gate.interval, y=30, r=6),
    ]
    for tick in scale.ticks(4):
        at = scale.at(tick)
        marks.append(el("line", x1=share(at), x2=share(at), y1=42, y2=47, class_="tick"))
        marks.append(el("text", tick_words(gate, tick), x=share(at), y=59, text_anchor=anchored(at, 0.08)))
    bounds = "" if gate.interval is None else f", bounds {words.bounds(gate)}"
    name = f"gate-{index}"
    return el(
        "svg",
        el("title", f"{question(gate)}: {words.DECISION_WORDS[gate.decision].lower()}", id=f"{name}-t"),
        el(
            "desc",
            f"Estimate {words.figure(gate, gate.estimate)}{bounds}, limit {words.figure(gate, gate.limit)}.",
            id=f"{name}-d",
        ),
        join(marks),
        class_=f"scale {gate.decision}",
        width="100%",
        height="62",
        role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )
