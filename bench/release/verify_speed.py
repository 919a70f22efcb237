"""`edgekd verify` beside `sha256sum` over the same files.

    python bench/release/verify_speed.py [--mib 1024] [--rounds 9] [--json F]

A bundle with one large artifact is released and signed, then read into the page cache; each round runs all commands in
turns, in an order that is drawn, each in a process of its own. The speed is sha256sum's seconds over verify's, with a
bootstrap interval (95 %) of its median over rounds. Exits 1 where the lower end with a signature is below the aim.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "tests"))

from fixtures_bundle import make_bundle, make_key  # noqa: E402

#: At least this share of sha256sum's speed.
AIM = 0.8


def commands(bundle: Path, public: Path) -> dict[str, list[str]]:
    """What is timed; all read the same bytes."""
    files = sorted(str(p) for p in bundle.rglob("*") if p.is_file())
    verify = [sys.executable, "-m", "edgekd", "verify"]
    return {
        "sha256sum": ["sha256sum", *files],
        "verify, folder": [*verify, str(bundle)],
        "verify, folder, signature checked": [*verify, str(bundle), "--key", str(public)],
        "verify, .tar, signature checked": [*verify, f"{bundle}.tar", "--key", str(public)],
    }


def seconds(command: list[str], environ: dict[str, str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command[:4]} failed: {done.stderr.decode()[:400]}")
    return took


def interval(ratios: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Median of the ratios and its bootstrap interval (percentiles 2.5 and 97.5 of 10,000 resamples)."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of `edgekd verify` beside sha256sum.")
    parser.add_argument("--mib", type=int, default=1024, help="size of the artifact (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the times here")
    parser.add_argument("--work", type=Path, help="where the bundle is made (default: a temporary folder)")
    args = parser.parse_args()
    environ = {**os.environ, "EDGEKD_TRUSTED_KEYS": "", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory(prefix="edgekd-speed-", dir=args.work) as name:
        folder = Path(name)
        key = make_key(folder)
        bundle = make_bundle(folder / "made", key=key.private, student_bytes=args.mib << 20, policy=POLICY)
        asked = commands(bundle, key.public)
        times: dict[str, list[float]] = {what: [] for what in asked}
        for command in asked.values():
            seconds(command, environ)  # into the page cache
        for round_ in range(args.rounds):
            order = list(asked)
            random.Random(round_).shuffle(order)
            for what in order:
                times[what].append(seconds(asked[what], environ))
        total = sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())
    print(f"{total / 2**20:.0f} MiB, {args.rounds} rounds in turns\n")
    print("| command | median s | GB/s | speed, sha256sum = 1 | interval 95 % |")
    print("|---|---:|---:|---:|---|")
    lowest = float("inf")
    for what, took in times.items():
        median, low, high = interval([s / t for s, t in zip(times["sha256sum"], took, strict=True)])
        if "signature" in what:
            lowest = min(lowest, low)
        middle = float(np.median(took))
        print(
            f"| {what} | {middle:.2f} | {total / middle / 1e9:.2f} | {median:.2f} | {low:.2f} to {high:.2f} |"
        )
    if args.json:
        args.json.write_text(json.dumps({"bytes": total, "seconds": times}, indent=1) + "\n", "utf-8")
    return 0 if lowest >= AIM else 1


#: Whatever the size of the artifact.
POLICY = {"accuracy": {"against": "teacher", "max_drop": 0.03}}

if __name__ == "__main__":
    raise SystemExit(main())
