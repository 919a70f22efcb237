"""Options that several verbs share. Imports the standard library only: ``--help`` has to be quick."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.stages import StageStore


def fraction(text: str) -> float:
    """A fraction between 0 and 1, for ``--max-accuracy-drop 0.01``."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction between 0 and 1 (one point is 0.01)")
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


def count(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


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
    kinds = ".npz, .csv, .jsonl, .parquet, an image folder, sklearn:digits or python:module:factory; #0:500 picks rows"
    group.add_argument(
        "--data", metavar="D", default="", help=kinds + (f" (default: {without})" if without else "")
    )
    group.add_argument(
        "--task",
        metavar="KIND",
        default="classification",
        help="classification, image-classification or python:module:factory (default: %(default)s)",
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
    group.add_argument("--metric", metavar="M", default="", help="top1 or top5 (default: the task's)")
    group.add_argument(
        "--output",
        metavar="[ROLE:]NAME[:KIND]",
        action="append",
        default=[],
        help="which output answers, and whether it holds logits or probs",
    )


def add_measure(parser: argparse.ArgumentParser, *, batch: int = 1) -> None:
    group = parser.add_argument_group("where and how it runs")
    group.add_argument(
        "--target",
        metavar="T",
        default="cpu:onnxruntime",
        help="device:runtime[+provider] (default: %(default)s)",
    )
    group.add_argument(
        "--scenario",
        choices=["single-stream"],
        default="single-stream",
        help="LoadGen's word (default: %(default)s)",
    )
    group.add_argument(
        "--batch", metavar="N", type=count, default=batch, help="examples per call (default: %(default)s)"
    )
    group.add_argument(
        "--threads", metavar="N", type=count, default=1, help="threads of the runtime (default: %(default)s)"
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


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="[ROLE:]FILE",
        action="append",
        default=[],
        help="safetensors for a zoo: or python: model",
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


ROLES = ("teacher", "student", "baseline")


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


def weights(args: argparse.Namespace, roles: tuple[str, ...] = ROLES) -> dict[str, Path]:
    """``--weights`` as role -> file."""
    return {r: Path(v[-1]) for r, v in by_role(args.weights, roles).items() if v}


def store(args: argparse.Namespace) -> StageStore:
    """The stage cache, reporting to stderr."""
    from edgekd.cli.progress import stage_line
    from edgekd.stages import StageStore, default_cache_root

    return StageStore(default_cache_root(os.environ), fresh=getattr(args, "fresh", False), report=stage_line)


def measure_block(args: argparse.Namespace) -> Any:
    """Measuring options as a recipe's ``measure`` block."""
    from edgekd.recipe import MeasureBlock

    return MeasureBlock(
        batch=args.batch, threads=args.threads, timeout_s=args.timeout, memory_limit_mib=args.memory_limit_mib
    )


def colours(stream: Any = None) -> bool:
    """Whether to colour what goes to ``stream``: a terminal, and no NO_COLOR (no-color.org)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR")
