"""``edgekd export MODEL``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.cli import options

_LINTED = "tensorrt"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="zoo:NAME, a model folder, .safetensors with model.json, python:module:factory, a Hugging Face folder, "
        "or a file in another format",
    )
    parser.add_argument(
        "--format",
        metavar="F",
        default="onnx",
        help="onnx (default), ort, openvino, tensorrt, executorch, litert",
    )
    parser.add_argument(
        "--opset", metavar="N", type=options.count, help="ONNX opset (default: the exporter's)"
    )
    parser.add_argument(
        "--shape",
        metavar="NAME=MIN:OPT:MAX",
        action="append",
        default=[],
        help="sizes of a dynamic input: 1x3x32x32:4x3x32x32:8x3x32x32, or one size",
    )
    parser.add_argument(
        "--dtype", metavar="D", default="", help="precision of the weights: float16, bfloat16, ..."
    )
    parser.add_argument(
        "--optimize",
        metavar="HOW",
        default="",
        help="rewrite the ONNX graph, and record it: onnxslim, ort-basic or ort-extended",
    )
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of the format's own exporter",
    )
    parser.add_argument(
        "--lint",
        action="store_true",
        help="write nothing: say what TensorRT would refuse or run slowly, without TensorRT or a GPU; with -o also a "
        "report (.json or .sarif)",
    )
    parser.add_argument(
        "--sm",
        metavar="N",
        type=options.count,
        help="compute capability to lint for, e.g. 89 for Ada, 90 for Hopper",
    )
    parser.add_argument(
        "--tensorrt",
        metavar="V",
        choices=["10", "11"],
        default=None,
        help="version to lint for (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        type=Path,
        help="an artifact folder, or a single file (model.onnx, model.tflite, ...)",
    )
    options.add_weights(parser)


def run(args: argparse.Namespace) -> int:
    from edgekd.cli.outputs import check_artifact_out, write_artifact
    from edgekd.errors import UsageError
    from edgekd.model import Model
    from edgekd.models import open_reference
    from edgekd.pipeline.artifacts import export_to
    from edgekd.pipeline.routes import exporter_for

    exporter_for(args.format)
    asked = _asked(args)
    if args.lint:
        return _lint(args, asked)
    if args.sm is not None or args.tensorrt is not None:
        raise UsageError("--sm and --tensorrt say what to lint for", "add --lint, or leave them out")
    if args.out is None:
        raise UsageError("export needs a place to write to", "give -o OUT")
    check_artifact_out(args.out)
    store = options.store(args)
    given = options.weights(args, ("student",)).get("student")
    source = open_reference(args.model, weights=given, base=Path.cwd(), store=store)
    changes = [name for name in asked if name not in ("shapes", "atol", "rtol")]
    if not isinstance(source, Model) and source.format == args.format and not changes:
        raise UsageError(
            f"{args.model} is {source.format} already",
            "name another --format, or what to change: --dtype, --optimize",
        )
    made = export_to(source, args.format, asked, store, f"export {args.model}")
    write_artifact(made, args.out)
    parity = made.lineage.get("parity")
    error = parity.get("max_abs_error") if isinstance(parity, dict) else None
    of = str(parity.get("reference", "its source")).partition(" ")[0] if isinstance(parity, dict) else ""
    shown = f", greatest difference from {of} {error:.2e}" if isinstance(error, float) else ""
    print(f"{args.out}: {made.format} {made.dtype}, {made.size_bytes / 2**20:.2f} MiB{shown}")
    return 0


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The exporter's options that were given."""
    from edgekd.errors import UsageError
    from edgekd.spec import parse_shapes

    asked: dict[str, Any] = {
        "opset": args.opset, "dtype": args.dtype, "optimize": args.optimize, "shapes": parse_shapes(args.shape),
    }  # fmt: skip
    own = options.exporter_options(args)
    if both := [name for name in own if asked.get(name)]:
        raise UsageError(f"--option {both[0]} is given, and --{both[0]} too", f"give --{both[0]} once")
    asked |= own
    return {name: value for name, value in asked.items() if value}


def _lint(args: argparse.Namespace, asked: Mapping[str, Any]) -> int:
    """Lint what would be built: an .onnx file as it is, a torch model exported to ONNX first."""
    from edgekd.cli.outputs import write_lint
    from edgekd.errors import UsageError
    from edgekd.model import Model
    from edgekd.models import open_reference
    from edgekd.pipeline.artifacts import export_to
    from edgekd_tensorrt.lint.report import run_lint

    if args.format != _LINTED:
        raise UsageError(f"--lint knows TensorRT, --format is {args.format}", f"give --format {_LINTED}")
    store = options.store(args)
    given = options.weights(args, ("student",)).get("student")
    source = open_reference(args.model, weights=given, base=Path.cwd(), store=store)
    first = {k: v for k, v in asked.items() if k in ("opset", "optimize", "shapes")}
    if isinstance(source, Model) or source.format != "onnx" or "opset" in first or "optimize" in first:
        source = export_to(source, "onnx", first, store, f"export {args.model}")
    told = {
        "sm": args.sm,
        "tensorrt": args.tensorrt,
        "shapes": asked.get("shapes"),
        "dtype": asked.get("dtype"),
        "plugins": asked.get("plugins"),
    }
    report, text = run_lint(source.path, {k: v for k, v in told.items() if v})
    if args.out is not None:
        write_lint(report, args.out, args.model)
    print(text)
    return 1 if report.errors else 0
