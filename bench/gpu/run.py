"""The GPU suite: tests/gpu, then every cell of torch, ONNX Runtime and TensorRT on a few networks, and a page of it.

``python bench/gpu/run.py --out docs/results`` writes ``docs/results/<gpu>.md`` and the figures beside it as JSON.
Without a GPU it ends in 4. Parts that are done are kept in ``--work`` and not run again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gpu_page
import gpu_races
from gpu_cells import MODELS, TINY_MODELS, groups_for

from edgekd.errors import EXIT_INFRASTRUCTURE, EXIT_REJECT, EdgeKDError, TargetUnavailableError
from edgekd.files import read_json, write_bytes, write_json
from edgekd.measure import Protocol, ledger
from edgekd.measure.gpu_ledger import GpuWatch, watch_for

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = "edgekd.gpu-part/1"

_PACKAGES = (
    "torch",
    "triton",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "tensorrt",
    "cuda-bindings",
    "nvidia-ml-py",
)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/gpu/run.py", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY / "docs" / "results", help="folder of the page"
    )
    parser.add_argument(
        "--work", type=Path, default=REPOSITORY / "runs" / "gpu", help="folder of raw evidence"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a rehearsal")
    parser.add_argument("--tiny", action="store_true", help="networks and races of seconds")
    parser.add_argument("--models", default="", help="comma-separated; default: all")
    parser.add_argument("--groups", default="", help="comma-separated; default: all")
    parser.add_argument("--batches", default="", help="comma-separated; default: 1,32")
    parser.add_argument("--restarts", type=int, default=0, help="default: 4")
    parser.add_argument("--rounds", type=int, default=0, help="per restart; default: 15")
    parser.add_argument("--energy", choices=("some", "all", "none"), default="some")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no part after so long; 0: no limit")
    parser.add_argument("--no-tests", action="store_true", help="leave tests/gpu out")
    return parser.parse_args(argv)


def _list(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    chosen = tuple(t.strip() for t in text.split(",") if t.strip()) or tuple(known)
    unknown = [c for c in chosen if c not in known]
    if unknown:
        raise SystemExit(f"gpu suite: no {what} '{unknown[0]}'; it has {', '.join(known)}")
    return chosen


def device_of(device: str) -> dict[str, Any]:
    """What identifies the device.

    Raises:
        TargetUnavailableError: no GPU that torch sees.
    """
    from edgekd_torch.runtime import TorchRuntime

    why = TorchRuntime().unavailable(device, "")
    if why:
        what, _, fix = why.partition("; ")
        raise TargetUnavailableError(what, fix)
    if device == "cpu":
        return {"name": "CPU rehearsal", "cpu": ledger.machine()["cpu"]}
    watch = watch_for("cuda")
    if isinstance(watch, GpuWatch):
        watch.begin(set())
        seen = watch.end() or {}
        return {**seen["identity"], "clock_event_reasons_before": ", ".join(seen["reasons"] or {}) or None}
    import torch

    nvml = (watch.end() or {}).get("unavailable", {}).get("reason")
    return {"name": torch.cuda.get_device_name(0), "cuda": torch.version.cuda, "nvml": f"unavailable: {nvml}"}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run_tests(work: Path) -> dict[str, Any]:
    """``pytest tests/gpu -m gpu`` in a process of its own, and what came of it."""
    report = work / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", f"--junitxml={report}"]
    code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    if not report.is_file():
        return {"ok": False, "words": f"wrote no report (exit {code})"}
    return read_tests(report, code)


def read_tests(report: Path, code: int) -> dict[str, Any]:
    """Counts of a JUnit report; no test at all (pytest's exit 5) is no failure and no pass."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    count = {k: int(suite.get(k, "0")) for k in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    why = sorted({s.get("message", "") for s in suite.iter("skipped")})
    words = f"{passed} passed, {failed} failed, {count['skipped']} skipped"
    return {
        "ok": failed == 0 and code in (0, 5),
        "words": words + (f" ({'; '.join(why)[:400]})" if why else ""),
    }


def _protocol(args: argparse.Namespace) -> Protocol:
    if args.tiny:
        restarts, rounds = args.restarts or 1, args.rounds or 2
        return Protocol(
            min_restarts=restarts, max_restarts=restarts, rounds=rounds, block_ms=1.0, warm_s=0.01, warm_calls=5,
            warm_cap_s=0.2,
        )  # fmt: skip
    restarts = args.restarts or 4
    return Protocol(min_restarts=restarts, max_restarts=restarts, rounds=args.rounds or 15)


def _parts(args: argparse.Namespace, plan: gpu_races.Plan) -> tuple[list[Any], dict[str, str]]:
    """Every part, those of earlier runs read back; and what was not run."""
    begun = time.monotonic()
    known = TINY_MODELS if args.tiny else MODELS
    names = _list(args.models, known, "network")
    batches = [int(b) for b in (args.batches or ("2" if args.tiny else "1,32")).split(",")]
    parts, missing = [], {}
    for name in names:
        for batch in batches:
            part_path = plan.work / f"part-{name}-b{batch}.json"
            title = f"{name}, batch {batch}"
            if part_path.is_file():
                parts.append(read_json(part_path, SCHEMA))
                continue
            if args.minutes and time.monotonic() - begun > 60 * args.minutes:
                missing[title] = f"no part begins after {args.minutes:g} minutes; run the command again"
                continue
            try:
                part = gpu_races.run_part(
                    name, batch, plan, lambda text: print(f"gpu suite: {text}", flush=True)
                )
            except EdgeKDError as e:
                missing[title] = str(e)
                continue
            write_json(part_path, {"schema": SCHEMA, **part})
            parts.append(read_json(part_path, SCHEMA))
    return parts, missing


def main(argv: Sequence[str]) -> int:
    """Run, write the page, and return the exit code: 0, 1 where a test failed, 4 without a device."""
    args = _arguments(argv)
    try:
        device = device_of(args.device)
    except EdgeKDError as e:
        print(f"gpu suite: {e}", file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    work = args.work / gpu_page.slug(device["name"])
    work.mkdir(parents=True, exist_ok=True)
    groups = _list(args.groups, tuple(groups_for(args.device)), "group")
    labels = [c.label for cells in groups_for(args.device).values() for c in cells]
    energy = {"some": None, "all": ("torch eager float32", *labels), "none": ()}[args.energy]
    plan = gpu_races.Plan(
        device=args.device,
        work=work,
        protocol=_protocol(args),
        energy=energy,
        groups=groups,
        timeout_s=1800.0,
    )
    skip_tests = args.no_tests or args.device == "cpu"
    tests = {"ok": True, "words": "left out"} if skip_tests else run_tests(work)
    parts, missing = _parts(args, plan)
    run = {
        "schema": "edgekd.gpu-run/1",
        "device": device,
        "rehearsal": args.device == "cpu",
        "collected_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["python bench/gpu/run.py", *_shown(argv)]),
        "versions": versions(),
        "tests": tests,
        "protocol": {"max_restarts": plan.protocol.max_restarts, "rounds": plan.protocol.rounds},
        "parts": parts,
        "missing": missing,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    page = args.out / f"{gpu_page.slug(device['name'])}.md"
    write_bytes(page, gpu_page.page_of(run).encode())
    write_json(page.with_suffix(".json"), json.loads(json.dumps(run)))
    print(f"gpu suite: wrote {page}")
    if not parts:
        print("gpu suite: no part ran; the page says why", file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    return 0 if tests["ok"] else EXIT_REJECT


def _shown(argv: Sequence[str]) -> list[str]:
    """The command line without folders: a page names no machine's paths."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("--out", "--work"):
            next(words, None)
        elif not word.startswith(("--out=", "--work=")):
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
