"""Kill a line of real stages: torch training, teacher logits, ONNX export, INT8, ONNX Runtime in children, release.

    python bench/faults/real_study.py --out work/real [--points 12]

Kills the parent alone (its children have to die with it) and everything at once, in turn, at times spread over the
line. Prints a table; ends in 1 where the next line leaves other bytes, an orphan is found, or something is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from faults import check
from faults.line import Place

_RECIPE = """edgekd: 1
name: fault-digits
task:
  kind: classification
  metric: top1
  data: {train: "sklearn:digits#train", calibration: "sklearn:digits#calibration",
         select: "sklearn:digits#select", test: "sklearn:digits#test"}
teacher:
  model: zoo:digits-cnn-teacher
  train: {epochs: 3, lr: 0.05, batch: 64, seed: 0}
student: {model: zoo:digits-cnn-student, naive: 1}
distill: {method: logits, temperature: 4, alpha: 0.9, epochs: 4, lr: 0.05, batch: 64, views: 1, seed: 0}
quantize: [float32, int8]
export: [onnx]
targets: [cpu:onnxruntime]
provenance:
  teacher: {name: fault teacher, licence: own, source: made here, access: weights}
  data: {name: digits, licence: own, source: made here}
gates:
  accuracy: {against: teacher, max_drop: 0.5}
  latency: {against: teacher, max_ratio: 20}
release: {formats: [onnx]}
"""
#: Few and short restarts: what is tried is the line, not the machine.
_LINE = """
import functools, sys
from edgekd.cli import main
from edgekd.measure import Protocol
from edgekd.pipeline import collect
collect.Protocol = functools.partial(Protocol, min_restarts=4, max_restarts=4, rounds=2)
run, bundle = sys.argv[1:]
sys.exit(main(["run", "edgekd.yaml", "--out", run]) or main(["release", run, "-o", bundle]))
"""
#: What must not depend on when a line was killed.
_SAME = (".onnx", ".safetensors", ".npz")


class RealLine:
    """The line as a program."""

    def __init__(self, out: Path) -> None:
        self.place = Place(out.resolve() / "place")
        self.place.base.mkdir(parents=True, exist_ok=True)
        (self.place.base / "edgekd.yaml").write_text(_RECIPE)
        self.log = out.resolve() / "log"
        self.usual: set[str] = set()

    def wipe(self) -> None:
        shutil.rmtree(self.place.root, ignore_errors=True)
        (self.place.root / "tmp").mkdir(parents=True)

    def start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ, "EDGEKD_CACHE": str(self.place.cache), "TMPDIR": str(self.place.root / "tmp"),
        }  # fmt: skip
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _LINE, str(self.place.run), str(self.place.bundle)],
                cwd=self.place.base, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def of_line(self) -> list[int]:
        """Processes that work in this place, by their environment."""
        mark = os.fsencode(f"EDGEKD_CACHE={self.place.cache}")
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0") and not _is_zombie(entry):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def same(self) -> dict[str, str]:
        """Digests of models, artifacts and rows of evaluations."""
        return {
            path: digest
            for path, digest in check.files_of(self.place.root).items()
            if path.endswith(_SAME) and "measure" not in path and path.startswith(("run/", "bundle/"))
        }


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def orphans(line: RealLine, patience_s: float = 5.0) -> list[int]:
    """Processes that outlive their parent for longer than the kernel needs."""
    end = time.monotonic() + patience_s
    while (left := line.of_line()) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def try_point(
    line: RealLine, share: float, seconds: float, whole: bool, wanted: dict[str, str]
) -> dict[str, object]:
    """Kill a line after ``share`` of its time, and run it again."""
    line.wipe()
    process = line.start()
    time.sleep(share * seconds)
    others = [pid for pid in line.of_line() if pid != process.pid]
    killed = process.poll() is None
    process.kill()
    for pid in others if whole else ():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    problems = [f"orphan {pid}" for pid in orphans(line)]
    problems += check.half_documents(line.place)
    before = check.whole_stages(line.place)
    code = line.start().wait()
    if code != 0:
        problems.append(f"the next line ended in {code}; see {line.log}")
    else:
        after = check.whole_stages(line.place)
        problems += [f"built again: {name}" for name, digest in before.items() if after.get(name) != digest]
        found = line.same()
        problems += [
            f"differs: {p}" for p in sorted(wanted.keys() | found.keys()) if wanted.get(p) != found.get(p)
        ]
        problems += [
            f"left behind: {name}" for name in check.temporary_names(line.place) if name not in line.usual
        ]
        problems += check.half_documents(line.place)
    stages = sorted({name.partition("/")[0] for name in before})
    return {
        "share": share, "whole": whole, "killed": killed, "children": len(others), "stages": stages,
        "stages_whole": len(before), "problems": problems,
    }  # fmt: skip


def run_study(out: Path, points: int) -> list[dict[str, object]]:
    """Try the points that are not in ``out/points.jsonl`` yet; all outcomes."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "points.jsonl"
    outcomes = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    line = RealLine(out)
    line.wipe()
    started = time.monotonic()
    if (code := line.start().wait()) != 0:
        raise SystemExit(f"an unkilled line ended in {code}; see {line.log}")
    line.usual = set(check.temporary_names(line.place))  # what libraries leave without being killed
    seconds, wanted = time.monotonic() - started, line.same()
    print(f"a line takes {seconds:.0f} s and leaves {len(wanted)} files to compare", flush=True)
    done = {(o["share"], o["whole"]) for o in outcomes}
    for k in range(points):
        share, whole = round((k + 0.5) / points, 4), bool(k % 2)
        if (share, whole) in done:
            continue
        outcomes.append(try_point(line, share, seconds, whole, wanted))
        with path.open("a") as f:
            f.write(json.dumps(outcomes[-1]) + "\n")
        print(outcomes[-1], flush=True)
    return outcomes


def table(outcomes: list[dict[str, object]]) -> str:
    lines = ["| at | killed | children then | stages whole | problems |", "|---:|---|---:|---:|---:|"]
    for o in sorted(outcomes, key=lambda o: float(str(o["share"]))):
        who = ("everything" if o["whole"] else "parent alone") if o["killed"] else "nothing, it had ended"
        lines.append(
            f"| {float(str(o['share'])):.0%} | {who} | {o['children']} | {o['stages_whole']} | {len(o['problems'])} |"  # type: ignore[arg-type]
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--table", action="store_true", help="only print what was found so far")
    args = parser.parse_args(argv)
    if args.table:
        print(table([json.loads(text) for text in (args.out / "points.jsonl").read_text().splitlines()]))
        return 0
    outcomes = run_study(args.out, args.points)
    print(table(outcomes))
    return 1 if any(o["problems"] for o in outcomes) or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
