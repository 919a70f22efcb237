"""What a network that optimum does not know takes and answers: read off its ``forward`` and its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd.parity import Shapes
from edgekd.spec import Dim, TensorSpec
from edgekd_onnx.folder_boundary import Boundary

_BATCH, _LENGTH = "batch_size", "sequence_length"
_USUAL_LENGTH = 16


def unsupported_boundary(
    model: Any, config: Any, path: Path, shapes: Shapes, image: Sequence[int] | None
) -> Boundary:
    """The boundary of a network of one image, one text or one sound, by the names of transformers' own arguments.

    Raises:
        ModelError: its ``forward`` takes none of these, or it is an encoder-decoder.
    """
    if config.is_encoder_decoder:
        raise ModelError(
            f"optimum does not know the architecture '{config.model_type}' of {path}, an encoder-decoder",
            "export it with torch: python:package.module:factory",
        )
    taken = inspect.signature(model.forward).parameters
    main = str(getattr(model, "main_input_name", ""))
    specs: list[TensorSpec] = []
    if main == "input_ids" and main in taken:
        for name in ("input_ids", "attention_mask"):
            if name in taken:
                specs.append(TensorSpec(name=name, dtype="int64", shape=(_BATCH, _LENGTH)))
    elif main == "pixel_values" and main in taken:
        own = getattr(config, "image_size", None) or 224
        height, width = image or (own if isinstance(own, (list, tuple)) else (own, own))
        sizes: list[Dim] = [int(getattr(config, "num_channels", 3)), int(height), int(width)]
        for i, (low, usual, high) in enumerate(zip(*shapes.get(main, ()), strict=True)):
            if i > 0:
                sizes[i - 1] = usual if low == high else ("", "num_channels", "height", "width")[i]
        specs.append(TensorSpec(name=main, dtype="float32", shape=(_BATCH, *sizes)))
    elif main == "input_values" and main in taken:
        specs.append(TensorSpec(name=main, dtype="float32", shape=(_BATCH, "samples")))
    else:
        raise ModelError(
            f"the architecture '{config.model_type}' of {path} takes '{main}', which is not known here",
            "export it with torch: python:package.module:factory",
        )
    return Boundary(
        task="", part="", inputs=tuple(specs), outputs=("logits", "last_hidden_state", "pooler_output"), config=None,
        usual={_LENGTH: _USUAL_LENGTH, "samples": 16000}, submodel=model,
    )  # fmt: skip
