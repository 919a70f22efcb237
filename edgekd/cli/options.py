"""Options that several verbs share. Imports the standard library only: ``--help`` has to be quick."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.measure import Scenario
    from edgekd.stages import StageStore
    from edgekd.trust import Trust


def fraction(text: str) -> float:
    """A fraction between 0 and 1, for ``--max-accuracy-drop 0.01``."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction between 0 and 1 (one point is 0.01)")
    return value


def share(text: str) -> float:
    """A share above 0, up to 1, for ``--min-accuracy-ratio 0.99``."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and up to 1 (99 % is 0.99)")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def not_negative(text: str) -> float:
    """A number, 0 or more."""
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 on")
    return int(text)


def count(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def percentile_limit(text: str) -> tuple[str, float]:
    """A limit on a percentile, ``p99:33``; a number alone is of p99."""
    from edgekd.errors import UsageError
    from edgekd.evidence.measurement import level_of

    name, colon, rest = text.partition(":")
    percentile, number = (name, rest) if colon else ("p99", text)
    try:
        level_of(percentile)
    except UsageError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return percentile, positive(number)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def add_feeds(parser: argparse.ArgumentParser, *, without: str = "") -> argparse._ArgumentGroup:
    """Data, and how its examples become feeds; ``without`` says what happens where no data is given."""
    group = parser.add_argument_group("data and task")
    kinds = ".npz, .csv, .tsv, .jsonl, .parquet, an image folder, sklearn:digits or python:module:factory; #0:500 picks rows"
    group.add_argument(
        "--data", metavar="D", default="", help=kinds + (f" (default: {without})" if without else "")
    )
    group.add_argument(
        "--task",
        metavar="KIND",
        default="classification",
        help="a built-in kind (see docs/tasks.md), e.g. image-classification, or python:module:factory (default: %(default)s)",
    )
    group.add_argument(
        "--map",
        metavar="[ROLE:]INPUT=ARRAY",
        action="append",
        default=[],
        help="which array feeds which model input, e.g. student:images=x",
    )
    return group


def add_task(parser: argparse.ArgumentParser) -> None:
    """Labelled data and how answers are scored."""
    group = add_feeds(parser)
    group.add_argument(
        "--metric",
        metavar="M",
        default="",
        help="one of the task's, e.g. top1, macro_f1, rmse, map (default: the task's first)",
    )
    group.add_argument(
        "--output",
        metavar="[ROLE:]NAME[:KIND]",
        action="append",
        default=[],
        help="which output answers, and whether it holds logits or probs",
    )
    group.add_argument(
        "--prepare",
        metavar="[ROLE:]FILE",
        action="append",
        default=[],
        help="YAML file of prepare keys (mean, tokenizer, ...), for a model that comes without",
    )
    group.add_argument(
        "--cluster",
        metavar="NAME",
        default="",
        help="slice whose values group examples that are not independent, e.g. the speaker",
    )


def add_measure(parser: argparse.ArgumentParser, *, batch: int = 1, timed: bool = True) -> None:
    """Where models run. ``timed``: threads not given are left open, for those that a sweep found."""
    group = parser.add_argument_group("where and how it runs")
    group.add_argument(
        "--target",
        metavar="T",
        default="cpu:onnxruntime",
        help="device:runtime[+provider] (default: %(default)s)",
    )
    group.add_argument(
        "--batch", metavar="N", type=count, default=batch, help="examples per call (default: %(default)s)"
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=count,
        default=None if timed else 1,
        help=f"threads of the runtime (default: 1{', or what a sweep found for every model' if timed else ''})",
    )
    group.add_argument(
        "--shape",
        metavar="NAME=SHAPE",
        action="append",
        default=[],
        help="size of an input without data, e.g. image=1x3x224x224",
    )
    group.add_argument(
        "--timeout",
        metavar="S",
        type=positive,
        default=300.0,
        help="seconds for one request to a child (default: %(default)s)",
    )
    group.add_argument("--memory-limit-mib", metavar="MIB", type=positive, help="address space of a child")


def add_scenario(parser: argparse.ArgumentParser) -> None:
    """How queries arrive and how long a run lasts at least, in LoadGen's words."""
    group = parser.add_argument_group("how queries arrive (see docs/scenarios.md)")
    group.add_argument(
        "--scenario",
        choices=["single-stream", "multi-stream", "offline", "server"],
        default="single-stream",
        help="LoadGen's word (default: %(default)s)",
    )
    group.add_argument(
        "--percentile",
        metavar="P",
        help="what is reported (default: p90 of one stream, p99 of several and of the server)",
    )
    group.add_argument(
        "--min-duration",
        metavar="S",
        type=positive,
        help="seconds that every model runs at least (default: 0.5, server trials 1)",
    )
    group.add_argument(
        "--min-count",
        metavar="N",
        type=count,
        help="queries that every model answers at least (default: 64 for p90, 662 for p99)",
    )
    group.add_argument(
        "--samples-per-query",
        metavar="N",
        type=count,
        help="multi-stream: examples of one query (default: 8)",
    )
    group.add_argument(
        "--max-batch", metavar="N", type=count, help="offline: greatest batch tried (default: 1024)"
    )
    group.add_argument(
        "--sessions",
        metavar="N",
        type=count,
        help="offline: sessions of each model that work side by side, --threads each (default: 1)",
    )
    group.add_argument(
        "--bound-ms",
        metavar="X",
        type=positive,
        help="server: the percentile of latency, arrival to completion, stays within it",
    )
    group.add_argument(
        "--target-qps",
        metavar="R",
        type=positive,
        help="server: queries per second (default: the highest rate within --bound-ms is searched)",
    )
    group.add_argument(
        "--arrival-seed", metavar="N", type=whole, default=0, help="server: of the arrivals (default: 0)"
    )


def scenario(args: argparse.Namespace) -> Scenario:
    """The options of :func:`add_scenario`.

    Raises:
        UsageError: an option that the scenario does not have, or one that it needs.
    """
    from edgekd.measure import Scenario

    return Scenario(
        name=args.scenario, percentile=args.percentile, min_duration_s=args.min_duration,
        min_count=args.min_count, samples_per_query=args.samples_per_query, max_batch=args.max_batch,
        sessions=args.sessions,
        bound_ms=args.bound_ms, target_qps=args.target_qps, seed=args.arrival_seed,
    )  # fmt: skip


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="[ROLE:]FILE",
        action="append",
        default=[],
        help="safetensors for a zoo: or python: model",
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Files that are refused without the user's word."""
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="convert .pt and .pth weights to safetensors first, in a child without network",
    )
    parser.add_argument(
        "--trust-engine",
        metavar="SHA256",
        action="append",
        default=[],
        help="load a TensorRT plan of this SHA-256, which is native code; may be repeated",
    )


def by_role(values: list[str], roles: tuple[str, ...]) -> dict[str, list[str]]:
    """Split ``ROLE:rest`` values; those without a role count for every role."""
    found: dict[str, list[str]] = {r: [] for r in roles}
    for value in values:
        head, colon, rest = value.partition(":")
        if colon and head in roles:
            found[head].append(rest)
        else:
            for role in roles:
                found[role].append(value)
    return found


ROLES = ("teacher", "student", "baseline", "float32", "naive")


def renames(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """``--map`` as role -> model input -> array name."""
    from edgekd.errors import UsageError

    made: dict[str, dict[str, str]] = {}
    for role, values in by_role(args.map, ROLES).items():
        for value in values:
            name, equals, array = value.partition("=")
            if not equals or not name or not array:
                raise UsageError(
                    f"--map {value!r} is not of the form [ROLE:]INPUT=ARRAY", "e.g. --map student:images=x"
                )
            made.setdefault(role, {})[name] = array
    return made


def outputs(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """``--output`` as role -> ``{"name", "kind"}``; of several for one role the last counts."""
    from edgekd.tasks import parse_output

    return {role: parse_output(values[-1]) for role, values in by_role(args.output, ROLES).items() if values}


def prepares(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """``--prepare`` as role -> keys; of several for one role the last counts. Paths in it start at its folder."""
    from edgekd.errors import UsageError
    from edgekd.prepare import locate_files
    from edgekd.strict_yaml import read_yaml

    made: dict[str, dict[str, Any]] = {}
    for role, values in by_role(args.prepare, ROLES).items():
        if values:
            path = Path(values[-1])
            if not path.is_file():
                raise UsageError(
                    f"--prepare names {path}, which is no file",
                    f"give [ROLE:]FILE with a role of {', '.join(ROLES)}",
                )
            keys = {str(k): v for k, v in read_yaml(path, os.environ)[0].items()}
            made[role] = locate_files(keys, path.parent)
    return made


def weights(args: argparse.Namespace, roles: tuple[str, ...] = ROLES) -> dict[str, Path]:
    """``--weights`` as role -> file."""
    return {r: Path(v[-1]) for r, v in by_role(args.weights, roles).items() if v}


def exporter_options(args: argparse.Namespace) -> dict[str, str]:
    """``--option NAME=VALUE``, for the exporter to read.

    Raises:
        UsageError: not of that form, or one given twice.
    """
    from edgekd.errors import UsageError

    found: dict[str, str] = {}
    for text in args.option:
        name, eq, value = text.partition("=")
        if not eq or not name or not value:
            raise UsageError(
                f"--option {text!r} is not of the form NAME=VALUE", "the format's page lists its options"
            )
        if name in found:
            raise UsageError(f"--option {name} is given twice", "give it once")
        if name in ("shapes", "feeds"):
            raise UsageError(f"--option {name} is not given as text", "sizes are given with --shape")
        found[name] = value
    return found


def store(args: argparse.Namespace) -> StageStore:
    """The stage cache, reporting to stderr."""
    from edgekd.cli.progress import stage_line
    from edgekd.stages import StageStore, default_cache_root

    return StageStore(
        default_cache_root(os.environ), fresh=getattr(args, "fresh", False), report=stage_line, trust=trust_of(args),
    )  # fmt: skip


def trust_of(args: argparse.Namespace) -> Trust:
    """What :func:`add_trust`'s options vouch for; nothing where the verb has none."""
    from edgekd.trust import read_trust_options

    return read_trust_options(getattr(args, "allow_pickle", False), getattr(args, "trust_engine", ()))


def measure_block(args: argparse.Namespace) -> Any:
    """Measuring options as a recipe's ``measure`` block."""
    from dataclasses import asdict

    from edgekd.recipe import MeasureBlock, ScenarioBlock

    asked = scenario(args)
    return MeasureBlock(
        scenario=ScenarioBlock(**asdict(asked)),
        batch=args.batch,
        **({} if args.threads is None else {"threads": args.threads}),
        timeout_s=args.timeout,
        memory_limit_mib=args.memory_limit_mib,
    )


def colours(stream: Any = None) -> bool:
    """Whether to colour what goes to ``stream``: a terminal, and no NO_COLOR (no-color.org)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR")
