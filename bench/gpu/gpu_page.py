"""Writes the page of one run of the GPU suite from plain data; computes nothing but words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpu_figures import UNSTABLE, beyond_noise

REHEARSAL = (
    "**A rehearsal on a CPU: these are not GPU results.** It shows that the suite runs from end to end; no CUDA call "
    "was made."
)


def slug(name: str) -> str:
    """A file name for a device.

    >>> slug("NVIDIA H200")
    'nvidia-h200'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] * len(head)) + "|"]
    return [*lines, *("| " + " | ".join(r) + " |" for r in rows)]


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}"


def _ratio(value: Sequence[float | None] | None) -> str:
    if value is None:
        return "–"
    ratio, lower, upper = value
    if lower is None or upper is None:
        return f"{ratio:.3f} (one restart: no interval)"
    return f"{ratio:.3f} [{lower:.3f}, {upper:.3f}]"


def _header(run: Mapping[str, Any]) -> list[str]:
    device = run["device"]
    lines = [f"# {device['name']}", ""]
    if run["rehearsal"]:
        lines += [REHEARSAL, ""]
    if run.get("synthetic"):
        lines += ["**Synthetic figures, made up to test this page.**", ""]
    rows = [["collected", run["collected_at"]], ["command", f"`{run['command']}`"]]
    rows += [[k.replace("_", " "), str(v)] for k, v in device.items() if k != "name" and v is not None]
    rows += [[k, str(v)] for k, v in run["versions"].items()]
    tests = run["tests"]
    rows.append(["`pytest tests/gpu -m gpu`", tests["words"]])
    return [*lines, *_table(["", ""], rows), ""]


def _method(run: Mapping[str, Any]) -> list[str]:
    timings = [r for p in run["parts"] for r in p["races"].values() if r.get("device_timing")]
    lines = ["## How it was measured", ""]
    lines.append(
        "Every group of cells raced interleaved against torch eager float32 and a hidden second copy of it, each in a "
        "fresh process; restarts and rounds are told with each race. A ratio is the geometric mean over restarts of the "
        "median over rounds of the ratio of block minima, with its 95 % t "
        "interval; below 1 is faster than torch eager float32. *A/A* is that ratio of the second copy: a ratio no "
        "further from 1 than A/A's interval is no difference, and is marked `=`."
    )
    if timings:
        made = timings[0]["device_timing"]
        lines += [
            "",
            f"Warm and cold are times by device events ({made['events']}) on the call's own stream. Warm: the same "
            f"buffers again; cold: {made['flush_bytes'] >> 20} MiB zeroed before every call, outside of the pair of "
            f"events, rotating over {made['input_sets']} input sets (L2: {made['cache_bytes'] / 2**20:.0f} MiB). Cells "
            "under 50 µs are means over several calls per pair (column R). Wall is the host's clock over single calls "
            "that are waited for; percentiles are of those. Clocks were recorded, never changed.",
        ]
    else:
        lines += ["", "All times are by the host's clock: no device events were there."]
    return [*lines, ""]


def _race(group: str, race: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    lines = [f"### {group}", ""]
    if not race["rows"]:
        return [*lines, f"No restart counted: {'; '.join(race['redrawn'])}.", ""]
    rows = []
    for row in race["rows"]:
        if row["arm"].endswith("twin"):
            continue
        marks = ["unstable"] if row["variation"] > UNSTABLE else []
        marks += [] if row["steady"] else ["unsteady"]
        first = row["arm"] == "baseline"
        same = not first and not beyond_noise(row, race["a_a"])
        error = part["numerics"].get(row["label"], {}).get("relative")
        compiled = row.get("compiled")
        if compiled and compiled["graph_breaks"]:
            marks.append(f"{compiled['graph_breaks']} graph breaks")
        rows.append(
            [
                row["label"],
                _ms(row["warm_ms"]),
                _ms(row["cold_ms"]),
                _ms(row["wall_p50_ms"]),
                "1" if first else _ratio(row["ratio"]) + (" =" if same else ""),
                "1" if first else _ratio(row["cold_ratio"]),
                "–" if row["replays"] is None else str(row["replays"]),
                "–" if error is None else f"{error:.1e}",
                "–" if row["macs_share"] is None else f"{100 * row['macs_share']:.0f} %",
                ", ".join(marks) or "–",
            ]
        )
    head = [
        "cell",
        "warm ms",
        "cold ms",
        "wall p50 ms",
        "warm ratio",
        "cold ratio",
        "R",
        "error",
        "8-bit MACs",
        "notes",
    ]
    lines += _table(head, rows)
    lines += [
        "",
        f"A/A warm {_ratio(race['a_a'])}, cold {_ratio(race['a_a_cold'])}; {race['restarts']} restarts",
    ]
    lines[-1] += (
        f", {len(race['redrawn'])} redrawn ({'; '.join(sorted(set(race['redrawn'])))})."
        if race["redrawn"]
        else "."
    )
    if race.get("clock_reason"):
        lines.append(f"Timed by the host's clock: {race['clock_reason']}.")
    return [*lines, _protocol(race), *_clocks(race["gpu"]), ""]


def _protocol(race: Mapping[str, Any]) -> str:
    p = race["protocol"]
    where = f" on {race['uuid']}" if race.get("uuid") else ""
    return (
        f"Protocol: restarts {p['max_restarts']}, rounds {p['rounds']}, blocks {p['block_ms']:g} ms, warm-up "
        f"{p['warm_s']:g} s; collected {race['collected_at']}{where}."
    )


def _clocks(ledgers: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """What the GPU did over the restarts, on one line."""
    seen = [g for g in ledgers if g]
    if not seen:
        return []

    def span(name: str, unit: str, digits: int = 0) -> str:
        low = [g[f"{name}_min"] for g in seen if g.get(f"{name}_min") is not None]
        high = [g[f"{name}_max"] for g in seen if g.get(f"{name}_max") is not None]
        return f"{min(low):.{digits}f} to {max(high):.{digits}f} {unit}" if low else "not told"

    reasons = sorted({name for g in seen for name in (g.get("reasons") or {})})
    others = [g["other_processes"] for g in seen if g.get("other_processes") is not None]
    return [
        "",
        f"SM clock {span('sm_mhz', 'MHz')}; memory clock {span('memory_mhz', 'MHz')}; {span('temperature_c', '°C')}; "
        f"{span('power_w', 'W')}; clock event reasons: {', '.join(reasons) or 'none told'}; "
        f"other processes: {max(others) if others else 'not told'}.",
    ]


def _energy(part: Mapping[str, Any]) -> list[str]:
    if not part["energy"]:
        return []
    rows = []
    for label, meters in part["energy"].items():
        if "unavailable" in meters:
            rows.append([label, "unavailable", "unavailable", "–", "–", meters["unavailable"]])
            continue
        for meter, e in meters.items():
            rows.append(
                [
                    label, f"{1000 * e['joules']:.3g} mJ", f"{1000 * e['above_idle']:.3g} mJ",
                    f"{e['watts']:.0f} W", f"{e['idle_watts']:.0f} W", f"{meter}, windows of {e['window_s']:.0f} s",
                ]
            )  # fmt: skip
    head = ["cell", "energy per inference", "above idle", "busy", "idle", "meter"]
    return ["### Energy", "", *_table(head, rows), ""]


def _not_run(part: Mapping[str, Any]) -> list[str]:
    if not part["not_run"]:
        return []
    lines = ["Not run:", ""]
    lines += [f"- {label}: {why}" for label, why in part["not_run"].items()]
    return [*lines, ""]


def page_of(run: Mapping[str, Any]) -> str:
    """The page.

    Args:
        run: what ``run.py`` writes beside it as JSON.
    """
    lines = [*_header(run), *_method(run)]
    for part in run["parts"]:
        lines += [
            f"## {part['model']}, batch {part['batch']} ({part['parameters'] / 1e6:.1f} M parameters)",
            "",
        ]
        lines += [
            "Random weights. *Error* is the relative error of the outputs against torch eager float32.",
            "",
        ]
        for group, race in part["races"].items():
            lines += _race(group, race, part)
        lines += [*_energy(part), *_not_run(part)]
    if run["missing"]:
        lines += [
            "## Not run",
            "",
            *(f"- {name}: {why}" for name, why in run["missing"].items()),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"
