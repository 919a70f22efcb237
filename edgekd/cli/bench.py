"""``edgekd bench A [B …]``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.cli import options

if TYPE_CHECKING:
    from edgekd.artifact import Artifact
    from edgekd.data.example import Array


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="the baseline, then what is compared with it"
    )
    options.add_weights(parser)
    options.add_feeds(parser, without="drawn from the models' own specs")
    options.add_measure(parser)
    parser.add_argument(
        "--restarts",
        metavar="N",
        type=options.count,
        default=4,
        help="fresh starts of every model (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="F",
        type=Path,
        default=Path("measurement.json"),
        help="where to write (default: %(default)s, samples beside it as .npz)",
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.evidence import save_measurement
    from edgekd.evidence.measurement import BASELINE, TWIN
    from edgekd.gates.latency import ratio_of, summarise
    from edgekd.measure import Protocol, Setting, arms_of, measure
    from edgekd.pipeline.collect import Feeds
    from edgekd.pipeline.opening import check_inputs, runnable
    from edgekd.pipeline.targets import present_target
    from edgekd.spec import parse_shapes
    from edgekd.tasks import TaskSpec

    target = present_target(args.target)
    store = options.store(args)
    task = TaskSpec(kind=args.task, data={"test": args.data}, base=str(Path.cwd())) if args.data else None
    feeds = Feeds(task=task, shapes=parse_shapes(args.shape), rename=options.renames(args))
    named: list[tuple[str, str, Artifact]] = []
    for index, reference in enumerate(args.models):
        role = "teacher" if index == 0 and len(args.models) > 1 else "student"
        artifact = runnable(reference, role, options.weights(args), target, store)
        label = reference if reference not in [n[0] for n in named] else f"{reference} ({index + 1})"
        named.append((label, role, artifact))
    batch = feeds.batch_of([(label, a) for label, _, a in named], args.batch)
    opened: list[tuple[str, Artifact, dict[str, Array]]] = [
        (label, a, feeds.of(a, role, batch)) for label, role, a in named
    ]
    check_inputs({label: a for label, a, _ in opened}, shapes=feeds.shapes or {}, rename=feeds.rename or {})
    limit = args.memory_limit_mib
    setting = Setting(
        target=target.target, runtime_paths=target.runtime_paths, threads=args.threads, batch=batch,
        timeout_s=args.timeout, memory_bytes=int(limit * 2**20) if limit else None, search=(Path.cwd(),),
    )  # fmt: skip
    protocol = Protocol(min_restarts=args.restarts, max_restarts=args.restarts)
    inputs = {label: feeds.record(f) for label, _, f in opened}
    measurement = measure(arms_of(opened[0], opened[1:]), setting, inputs=inputs, protocol=protocol)
    save_measurement(measurement, args.out)
    kind = "real inputs" if task else "inputs drawn from the model's own specs (no --data)"
    print(f"{measurement.target}, batch {measurement.batch}, {measurement.threads} thread(s), {kind}")
    for arm, record in measurement.arms.items():
        if arm == TWIN:
            continue
        times = summarise(measurement, arm)
        if times is None:
            continue
        ratio = ""
        if arm != BASELINE:
            estimate, low, high = ratio_of(measurement, arm)
            ratio = f"  {estimate:.3f}x of {opened[0][0]} [{low:.3f}, {high:.3f}]"
        p50, p90 = times.p50_ns / 1e6, times.p90_ns / 1e6
        print(f"  {record['name']}: p50 {p50:.4f} ms, p90 {p90:.4f} ms (n {times.calls:,}){ratio}")
    print(f"  {len(measurement.restarts)} restarts, {len(measurement.redrawn)} redrawn; {args.out}")
    return 0
