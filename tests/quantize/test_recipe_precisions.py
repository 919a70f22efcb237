"""What a recipe's ``quantize`` entries mean, and which of their fields mean nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgekd.errors import UsageError
from edgekd.quantize.config import WORDS, config_of, usual_for
from edgekd.quantize.precision import precision_of


@pytest.mark.parametrize(
    ("fields", "idle"),
    [
        ({"dtype": "int8", "block_size": 64}, "block_size '64' means nothing for int8 static per channel"),
        ({"dtype": "int4", "granularity": "channel", "block_size": 64}, "block_size '64'"),
        ({"dtype": "int8-dynamic", "smoothing": 0.5}, "smoothing goes with static ranges"),
        ({"dtype": "int8", "smoothing": 1.0}, r"smoothing 1 is not in \[0, 1\)"),
        (
            {"dtype": "int4", "calibration": "entropy"},
            "calibration 'entropy' means nothing for int4 weight-only",
        ),
        ({"dtype": "int8", "mode": "dynamic", "calibration": "mse"}, "calibration 'mse' means nothing"),
        ({"dtype": "int8-dynamic", "calibration": "minmax"}, "calibration 'minmax' means nothing"),
        ({"dtype": "int8", "accuracy_level": 1}, "accuracy_level '1' means nothing"),
        ({"dtype": "int8", "accuracy_level": 0}, "accuracy_level '0' means nothing"),
    ],
)
def test_a_field_that_decides_nothing_is_refused_by_name(fields: dict[str, Any], idle: str) -> None:
    with pytest.raises(UsageError, match=f"{idle}.*leave {idle.split()[0]} out"):
        precision_of(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "int8", "calibration": "mse", "seed": 0, "examples": 8, "keep_float": []},
        {"dtype": "int4", "block_size": 64, "accuracy_level": 0, "keep_float": ["b", "a"]},
        {"dtype": "int8", "mode": "weight-only", "granularity": "channel"},
        {"dtype": "int8", "activation_granularity": "tensor", "smoothing": 0.0},
        {"dtype": "int8", "activation_granularity": "channel", "smoothing": 0.5},
    ],
)
def test_what_means_something_is_taken(fields: dict[str, Any]) -> None:
    config = precision_of(fields).config
    assert config is not None
    for key, value in fields.items():
        assert getattr(config, key) == (tuple(sorted(value)) if key == "keep_float" else value)


def test_ranges_for_each_channel_of_activations() -> None:
    assert (
        precision_of({"dtype": "int8", "activation_granularity": "channel"}).name
        == "int8 channel activations"
    )
    for fields, says in (
        ({"mode": "dynamic", "activation_granularity": "channel"}, "this is dynamic by channel"),
        ({"granularity": "tensor", "activation_granularity": "channel"}, "this is static by tensor"),
        ({"activation_granularity": "every"}, "'every' is not known; choose tensor or channel"),
    ):
        with pytest.raises(UsageError, match=says):
            precision_of({"dtype": "int8", **fields})


@pytest.mark.parametrize("word", [*WORDS, "fp8"])
def test_a_word_may_be_the_dtype_of_a_block(word: str) -> None:
    assert precision_of({"dtype": word}).config == config_of(word)
    assert precision_of({"dtype": word}).name == precision_of(word).name


def test_a_word_of_another_mode_is_refused() -> None:
    assert precision_of({"dtype": "int8-dynamic", "mode": "dynamic"}).config == config_of("int8-dynamic")
    with pytest.raises(UsageError, match="'int8-dynamic' is dynamic, asked for weight-only; say int8"):
        precision_of({"dtype": "int8-dynamic", "mode": "weight-only"})


def test_weights_alone_are_per_channel_where_there_are_no_blocks() -> None:
    blocks = config_of("int8-weights")
    for name in ("openvino", "litert"):
        assert usual_for(blocks, name) == replace(blocks, granularity="channel")
    assert usual_for(blocks, "onnx") == usual_for(blocks, "ort") == blocks
    for word in ("int8", "int8-dynamic", "int4", "fp8"):
        assert usual_for(config_of(word), "openvino") == config_of(word)
    assert precision_of("int8-weights").usual
    assert not precision_of({"dtype": "int8-weights", "granularity": "block"}).usual
