from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

import fixtures_tflite
from fixtures_tflite import BIAS, WEIGHT

from edgekd.errors import DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.placement import PlacingRuntime
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd_litert.boundary import Affine, affine_of
from edgekd_litert.runtime import LiteRtRuntime


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixtures_tflite.dense(tmp_path_factory.mktemp("tflite") / "dense.tflite")


def _x(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


@pytest.mark.parametrize("provider", ["xnnpack", "builtin", "reference", ""])
def test_it_keeps_the_rules_of_runtimes(provider: str, dense: Path, tmp_path: Path) -> None:
    check_runtime(LiteRtRuntime(), dense, tmp_path, provider=provider)


def test_a_file_of_one_batch_keeps_them_too(tmp_path: Path) -> None:
    fixed = fixtures_tflite.dense(tmp_path / "fixed.tflite", open_batch=False, named=False)
    check_runtime(LiteRtRuntime(), fixed, tmp_path)
    session = LiteRtRuntime().open(fixed, SessionOptions())
    assert [str(s) for s in (*session.inputs, *session.outputs)] == [
        "tensor/x: float32[1,4]", "tensor/y: float32[1,3]",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"shape \(2, 4\), the model wants \(1,4\)"):
        session.run({"tensor/x": _x(2)})


@pytest.mark.parametrize("provider", ["xnnpack", "builtin", "reference"])
def test_it_computes_what_the_file_says(provider: str, dense: Path) -> None:
    session = LiteRtRuntime().open(dense, SessionOptions(provider=provider))
    for rows in (1, 5, 2):
        made = session.run({"x": _x(rows)})
        np.testing.assert_allclose(made["logits"], _x(rows) @ WEIGHT.T + BIAS, rtol=1e-5, atol=1e-6)


def test_a_bound_call_keeps_its_own_inputs(dense: Path) -> None:
    session = LiteRtRuntime().open(dense, SessionOptions())
    one, other = session.bind({"x": _x(2, 1)}), session.bind({"x": _x(3, 2)})
    session.run({"x": _x(1, 3)})
    for bound, seed, rows in ((one, 1, 2), (other, 2, 3), (one, 1, 2)):
        bound()
        np.testing.assert_allclose(
            bound.outputs()["logits"], _x(rows, seed) @ WEIGHT.T + BIAS, rtol=1e-5, atol=1e-6
        )


def test_placement_says_who_ran_the_operators(dense: Path) -> None:
    runtime = LiteRtRuntime()
    assert isinstance(runtime, PlacingRuntime)
    for provider, place, delegated in (
        ("xnnpack", "XNNPACK", 1),
        ("builtin", "builtin", 0),
        ("reference", "reference", 0),
    ):
        options = SessionOptions(provider=provider)
        session = runtime.open(dense, options)
        assert session.placement.provider == provider
        assert (session.placement.detail["operators"], session.placement.detail["delegated"]) == (
            1,
            delegated,
        )
        (op,) = runtime.place(dense, options, {"x": _x(2)})
        assert (op.op_type, op.place, op.dtype, op.name) == ("FULLY_CONNECTED", place, "float32", "tensor/y")


def test_xnnpack_that_takes_nothing_is_refused(tmp_path: Path) -> None:
    path = fixtures_tflite.integer_sum(tmp_path / "integers.tflite")
    with pytest.raises(
        TargetUnavailableError, match=r"none of the 1 operators .*\(ADD\).*cpu:litert\+builtin"
    ):
        LiteRtRuntime().open(path, SessionOptions())
    session = LiteRtRuntime().open(path, SessionOptions(provider="builtin"))
    x = np.arange(4, dtype=np.int32)[None]
    assert session.run({"x": x})["y"].tolist() == (2 * x).tolist()
    assert session.placement.detail["kept"] == {"ADD": 1}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU")
def test_threads_are_read_back(dense: Path) -> None:
    session = LiteRtRuntime().open(dense, SessionOptions(threads=2))
    assert session.placement.threads == 2
    assert session.placement.detail["threads_started"] in (1, None)
    with pytest.raises(TargetUnavailableError, match="one thread, 2 were asked for"):
        LiteRtRuntime().open(dense, SessionOptions(threads=2, provider="reference"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"graph_level": "all"}, "no setting 'graph_level'; it knows io"),
        ({"io": "int8"}, "io 'int8' is not known"),
    ],
)
def test_settings_that_it_does_not_have(settings: dict[str, str], says: str, dense: Path) -> None:
    with pytest.raises(UsageError, match=says):
        LiteRtRuntime().open(dense, SessionOptions(settings=settings))


def test_an_output_with_two_names_is_given_under_both(tmp_path: Path) -> None:
    session = LiteRtRuntime().open(fixtures_tflite.two_names(tmp_path / "m.tflite"), SessionOptions())
    made = session.run({"x": _x(1)})
    assert sorted(made) == ["one", "two"]
    assert made["one"].tolist() == made["two"].tolist() == (2 * _x(1)).tolist()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"\x1c\x00\x00\x00ONNX" + bytes(40), "identifier b'ONNX'"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(40), "48 bytes, identifier b'TFL3'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n", "LFS"),
    ],
)
def test_what_is_no_tflite(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as e:
        LiteRtRuntime().open(path, SessionOptions())
    assert "\n" not in str(e.value)


def test_an_operator_that_no_build_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="EdgeKDNoSuchOp"):
        LiteRtRuntime().open(fixtures_tflite.custom(tmp_path / "m.tflite"), SessionOptions())


def test_quantized_values_by_hand() -> None:
    affine = Affine(dtype="int8", scale=0.5, zero_point=-3)
    values = np.array([0.0, 0.25, 0.75, -1.0, 1e9, -np.inf], np.float32)
    # 0.5 and 1.5 steps round to the even neighbour.
    assert affine.quantize(values, "x").tolist() == [-3, -3, -1, -5, 127, -128]
    assert affine.dequantize(np.array([-3, -1, 127], np.int8)).tolist() == [0.0, 1.0, 65.0]
    with pytest.raises(DataError, match="input 'x' holds NaN"):
        affine.quantize(np.array([np.nan], np.float32), "x")
    assert affine_of("int8", (0.0, 0)) is None
    assert affine_of("int32", (0.5, 0)) is None
    assert affine_of("uint8", (0.5, 7)) == Affine(dtype="uint8", scale=0.5, zero_point=7)


def test_a_board_needs_numpy_and_litert_only() -> None:
    code = (
        "import sys, edgekd_litert.runtime, edgekd.child.sessions\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pydantic', 'yaml', 'ai_edge_litert', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "correct", "dtype"), [("", 3822, "float32"), ("_quant", 3794, "int8")], ids=["float32", "int8"]
)
def test_mlperf_tiny_resnet_is_as_right_as_published(
    name: str, correct: int, dtype: str, data_root: Path
) -> None:
    """76.44 % and 75.88 % of 5000 held-out CIFAR-10 images; the inputs are the raw bytes as floats."""
    path = data_root / "vision" / f"mlperftiny_pretrainedResnet{name}.tflite"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is not a file")
    with np.load(data_root / "vision" / "cifar10_testA_jpegq75.npz") as data:
        images, labels = data["images"], data["labels"]
    session = LiteRtRuntime().open(path, SessionOptions())
    (given,), (wanted,) = session.inputs, session.outputs
    assert (given.dtype, given.shape, wanted.dtype) == ("float32", ("batch", 32, 32, 3), "float32")
    found = [
        session.run({given.name: images[i : i + 250].astype(np.float32)})[wanted.name].argmax(axis=1)
        for i in range(0, len(images), 250)
    ]
    # XNNPACK's kernels differ between CPUs in the last bit, which decides a near tie here and there.
    assert abs(int((np.concatenate(found) == labels).sum()) - correct) <= 5
    if dtype == "int8":
        _check_native(path, images[:4])


def _check_native(path: Path, images: np.ndarray) -> None:
    """The same file fed its own integers: what the float boundary promises, scale 1 and zero point -128."""
    as_float = LiteRtRuntime().open(path, SessionOptions())
    native = LiteRtRuntime().open(path, SessionOptions(settings={"io": "native"}))
    assert [s.dtype for s in (*native.inputs, *native.outputs)] == ["int8", "int8"]
    assert native.placement.detail["stored_as"]["input_1_int8"] == {
        "dtype": "int8",
        "scale": 1.0,
        "zero_point": -128,
    }
    stored = (images.astype(np.int16) - 128).astype(np.int8)
    made = native.run({"input_1_int8": stored})["Identity_int8"]
    wanted = as_float.run({"input_1_int8": images.astype(np.float32)})["Identity_int8"]
    assert made.dtype == np.int8
    np.testing.assert_array_equal((made.astype(np.float32) + 128) / 256, wanted)
