"""The sizes asked for reach the export: shapes that fit, the batch of a fixed format, the greatest of a planned one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from edgekd.cli import main
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE
from edgekd.measure.scenario import Scenario
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.pipeline.opening import runnable
from edgekd.pipeline.sessions import open_model
from edgekd.pipeline.sizes import Sizes, export_options, measured_sizes
from edgekd.pipeline.students import float_artifact
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.recipe import Recipe
from edgekd.spec import TensorSpec, parse_shapes
from edgekd.stages import StageStore
from edgekd.target import parse_target

ONE = Scenario()
RANGE = "image=2x1x8x8:4x1x8x8:8x1x8x8"
IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 1, 8, 8))

pytest.importorskip("torch", reason="torch is not installed")

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(1, 2)

    def forward(self, x):
        return self.inner(x.unsqueeze(-1)).mean(1)

def net():
    module = Net().eval()
    module.edgekd_inputs = {"x": ("float32", ("batch", "length"))}
    return module

def even():
    module = torch.nn.Linear(8, 2).eval()
    module.edgekd_inputs = {"x": ("float32", ("batch", 8))}
    return module
"""


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:  # importing openvino would start its telemetry
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sizes")
    (made / "net_of_sizes.py").write_text(NET)  # imported once: it stays where it is
    return made


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def model(place: Path) -> Model:
    found = open_reference(
        "zoo:digits-cnn-student", weights=None, base=place, store=StageStore(place / "store")
    )
    assert isinstance(found, Model)
    assert found.inputs == (IMAGE,)
    return found


def test_other_formats_are_given_ranges_of_the_inputs_that_there_are(model: Model) -> None:
    shapes = parse_shapes([RANGE, "words=1x5"])
    asked = measured_sizes(shapes, 100, ONE)
    assert export_options(model, "onnx", asked) == {"shapes": {"image": shapes["image"]}}
    assert export_options(model, "onnx", measured_sizes({}, 100, ONE)) == {}


@pytest.mark.parametrize(
    ("shapes", "batch", "size"),
    [
        ([], 1, None),
        ([], 4, (4, 1, 8, 8)),
        ([RANGE], 1, (1, 1, 8, 8)),
        ([RANGE], 3, (3, 1, 8, 8)),
        ([RANGE], None, (4, 1, 8, 8)),
        ([], None, None),
    ],
)
def test_a_fixed_format_is_given_one_size(
    model: Model, shapes: list[str], batch: int | None, size: tuple[int, ...] | None
) -> None:
    made = export_options(model, "litert", Sizes(shapes=parse_shapes(shapes), batch=batch))
    assert made == ({"shapes": {"image": (size,) * 3}} if size else {})


@pytest.mark.parametrize(
    ("shapes", "batch", "scenario", "options"),
    [
        ([], 1, ONE, {}),
        ([], 64, ONE, {}),
        ([], 100, ONE, {"max_batch": 100}),
        (["image=1x1x8x8"], 100, ONE, {"shapes": parse_shapes(["image=1x1x8x8"]), "max_batch": 100}),
        (["image=128x1x8x8"], 1, ONE, {"shapes": parse_shapes(["image=128x1x8x8"]), "max_batch": 128}),
        ([RANGE], 1, ONE, {"shapes": parse_shapes(["image=1x1x8x8:4x1x8x8:64x1x8x8"])}),
        ([], 1, Scenario(name=OFFLINE, max_batch=256), {"max_batch": 256}),
        ([], 1, Scenario(name=OFFLINE), {"max_batch": 1024}),
        ([], 1, Scenario(name=MULTI_STREAM, samples_per_query=80), {"max_batch": 80}),
    ],
)
def test_a_planned_format_is_given_the_greatest_batch(
    model: Model, shapes: list[str], batch: int, scenario: Scenario, options: dict[str, object]
) -> None:
    assert (
        export_options(model, "executorch", measured_sizes(parse_shapes(shapes), batch, scenario)) == options
    )


def test_an_input_whose_other_sizes_are_open_is_left_to_the_exporter(place: Path) -> None:
    store = StageStore(place / "store")
    net = open_reference("python:net_of_sizes:net", weights=None, base=place, store=store)
    assert export_options(net, "litert", measured_sizes({}, 4, ONE)) == {}


def target(runtime: str) -> ResolvedTarget:
    return ResolvedTarget(target=parse_target(f"cpu:{runtime}"), runtime_paths={runtime: ""})


def test_the_shape_reaches_the_export_of_a_reference(place: Path) -> None:
    needs("openvino")
    store = StageStore(place / "store")
    sizes = measured_sizes(parse_shapes(["x=1x8"]), 1, ONE)
    made = runnable("python:net_of_sizes:net", "student", {}, target("openvino"), store, sizes=sizes)
    assert (made.format, made.inputs[0].shape[1]) == ("openvino", "length")


def test_the_batch_reaches_the_export_of_a_reference(place: Path) -> None:
    needs("executorch")
    store = StageStore(place / "store")
    sizes = measured_sizes({}, 100, ONE)
    made = runnable("python:net_of_sizes:even", "student", {}, target("executorch"), store, sizes=sizes)
    assert made.lineage["limits"] == {"batch": [1, 100]}
    plain = runnable("python:net_of_sizes:even", "student", {}, target("executorch"), store)
    assert plain.lineage["limits"] == {"batch": [1, 64]}


def test_a_recipe_s_batch_reaches_the_export(model: Model, place: Path) -> None:
    needs("executorch")
    recipe = Recipe.model_validate(
        {
            "edgekd": 1,
            "name": "batch",
            "task": {"data": {"test": "test.npz"}},
            "teacher": {"model": "t.onnx"},
            "student": {"model": "s.onnx"},
            "quantize": ["float32"],
            "measure": {"batch": 100},
            "gates": {"size": {"max_mib": 4}},
        }
    )
    made = float_artifact(model, "executorch", recipe, StageStore(place / "store"), "student")
    assert made.lineage["limits"] == {"batch": [1, 100]}


def test_a_gate_s_batch_reaches_the_export(place: Path) -> None:
    needs("executorch")
    asked = ["gate", "--student", "python:net_of_sizes:even", "--target", "cpu:executorch", "--batch", "100"]
    assert main([*asked, "--max-size-mib", "4", "--out", "gated"]) == 0
    (made,) = (place / "gated/artifacts").glob("*/artifact.json")
    assert json.loads(made.read_text())["lineage"]["limits"] == {"batch": [1, 100]}


def test_a_shape_of_the_command_line_reaches_the_export(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("openvino")
    np.savez(place / "rows.npz", x=np.ones((4, 8), np.float32), label=np.zeros(4, np.int64))
    net, where = "python:net_of_sizes:net", ["--target", "cpu:openvino"]
    commands = [
        ["bench", net, *where, "--restarts", "1", "--no-resources", "-o", "m.json"],
        ["compare", net, net, *where, "--examples", "2", "-o", "c.json"],
        ["gate", "--student", net, *where, "--max-size-mib", "4", "--out", "shaped"],
        ["eval", net, *where, "--data", "rows.npz", "-o", "e.json"],
    ]
    for command in commands:
        assert main([*command, "--shape", "x=1x8"]) == 0, capsys.readouterr().err
    opened = open_model(net, target=where[1], shape={"x": (1, 8)}, store=StageStore(place / "store"))
    assert opened.draw_feeds(shape={"x": (1, 8)})["x"].shape == (1, 8)
    opened.close()
