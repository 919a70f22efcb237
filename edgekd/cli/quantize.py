"""``edgekd quantize MODEL``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.cli import options, searching

if TYPE_CHECKING:
    from edgekd.quantize import QuantConfig


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a float model: .onnx, artifact folder, model folder, zoo: name, ..."
    )
    parser.add_argument(
        "--dtype",
        metavar="D",
        default="int8",
        help="int8 (default), int8-dynamic, int8-weights, int4, or fp8 (float8e4m3fn)",
    )
    parser.add_argument(
        "--mode",
        choices=["static", "dynamic", "weight-only"],
        default="",
        help="static ranges of activations from calibration data (default), ranges in every call, or activations in float",
    )
    parser.add_argument(
        "--for",
        dest="target",
        metavar="TARGET",
        action="append",
        default=[],
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
        default="",
        help="real examples of what the model will see; needed for static ranges, and what the answers are checked on",
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
        choices=["minmax", "entropy", "percentile", "mse"],
        default="minmax",
        help="of calibration (default: %(default)s)",
    )
    parser.add_argument(
        "--smoothing",
        metavar="ALPHA",
        type=float,
        default=0.0,
        help="move so much of the differences between channels of activations into the weights, below 1 (0.5 is usual; "
        "OpenVINO; default: none)",
    )
    parser.add_argument(
        "--activation-granularity",
        choices=["tensor", "channel"],
        default="tensor",
        help="of activations: channel gives each channel in front of a depthwise convolution a range of its own "
        "(OpenVINO; default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=options.whole,
        help="draw the calibration examples from all there are (default: take the first)",
    )
    parser.add_argument(
        "--granularity",
        choices=["channel", "tensor", "block"],
        default="",
        help="of the weights (default: channel; block for weight-only)",
    )
    parser.add_argument(
        "--block-size",
        metavar="N",
        type=options.count,
        help="weights per block: 16, 32 (default), 64, 128 or 256",
    )
    parser.add_argument(
        "--accuracy-level",
        metavar="N",
        type=options.whole,
        help="of weight-only products on ONNX Runtime: 4 computes in int8 (default), 1 in float32, 0 leaves it open",
    )
    parser.add_argument(
        "--keep-float",
        metavar="NODE",
        action="append",
        default=[],
        help="a node of the float file that stays as it is",
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
    searching.configure(parser)


def run(args: argparse.Namespace) -> int:
    if searching.asked(args):
        return searching.run(args)
    args.target = searching.one_target(args)
    from edgekd.cli.outputs import check_artifact_out, write_artifact
    from edgekd.errors import UsageError
    from edgekd.model import Model
    from edgekd.models import open_reference
    from edgekd.pipeline.artifacts import quantize_to
    from edgekd.plugins import list_plugins
    from edgekd.quantize.config import config_of, usual_for
    from edgekd.target import parse_target
    from edgekd.tasks import TaskSpec

    if parse_target(args.target).runtime not in list_plugins("edgekd.runtimes"):
        raise UsageError(
            f"--for {args.target}: no runtime is called so",
            f"known: {', '.join(list_plugins('edgekd.runtimes'))}",
        )
    variant = "tensorrt" if parse_target(args.target).runtime == "tensorrt" else "cpu"
    given_fields = {
        "granularity": args.granularity,
        "block_size": args.block_size,
        "accuracy_level": args.accuracy_level,
    }
    config = replace(
        config_of(args.dtype, args.mode),
        variant=variant,
        calibration=args.method,
        smoothing=args.smoothing,
        activation_granularity=args.activation_granularity,
        examples=args.examples,
        seed=args.seed,
        keep_float=tuple(sorted(set(args.keep_float))),
        **{k: v for k, v in given_fields.items() if v not in (None, "")},
    )
    _refuse_idle(args, config)
    config.check()
    check_artifact_out(args.out)
    store = options.store(args)
    given = options.weights(args, ("student",)).get("student")
    opened = open_reference(args.model, weights=given, base=Path.cwd(), store=store)
    source = opened.as_artifact() if isinstance(opened, Model) else opened
    written = args.format or ("onnx" if isinstance(opened, Model) else opened.format)
    if not args.granularity and args.block_size is None:
        config = usual_for(config, written)
    data = {"calibration": args.calibration} if args.calibration else {}
    task = TaskSpec(kind=args.task, data=data, base=str(Path.cwd()))
    rename = options.renames(args).get("student", {})
    made = quantize_to(
        opened, written, config, task, options.exporter_options(args), store, f"quantize {args.model}", rename
    )
    write_artifact(made, args.out)
    share = made.size_bytes / source.size_bytes
    how = made.dtype if config.calibrated else f"{made.dtype} ({config.mode})"
    kind = f"{how} for {variant}" if made.format == "onnx" else f"{made.format} {how}"
    print(f"{args.out}: {kind}, {made.size_bytes / 2**20:.3f} MiB ({share:.0%} of the float model)")
    return 0


def _refuse_idle(args: argparse.Namespace, config: QuantConfig) -> None:
    """Refuse options that mean nothing together, rather than leave them out."""
    from edgekd.errors import UsageError

    if config.calibrated and not args.calibration:
        raise UsageError(
            f"static {config.dtype} needs calibration data",
            "give --calibration DATA, or choose int8-dynamic, int8-weights or int4",
        )
    idle = {
        "--method": args.method != "minmax" and not config.calibrated,
        "--seed": args.seed is not None and not args.calibration,
        "--block-size": args.block_size is not None and config.granularity != "block",
        "--accuracy-level": args.accuracy_level is not None and config.mode != "weight-only",
    }
    for option, unused in idle.items():
        if unused:
            raise UsageError(
                f"{option} means nothing for {config.dtype} {config.mode} per {config.granularity}",
                "leave it out",
            )
