"""Session settings on the command line: ``--setting``, ``--sweep``, and those that the models bring."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.measure import Scenario, Setting
    from edgekd.measure.run import Entry
    from edgekd.pipeline.targets import ResolvedTarget
    from edgekd.pipeline.tuning import Tuning


def configure(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("session settings")
    group.add_argument(
        "--sweep",
        action="store_true",
        help="first find each model's best settings on this machine, and keep them with the model",
    )
    group.add_argument(
        "--setting",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of the runtime for every model, e.g. arena=false",
    )


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """``--setting`` as name -> true, false, whole number or text.

    Raises:
        UsageError: not of the form NAME=VALUE, or ``threads``, which has an option of its own.
    """
    from edgekd.errors import UsageError

    made: dict[str, Any] = {}
    for text in args.setting:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise UsageError(
                f"--setting {text!r} is not of the form NAME=VALUE", "e.g. --setting arena=false"
            )
        if name in ("threads", "batch"):
            raise UsageError(f"--setting {name} has an option of its own", f"give --{name} {value}")
        if value in ("true", "false"):
            made[name] = value == "true"
        else:
            made[name] = int(value) if re.fullmatch(r"-?[0-9]+", value) else value
    return made


def refuse_bundles(models: Sequence[str]) -> None:
    """A sweep keeps what it finds with the model, and a released bundle stays as it is.

    Raises:
        UsageError: names the bundle.
    """
    from edgekd.errors import UsageError
    from edgekd.release.opening import is_bundle

    for name in models:
        path = Path(name)
        found = next((p for p in (path, *list(path.resolve().parents)[:3]) if is_bundle(p)), None)
        if path.exists() and found is not None:
            raise UsageError(
                f"--sweep keeps its settings with the model, and {found} is a released bundle",
                "sweep the model before it is released, or a copy of its artifact",
            )


def tuning(
    args: argparse.Namespace,
    models: Sequence[Entry],
    target: ResolvedTarget,
    setting: Setting,
    scenario: Scenario,
    cache: Path,
) -> Tuning:
    """The settings that the models are measured with: swept now, asked for, or from their metadata.

    Raises:
        UsageError: nothing to sweep; EvidenceError: damaged metadata; else as :func:`edgekd.measure.sweep.sweep`.
    """
    from edgekd.cli.progress import step_line
    from edgekd.errors import UsageError
    from edgekd.measure import ledger
    from edgekd.pipeline.sweep import sweep_models, tuning_of
    from edgekd.pipeline.targets import board_of
    from edgekd.pipeline.tuning import tuning_for
    from edgekd.report.sweep import sweep_lines

    asked: Mapping[str, Any] = settings(args)
    pinned = [*asked, *(["threads"] if args.threads is not None else [])]
    board = board_of(target.target)
    if not args.sweep:
        return tuning_for(
            [(label, artifact) for label, artifact, _ in models], target=str(target.target), scenario=scenario,
            batch=setting.batch, machine=board.machine if board else ledger.machine(), asked=bool(pinned),
        )  # fmt: skip
    if scenario.side_by_side > 1:
        raise UsageError(
            "--sweep finds settings for a session that is alone, --sessions opens several",
            "leave one of them out",
        )
    if board is not None:
        raise UsageError(
            f"--sweep does not reach {target.target}: it races its configurations on this machine only",
            "leave it out, or install edgekd on the board and sweep there",
        )
    swept = sweep_models(
        models, target, setting, scenario, pinned=pinned, cache=cache, progress=lambda text: step_line(f"sweep {text}")
    )  # fmt: skip
    step_line("")
    for found in swept:
        print("\n".join([*sweep_lines(found, str(target.target)), ""]))
    return tuning_of(swept)
