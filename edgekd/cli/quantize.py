"""``edgekd quantize MODEL``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekd.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a float model: .onnx, artifact folder, model folder, zoo: name, ..."
    )
    parser.add_argument("--dtype", metavar="D", default="int8", help="int8 (default)")
    parser.add_argument(
        "--for",
        dest="target",
        metavar="TARGET",
        default="cpu:onnxruntime",
        help="cpu:onnxruntime (u8 activations, s8 weights; default) or cuda:tensorrt (symmetric s8)",
    )
    parser.add_argument(
        "--format",
        metavar="F",
        default="",
        help="what to write: onnx, openvino, executorch, litert, tensorrt (default: the file's own format; onnx for "
        "torch models)",
    )
    parser.add_argument(
        "--calibration",
        metavar="D",
        required=True,
        help="calibration data: real examples of what the model will see",
    )
    parser.add_argument(
        "--examples",
        metavar="N",
        type=options.count,
        default=256,
        help="calibration examples at most (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=["minmax", "entropy", "percentile"],
        default="minmax",
        help="of calibration (default: %(default)s)",
    )
    parser.add_argument(
        "--granularity",
        choices=["channel", "tensor"],
        default="channel",
        help="of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--task",
        metavar="KIND",
        default="classification",
        help="how examples become feeds (default: %(default)s)",
    )
    parser.add_argument(
        "--map", metavar="INPUT=ARRAY", action="append", default=[], help="which array feeds which input"
    )
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of the format's own exporter",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        type=Path,
        required=True,
        help="an artifact folder, or a single file (model.onnx, model.tflite, ...)",
    )
    options.add_weights(parser)


def run(args: argparse.Namespace) -> int:
    from edgekd.cli.outputs import check_artifact_out, write_artifact
    from edgekd.errors import UsageError
    from edgekd.model import Model
    from edgekd.models import open_reference
    from edgekd.pipeline.artifacts import quantize_to
    from edgekd.plugins import list_plugins
    from edgekd.quantize import QuantConfig
    from edgekd.target import parse_target
    from edgekd.tasks import TaskSpec

    if parse_target(args.target).runtime not in list_plugins("edgekd.runtimes"):
        raise UsageError(
            f"--for {args.target}: no runtime is called so",
            f"known: {', '.join(list_plugins('edgekd.runtimes'))}",
        )
    variant = "tensorrt" if parse_target(args.target).runtime == "tensorrt" else "cpu"
    config = QuantConfig(
        dtype=args.dtype,
        granularity=args.granularity,
        variant=variant,
        calibration=args.method,
        examples=args.examples,
    )
    config.check()
    check_artifact_out(args.out)
    store = options.store(args)
    given = options.weights(args, ("student",)).get("student")
    opened = open_reference(args.model, weights=given, base=Path.cwd(), store=store)
    source = opened.as_artifact() if isinstance(opened, Model) else opened
    written = args.format or ("onnx" if isinstance(opened, Model) else opened.format)
    task = TaskSpec(kind=args.task, data={"calibration": args.calibration}, base=str(Path.cwd()))
    rename = options.renames(args).get("student", {})
    made = quantize_to(
        opened, written, config, task, options.exporter_options(args), store, f"quantize {args.model}", rename
    )
    write_artifact(made, args.out)
    share = made.size_bytes / source.size_bytes
    kind = f"{made.dtype} for {variant}" if made.format == "onnx" else f"{made.format} {made.dtype}"
    print(f"{args.out}: {kind}, {made.size_bytes / 2**20:.3f} MiB ({share:.0%} of the float model)")
    return 0
