"""Is it faster? Every quantized artifact beside its float twin, and why not where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd.errors import InputError
from edgekd.evidence.run import Run
from edgekd.evidence.speedup import Answer, Speedup, load_speedup
from edgekd.quantize.reason import Reason

TITLE = "Is it faster?"
HEADER = ("quantized", "float twin", "target", "time against the twin [95 %]", "answer", "reasons")
#: Columns besides the first that hold words rather than figures.
WORDS = (1, 2, 4, 5)
NOTE = (
    "Time of a call of each quantized model beside that of the float model it was made of, on the same target in the "
    "same minutes. Shares are of the time of the quantized model's operators, seen in a pass of its own."
)
ANSWERS: Mapping[Answer, str] = {
    "faster": "yes",
    "slower": "no, slower",
    "undecided": "not shown to be",
}
#: What a kind of reason is called in a table; the sentence says the rest.
KINDS: Mapping[str, str] = {
    "emulated": "the precision is emulated",
    "graph_optimizations_off": "graph optimisations are off",
    "symmetric_on_cpu": "symmetric int8 on a CPU",
    "no_int8_instructions": "no int8 instructions",
    "twin_precision": "the twin runs in 16 bits",
    "accuracy_level_missing": "no accuracy_level",
    "accuracy_level_float32": "accuracy_level asks for float32",
    "weights_not_the_bottleneck": "weights are not the bottleneck",
    "dynamic_ranges": "ranges measured in every call",
    "qdq_not_fused": "Q/DQ not fused",
    "float_fallback": "operators left in float",
    "more_ops": "fusions lost",
    "reformat": "layout and type changes",
    "depthwise": "depthwise convolutions",
    "same_kernels": "kernels that gain nothing",
    "overhead_bound": "the call is too short",
    "unexplained": "no single cause",
}


def load_speedups(folder: Path, run: Run) -> tuple[tuple[Speedup, ...], list[str]]:
    """Those of a run in the order of its candidates, and a note for each that cannot be read."""
    found: list[Speedup] = []
    notes: list[str] = []
    for candidate in run.candidates:
        if not candidate.speedup:
            continue
        try:
            found.append(load_speedup(folder / candidate.speedup))
        except InputError as e:
            notes.append(
                f"Whether {candidate.artifact[:19]} is faster than its float twin is not shown: {e}."
            )
    return tuple(found), notes


def ratio_words(found: Speedup) -> str:
    """``1.42x [1.38, 1.46]``."""
    estimate, lower, upper = found.ratio
    bounds = f" [{lower:.3f}, {upper:.3f}]" if math.isfinite(upper) else ""
    return f"{estimate:.3f}x{bounds}"


def kind_words(reason: Reason) -> str:
    """A reason in a few words, with its share of the time."""
    share = "" if reason.time_share is None else f" ({100 * reason.time_share:.0f} %)"
    return f"{KINDS.get(reason.kind, reason.kind.replace('_', ' '))}{share}"


def speedup_row(found: Speedup) -> tuple[str, ...]:
    kinds = ", ".join(kind_words(r) for r in found.reasons)
    return (
        found.label,
        found.twin_label,
        found.target,
        ratio_words(found),
        ANSWERS[found.answer],
        kinds or "–",
    )


def reason_sentence(reason: Reason) -> str:
    """The sentence as one, with what to do."""
    text = f"{reason.sentence[:1].upper()}{reason.sentence[1:]}."
    return f"{text} To do: {reason.fix}." if reason.fix else text


def sentence(found: Speedup) -> str:
    """One sentence for a terminal: the figure, and the first reason."""
    head = f"{found.label} takes {ratio_words(found)} of {found.twin_label}'s time on {found.target}"
    if found.answer == "faster":
        return f"{head}."
    word = "is slower" if found.answer == "slower" else "is not shown to be faster"
    if not found.reasons:
        return f"{head}: it {word}."
    more = len(found.reasons) - 1
    rest = f" ({more} more {'reason' if more == 1 else 'reasons'} in the report)" if more else ""
    return f"{head}: it {word}, for {found.reasons[0].sentence}{rest}."


def why_lines(found: Speedup) -> list[str]:
    """Lines for ``edgekd bench``: the answer and every reason."""
    word = {"faster": "faster", "slower": "slower", "undecided": "not shown to be faster"}[found.answer]
    lines = [f"  {found.label} ({found.dtype}) beside {found.twin_label} ({found.twin_dtype}): {word}"]
    if found.reasons:
        lines.append("  why not faster:")
    for number, reason in enumerate(found.reasons, start=1):
        lines.append(f"  {number}. {kind_words(reason)}: {reason.sentence}")
        if reason.fix:
            lines.append(f"     to do: {reason.fix}")
    if found.operators is not None and found.operator_ns is not None:
        before, now = found.operator_ns
        lines.append(
            f"  operators: {found.operators[0]} in {before / 1e6:.3f} ms in float, {found.operators[1]} in "
            f"{now / 1e6:.3f} ms quantized (profiled, least of several looks)"
        )
    if found.problem:
        lines.append(f"  not known: {found.problem}")
    # Node names are whatever a file says.
    return ["".join(c if c.isprintable() else " " for c in line) for line in lines]


def told(speedups: Sequence[Speedup]) -> list[tuple[Speedup, list[str]]]:
    """Those that are not faster, each with its reasons as sentences, and what could not be seen."""
    found = []
    for one in speedups:
        lines = [reason_sentence(r) for r in one.reasons]
        lines += [f"What ran is not known: {one.problem}."] if one.problem else []
        if lines:
            found.append((one, lines))
    return found
