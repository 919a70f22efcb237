"""`edgekd run` when nothing has changed: everything comes out of the cache, the verdict is judged anew."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 7
RECIPE = """
edgekd: 1
name: cached
task:
  data:
    train: "sklearn:digits#train"
    calibration: "sklearn:digits#calibration"
    select: "sklearn:digits#select"
    test: "sklearn:digits#test"
teacher: {model: "zoo:digits-cnn-teacher", train: {epochs: 1, lr: 0.05, batch: 64}}
student: {model: "zoo:digits-cnn-student", naive: 1}
distill: {epochs: 1, lr: 0.05, batch: 64}
gates:
  accuracy: {max_drop: 0.9}
  latency: {max_ratio: 20}
  size: {max_mib: 1}
"""


def run(place: Path, *python_options: str) -> str:
    """Run the recipe; what it says on stderr."""
    command = [sys.executable, *python_options, "-m", "edgekd", "run", "recipe.yaml", "--out", "out"]
    environment = {**os.environ, "EDGEKD_CACHE": str(place / "cache")}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 3):
        raise RuntimeError(f"exit {done.returncode}: {done.stderr[-2000:]}")
    return done.stderr


def import_times_ms(stderr: str, most: int = 8) -> dict[str, float]:
    """Milliseconds of importing, by top-level package, the largest first; from ``-X importtime``."""
    spent: Counter[str] = Counter()
    for own_us, module in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", stderr, re.M):
        spent[module.partition(".")[0]] += int(own_us)
    return {name: us / 1000 for name, us in spent.most_common(most)}


def bench_cached_run(benchmark: Any, report_figure: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run(tmp_path)
    made = [s for s in run(tmp_path).splitlines() if "✓" in s and "(cached)" not in s]
    if made:
        raise RuntimeError(f"the second run did work that was done: {made}")
    wall, cpu = [], []
    for _ in range(ROUNDS):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        run(tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - start)
        cpu.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    imports = import_times_ms(run(tmp_path, "-X", "importtime"))
    benchmark.extra_info.update(wall_s=wall, cpu_s=cpu, import_ms=imports)
    largest = ", ".join(f"{name} {ms:.0f}" for name, ms in list(imports.items())[:4])
    report_figure("cached edgekd run, wall", min(wall), "s", below=3, note=f"best of {ROUNDS}")
    report_figure("cached edgekd run, CPU", min(cpu), "s", note=f"imports in ms: {largest}")
    benchmark.pedantic(run, args=(tmp_path,), rounds=3)
