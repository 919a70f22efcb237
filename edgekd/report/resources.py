"""The resources of a measurement as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekd.evidence.measurement import Measurement

_TOP_OPS, _TOP_NODES = 6, 5
_ABSENT = "unavailable"

Evidence = Mapping[str, Any]


def time_words(ns: float) -> str:
    """A duration with three figures.

    >>> time_words(1234.0), time_words(12_340_000.0)
    ('1.23 µs', '12.3 ms')
    """
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{_three(ns / size)} {unit}"
    return f"{_three(ns)} ns"


def count_words(count: float, unit: str = "") -> str:
    """A count with three figures and a decimal prefix.

    >>> count_words(12_501_632), count_words(1.8e9, "B")
    ('12.5 M', '1.8 GB')
    """
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{_three(count / size)} {prefix}{unit}"
    return f"{_three(count)} {unit}".rstrip()


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _mib(size: float | None) -> str:
    return _ABSENT if size is None else f"{size / 2**20:.2f} MiB"


def _load(kind: str) -> Callable[[Evidence], str | None]:
    def cell(found: Evidence) -> str | None:
        load = (found.get("load") or {}).get(kind)
        return None if load is None else time_words(load["load_ns"]["median"])

    return cell


def _median(name: str) -> Callable[[Evidence], str | None]:
    def cell(found: Evidence) -> str | None:
        return None if found.get(name) is None else time_words(found[name]["median"])

    return cell


def _start(found: Evidence) -> str | None:
    start = found.get("start")
    if start is None:
        return None
    return time_words(start["process_ns"]["median"] + start["runtime_import_ns"]["median"])


def _memory(found: Evidence) -> str | None:
    memory = found.get("memory")
    return None if memory is None else _mib(memory["peak_bytes"])


def _model_memory(found: Evidence) -> str | None:
    memory = found.get("memory")
    if memory is None or None in (memory["peak_bytes"], memory["after_import_bytes"]):
        return None
    return _mib(memory["peak_bytes"] - memory["after_import_bytes"])


def _device_memory(found: Evidence) -> str | None:
    memory = found.get("device_memory")
    return None if memory is None else _mib(memory["used_bytes"])


def _cpu(found: Evidence) -> str | None:
    cpu = found.get("cpu")
    if cpu is None:
        return None
    return f"{time_words(cpu['cpu_ns_per_call'])} ({cpu['parallelism']:.2f} CPUs)"


def _energy(found: Evidence) -> str | None:
    energy = found.get("energy")
    if energy is None:
        return None
    return ", ".join(f"{_joules(e['joules_per_call'])} ({meter})" for meter, e in sorted(energy.items()))


def _joules(joules: float) -> str:
    for unit, size in (("J", 1.0), ("mJ", 1e-3)):
        if joules >= size:
            return f"{_three(joules / size)} {unit}"
    return f"{_three(joules / 1e-6)} µJ"


def _cost(name: str, unit: str = "") -> Callable[[Evidence], str | None]:
    def cell(found: Evidence) -> str | None:
        cost = found.get("cost")
        if cost is None:
            return None
        sign = "" if cost["whole"] or name == "parameters" else "> "
        return sign + count_words(cost[name], unit)

    return cell


#: (what, the evidence it is part of, cell); a row that no arm has is explained below the table.
_ROWS: tuple[tuple[str, str, Callable[[Evidence], str | None]], ...] = (
    ("file size", "size_bytes", lambda f: _mib(f.get("size_bytes"))),
    ("parameters", "cost", _cost("parameters")),
    ("MACs per call", "cost", _cost("macs")),
    ("bytes moved per call", "cost", _cost("bytes_moved", "B")),
    ("process start and imports", "start", _start),
    ("load, cold", "load.cold", _load("cold")),
    ("load, warm", "load", _load("warm")),
    ("first call", "first_call_ns", _median("first_call_ns")),
    ("peak memory", "memory", _memory),
    ("  of that, by the model", "memory", _model_memory),
    ("device memory", "device_memory", _device_memory),
    ("CPU time per call", "cpu", _cpu),
    ("energy per call", "energy", _energy),
)


def resource_lines(measurement: Measurement) -> list[str]:
    """A table of what the arms need, why readings are absent, and, where asked for, profile and roofline."""
    arms = {a: r for a, r in measurement.resources.items() if a in measurement.arms}
    if not arms:
        return []
    labels = [str(measurement.arms[a]["name"]) for a in arms]
    rows: list[tuple[str, list[str]]] = []
    absent: list[str] = []
    for title, part, cell in _ROWS:
        cells = [cell(found) for found in arms.values()]
        if any(cells):
            rows.append((title, [c or _ABSENT for c in cells]))
        # Nobody misses the device memory of a processor.
        expected = not title.startswith(" ") and (part != "device_memory" or measurement.target[:4] != "cpu:")
        if not all(cells) and expected:
            absent += _reasons(title, part, cells, arms, labels)
    width = max(len(title) for title, _ in rows)
    widths = [
        max(len(x) for x in column) for column in zip(labels, *(cells for _, cells in rows), strict=True)
    ]
    lines = [_row("", labels, width, widths)]
    lines += [_row(title, cells, width, widths) for title, cells in rows]
    lines += absent
    for found, label in zip(arms.values(), labels, strict=True):
        lines += _placement(found, label)
    return lines


def _row(title: str, cells: Sequence[str], width: int, widths: Sequence[int]) -> str:
    padded = "  ".join(cell.rjust(w) for cell, w in zip(cells, widths, strict=True))
    return f"  {title:<{width}}  {padded}".rstrip()


def _reasons(
    title: str,
    part: str,
    cells: Sequence[str | None],
    arms: Mapping[str, Evidence],
    labels: Sequence[str],
) -> list[str]:
    """Why a row has gaps; one line where it is the same for all."""
    why = {}
    for found, label, cell in zip(arms.values(), labels, cells, strict=True):
        if cell is None:
            unavailable = found.get("unavailable", {})
            why[label] = unavailable.get(part) or unavailable.get(part.partition(".")[0]) or "not measured"
    if len(set(why.values())) == 1 and len(why) == len(labels):
        return [f"  {title}: {_ABSENT} ({next(iter(why.values()))})"]
    return [f"  {title} of {label}: {_ABSENT} ({reason})" for label, reason in why.items()]


def _placement(found: Evidence, label: str) -> list[str]:
    """Roofline and profile of one arm; nothing where they were not asked for."""
    profile, roofline = found.get("profile"), found.get("roofline")
    unavailable = found.get("unavailable", {})
    if profile is None and roofline is None and "not asked" in unavailable.get("roofline", ""):
        return []
    lines = [""]
    if roofline is None:
        lines.append(f"  {label}: roofline {_ABSENT} ({unavailable.get('roofline', 'not measured')})")
    else:
        lines.append(f"  {label}: {roofline['sentence']}")
        lines += _roof(roofline)
    if profile is None:
        lines.append(f"    profile {_ABSENT} ({unavailable.get('profile', 'not measured')})")
        return lines
    plain = found.get("ns_per_call")
    extra = profile["ns_per_call"] / plain - 1 if plain else 0.0
    # On a busy machine the two passes are not alike, and the difference says nothing.
    slower = f", which makes a call {_percent(extra)} slower" if extra > 0 else ""
    lines.append(f"    time per operator ({profile['source']}, {profile['calls']} calls{slower})")
    # A rate is that of a family; it stands beside the operator that takes most of its time.
    families = {f["ops"][0]: f for f in (roofline or {}).get("by_family", ())}
    shown = profile["by_op"][:_TOP_OPS]
    width = max((len(row["op"]) for row in shown), default=0)
    for row in shown:
        reached = families.get(row["op"], {}).get("share_of_peak")
        note = f"  {_percent(reached)} of the peak" if reached is not None else ""
        lines.append(
            f"      {row['op']:<{width}}  {_percent(row['share']):>5}  {time_words(row['ns_per_call'])}"
            f"  {row['nodes']} node(s){note}"
        )
    if len(profile["by_op"]) > _TOP_OPS:
        rest = sum(row["share"] for row in profile["by_op"][_TOP_OPS:])
        lines.append(f"      {len(profile['by_op']) - _TOP_OPS} more operators  {_percent(rest)}")
    lines.append("    longest nodes")
    for node in profile["top"][:_TOP_NODES]:
        name = node["name"] if len(node["name"]) <= 48 else "…" + node["name"][-47:]
        shapes = " ".join(node["output_shapes"])
        lines.append(
            f"      {_percent(node['share']):>5}  {time_words(node['ns_per_call'])}  {node['op']}  {name}  {shapes}".rstrip()
        )
    return lines


def _roof(roofline: Evidence) -> list[str]:
    achieved, peak = roofline["achieved_flops_per_s"], roofline["peak_flops_per_s"]
    rates = ", ".join(
        f"{count_words(rate, 'B/s')} in {name}" for name, rate in roofline["peak_bytes_per_s"].items()
    )
    intensity = roofline["flops_per_byte"]
    return [
        f"    arithmetic  {count_words(achieved, 'FLOP/s')} of {count_words(peak, 'FLOP/s')};"
        f" alone it takes {time_words(roofline['compute_seconds'] * 1e9)}"
        f" of {time_words(roofline['seconds_per_call'] * 1e9)}",
        f"    bytes       {count_words(roofline['achieved_bytes_per_s'], 'B/s')} of {rates};"
        f" alone they take {time_words(roofline['memory_seconds'] * 1e9)}",
        *([f"    intensity   {intensity:.1f} FLOP per byte"] if intensity is not None else []),
    ]
