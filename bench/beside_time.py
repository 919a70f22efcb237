"""Peak memory and load time as `edgekd bench` records them, beside what time(1) says of a process that does the same.

    python bench/beside_time.py model.onnx …

Needs /usr/bin/time (Debian package ``time``). Memory is its "Maximum resident set size", first of one and the same
process seen from inside and from outside, then of several: an allocator's peak differs from start to start. It knows
nothing of loading, so a load time is the difference of two elapsed times (whole hundredths of a second): a process
that starts, imports and opens the model, and one that starts and imports; the least of ``--starts`` each, in turns,
with the file in the page cache and with it dropped. Ending a process that holds a large model takes time, too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.measure import Setting, arms_of
from edgekd.measure.pagecache import drop_from_cache, read_into_cache
from edgekd.measure.resources import Inspection, inspect_resources
from edgekd.models import open_reference
from edgekd.spec import draw_feeds
from edgekd.stages import StageStore
from edgekd.target import parse_target

_TIME = "/usr/bin/time"
_RUNTIME = "edgekd_onnx.runtime:OnnxRuntime"
_CHILD = """
import json, os, sys, time
import numpy as np
from edgekd.child import sessions
from edgekd.measure import inspection
args = json.loads(sys.argv[1])
inspection.import_runtime({}, args, [])
if args["steps"] == "load":
    sessions.open_session(args)
elif args["steps"] == "run":
    with np.load(args["file"]) as arrays:
        feeds = [arrays[f"arr_{i}"] for i in range(len(args["feeds"]))]
    state = {}
    inspection.load(state, args, feeds)
    inspection.settle(state, {"seconds": 0.2}, [])
    print(inspection.memory_now()["peak_bytes"])
sys.stdout.flush()
os._exit(0)
"""


def run_under_time(args: dict[str, Any]) -> tuple[float, int, int]:
    """(elapsed seconds, peak bytes, peak bytes as the process itself sees them) of the child's steps."""
    with tempfile.NamedTemporaryFile("r") as out:
        command = [_TIME, "-f", "%e %M", "-o", out.name, sys.executable, "-c", _CHILD, json.dumps(args)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        match = re.search(r"([\d.]+) (\d+)\s*$", out.read())
    if match is None:
        raise SystemExit(f"{_TIME} said nothing")
    return float(match[1]), int(match[2]) * 1024, int(said or 0)


def compare(path: Path, starts: int) -> list[tuple[str, float, float, str]]:
    """(what, edgekd, time, unit) of one model."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = open_reference(str(path), weights=None, base=None, store=StageStore(Path(folder)))
        assert isinstance(artifact, Artifact)
        feeds = draw_feeds(artifact.inputs, seed=0, shapes={})
        setting = Setting(target=parse_target("cpu:onnxruntime"), runtime_paths={"onnx": _RUNTIME})
        arms = arms_of((path.name, artifact, feeds), [])
        own = inspect_resources(arms, setting, inspection=Inspection(starts=starts))["baseline"]
        file = Path(folder) / "feeds.npz"
        np.savez(file, *feeds.values())
        args: dict[str, Any] = {
            "runtime": _RUNTIME, "path": str(artifact.path.resolve()), "device": "cpu", "provider": "", "threads": 1,
            "settings": {}, "feeds": list(feeds), "file": str(file),
        }  # fmt: skip
        files = [artifact.folder / f.path for f in artifact.files]
        seconds: dict[str, list[float]] = {"import": [], "cold": [], "warm": []}
        for _ in range(starts):
            seconds["import"].append(run_under_time({**args, "steps": "import"})[0])
            drop_from_cache(files)
            seconds["cold"].append(run_under_time({**args, "steps": "load"})[0])
            read_into_cache(files)
            seconds["warm"].append(run_under_time({**args, "steps": "load"})[0])
        runs = [run_under_time({**args, "steps": "run"}) for _ in range(starts)]
    peaks = own["memory"]["peak_bytes_values"]
    rows = [
        (
            "peak memory of one process",
            median(r[2] for r in runs) / 2**20,
            median(r[1] for r in runs) / 2**20,
            "MiB",
        ),
        (
            f"peak memory, least of {len(peaks)} and {starts}",
            min(peaks) / 2**20,
            min(r[1] for r in runs) / 2**20,
            "MiB",
        ),
        ("peak memory, greatest", max(peaks) / 2**20, max(r[1] for r in runs) / 2**20, "MiB"),
    ]
    for kind in ("cold", "warm"):
        load = own["load"][kind]
        beside = 1e3 * (min(seconds[kind]) - min(seconds["import"]))
        if load is not None:
            rows.append((f"load, {kind}", min(load["load_ns"]["values"]) / 1e6, beside, "ms"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args(argv)
    print("| model | | edgekd bench | time -v | difference |\n|---|---|---:|---:|---:|")
    for path in args.models:
        for what, own, beside, unit in compare(path, args.starts):
            # time(1) counts hundredths of a second: a difference of a few of them says nothing.
            known = unit != "ms" or beside >= 100
            cells = [f"{beside:.1f} {unit}", f"{own / beside - 1:+.1%}"] if known else ["under 100 ms", "–"]
            print(f"| {path.name} | {what} | {own:.1f} {unit} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
