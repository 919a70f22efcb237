"""``edgekd export MODEL``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekd.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="zoo:NAME, a model folder, .safetensors with model.json, or python:module:factory",
    )
    parser.add_argument("--format", metavar="F", default="onnx", help="onnx (default)")
    parser.add_argument(
        "--opset", metavar="N", type=options.count, help="ONNX opset (default: the exporter's)"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        type=Path,
        required=True,
        help="an artifact folder, or a single .onnx file",
    )
    options.add_weights(parser)


def run(args: argparse.Namespace) -> int:
    from edgekd.cli.outputs import check_artifact_out, write_artifact
    from edgekd.errors import UsageError
    from edgekd.model import Model
    from edgekd.models import open_reference
    from edgekd.pipeline.artifacts import export_model, exporter_for

    exporter_for(args.format)
    check_artifact_out(args.out)
    store = options.store(args)
    given = options.weights(args, ("student",)).get("student")
    model = open_reference(args.model, weights=given, base=Path.cwd(), store=store)
    if not isinstance(model, Model):
        raise UsageError(f"{args.model} is {model.format} already", "export takes torch models")
    made = export_model(
        model, args.format, {"opset": args.opset} if args.opset else {}, store, f"export {args.model}"
    )
    write_artifact(made, args.out)
    error = (
        made.lineage.get("parity", {}).get("max_abs_error")
        if isinstance(made.lineage.get("parity"), dict)
        else None
    )
    parity = f", greatest difference from torch {error:.2e}" if isinstance(error, float) else ""
    print(f"{args.out}: {made.format} {made.dtype}, {made.size_bytes / 2**20:.2f} MiB{parity}")
    return 0
