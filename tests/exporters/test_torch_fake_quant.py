"""Fake quantization in torch: it rounds as ONNX Runtime's Q/DQ graph does, where that graph does, and comes back."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.distill.config import TrainConfig
from edgekd.distill.fake_quant import FakeQuantConfig
from edgekd.distill.fake_quant_training import FakeQuantTraining, prepare_fake_quant
from edgekd.distill.train import TrainingSet, train
from edgekd.errors import EdgeKDError, ModelError, UsageError
from edgekd.model import Model, load_model
from edgekd.quantize.trained import load_trained

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")

HERE = Path(__file__).parent
QUICK = TrainConfig(epochs=4, batch=32, lr=0.02, fake_quant=FakeQuantConfig(start=0.3, freeze=0.7))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data() -> TrainingSet:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 128)
    images = rng.standard_normal((128, 1, 8, 8)).astype(np.float32)
    images[np.arange(128), 0, labels * 2] += 2
    return TrainingSet(student={"image": images}, labels=labels, teacher={})


def ready(name: str, folder: Path, config: TrainConfig = QUICK) -> tuple[Any, FakeQuantTraining]:
    from edgekd_torch.modules import Seeded, describe

    factory = f"python:fake_quant_nets:{name}"
    folder.mkdir(parents=True, exist_ok=True)
    module = Seeded(0).build(describe(factory, HERE))
    made = prepare_fake_quant(
        module, config=config, name=name, factory=factory, search=HERE, rows=128, scratch=folder
    )
    return module, made


def write(module: Any, name: str, folder: Path) -> Model:
    from edgekd_torch.modules import describe, write_model

    factory = f"python:fake_quant_nets:{name}"
    folder.mkdir()
    return write_model(
        module, describe(factory, HERE), folder=folder, name=name, factory=factory, search=HERE, prepare={}, lineage={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, FakeQuantTraining]:
    """The residual network and its fake-quantized twin, not trained; take a copy: :func:`copied`."""
    return ready("residual", tmp_path_factory.mktemp("prepared"))


def copied(prepared: tuple[Any, FakeQuantTraining]) -> tuple[Any, FakeQuantTraining]:
    module, aware = prepared
    module, inner = copy.deepcopy((module, aware.module))
    return module, replace(aware, module=inner)


def trained(made: tuple[Any, FakeQuantTraining], folder: Path) -> tuple[Model, Any]:
    module, aware = made
    train(aware.module, None, data(), QUICK, resume=folder)
    return aware.finish(write(module, "residual", folder / "model"), data().student), aware.module


@pytest.fixture(scope="module")
def student(
    prepared: tuple[Any, FakeQuantTraining], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Any]:
    """It, trained for int8 on CPUs."""
    return trained(copied(prepared), tmp_path_factory.mktemp("student"))


def quantized(model: Model, out: Path, **ranges: Any) -> Any:
    """Its Q/DQ graph, as any int8 export of it is made; with the trained ranges unless others are given."""
    from edgekd_onnx.exporter import OnnxExporter

    found = load_trained(model.folder / model.quantization)
    for name in ("float", "quantized"):
        (out / name).mkdir(parents=True)
    exported = OnnxExporter().export(model, out / "float", {})
    from edgekd.quantize import QuantConfig

    config = found.applied(QuantConfig(granularity=found.granularity, variant=found.variant), "x")
    config = replace(config, **ranges)
    made = OnnxExporter().quantize(exported, config, [dict(data().student)], out / "quantized")
    return onnx.load(str(made.path))


def shape_of_graph(proto: Any) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(n.op_type, tuple(n.input), tuple(n.output)) for n in proto.graph.node]


def scales(proto: Any) -> Mapping[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if "scale" in t.name}


def _like_ptq(model: Model, out: Path) -> None:
    kept = load_trained(model.folder / "quantization.json")
    assert kept.parity["sqnr_db"]["logits"] > 25
    assert kept.parity["agreement"]["logits"] >= 0.97
    with_ranges, calibrated = quantized(model, out / "a"), quantized(model, out / "b", ranges=())
    assert shape_of_graph(with_ranges) == shape_of_graph(calibrated)
    assert any((scales(with_ranges)[k] != v).any() for k, v in scales(calibrated).items())


def test_the_graph_is_that_of_ptq_and_answers_as_the_module_did(
    student: tuple[Model, Any], tmp_path: Path
) -> None:
    _like_ptq(student[0], tmp_path)


def test_and_so_is_that_for_tensorrt(tmp_path: Path) -> None:
    """Symmetric, and rounded for some readers of a tensor only."""
    assert QUICK.fake_quant is not None
    fake = replace(QUICK.fake_quant, variant="tensorrt", granularity="tensor")
    made = ready("residual", tmp_path, replace(QUICK, fake_quant=fake))
    _like_ptq(trained(made, tmp_path)[0], tmp_path)


@pytest.mark.parametrize("name", ["named", "listed"])
def test_a_network_may_answer_with_more_than_a_tensor(name: str, tmp_path: Path) -> None:
    module, aware = ready(name, tmp_path)
    train(aware.module, None, data(), QUICK, resume=tmp_path)
    model = aware.finish(write(module, name, tmp_path / "model"), data().student)
    assert load_trained(model.folder / model.quantization).parity["examples"] == 128


def test_the_folder_carries_the_ranges(student: tuple[Model, Any], tmp_path: Path) -> None:
    model, module = student
    again = load_model(model.folder)
    assert again == model
    assert again.quantization == "quantization.json"
    assert {f.path for f in again.as_artifact().files} == {"quantization.json", "student.safetensors"}
    assert module.ranges().items() <= load_trained(model.folder / "quantization.json").ranges.items()
    shutil.copytree(model.folder, tmp_path / "model")
    (tmp_path / "model" / "quantization.json").write_text("{}")
    with pytest.raises(ModelError, match=r"quantization.json was altered"):
        load_model(tmp_path / "model")


def test_a_killed_training_goes_on_bit_for_bit(
    prepared: tuple[Any, FakeQuantTraining], tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def stop(epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        if (epoch, step) == (2, 1):
            raise KilledError

    results = []
    for name in ("whole", "killed"):
        if name == "killed":
            module, aware = copied(prepared)
            with pytest.raises(KilledError):
                train(aware.module, None, data(), QUICK, resume=tmp_path / name, progress=stop)
        module, aware = copied(prepared)
        train(aware.module, None, data(), QUICK, resume=tmp_path / name)
        results.append((module.state_dict(), aware.module.ranges(), int(aware.module.step)))
    (one, ranges, steps), (other, ranges_again, steps_again) = results
    assert ranges == ranges_again
    assert steps == steps_again == 16
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_nothing_is_rounded_before_the_start_nor_moved_after_the_freeze(
    prepared: tuple[Any, FakeQuantTraining],
) -> None:
    module, aware = copied(prepared)
    wrapped, x = aware.module, torch.from_numpy(data().student["image"][:32])
    norm = module.first[1]
    wrapped.train()
    torch.manual_seed(0)
    first = wrapped(x)
    torch.manual_seed(0)
    module.train()
    assert torch.equal(first, module(x)), "the float network, to the bit"
    for _ in range(wrapped.freeze):
        wrapped(x)
    ranges, mean = wrapped.ranges(), norm.running_mean.clone()
    wrapped(x * 100)
    assert wrapped.ranges() == ranges
    assert torch.equal(norm.running_mean, mean)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("composite", ModelError, r"made by Sigmoid, inside one operation of the torch module; train without"),
        ("constant", ModelError, r"read by Mul, in 8 bits, and it is no weight of a convolution or linear layer"),
        ("branching", ModelError, r"branching cannot be traced for fake quantization \(.*; remove control flow"),
        ("moody", ModelError, r"something else in training than in eval mode outside of its layers; use layers"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_named(
    tmp_path: Path, name: str, error: type[EdgeKDError], message: str
) -> None:
    with pytest.raises(error, match=message):
        ready(name, tmp_path)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="fake_quant trains in one process"):
        ready("residual", tmp_path)


def test_the_grid_is_that_of_the_quantizer() -> None:
    from edgekd.quantize.config import VARIANTS
    from edgekd_torch._fake_quant import FakeQuantize
    from edgekd_torch.fake_quant_types import ROUNDINGS

    utils = pytest.importorskip("onnxruntime.quantization.quant_utils")
    rng = np.random.default_rng(3)
    for variant in VARIANTS:
        rounding = ROUNDINGS[VARIANTS[variant][0]]
        for low, high in [(0.0, 0.0), (0.5, 2.0), *rng.normal(0, 3, (50, 2))]:
            low, high = (np.float32(v) for v in sorted((low, high)))
            module = FakeQuantize(rounding)
            module.low.fill_(float(low))
            module.high.fill_(float(high))
            least = np.array(-127 if rounding.symmetric else 0, np.int8 if rounding.symmetric else np.uint8)
            greatest = np.array(rounding.greatest, least.dtype)
            zero, scale = utils.compute_scale_zp(low, high, least, greatest, rounding.symmetric)
            found_scale, found_zero = module._grid()
            assert float(found_scale) == float(scale)
            assert int(found_zero) == int(zero)
