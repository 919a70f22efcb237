"""``edgekd bench A [B …]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.cli import options, sweeping

if TYPE_CHECKING:
    from edgekd.artifact import Artifact
    from edgekd.evidence import Measurement
    from edgekd.measure import Setting
    from edgekd.measure.meters import Meter
    from edgekd.pipeline.resources import Entry


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="the baseline, then what is compared with it"
    )
    options.add_weights(parser)
    options.add_feeds(parser, without="drawn from the models' own specs")
    options.add_measure(parser)
    options.add_scenario(parser)
    sweeping.configure(parser)
    parser.add_argument(
        "--restarts",
        metavar="N",
        type=options.count,
        default=4,
        help="fresh starts of every model (default: %(default)s)",
    )
    group = parser.add_argument_group("resources, looked at after the timings")
    group.add_argument(
        "--no-resources",
        action="store_true",
        help="leave out load time, memory, CPU time, energy and static cost",
    )
    group.add_argument(
        "--profile", action="store_true", help="add the runtime's time per operator, and the roofline"
    )
    group.add_argument(
        "--meter",
        metavar="M",
        default="",
        help="rapl, nvml, none, or command:CMD that prints joules so far (default: every meter there is)",
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
    from dataclasses import replace

    from edgekd.board.measuring import measure_on_board
    from edgekd.cli.progress import step_line
    from edgekd.errors import UsageError
    from edgekd.evidence import save_measurement
    from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE
    from edgekd.measure import Protocol, Setting, measure_scenario
    from edgekd.measure.meters import find_meters
    from edgekd.pipeline.collect import Feeds
    from edgekd.pipeline.opening import check_inputs, runnable
    from edgekd.pipeline.sizes import measured_sizes
    from edgekd.pipeline.targets import board_of, present_target
    from edgekd.report.bench import bench_lines, closing_line
    from edgekd.report.sweep import settings_lines
    from edgekd.spec import parse_shapes
    from edgekd.statistics.binomial import most_over
    from edgekd.tasks import TaskSpec

    if args.no_resources and (args.profile or args.meter):
        asked = "--profile" if args.profile else "--meter"
        raise UsageError(f"{asked} and --no-resources exclude each other", "drop one")
    if args.sweep:
        sweeping.refuse_bundles(args.models)
    scenario = options.scenario(args)
    scenario.check_batch(args.batch)
    target = present_target(args.target)
    board = board_of(target.target)
    meters: tuple[list[Meter], dict[str, str]] = ([], {})
    if board is not None and not args.no_resources:
        board.find_meters(args.meter)
    elif not args.no_resources:
        meters = find_meters(args.meter, target.target.device)
    store = options.store(args)
    task = TaskSpec(kind=args.task, data={"test": args.data}, base=str(Path.cwd())) if args.data else None
    feeds = Feeds(task=task, shapes=parse_shapes(args.shape), rename=options.renames(args))
    asked_settings = sweeping.settings(args)
    sizes = measured_sizes(feeds.shapes or {}, args.batch, scenario)
    named: list[tuple[str, str, Artifact]] = []
    for index, reference in enumerate(args.models):
        role = "teacher" if index == 0 and len(args.models) > 1 else "student"
        artifact = runnable(reference, role, options.weights(args), target, store, sizes=sizes)
        label = reference if reference not in [n[0] for n in named] else f"{reference} ({index + 1})"
        named.append((label, role, replace(artifact, settings={**artifact.settings, **asked_settings})))
    check_inputs({label: a for label, _, a in named}, shapes=feeds.shapes or {}, rename=feeds.rename or {})
    batch = args.batch
    if scenario.name not in (MULTI_STREAM, OFFLINE):
        batch = feeds.batch_of([(label, a) for label, _, a in named], batch)
    entries = [(label, a, feeds.maker(scenario, a, role)) for label, role, a in named]
    limit = args.memory_limit_mib
    setting = Setting(
        target=target.target, runtime_paths=target.runtime_paths, threads=args.threads or 1, batch=batch,
        timeout_s=args.timeout, memory_bytes=int(limit * 2**20) if limit else None, search=(Path.cwd(),),
    )  # fmt: skip
    protocol = scenario.stretched(Protocol(min_restarts=args.restarts, max_restarts=args.restarts))
    tuning = sweeping.tuning(args, entries, target, setting, scenario, store.root)

    def progress(done: int, most: int) -> None:
        step_line(f"{done} restarts measured")

    if board is None:
        measurement = measure_scenario(
            scenario, entries[0], entries[1:], setting, record=feeds.record,
            most_over=lambda n: most_over(n, scenario.level), protocol=protocol, tune=tuning.arm, progress=progress,
        )  # fmt: skip
    else:
        measurement = measure_on_board(
            board, scenario, entries[0], entries[1:], setting, record=feeds.record, protocol=protocol,
            tune=tuning.arm, progress=progress,
        )  # fmt: skip
    step_line("")
    measurement = tuning.record(measurement)
    save_measurement(measurement, args.out)
    inputs = "real inputs" if task else "inputs drawn from the model's own specs (no --data)"
    print("\n".join([*bench_lines(measurement, inputs=inputs), *settings_lines(measurement)]))
    print(f"  {closing_line(measurement)}; {args.out}")
    _explain(measurement, entries, setting)
    if not args.no_resources:
        _inspect(measurement, entries, setting, meters, args)
    return 0


def _explain(measurement: Measurement, entries: Sequence[Entry], setting: Setting) -> None:
    """Of quantized models that are not faster than their float twin beside them: why not."""
    from edgekd.cli.progress import step_line
    from edgekd.pipeline.speedup import explain_arms
    from edgekd.report.speedup import why_lines

    step_line("look at the operators of quantized models")
    slow = [s for s in explain_arms(entries, setting, measurement) if s.answer != "faster"]
    step_line("")
    for found in slow:
        print("\n".join(["", *why_lines(found)]))


def _inspect(
    measurement: Measurement,
    entries: Sequence[Entry],
    setting: Setting,
    meters: tuple[list[Meter], dict[str, str]],
    args: argparse.Namespace,
) -> None:
    """Add the arms' resources to the evidence, which is safe on disk by now, and print them."""
    from edgekd.cli.progress import step_line
    from edgekd.evidence import save_measurement
    from edgekd.measure.resources import Inspection
    from edgekd.pipeline.resources import with_resources
    from edgekd.report.resources import resource_lines

    found = with_resources(
        measurement, entries, setting, inspection=Inspection(profile=args.profile), meters=meters[0],
        meters_absent=meters[1], progress=step_line,
    )  # fmt: skip
    save_measurement(found, args.out)
    print("\n".join(["", *resource_lines(found)]))
