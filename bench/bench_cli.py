"""How soon `--help` answers, beside `optimum-cli --help` where that is installed."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.cli import VERBS

ROUNDS = 9
PEER = "optimum-cli --help"


def find_command(name: str) -> str | None:
    """A console script beside this Python, else on PATH; ``OPTIMUM_CLI`` names one of another environment."""
    given = os.environ.get(name.upper().replace("-", "_"))
    beside = Path(sys.executable).parent / name
    return given or (str(beside) if beside.is_file() else shutil.which(name))


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def bench_help_of_every_verb(benchmark: Any, report_figure: Callable[..., None]) -> None:
    script = find_command("edgekd")
    edgekd = [script] if script else [sys.executable, "-m", "edgekd"]
    commands = {"edgekd --help": [*edgekd, "--help"]}
    commands.update({f"edgekd {verb} --help": [*edgekd, verb, "--help"] for verb in VERBS})
    optimum = find_command("optimum-cli")
    if optimum:
        commands[PEER] = [optimum, "--help"]
    for command in commands.values():  # byte-code written, files in the page cache
        seconds_of(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    rng = random.Random(0)
    for _ in range(ROUNDS):
        for name in rng.sample(sorted(commands), len(commands)):
            times[name].append(seconds_of(commands[name]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    minima = {name: min(values) for name, values in times.items()}
    benchmark.extra_info.update(median_s=medians, min_s=minima, rounds=ROUNDS)
    slowest = max((n for n in commands if n != PEER), key=lambda n: minima[n])
    for title, name in (("edgekd --help", "edgekd --help"), (f"slowest: {slowest}", slowest)):
        note = f"median {medians[name] * 1e3:.0f} ms, min {minima[name] * 1e3:.0f} ms"
        if not optimum:
            benchmark.extra_info["optimum-cli"] = "not installed"
            report_figure(title, minima[name] * 1e3, "ms", note=f"{note}; optimum-cli is not installed")
            continue
        peer = f"{PEER} {medians[PEER] * 1e3:.0f} / {minima[PEER] * 1e3:.0f} ms"
        ratios = {"median": medians[name] / medians[PEER], "min": minima[name] / minima[PEER]}
        benchmark.extra_info[f"ratio of {title}"] = ratios
        report_figure(f"{title}, ratio of medians", ratios["median"], "x", below=1, note=f"{note}; {peer}")
        report_figure(f"{title}, ratio of minima", ratios["min"], "x", below=1)
    benchmark.pedantic(seconds_of, args=(commands["edgekd --help"],), rounds=5)
