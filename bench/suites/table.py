"""Architecture x target: each cell is one `edgekd export` in a process of its own, with its parity or the reason why not.

    python bench/suites/table.py --out docs/results [--only resnet18 ...] [--targets onnx openvino ...] [--tiny]

TensorRT's column is what the lint says of the ONNX file: building an engine needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import architectures

HERE = Path(__file__).resolve().parent
TARGETS = {
    "onnx": "ONNX Runtime", "openvino": "OpenVINO", "executorch": "ExecuTorch", "litert": "LiteRT",
    "tensorrt": "TensorRT (lint only)",
}  # fmt: skip
_PACKAGES = (
    "torch", "transformers", "onnx", "onnxruntime", "openvino", "executorch", "litert-torch", "ai-edge-litert",
)  # fmt: skip
_TIMEOUT_S = 900
_PARITY = re.compile(r"greatest difference from (?P<of>.+?) (?P<error>[0-9.]+e[+-][0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One export.

    Attributes:
        outcome: ``ok``, ``refused`` (one line and an exit code), ``findings`` (a lint with errors) or ``broken``.
        text: the parity error, or the reason.
    """

    architecture: str
    target: str
    outcome: str
    text: str
    seconds: float


def _command(name: str, target: str, shapes: tuple[str, ...], out: Path) -> list[str]:
    command = [sys.executable, "-m", "edgekd", "export", f"python:architectures:{name}", "--format", target]
    for shape in shapes:
        input_name, _, sizes = shape.partition("=")
        # A .tflite keeps no range: the usual size.
        command += ["--shape", f"{input_name}={sizes.split(':')[1]}" if target == "litert" else shape]
    return [*command, "--lint"] if target == "tensorrt" else [*command, "-o", str(out)]


def fill(name: str, target: str, shapes: tuple[str, ...]) -> Cell:
    """Export once; whatever happens is the cell's text."""
    with tempfile.TemporaryDirectory(prefix="edgekd-table-") as scratch:
        start = time.monotonic()
        try:
            done = subprocess.run(
                _command(name, target, shapes, Path(scratch) / "out"), cwd=HERE, capture_output=True, text=True,
                timeout=_TIMEOUT_S, env={**os.environ, "NO_COLOR": "1"}, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Cell(
                architecture=name,
                target=target,
                outcome="broken",
                text=f"more than {_TIMEOUT_S} s",
                seconds=_TIMEOUT_S,
            )
        seconds = time.monotonic() - start
    said = [line for line in done.stderr.splitlines() if line.startswith("edgekd: error: ")]
    if target == "tensorrt" and done.returncode in (0, 1) and not said:
        closing = done.stdout.strip().splitlines()[-1]
        outcome = "ok" if done.returncode == 0 else "findings"
        if errors := [line.strip() for line in done.stdout.splitlines() if line.startswith("  error ")]:
            closing = f"{closing}: {errors[0].removeprefix('error ')}"
        return Cell(architecture=name, target=target, outcome=outcome, text=closing, seconds=seconds)
    if done.returncode == 0:
        found = _PARITY.search(done.stdout)
        text = found["error"] if found else done.stdout.strip().splitlines()[-1]
        return Cell(architecture=name, target=target, outcome="ok", text=text, seconds=seconds)
    if said:
        # Without the folders of this machine.
        reason = re.sub(r"/\S*/", "", said[-1].removeprefix("edgekd: error: ").partition("; ")[0])
        # ExecuTorch raises a number and logs the operator.
        if named := re.search(r"in operator ([\w:.]+?):? ", done.stderr):
            reason += f"; in the operator {named[1]}"
        return Cell(architecture=name, target=target, outcome="refused", text=reason, seconds=seconds)
    tail = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return Cell(
        architecture=name,
        target=target,
        outcome="broken",
        text=f"exit {done.returncode}: {tail}",
        seconds=seconds,
    )


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def page(cells: list[Cell], names: list[str], targets: list[str]) -> str:
    """The Markdown page."""
    by = {(c.architecture, c.target): c for c in cells}
    lines = [
        "# Architecture x target", "",
        "Students with random weights from local configurations (`bench/suites/architectures.py`), each exported to each",
        "format and run there. A figure is the greatest absolute difference from what it was made of (torch, or the ONNX",
        "file) at batches 1, 2 and the greatest, and at the three sizes of dynamic inputs; the seconds are of the whole",
        "command, one core each. LiteRT files have one size, the usual one. TensorRT's column is what the lint says: no",
        "engine was built.", "",
        "```text", f"python bench/suites/table.py --out docs/results{' --tiny' if names[0] in architectures.TINY else ''}",
        "```", "",
        ", ".join(f"{p} {v}" for p in _PACKAGES if (v := _installed(p))) + ".", "",
        "| architecture | " + " | ".join(TARGETS[t] for t in targets) + " |", "|---|" + "---|" * len(targets),
    ]  # fmt: skip
    notes: list[str] = []
    for name in names:
        row = [f"`{name}`"]
        for target in targets:
            cell = by.get((name, target))
            if cell is None:
                row.append("not tried")
            elif cell.outcome == "ok":
                row.append(f"{cell.text} ({cell.seconds:.0f} s)")
            else:
                notes.append(f"{name}, {TARGETS[target]}: {cell.text}")
                row.append(f"{cell.outcome} [{len(notes)}]")
        lines.append("| " + " | ".join(row) + " |")
    if notes:
        lines += ["", *(f"{k}. {note}" for k, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for architectures.md and .json")
    parser.add_argument("--tiny", action="store_true", help="the small ones")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    args = parser.parse_args()
    zoo = architectures.TINY if args.tiny else architectures.FULL
    names = [n for n in zoo if not args.only or n in args.only]
    if not names:
        parser.error(f"none of {args.only} is known: {', '.join(zoo)}")
    cells = []
    for name in names:
        for target in args.targets:
            cell = fill(name, target, zoo[name])
            cells.append(cell)
            print(f"{name:24} {target:12} {cell.outcome:9} {cell.seconds:6.1f} s  {cell.text}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = "architectures-tiny" if args.tiny else "architectures"
    (args.out / f"{stem}.md").write_text(page(cells, names, args.targets), encoding="utf-8")
    (args.out / f"{stem}.json").write_text(
        json.dumps([asdict(c) for c in cells], indent=1) + "\n", encoding="utf-8"
    )
    return 1 if any(c.outcome == "broken" for c in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
