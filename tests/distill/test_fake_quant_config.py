"""Fake quantization as a recipe and a training configuration say it, and the ranges that it leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgekd.distill import TrainConfig
from edgekd.distill.fake_quant import FakeQuantConfig
from edgekd.errors import EvidenceError, UsageError
from edgekd.pipeline.training import train_config
from edgekd.quantize import QuantConfig
from edgekd.quantize.trained import TrainedRanges, load_trained
from edgekd.recipe import DistillBlock


def test_a_training_without_it_keeps_its_key() -> None:
    assert "fake_quant" not in TrainConfig().to_json()
    assert TrainConfig(fake_quant=FakeQuantConfig()).to_json()["fake_quant"] == FakeQuantConfig().to_json()
    assert train_config(DistillBlock()).fake_quant is None


def test_a_recipe_says_all_of_it() -> None:
    block = DistillBlock(fake_quant={"granularity": "tensor", "variant": "tensorrt", "start": 0, "freeze": 1})
    made = train_config(block).fake_quant
    assert made == FakeQuantConfig(granularity="tensor", variant="tensorrt", start=0, freeze=1)
    assert made is not None
    assert FakeQuantConfig.from_json(made.to_json()) == made
    assert made.quantization() == QuantConfig(granularity="tensor", variant="tensorrt")
    assert train_config(block, method="labels").fake_quant == made, "the naive control is trained alike"


@pytest.mark.parametrize(
    "given", [{"dtype": "int4"}, {"start": 1}, {"start": 0.6, "freeze": 0.5}, {"granularity": "block"}, {"bits": 8}]
)  # fmt: skip
def test_a_recipe_refuses(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DistillBlock(fake_quant=given)


def test_a_loss_on_layers_inside_has_none() -> None:
    losses = [{"loss": "labels"}, {"loss": "feature", "pairs": [{"student": "a", "teacher": "b"}]}]
    with pytest.raises(ValidationError, match="no layers inside for the loss feature"):
        DistillBlock(losses=losses, fake_quant={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float8e4m3fn"}, "fake_quant.dtype is 'float8e4m3fn', it has no fake quantization; choose int8"),
        ({"granularity": "block"}, "fake_quant.granularity is 'block'"),
        ({"variant": "gpu"}, "choose cpu or tensorrt"),
        ({"start": 1.0}, "the training would end before it"),
        ({"freeze": 0.2}, r"fake_quant.freeze is 0.2; choose 0.5 \(its start\) to 1"),
    ],
)  # fmt: skip
def test_what_has_no_fake_quantization(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(FakeQuantConfig(), **change).check()


@pytest.mark.parametrize(
    ("start", "freeze", "total", "steps"), [(0.5, 0.8, 10, (5, 8)), (0, 0, 10, (0, 0)), (0.9, 1, 1, (0, 1))]
)
def test_one_step_at_least_is_quantized(
    start: float, freeze: float, total: int, steps: tuple[int, int]
) -> None:
    assert FakeQuantConfig(start=start, freeze=freeze).steps(total) == steps


RANGES = TrainedRanges(granularity="channel", variant="cpu", ranges={"b": (-1.5, 2.0), "a": (0.0, 0.1)})


def test_ranges_come_back_from_the_folder(tmp_path: Path) -> None:
    RANGES.save(tmp_path)
    assert load_trained(tmp_path / "quantization.json") == RANGES


@pytest.mark.parametrize("bad", [{"a": [1.0]}, {"a": [2.0, 1.0]}, {"a": [0.0, float("inf")]}, 3])
def test_ranges_that_are_none(tmp_path: Path, bad: Any) -> None:
    RANGES.save(tmp_path)
    path = tmp_path / "quantization.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ranges": bad}))
    with pytest.raises(EvidenceError, match=r"train the model again|make it again"):
        load_trained(path)


def test_static_int8_takes_them_and_nothing_else_does() -> None:
    made = RANGES.applied(QuantConfig(), "student")
    assert made.ranges == (("a", 0.0, 0.1), ("b", -1.5, 2.0))
    assert made.to_json()["ranges"] == [["a", 0.0, 0.1], ["b", -1.5, 2.0]]
    assert "ranges" not in QuantConfig().to_json()
    dynamic = QuantConfig(mode="dynamic")
    assert RANGES.applied(dynamic, "student") == dynamic
    with pytest.raises(UsageError, match="ranges from training go with int8 static, this is int8 dynamic"):
        replace(dynamic, ranges=made.ranges).check()


def test_another_quantization_than_was_trained_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"for variant 'cpu', asked for 'tensorrt'; .*fake_quant.variant: tensorrt"
    ):
        RANGES.applied(QuantConfig(variant="tensorrt"), "student")
    with pytest.raises(UsageError, match="for granularity 'channel', asked for 'tensor'"):
        RANGES.applied(QuantConfig(granularity="tensor"), "student")
    with pytest.raises(UsageError, match=r"ranges come from training, .* 'entropy'; leave --method out"):
        RANGES.applied(QuantConfig(calibration="entropy"), "student")
