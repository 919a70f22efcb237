"""What an export costs over the bare library call, and a 25M-parameter network exported, checked and measured.

    python bench/export_overhead.py [--model resnet50] [--rounds 3] [--json F]

Each call in a fresh process, in turns; both build the network and load its weights, imports are not counted. The exporter is timed with its
check (the file opened, and its parity with torch) and without: what it adds beside the check is the overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: The aim: at most so many seconds, or this share, over the bare call.
AIM_S, AIM_SHARE = 0.5, 0.05
#: The aim: export, check and measure together.
WHOLE_S = 60.0

_PREPARE = """
import json, sys, time, pathlib
sys.path.insert(0, {suites!r})
import torch, architectures
from edgekd.models import open_reference
from edgekd.stages import StageStore
from edgekd_onnx import exporter, finishing
from edgekd_torch.modules import load_module
out = pathlib.Path({out!r}); out.mkdir()
model = open_reference("python:architectures:{name}", weights=None, base=pathlib.Path({suites!r}),
                       store=StageStore(pathlib.Path({cache!r})))
import onnxscript, onnx, onnxruntime
"""
_BARE = """
x = torch.randn(2, 3, 224, 224)
start = time.perf_counter()
module = load_module(model)
program = torch.onnx.export(module, (x,), dynamo=True, verbose=False, opset_version=18,
                            dynamic_shapes=({0: torch.export.Dim("batch")},))
program.save(out / "model.onnx")
print(json.dumps({"seconds": time.perf_counter() - start}))
"""
_OURS = """
spent = [0.0]
def watched(function):
    def call(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - start
    return call
finishing._check = watched(finishing._check)
start = time.perf_counter()
exporter.OnnxExporter().export(model, out, {})
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "check": spent[0]}))
"""


def timed(script: str) -> dict[str, float]:
    """Run a script in a fresh interpreter; its last line is its answer."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def whole(name: str, scratch: Path) -> dict[str, float]:
    """Export, check and measure by the command line, from a cold cache; in seconds."""
    env = {**os.environ, "EDGEKD_CACHE": str(scratch / "cold")}
    took: dict[str, float] = {}
    for verb, command in (
        ("export", ["export", f"python:architectures:{name}", "-o", str(scratch / "made")]),
        ("bench", ["bench", str(scratch / "made"), "-o", str(scratch / "measurement.json")]),
    ):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "edgekd", *command], cwd=HERE / "suites", env=env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        took[verb] = time.monotonic() - start
    return {**took, "together": sum(took.values())}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="resnet50", help="of bench/suites/architectures.py (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bare: list[float] = []
    ours: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="edgekd-export-") as name:
        scratch = Path(name)
        for k in range(args.rounds):
            for kind, body in (("bare", _BARE), ("ours", _OURS)):
                told: dict[str, Any] = {
                    "suites": str(HERE / "suites"), "out": str(scratch / f"{kind}-{k}"), "name": args.model,
                    "cache": str(scratch / "cache"),
                }  # fmt: skip
                found = timed(_PREPARE.format(**told) + body)
                if kind == "bare":
                    bare.append(found["seconds"])
                else:
                    ours.append(found)
                print(f"{kind:5} {found}", flush=True)
        took = whole(args.model, scratch)
    usual, mine = statistics.median(bare), statistics.median(o["seconds"] for o in ours)
    # In pairs, because a bare call takes half as long again from one process to the next.
    over = statistics.median(o["seconds"] - o["check"] - b for o, b in zip(ours, bare, strict=True))
    met = over <= AIM_S or over <= AIM_SHARE * usual
    print(f"bare torch.onnx.export and save: {usual:.2f} s ({min(bare):.2f} to {max(bare):.2f})")
    print(
        f"edgekd with its check: {mine:.2f} s; the check alone: {statistics.median(o['check'] for o in ours):.2f} s"
    )
    print(
        f"overhead beside the check, median of {len(bare)} pairs: {over:+.2f} s ({over / usual:+.0%}); "
        f"aim {AIM_S} s or {AIM_SHARE:.0%}: {'met' if met else 'MISSED'}"
    )
    print(
        f"export and check {took['export']:.1f} s, measure {took['bench']:.1f} s, together {took['together']:.1f} s; "
        f"aim {WHOLE_S:.0f} s: {'met' if took['together'] < WHOLE_S else 'MISSED'}"
    )
    if args.json:
        args.json.write_text(json.dumps({"bare": bare, "ours": ours, "whole": took}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
