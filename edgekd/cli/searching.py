"""``edgekd quantize --max-accuracy-drop X``: search for the fastest mixture that keeps the accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.cli import options

if TYPE_CHECKING:
    from edgekd.quantize.searched import Search
    from edgekd.tasks import TaskSpec

_DEFAULT_TARGET = "cpu:onnxruntime"


def configure(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "search for the fastest mixture that keeps the accuracy (see docs/search.md)"
    )
    group.add_argument(
        "--max-accuracy-drop",
        metavar="X",
        type=options.positive,
        help="below the model's own float32, in the metric's unit; 0.01 is a point. Asks for the search",
    )
    group.add_argument(
        "--data",
        metavar="D",
        default="",
        help="labelled rows to choose by; without --test-data every second of them judges instead",
    )
    group.add_argument(
        "--test-data", metavar="D", default="", help="labelled rows that judge the winner, once"
    )
    group.add_argument(
        "--metric", metavar="M", default="", help="one of the task's (default: the task's first)"
    )
    group.add_argument(
        "--output", metavar="NAME[:KIND]", default="", help="which output answers: logits or probs"
    )
    group.add_argument(
        "--prepare", metavar="FILE", action="append", default=[],
        help="YAML file of prepare keys (mean, tokenizer, ...), for a model that comes without",
    )  # fmt: skip
    group.add_argument(
        "--budget-minutes",
        metavar="N",
        type=options.positive,
        default=10.0,
        help="after which nothing more is tried (default: %(default)g)",
    )
    group.add_argument(
        "--threads", metavar="N", type=options.count, default=1, help="of the runtime (default: %(default)s)"
    )
    group.add_argument(
        "--batch", metavar="N", type=options.count, default=1, help="examples per call (default: %(default)s)"
    )
    group.add_argument(
        "--remeasure", action="store_true", help="measure again even where valid timings are stored"
    )
    group.add_argument(
        "--on-inconclusive",
        choices=["fail", "pass"],
        help="exit 1 or 0 instead of 3, for CI systems that know two colours",
    )


def asked(args: argparse.Namespace) -> bool:
    """Whether the options ask for a search.

    Raises:
        UsageError: options of a search without the one that asks for it.
    """
    from edgekd.errors import UsageError

    if args.max_accuracy_drop is not None:
        return True
    given = [
        name
        for name, value in (("--data", args.data), ("--test-data", args.test_data), ("--metric", args.metric))
        if value
    ]
    if given:
        raise UsageError(
            f"{given[0]} is for the search, which was not asked for",
            "add --max-accuracy-drop 0.01, or leave it out",
        )
    return False


def run(args: argparse.Namespace) -> int:
    """Search, write the winner with its evidence, and give the exit code of its verdict."""
    from dataclasses import replace

    from edgekd.cli.outputs import check_new_folder
    from edgekd.cli.progress import step_line
    from edgekd.files import building, write_bytes
    from edgekd.model import Model
    from edgekd.models import open_reference
    from edgekd.pipeline.search import SearchRequest, search_student
    from edgekd.pipeline.targets import present_target
    from edgekd.quantize.searched import SEARCH_FILE
    from edgekd.report.search import search_page
    from edgekd.tasks import parse_output

    _check(args)
    check_new_folder(args.out, "artifact.json")
    store = options.store(args)
    targets = [present_target(t) for t in dict.fromkeys(_targets(args))]
    opened = open_reference(
        args.model, weights=options.weights(args, ("student",)).get("student"), base=Path.cwd(), store=store
    )
    if keys := options.prepares(args).get("student"):
        opened = replace(opened, prepare=keys) if isinstance(opened, Model) else opened.with_prepare(keys)
    given = options.exporter_options(args)
    request = SearchRequest(
        reference=args.model,
        model=opened,
        task=_task(args),
        targets=targets,
        max_drop=args.max_accuracy_drop,
        budget_s=60 * args.budget_minutes,
        threads=args.threads,
        batch=args.batch,
        options={f: given for t in targets for f in t.runtime_paths} if given else {},
        output=parse_output(args.output) if args.output else {},
        rename=options.renames(args).get("student", {}),
        remeasure=args.remeasure,
    )
    found, artifact = search_student(request, store, lambda text: step_line(f"search: {text}"))
    step_line("")
    page = search_page(found)
    with building(args.out) as root:
        artifact.copy_to(root, companions=True)
        found.save(root / SEARCH_FILE)
        write_bytes(root / "search.md", page.encode())
    print(page)
    print(f"{args.out}: {found.winner}, {artifact.size_bytes / 2**20:.3f} MiB; evidence in {SEARCH_FILE}")
    return _exit(found, args)


def _targets(args: argparse.Namespace) -> list[str]:
    return args.target or [_DEFAULT_TARGET]


def one_target(args: argparse.Namespace) -> str:
    """The target of a quantization without a search.

    Raises:
        UsageError: several.
    """
    from edgekd.errors import UsageError

    if len(args.target) > 1:
        raise UsageError(
            f"--for is given {len(args.target)} times, and one file is for one target",
            "add --data D --max-accuracy-drop 0.01 to search them, or give it once",
        )
    return str(_targets(args)[0])


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError where the search cannot start."""
    from edgekd.errors import UsageError
    from edgekd.target import check_threads

    if not args.data:
        raise UsageError(
            "--max-accuracy-drop needs labelled data to choose by",
            "give --data D, and --test-data T if you have it",
        )
    if args.out.suffix:
        raise UsageError(
            f"-o {args.out.name}: a search writes its evidence beside the model",
            f"name a folder: -o {args.out.with_suffix('')}",
        )
    if args.format:
        raise UsageError(
            "--format and --max-accuracy-drop exclude each other", "--for says which formats are tried"
        )
    check_threads(args.threads)


def _task(args: argparse.Namespace) -> TaskSpec:
    """The task with its rows to choose by, to judge on and to calibrate with.

    Raises:
        UsageError: a named split that cannot be halved.
    """
    from edgekd.data.sources import pick_rows
    from edgekd.tasks import TaskSpec

    select, test = args.data, args.test_data
    if not test:
        select, test = (pick_rows(args.data, slice(k, None, 2), Path.cwd()) for k in (0, 1))
    # What is chosen by may calibrate, too: nothing of it is judged on.
    data = {"select": select, "test": test, "calibration": args.calibration or select}
    return TaskSpec(kind=args.task, metric=args.metric, data=data, base=str(Path.cwd()))


def _exit(found: Search, args: argparse.Namespace) -> int:
    from edgekd.errors import EXIT_INCONCLUSIVE, EXIT_INPUT, EXIT_PASS, EXIT_REJECT

    codes: dict[Any, int] = {"pass": EXIT_PASS, "reject": EXIT_REJECT, "error": EXIT_INPUT}
    code = codes.get(found.decision, EXIT_INCONCLUSIVE)
    if code == EXIT_INCONCLUSIVE and args.on_inconclusive:
        return EXIT_REJECT if args.on_inconclusive == "fail" else EXIT_PASS
    return code
