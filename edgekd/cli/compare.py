"""``edgekd compare A B``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekd.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="the reference")
    parser.add_argument("b", metavar="B", help="what is compared with it")
    options.add_weights(parser)
    options.add_feeds(parser, without="drawn from the models' own specs")
    parser.add_argument(
        "--examples", metavar="N", type=options.count, default=16, help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance",
        metavar="X",
        type=options.positive,
        default=1e-3,
        help="greatest relative error that does not count as a deviation (default: %(default)s)",
    )
    parser.add_argument(
        "--shape", metavar="NAME=SHAPE", action="append", default=[], help="size of an input without data"
    )
    parser.add_argument(
        "--target", metavar="T", default="cpu:onnxruntime", help="where both run (default: %(default)s)"
    )
    parser.add_argument(
        "--target-b", metavar="T", default="", help="where B runs, e.g. cpu:openvino (default: where A does)"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="F",
        type=Path,
        default=Path("comparison.json"),
        help="where to write (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.files import write_json
    from edgekd.pipeline.parity import compare_models
    from edgekd.pipeline.targets import present_target
    from edgekd.spec import parse_shapes

    target = present_target(args.target)
    result = compare_models(
        args.a, args.b, target=target, target_b=present_target(args.target_b) if args.target_b else None, store=options.store(args), data=args.data, task_kind=args.task,
        rename=options.renames(args), examples=args.examples, tolerance=args.tolerance,
        shapes=parse_shapes(args.shape), weights=options.weights(args),
    )  # fmt: skip
    write_json(args.out, result)
    for row in result["outputs"]:
        agreement = "" if row["argmax_agreement"] is None else f", same answer {row['argmax_agreement']:.1%}"
        sqnr = "exact" if row["sqnr_db"] is None else f"SQNR {row['sqnr_db']:.1f} dB"
        print(f"  {row['name']}: greatest difference {row['max_abs']:.3e}, {sqnr}{agreement}")
    first = result["first_deviation"]
    if first:
        module = f" (in the module {result['first_module']})" if result["first_module"] else ""
        print(f"  first tensor beyond {args.tolerance:g}: {first}{module}")
    elif result["tensors"]:
        print(f"  {len(result['tensors'])} shared tensors, none beyond {args.tolerance:g}")
    worst = next((w for w in result["weights"] if w["sqnr_db"] is not None), None)
    if worst:
        print(f"  weight that lost most: {worst['name']}, SQNR {worst['sqnr_db']:.1f} dB")
    print(f"  {result['n']} examples; {args.out}")
    return 0
