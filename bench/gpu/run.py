"""The GPU suite: tests/gpu, then every cell of torch, ONNX Runtime and TensorRT on a few networks, and a page of it.

``python bench/gpu/run.py --out docs/results`` writes ``docs/results/<gpu>.md`` and the figures beside it as JSON.
Without a GPU it ends in 4. A step is a group's race or a cell's energy; those that are done are kept in ``--work`` and, with
the same device, versions, sources and protocol, not run again. The page is written after every step.
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
from gpu_parts import Parts
from gpu_steps import StepStore, device_conditions, sources_digest

from edgekd.errors import EXIT_INFRASTRUCTURE, EXIT_REJECT, EdgeKDError, TargetUnavailableError
from edgekd.files import sha256_file, write_bytes, write_json
from edgekd.measure import Protocol, ledger
from edgekd.measure.gpu_ledger import GpuWatch, watch_for

REPOSITORY = Path(__file__).resolve().parents[2]

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
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no step after so long; 0: no limit")
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


def _networks(args: argparse.Namespace) -> list[tuple[str, int]]:
    names = _list(args.models, TINY_MODELS if args.tiny else MODELS, "network")
    batches = [int(b) for b in (args.batches or ("2" if args.tiny else "1,32")).split(",")]
    return [(name, batch) for name in names for batch in batches]


def _tests(args: argparse.Namespace, store: StepStore) -> dict[str, Any]:
    """What came of the tests; once they have passed they are not run again under the same conditions."""
    texts = {p.name: sha256_file(p) for p in sorted((REPOSITORY / "tests" / "gpu").glob("*.py"))}
    own = {"tests": texts}
    kept, _ = store.read("tests", own)
    if kept is not None and (kept["tests"]["ok"] or args.no_tests):
        return dict(kept["tests"])
    if args.no_tests or args.device == "cpu":
        return {"ok": True, "words": "left out"}
    return dict(store.write("tests", own, {"tests": run_tests(store.folder)})["tests"])


def main(argv: Sequence[str]) -> int:
    """Run, write the page after every step, and return the exit code: 0, 1 where a test failed, 4 without a device."""
    args = _arguments(argv)
    try:
        return _run(args, argv)
    except EdgeKDError as e:
        print(f"gpu suite: {e}", file=sys.stderr)
        return EXIT_INFRASTRUCTURE


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    begun = time.monotonic()
    device = device_of(args.device)
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
    found = versions()
    common = {"device": device_conditions(device), "versions": found, "sources": sources_digest()}
    store = StepStore(work, common, uuid=device.get("uuid"))

    def late() -> str:
        over = args.minutes and time.monotonic() - begun > 60 * args.minutes
        return f"no step begins after {args.minutes:g} minutes; run the command again" if over else ""

    tests = _tests(args, store)
    parts = Parts(plan, _networks(args), store, late)
    page = args.out / f"{gpu_page.slug(device['name'])}.md"
    args.out.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        run = {
            "schema": "edgekd.gpu-run/1",
            "device": device,
            "rehearsal": args.device == "cpu",
            "collected_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": " ".join(["python bench/gpu/run.py", *_shown(argv)]),
            "versions": found,
            "tests": tests,
            "parts": parts.made(),
            "missing": parts.missing,
        }
        write_bytes(page, gpu_page.page_of(run).encode())
        write_json(page.with_suffix(".json"), json.loads(json.dumps(run)))

    for _ in parts.run(lambda text: print(f"gpu suite: {text}", flush=True)):
        write()
    write()
    print(f"gpu suite: wrote {page}")
    if not parts.made():
        print("gpu suite: no step ran; the page says why", file=sys.stderr)
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
