"""Fuzz one target in this process: ``python tests/fuzz/fuzz_one.py NAME --work DIR``; `make fuzz` runs one for each."""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent, HERE.parents[1] / "bench"):
    sys.path.append(str(place))

MODULES = ("fuzz_documents", "fuzz_evidence", "fuzz_journals", "fuzz_bundles", "fuzz_models")


def atheris_or_none() -> object:
    """The coverage-guided engine, where there is a build for this Python."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz one target.")
    parser.add_argument("target")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default=None)
    parser.add_argument(
        "--work", type=Path, required=True, help="scratch, inputs that crash, and TARGET.json"
    )
    args = parser.parse_args()

    atheris = atheris_or_none() if args.engine != "hypothesis" else None
    if args.engine == "atheris" and atheris is None:
        sys.exit("atheris is not installed: pip install atheris, or leave --engine out")
    if atheris is not None:
        # Only what EdgeKD itself does counts as new.
        with atheris.instrument_imports(include=["edgekd", "edgekd_onnx", "gate_power"]):
            targets = load_targets()
    else:
        targets = load_targets()
    if args.target not in targets:
        sys.exit(f"no target {args.target!r}; there are {', '.join(targets)}")

    from fuzz_session import Session, guard, write_result

    target = targets[args.target]
    scratch, corpus = (args.work / part / target.name for part in ("scratch", "corpus"))
    for folder in (scratch, corpus):
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier session, which this one does not start from
        folder.mkdir(parents=True)
    seeds, reader = target.prepare(scratch)
    session = Session(target=target, reader=reader, kept=args.work / "crashes")
    guard()
    begin = time.monotonic()

    def finish(engine: str) -> None:
        session.finish()
        write_result(args.work / f"{target.name}.json", session.to_json(engine, time.monotonic() - begin))

    for data in seeds:
        session.execute(data)
    if atheris is None:
        run_hypothesis(
            session.execute, seeds, target.longest_bytes, args.executions - session.executions, args.seed
        )
        finish("hypothesis")
        return 1 if session.crashes else 0

    for number, data in enumerate(seeds):
        (corpus / f"seed-{number:03d}").write_bytes(data)

    def one(data: bytes) -> None:
        session.execute(data)
        if session.executions >= args.executions:
            finish("atheris")
            # libFuzzer has its own way out, which does not come back here.
            os._exit(1 if session.crashes else 0)

    options = [
        "fuzz", str(corpus), f"-seed={args.seed}", f"-max_len={target.longest_bytes}", "-verbosity=0", "-print_final_stats=0",
        "-timeout=60", "-rss_limit_mb=2048", "-handle_alrm=0", "-reload=0",
    ]  # fmt: skip
    atheris.Setup(options, one)
    atheris.Fuzz()
    return 4  # not reached


def load_targets() -> dict[str, object]:
    """Every target by name."""
    return {t.name: t for module in MODULES for t in importlib.import_module(module).TARGETS}


def run_hypothesis(execute: object, seeds: object, longest: int, count: int, seed: int) -> None:
    """Hypothesis draws bytes, and numbers that mutations of the seeds are made from."""
    import hypothesis
    from fuzz_session import mutated
    from hypothesis import strategies as st

    number = st.integers(0, 2**63).map(lambda n: mutated(seeds, random.Random(n), longest))
    inputs = st.one_of(number, number, number, st.binary(max_size=min(longest, 4096)))

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max(count, 1), deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(inputs)
    def run(data: bytes) -> None:
        execute(data)

    run()


if __name__ == "__main__":
    sys.exit(main())
