"""``edgekd eval MODEL``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgekd.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help=".onnx, an artifact or model folder, zoo:NAME or python:module:factory"
    )
    options.add_weights(parser)
    options.add_task(parser)
    options.add_measure(parser, batch=64, timed=False)
    parser.add_argument(
        "--role",
        choices=["student", "teacher"],
        default="student",
        help="whose arrays it takes (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="F",
        type=Path,
        default=Path("evaluation.json"),
        help="where to write (default: %(default)s, rows beside it as .npz)",
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import UsageError
    from edgekd.evaluate import EvaluationRequest
    from edgekd.evidence import save_evaluation
    from edgekd.pipeline.collect import evaluate_artifact
    from edgekd.pipeline.execution import PLAIN_BATCH
    from edgekd.pipeline.opening import check_inputs, runnable
    from edgekd.pipeline.sizes import Sizes
    from edgekd.pipeline.targets import present_target
    from edgekd.spec import parse_shapes
    from edgekd.tasks import TaskSpec

    if not args.data:
        raise UsageError("eval needs labelled data", "give --data D.npz")
    target = present_target(args.target)
    store = options.store(args)
    shapes = parse_shapes(args.shape)
    # Answers do not hang on the batch: a format of fixed sizes is exported as the shapes say, else at batch 1.
    artifact = runnable(
        args.model, args.role, options.weights(args, (args.role,)), target, store, options.prepares(args),
        Sizes(shapes=shapes, most=max(PLAIN_BATCH, args.batch)),
    )  # fmt: skip
    check_inputs({args.role: artifact}, shapes=shapes, rename=options.renames(args))
    task = TaskSpec(
        kind=args.task,
        metric=args.metric,
        data={"test": args.data},
        base=str(Path.cwd()),
        cluster=args.cluster,
    )
    limit = args.memory_limit_mib
    evaluation = evaluate_artifact(
        EvaluationRequest(
            label=Path(args.model).stem, artifact=artifact, target=target.target, runtime_paths=target.runtime_paths,
            task=task, split="test", data_digest=task.split_digest("test"), role=args.role,
            output=options.outputs(args).get(args.role, {}), rename=options.renames(args).get(args.role, {}),
            batch=args.batch, threads=args.threads, timeout_s=max(3600.0, args.timeout),
            memory_bytes=int(limit * 2**20) if limit else None, search=(Path.cwd(),),
        ),
        store,
    )  # fmt: skip
    save_evaluation(evaluation, args.out)
    for note in evaluation.environment.get("notes", ()):
        print(f"  {note}", file=sys.stderr)
    mean, unit = evaluation.mean, evaluation.unit
    shown = f"{mean:.2%}" if unit == "fraction" else f"{mean:.6g} {unit}".strip()
    print(f"{evaluation.metric} {shown} on {evaluation.n:,} examples ({evaluation.target}); {args.out}")
    return 0
