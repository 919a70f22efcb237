"""In the converting child: a ``model.json`` folder to ``.tflite`` bytes, with litert-torch."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.files import write_bytes
from edgekd.lazy import require
from edgekd.model import load_model
from edgekd.stages import tool_versions

Reply = tuple[dict[str, Any], list[Array]]

_PURPOSE = "exporting to LiteRT"
#: A file that is opened without naming a signature is opened with this one (TensorFlow's name for it).
_SIGNATURE = "serving_default"
#: What torch.export, the lowerings and MLIR raise for a network that they cannot take; they share no base class.
_FAILURES = (
    RuntimeError, NotImplementedError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
)  # fmt: skip


def convert(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Convert one model; replies with the tool versions that did it.

    Args:
        args: ``packages`` (folders to import litert-torch from), ``model`` (the folder), ``out`` (the file to write),
            ``threads``.
        arrays: one example per input, in the model's order: their sizes are the file's sizes.

    Raises:
        ModelError: the network cannot be traced or lowered.
    """
    sys.path[:0] = [p for p in args["packages"] if p not in sys.path]
    importlib.invalidate_caches()
    torch = require("torch", extra="torch", purpose=_PURPOSE)
    torch.set_num_threads(args["threads"])
    # Standard output is the log of this process; the converter would fill it with a line per step.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = _to_bytes(torch, Path(args["model"]), arrays)
    write_bytes(Path(args["out"]), data)
    return {"tools": tool_versions("torch", "litert-torch", "litert-converter", "jax")}, []


def _to_bytes(torch: Any, folder: Path, arrays: list[Array]) -> bytes:
    from edgekd_torch.modules import load_module
    from edgekd_torch.runtime import named_outputs, refuse_training

    core = require("litert_torch._convert.core", extra="litert", purpose=_PURPOSE)
    signatures = require("litert_torch._convert.signature", extra="litert", purpose=_PURPOSE)
    model = load_model(folder)
    module = load_module(model)
    refuse_training(module, model.name)

    class Named(torch.nn.Module):  # type: ignore[misc]
        """Gives the outputs their names: the converter takes those of a dictionary."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *feeds: Any) -> dict[str, Any]:
            return named_outputs(self.module(*feeds), model.outputs, model.name)

    class Signature(signatures.Signature):  # type: ignore[misc, name-defined]
        """Gives the inputs their names: as keyword arguments they would have to be Python identifiers."""

        @property
        def flat_arg_names(self) -> list[str]:
            return [s.name for s in model.inputs]

    feeds = tuple(torch.from_numpy(a.copy()) for a in arrays)
    signature = Signature(_SIGNATURE, Named().eval(), feeds, None)
    try:
        # enable_x64 keeps 64-bit integers, which token ids are; without it inputs change their type.
        return bytes(core.convert_signatures([signature], enable_x64=True).model_content())
    except _FAILURES as e:
        raise ModelError(
            f"litert-torch cannot convert {model.name} ({_reason(e)})",
            "change the module so that torch.export can trace it at fixed sizes and LiteRT has its operators",
        ) from e


#: What follows these is for the converter's authors.
_NOISE = (
    "While executing",
    "Original traceback",
    "Caused by:",
    "For more information",
    "The error occurred while",
)


def _reason(error: BaseException) -> str:
    """What went wrong first, without the trace that the libraries put into their messages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    for noise in _NOISE:
        text = text.partition(noise)[0]
    return (text.rstrip(" (.") or type(error).__name__)[:200]
