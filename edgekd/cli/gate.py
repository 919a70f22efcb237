"""``edgekd gate``: judge a stored run, or collect evidence for two models and judge it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.cli import judging, options

if TYPE_CHECKING:
    from edgekd.pipeline.gate import GateRequest


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="RUN",
        nargs="?",
        type=Path,
        help="a run folder or a released bundle: judge its stored evidence again, running nothing",
    )
    parser.add_argument("--policy", metavar="F", type=Path, help="a recipe's gates block to judge under")
    models = parser.add_argument_group("models to judge without a recipe")
    models.add_argument("--student", metavar="S", help="the model that may ship")
    models.add_argument("--teacher", metavar="T", help="the model it is compared with")
    models.add_argument(
        "--baseline", metavar="A", help="last release's model, measured again beside the student"
    )
    models.add_argument(
        "--teacher-evaluation",
        metavar="F",
        type=Path,
        help="a stored evaluation.json of a teacher that cannot run here",
    )
    models.add_argument(
        "--float32", metavar="F", help="the student before quantization, to compare its answers with"
    )
    models.add_argument("--naive", metavar="N", help="a student of this size trained without the teacher")
    options.add_weights(models)  # type: ignore[arg-type]
    limits = parser.add_argument_group("limits; only what is asked is collected and judged")
    limits.add_argument(
        "--max-accuracy-drop",
        metavar="X",
        type=options.not_negative,
        help="below the reference, in the metric's unit; 0.01 is a point (default with --data and no other limit)",
    )
    limits.add_argument(
        "--min-accuracy-ratio",
        metavar="R",
        type=options.share,
        help="share of the reference's accuracy that must be kept, e.g. 0.99",
    )
    limits.add_argument(
        "--against",
        choices=["teacher", "naive", "float32", "baseline"],
        help="what --max-accuracy-drop, --min-accuracy-ratio and --slice compare with (default: the teacher, else the "
        "baseline, else float32)",
    )
    limits.add_argument(
        "--max-flips",
        metavar="X",
        type=options.fraction,
        help="share of answers that may differ from --float32 (else from the teacher, else from the baseline)",
    )
    limits.add_argument(
        "--slice",
        metavar="NAME",
        action="append",
        default=[],
        help="judge every value of this slice too; `class` is the label",
    )
    limits.add_argument(
        "--max-slice-drop",
        metavar="X",
        type=options.positive,
        help="below the reference within each slice, in the metric's unit (default: 0.03 of a fraction)",
    )
    limits.add_argument("--max-latency-ratio", metavar="R", type=options.positive, help="student / teacher")
    limits.add_argument(
        "--max-latency-ms",
        metavar="[P:]MS",
        type=options.percentile_limit,
        help="a percentile of the student's own latency, e.g. p99:33; needs no teacher",
    )
    limits.add_argument(
        "--max-tail-ratio",
        metavar="[P:]R",
        type=options.percentile_limit,
        help="student / teacher of a percentile of the latency, e.g. p99:1.2",
    )
    limits.add_argument(
        "--max-regression",
        metavar="X",
        type=options.not_negative,
        help="slower than the baseline, as a fraction",
    )
    limits.add_argument(
        "--max-size-mib", metavar="MIB", type=options.positive, help="size of the student's files"
    )
    limits.add_argument(
        "--min-placement",
        metavar="X",
        type=options.share,
        help="least share of the student's operators that run where --placement-on says, or in --placement-precision",
    )
    limits.add_argument(
        "--placement-on",
        metavar="PLACE",
        default="",
        help="the place's name, e.g. cuda or xnnpack (default: what the target's session uses)",
    )
    limits.add_argument(
        "--placement-precision",
        metavar="D",
        default="",
        help="count those that compute in this precision, e.g. int8",
    )
    limits.add_argument(
        "--placement-by",
        choices=["ops", "time", "macs"],
        default="ops",
        help="count operators, or add up their time or multiply-accumulates (default: %(default)s)",
    )
    limits.add_argument(
        "--provenance",
        metavar="F",
        type=Path,
        help="a recipe's provenance block: what teacher and data may be used for is judged too",
    )
    options.add_task(parser)
    options.add_measure(parser)
    options.add_scenario(parser)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="run folder to write (default: runs/<utc>-<digest>)"
    )
    judging.add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    return _stored(args) if args.folder is not None else _collect(args)


def _stored(args: argparse.Namespace) -> int:
    import shutil

    from edgekd.errors import UsageError
    from edgekd.evidence.run import load_run
    from edgekd.files import building, write_bytes
    from edgekd.gates.judge import judge_run
    from edgekd.pipeline.folder import check_out
    from edgekd.recipe import load_policy, stored_policy
    from edgekd.report import render

    if any((args.student, args.teacher, args.baseline, args.data)):
        raise UsageError("a run folder and models were both given", "judge the one or the other")
    if any(
        v is not None
        for v in (
            *(args.max_accuracy_drop, args.max_latency_ratio, args.max_latency_ms, args.max_tail_ratio),
            *(args.max_regression, args.max_size_mib, args.max_flips, args.min_accuracy_ratio, args.against),
            *args.slice,
            args.max_slice_drop,
            args.min_placement,
        )
    ):
        raise UsageError("limits of a stored run come from --policy", "write them into a policy file")
    if args.provenance:
        raise UsageError(
            f"--provenance {args.provenance} declares for models that are judged now, and {args.folder} was judged by what "
            "it stored when it was collected",
            "write it into the recipe's `provenance:` and run again; or judge with a --policy without `provenance`, and give "
            "it to `edgekd release --provenance`",
        )
    _only_judging(args)
    from edgekd.release.opening import is_bundle

    if is_bundle(args.folder):
        return _judge_bundle(args)
    index = load_run(args.folder)
    policy = load_policy(args.policy, os.environ) if args.policy else stored_policy(args.folder, index)
    verdict = judge_run(args.folder, index, policy)
    if args.out is None:
        verdict.save(args.folder / "verdict.json")
        for kind in ("md", "html"):
            write_bytes(args.folder / f"report.{kind}", render(args.folder, kind).encode())
        return judging.show(verdict, args.folder, args)
    check_out(args.out)
    with building(args.out) as root:
        shutil.copytree(args.folder, root, dirs_exist_ok=True)
        verdict.save(root / "verdict.json")
        for kind in ("md", "html"):
            (root / f"report.{kind}").write_text(render(root, kind), encoding="utf-8")
    return judging.show(verdict, args.out, args)


def _judge_bundle(args: argparse.Namespace) -> int:
    """Judge a released run again: the bundle is verified first and stays as it is, the verdict goes to a run folder."""
    from edgekd.files import building
    from edgekd.gates.judge import judge_run
    from edgekd.pipeline.folder import check_out
    from edgekd.pipeline.run import default_out
    from edgekd.recipe import load_policy, stored_policy
    from edgekd.release.opening import copy_run, open_bundle, run_of
    from edgekd.report import render

    bundle = open_bundle(args.folder)
    index = run_of(bundle)
    policy = load_policy(args.policy, os.environ) if args.policy else stored_policy(bundle.folder, index)
    out = args.out or default_out(index.name, bundle.verified.digest)
    check_out(out)
    verdict = judge_run(bundle.folder, index, policy)
    with building(out) as root:
        copy_run(bundle, root)
        verdict.save(root / "verdict.json")
        for kind in ("md", "html"):
            (root / f"report.{kind}").write_text(render(root, kind), encoding="utf-8")
    return judging.show(verdict, out, args)


#: What ``gate RUN`` takes besides the folder: nothing that says how to collect evidence.
_JUDGING = {"folder", "policy", "out", "junit", "markdown", "json", "on_inconclusive", "verb", "run"}


def _only_judging(args: argparse.Namespace) -> None:
    """Refuse options that say how to measure or evaluate.

    Raises:
        UsageError: names the option.
    """
    from edgekd.errors import UsageError

    parser = argparse.ArgumentParser(add_help=False)
    configure(parser)
    for action in parser._actions:
        if action.dest not in _JUDGING and getattr(args, action.dest) != action.default:
            raise UsageError(
                f"{action.option_strings[0]} says how to collect evidence, and a stored run is only judged",
                "leave it out, or give --student and what it is compared with",
            )


def gate_request(args: argparse.Namespace) -> GateRequest:
    """What was asked, on the command line or by the keywords of the pytest fixture.

    Raises:
        UsageError: nothing to judge, or limits that contradict each other; RecipeError: the policy file.
    """
    from edgekd.errors import UsageError
    from edgekd.evidence import load_evaluation
    from edgekd.pipeline.gate import GateRequest
    from edgekd.policy import ProvenanceGate
    from edgekd.recipe import GatesBlock, load_policy
    from edgekd.recipe_provenance import load_provenance
    from edgekd.spec import parse_shapes

    if not args.student:
        raise UsageError(
            "nothing to judge", "give a run folder, or --student S with --teacher T or --baseline A"
        )
    if args.max_accuracy_drop is not None and args.min_accuracy_ratio is not None:
        raise UsageError("both --max-accuracy-drop and --min-accuracy-ratio were given", "give one of them")
    against = args.against or _reference(args)
    limits = {
        "accuracy": _accuracy(args, against),
        "fidelity": None if args.max_flips is None else {"max_flips": args.max_flips},
        "slices": {"names": args.slice, "against": against, "max_drop": args.max_slice_drop}
        if args.slice
        else None,
        "latency": None if args.max_latency_ratio is None else {"max_ratio": args.max_latency_ratio},
        "latency_absolute": None
        if args.max_latency_ms is None
        else {"percentile": args.max_latency_ms[0], "max_ms": args.max_latency_ms[1]},
        "tail": None
        if args.max_tail_ratio is None
        else {"percentile": args.max_tail_ratio[0], "max_ratio": args.max_tail_ratio[1]},
        "size": None if args.max_size_mib is None else {"max_mib": args.max_size_mib},
        "placement": _placement(args),
    }
    if args.max_regression is not None or (args.baseline and not _only_answers(args, against)):
        if not args.baseline:
            raise UsageError("--max-regression needs a baseline to measure beside", "give --baseline A.onnx")
        bound = 0.02 if args.max_regression is None else args.max_regression
        limits["regression"] = {"baseline": args.baseline, "max_regression": bound}
    asked = {k: v for k, v in limits.items() if v is not None}
    if args.policy:
        if set(asked) - {"regression"} or args.max_regression is not None:
            raise UsageError("limits were given both as options and by --policy", "give one of them")
        policy = load_policy(args.policy, os.environ)
    else:
        if not asked and args.data:
            asked["accuracy"] = {"against": against}
        policy = GatesBlock.model_validate(asked)
    declared = None
    if args.provenance:
        declared = load_provenance(args.provenance, os.environ)
        if policy.provenance is None:
            policy = policy.model_copy(update={"provenance": ProvenanceGate()})
    baseline = args.baseline or policy.baseline
    return GateRequest(
        student=args.student, teacher=args.teacher or "", baseline=baseline, float32=args.float32 or "",
        naive=args.naive or "", cluster=args.cluster, prepare=options.prepares(args), policy=policy,
        weights=options.weights(args), data=args.data, task_kind=args.task, metric=args.metric, target=args.target,
        teacher_evaluation=load_evaluation(args.teacher_evaluation) if args.teacher_evaluation else None,
        measure=options.measure_block(args), shapes=parse_shapes(args.shape), output=options.outputs(args),
        rename=options.renames(args), first_run=args.first_run == "accept", remeasure=args.remeasure,
        name=Path(args.student).stem or "gate", provenance=declared,
    )  # fmt: skip


def _reference(args: argparse.Namespace) -> str:
    """What accuracy is judged against where it is not said."""
    if args.teacher or args.teacher_evaluation:
        return "teacher"
    return "baseline" if args.baseline else "float32" if args.float32 else "teacher"


def _accuracy(args: argparse.Namespace, against: str) -> dict[str, object] | None:
    if args.min_accuracy_ratio is not None:
        return {"against": against, "min_ratio": args.min_accuracy_ratio}
    if args.max_accuracy_drop is not None:
        return {"against": against, "max_drop": args.max_accuracy_drop}
    # A reference that was named is a question, at its usual margin.
    return {"against": against} if args.against else None


def _placement(args: argparse.Namespace) -> dict[str, object] | None:
    from edgekd.errors import UsageError

    if args.min_placement is not None:
        return {
            "min_share": args.min_placement, "on": args.placement_on, "precision": args.placement_precision,
            "by": args.placement_by,
        }  # fmt: skip
    if args.placement_on or args.placement_precision or args.placement_by != "ops":
        raise UsageError("how to count placement was given, and no least share", "give --min-placement 0.95")
    return None


def _only_answers(args: argparse.Namespace, against: str) -> bool:
    """Whether the baseline was named for its answers: then it is not measured unless that is asked."""
    asked = (args.max_accuracy_drop, args.min_accuracy_ratio, args.against, args.slice or None)
    if against == "baseline" and any(v is not None for v in asked):
        return True
    return args.max_flips is not None and not (args.float32 or args.teacher or args.teacher_evaluation)


def _collect(args: argparse.Namespace) -> int:
    from edgekd.files import digest_of
    from edgekd.pipeline.gate import gate_files
    from edgekd.pipeline.run import default_out

    request = gate_request(args)
    out = args.out or default_out(
        request.name, digest_of([args.student, args.teacher, args.baseline, args.data])
    )
    return judging.show(gate_files(request, out=out, store=options.store(args)), out, args)
