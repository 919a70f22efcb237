"""A measurement for the terminal: what each scenario reports, with 95 % intervals over restarts. It judges nothing."""

from __future__ import annotations

import math

import numpy as np

from edgekd.errors import EvidenceError
from edgekd.evidence.measurement import BASELINE, OFFLINE, SERVER, SINGLE_STREAM, TWIN, Measurement, level_of
from edgekd.gates.latency import ratio_of
from edgekd.gates.quantiles import Estimate, quantile_estimate, rate_ratio, throughput_estimate
from edgekd.report.amounts import plural
from edgekd.report.text import table
from edgekd.report.words import DASH

_SHOWN = ("p50", "p90", "p99")


def bench_lines(measurement: Measurement, *, inputs: str) -> list[str]:
    """Text lines: one that says what was measured, a table of the arms, and how it went.

    Args:
        inputs: where the feeds came from, in words.
    """
    detail = measurement.scenario_detail
    batches = {r.get("batch") for a, r in measurement.arms.items() if a != TWIN}
    own = f"batch {measurement.batch}, " if len(batches) == 1 else ""
    counts = {r.get("threads", measurement.threads) for a, r in measurement.arms.items() if a != TWIN}
    threads = f"{counts.pop()} thread(s), " if len(counts) == 1 else ""
    threads = f"{sessions} sessions of {threads}" if (sessions := detail.get("sessions", 1)) > 1 else threads
    lines = [f"{measurement.target}, {_scenario(measurement)}, {own}{threads}{inputs}"]
    if measurement.scenario == OFFLINE:
        lines += _offline(measurement)
    elif measurement.scenario == SERVER and detail.get("target_qps") is None:
        lines += _search(measurement)
    else:
        lines += _quantiles(measurement)
    if measurement.scenario == SERVER:
        lines += _lateness(measurement)
    for record in measurement.arms.values():
        if (calls := record.get("calls_per_query", 1)) > 1 and record is not measurement.arms.get(TWIN):
            lines.append(f"  {record['name']} takes a fixed batch: {calls} calls make one query")
    for arm, name in _arms(measurement):
        if precision := measurement.emulated(arm):
            lines.append(f"  {name} emulates {precision} here: for accuracy only, its times are no latency")
    if detail.get("held") is False:
        lines.append(
            f"  not long enough: {detail['min_duration_s']:g} s and {detail['min_count']:,} queries of every model "
            "were asked for"
        )
    return lines


def closing_line(measurement: Measurement) -> str:
    """How many restarts, and what the brackets are."""
    brackets = "; brackets: 95 % over restarts" if len(measurement.restarts) > 1 else ""
    return f"{plural(len(measurement.restarts), 'restart')}, {len(measurement.redrawn)} redrawn{brackets}"


def _scenario(measurement: Measurement) -> str:
    detail = measurement.scenario_detail
    text = measurement.scenario
    if measurement.scenario == SERVER:
        within = f" within {detail['bound_ms']:g} ms" if detail.get("bound_ms") else ""
        if detail.get("target_qps") is not None:
            return f"{text} at {detail['target_qps']:g} queries/s (Poisson)"
        return f"{text}, highest rate with {detail['percentile']}{within} (Poisson)"
    return f"{text} ({detail['percentile']})" if "percentile" in detail else text


def _number(value: float) -> str:
    """Four digits, never in powers of ten.

    >>> _number(0.046412), _number(123456.7)
    ('0.04641', '123,457')
    """
    if value == 0 or not math.isfinite(value):
        return DASH
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _with_interval(found: Estimate | None, scale: float = 1.0) -> str:
    if found is None:
        return DASH
    text = _number(found.value / scale)
    if not math.isfinite(found.upper):
        return text
    return f"{text} [{_number(found.lower / scale)}, {_number(found.upper / scale)}]"


def _ratios(measurement: Measurement, what: str = "") -> list[str]:
    """A line per candidate: its time per example beside the baseline's."""
    lines = []
    for arm, _ in _arms(measurement)[1:]:
        try:
            value, lower, upper = ratio_of(measurement, arm)
        except EvidenceError:
            continue
        lines.append(_times(Estimate(value=value, lower=lower, upper=upper), measurement, arm, what))
    return lines


def _times(found: Estimate, measurement: Measurement, arm: str, what: str) -> str:
    bounds = f" [{found.lower:.3f}, {found.upper:.3f}]" if math.isfinite(found.upper) else ""
    names = [str(measurement.arms[a].get("name", a)) for a in (arm, BASELINE)]
    return f"  {names[0]}: {what}{found.value:.3f}x of {names[1]}{bounds}"


def _arms(measurement: Measurement) -> list[tuple[str, str]]:
    return [(arm, str(r.get("name", arm))) for arm, r in measurement.arms.items() if arm != TWIN]


def _quantiles(measurement: Measurement) -> list[str]:
    asked = measurement.scenario_detail.get("percentile")
    shown = sorted({*_SHOWN, *([asked] if asked else [])}, key=level_of)
    rows = []
    for arm, name in _arms(measurement):
        figures = [_with_interval(quantile_estimate(measurement, arm, level_of(p)), 1e6) for p in shown]
        calls = len(measurement.calls_ns(arm))
        rows.append((name, *figures, f"{calls:,}"))
    counted = "calls" if measurement.scenario == SINGLE_STREAM else "queries"
    ratios = [] if measurement.scenario == SERVER else _ratios(measurement)
    return table(("model", *(f"{p} ms" for p in shown), counted), rows) + ratios


def _offline(measurement: Measurement) -> list[str]:
    sweeps = measurement.scenario_detail.get("sweep", {})
    rows = []
    for arm, name in _arms(measurement):
        batch = measurement.arms[arm].get("batch", measurement.batch)
        rate = _with_interval(throughput_estimate(measurement, arm))
        rows.append((name, f"{batch}", rate, f"{len(measurement.calls_ns(arm)):,}"))
    lines = table(("model", "batch", "samples/s", "calls"), rows)
    lines += _ratios(measurement, "time per sample ")
    for arm, name in _arms(measurement):
        if arm in sweeps:
            tried = ", ".join(f"{r['batch']}: {_number(r['samples_per_s'])}" for r in sweeps[arm]["rows"])
            lines.append(f"  {name} by batch, samples/s: {tried} ({sweeps[arm]['ended']})")
    return lines


def _search(measurement: Measurement) -> list[str]:
    detail = measurement.scenario_detail
    found = {arm: np.asarray(rates, np.float64) for arm, rates in detail["max_qps"].items()}
    level = level_of(detail["percentile"])
    rows, ratios = [], []
    for arm, name in _arms(measurement):
        rates = found.get(arm, np.zeros(0))
        if not len(rates) or rates.min() <= 0:
            lowest = min((t["rate_qps"] for t in detail["trials"] if t["arm"] == arm), default=0.0)
            rows.append((name, f"none (not even {_number(lowest)})", DASH, DASH))
            continue
        own = rate_ratio(rates, np.ones_like(rates))
        there = [
            float(np.quantile(measurement.queries[t["queries_of"]], level))
            for t in detail["trials"]
            if t["arm"] == arm and t["valid"] and t["rate_qps"] == rates[t["restart"]]
        ]
        tried = sum(t["arm"] == arm for t in detail["trials"])
        if arm != BASELINE and (ratio := rate_ratio(rates, found[BASELINE])) is not None:
            ratios.append(_times(ratio, measurement, arm, "rate "))
        at = _number(float(np.median(there)) / 1e6) if there else DASH
        rows.append((name, _with_interval(own), at, f"{tried}"))
    return table(("model", "queries/s", f"{detail['percentile']} ms there", "trials"), rows) + ratios


def _lateness(measurement: Measurement) -> list[str]:
    """How late queries were issued: what is the machine's part of the latencies."""
    late = [t["late_ns"]["p99"] for t in measurement.scenario_detail.get("trials", ()) if t["late_ns"]]
    if not late:
        return []
    return [
        f"  issued late to an idle server: p99 {np.median(late) / 1e3:.1f} µs in the median trial, "
        f"{max(late) / 1e3:.1f} µs in the worst (part of the latency)"
    ]
