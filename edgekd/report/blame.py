"""Which hop of the chain to blame, in one sentence that claims no more than the bounds allow."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.report.amounts import plain_number, plural
from edgekd.report.chain import ChainRow, ChainTable, Difference, NaiveControl


def blame(table: ChainTable) -> str:
    """Where the metric was lost between the teacher and what ships; empty where the chain has no student.

    A hop is blamed only where its one-sided 95 % bound excludes zero; of those, the one that lost most. Each hop is
    tested alone: the bounds are not widened for their number. With several targets, the one that lost most is told.
    """
    if not table.ends:
        return ""
    end = min(table.ends, key=lambda i: _estimate(table.rows[i].to_teacher))
    row = table.rows[end]
    hops = [r for r in table.path_to(end) if r.step is not None]
    said = _loss(row, hops)
    if table.naive is not None:
        said = f"{said}; {naive_clause(table.naive, table.unit)}"
    return f"{said[0].upper()}{said[1:]}."


def _estimate(difference: Difference | None) -> float:
    return 0.0 if difference is None else difference.estimate


def _unbounded(difference: Difference | None) -> bool:
    """Whether nothing can be said of a difference; of none at all (the same answers, say) no bootstrap has bounds."""
    return difference is None or (difference.interval is None and difference.estimate != 0)


def _loss(end: ChainRow, hops: Sequence[ChainRow]) -> str:
    name, total = f"'{end.label}'", end.to_teacher
    if total is None or any(map(_unbounded, (total, *(h.step for h in hops)))):
        return f"no hop to {name} can be blamed, for not every hop has a difference with bounds"
    told = [h for h in hops if h.step is not None and h.step.is_loss]
    if not told:
        return _nothing_told(name, end, total)
    worst = min(told, key=lambda h: _estimate(h.step))
    many = " and " in worst.what
    others = "" if len(told) == 1 else f", the most of {len(told)} hops that lost"
    blamed = f"{worst.what} {'are' if many else 'is'} to blame{others}"
    if worst.step is not None:
        blamed += f": {'they' if many else 'it'} cost {_bounded_loss(worst.step)}"
    if total.estimate >= 0:
        ended = (
            "is on a par with the teacher" if total.estimate == 0 else f"is {_size(total)} above the teacher"
        )
        return f"{blamed}, though {name} {ended} all told"
    whole = f"the {_size(total)} lost from the teacher to {name}"
    if not total.is_loss:
        whole += ", a total that cannot be told from zero"
    if _rounded(worst.step) > _rounded(total):
        return f"{blamed}, more than {whole}, for other hops gained"
    share = _estimate(worst.step) / total.estimate
    return f"{blamed}, {100 * share:.0f} % of {whole}"


def _nothing_told(name: str, end: ChainRow, total: Difference) -> str:
    if total.is_gain:
        return f"the chain gains: {name} is {_bounded(total)} above the teacher, and no hop's loss can be told from zero"
    if total.is_loss:
        return (
            f"{_bounded_loss(total)} were lost from the teacher to {name}, but no single hop's loss can be told from "
            f"zero on {plural(end.n, 'example')}"
        )
    return (
        f"no hop can be blamed: no loss can be told from zero on {plural(end.n, 'example')}, neither a hop's nor that from the "
        f"teacher to {name} ({_signed(total)})"
    )


def naive_clause(control: NaiveControl, unit: str) -> str:
    """What distillation gained over students trained without the teacher."""
    best = control.gain_over_best
    doubt = ""
    if not (best.is_gain or best.is_loss):
        doubt = ", which cannot be told from zero"
    if control.seeds == 1:
        return (
            f"against one naive student of the same network, trained without the teacher ({_value(control.mean, unit)}), "
            f"distillation is {_signed(best)}{doubt}"
        )
    mean = Difference(estimate=control.gain_over_mean, interval=None, unit=unit)
    return (
        f"against {control.seeds} naive students of the same network, trained without the teacher (mean "
        f"{_value(control.mean, unit)}, {_value(control.worst, unit)} to {_value(control.best, unit)}), distillation is "
        f"{_signed(mean).removesuffix(' points')} over their mean and {_signed(best)} over the best{doubt}"
    )


def hop_costs(table: ChainTable) -> list[str]:
    """One sentence per end of the chain: what every hop on the way cost."""
    return [_costs(table, end) for end in table.ends]


def _costs(table: ChainTable, end: int) -> str:
    parts: list[str] = []
    for row in table.path_to(end):
        if row.step is None:
            continue
        verb = "gained" if row.step.estimate > 0 else "cost"
        amount = _size(row.step)
        parts.append(f"{row.what} {verb} {amount if not parts else amount.removesuffix(' points')}")
    if not parts:
        return f"'{table.rows[end].label}' has nothing before it to be compared with."
    listed = ", ".join(parts)
    where = "" if len(table.ends) == 1 else f" ('{table.rows[end].label}')"
    return f"{listed[0].upper()}{listed[1:]}{where}."


def _scale(difference: Difference) -> tuple[float, str]:
    """Factor and word of the unit that a reader expects."""
    if difference.unit == "fraction":
        return 100.0, "points"
    return 1.0, difference.unit


def _number(value: float, unit: str) -> str:
    return f"{value:.2f}" if unit == "points" else plain_number(value, unit)


def _size(difference: Difference) -> str:
    factor, unit = _scale(difference)
    return f"{_number(abs(difference.estimate) * factor, unit)} {unit}".strip()


def _rounded(difference: Difference | None) -> float:
    """A loss as a reader sees it, so that no share of 100 % reads as more than the whole."""
    if difference is None:
        return 0.0
    factor, unit = _scale(difference)
    return float(_number(-difference.estimate * factor, unit))


def _bounds(difference: Difference, sign: float) -> str:
    if difference.interval is None:
        return ""
    factor, unit = _scale(difference)
    low, high = sorted(sign * factor * x for x in difference.interval)
    return f" [{_number(low + 0.0, unit)}, {_number(high + 0.0, unit)}]"


def _bounded(difference: Difference) -> str:
    return _size(difference) + _bounds(difference, 1.0)


def _bounded_loss(difference: Difference) -> str:
    return _size(difference) + _bounds(difference, -1.0)


def _signed(difference: Difference) -> str:
    factor, unit = _scale(difference)
    bounds = ""
    if difference.interval is not None:
        low, high = (_plus(factor * x, unit) for x in difference.interval)
        bounds = f" [{low}, {high}]"
    return f"{_plus(factor * difference.estimate, unit)}{bounds} {unit}".strip()


def _plus(value: float, unit: str) -> str:
    return f"{value + 0.0:+.2f}" if unit == "points" else plain_number(value, unit, "+")


def _value(value: float, unit: str) -> str:
    return f"{100 * value:.2f} %" if unit == "fraction" else f"{plain_number(value, unit)} {unit}".strip()
