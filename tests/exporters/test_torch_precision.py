"""8-bit products of torch on the CPU against NumPy, and the share of a model that they make up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.placement import PlacingRuntime
from edgekd.quantize.hardware import DeviceFacts
from edgekd.stages import StageStore
from edgekd.target import SessionOptions
from edgekd_torch import settings as torch_settings
from edgekd_torch.low_kinds import KINDS
from edgekd_torch.runtime import TorchRuntime
from edgekd_torch.settings import TorchSettings, apply_flags

torch = pytest.importorskip("torch")

from edgekd_torch import _low_precision as low  # noqa: E402
from edgekd_torch._low_layers import LowLinear, LowPointwise, calibrate, replace_layers  # noqa: E402

INT8, FP8 = KINDS["int8"], KINDS["float8e4m3fn"]
RNG = np.random.default_rng(0)


def random(*shape: int) -> Any:
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = open_reference(
        "python:small_torch_net:small_net", weights=None, base=Path(__file__).parent,
        store=StageStore(tmp_path_factory.mktemp("small")),
    )  # fmt: skip
    assert isinstance(made, Model)
    return made


@pytest.fixture(scope="module")
def feeds() -> dict[str, Any]:
    return {"x": RNG.standard_normal((3, 16, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("rows", [1, 7, 31, 32, 33])
@pytest.mark.parametrize("least", [0, 32])
def test_integer_products_are_exact_and_padding_changes_nothing(rows: int, least: int) -> None:
    a = RNG.integers(-127, 128, (rows, 24), dtype=np.int8)
    b = RNG.integers(-127, 128, (16, 24), dtype=np.int8)
    found = low.int_mm(torch.from_numpy(a), torch.from_numpy(b).t(), least_rows=least)
    np.testing.assert_array_equal(found.numpy(), a.astype(np.int64) @ b.astype(np.int64).T)


@pytest.mark.parametrize("by_row", [False, True])
def test_int8_is_symmetric_to_the_nearest_ties_to_even(by_row: bool) -> None:
    x = np.array([[0.5, 1.5, 2.5, -127.0], [254.0, 3.0, -1.0, 5.0]], np.float32)
    axis = 1 if by_row else None
    scale = np.abs(x).max(axis=axis, keepdims=by_row) / np.float32(127)
    wanted = np.clip(np.rint(x / scale), -127, 127).astype(np.int8)
    found_scale = low.scale_of(torch.from_numpy(x), INT8, by_row=by_row)
    np.testing.assert_array_equal(found_scale.numpy(), scale)
    np.testing.assert_array_equal(low.quantize(torch.from_numpy(x), found_scale, INT8).numpy(), wanted)


def test_fp8_saturates_and_rounds_as_e4m3_does() -> None:
    values = torch.tensor([[1000.0, -1000.0, 300.0, 0.1]])
    found = low.quantize(values, torch.tensor(1.0), FP8).float()
    # 300 lies between 288 and 320; 0.1 has 13/128 for its nearest.
    assert found.tolist() == [[448.0, -448.0, 288.0, 0.1015625]]


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("kind", [INT8, FP8], ids=lambda k: k.name)
def test_a_layer_is_its_fake_quantized_reference(kind: Any, by_row: bool) -> None:
    weight, bias, x = random(32, 48), random(32), random(2, 5, 48)
    layer = LowLinear(weight, bias, kind, by_row=by_row, amax=None, dtype=torch.float32)
    rows = x.reshape(-1, 48)
    sx, sw = (low.scale_of(t, kind, by_row=by_row) for t in (rows, weight))
    qx, qw = low.quantize(rows, sx, kind).double(), low.quantize(weight, sw, kind).double()
    if kind is INT8:  # exact before scaling
        exact = low.int_mm(low.quantize(rows, sx, kind), low.quantize(weight, sw, kind).t())
        np.testing.assert_array_equal(exact.numpy(), (qx @ qw.t()).numpy().astype(np.int64))
    wanted = ((qx * sx) @ (qw * sw).t() + bias).reshape(2, 5, 32)
    np.testing.assert_allclose(layer(x).numpy(), wanted.numpy(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pointwise_convolution_is_one_product(stride: int) -> None:
    conv = torch.nn.Conv2d(16, 32, 1, stride=stride).eval()
    x = random(2, 16, 7, 9)
    layer = LowPointwise(
        conv, LowLinear(conv.weight.flatten(1), conv.bias, INT8, by_row=True, amax=None, dtype=torch.float32)
    )
    with torch.inference_mode():
        wanted, found = conv(x), layer(x)
    assert found.shape == wanted.shape
    error = float((found - wanted).norm() / wanted.norm())
    assert 0 < error < 0.02


@pytest.mark.parametrize("kind", [INT8, FP8], ids=lambda k: k.name)
@pytest.mark.parametrize(("batch", "side", "stride"), [(1, 6, 1), (1, 6, 2), (1, 1, 1), (1, 2, 2), (3, 6, 1)])
def test_products_take_rows_that_lie_row_by_row(
    kind: Any, batch: int, side: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA's products ask for, and the CPU's do not mind (``is_row_major`` of torch/_meta_registrations.py)."""
    name = "_int_mm" if kind is INT8 else "_scaled_mm"
    plain, taken = getattr(torch, name), []

    def watched(rows: Any, columns: Any, **options: Any) -> Any:
        taken.append((rows.stride(), columns.stride()))
        return plain(rows, columns, **options)

    monkeypatch.setattr(torch, name, watched)
    conv = torch.nn.Conv2d(32, 64, 1, stride=stride)
    linear = LowLinear(conv.weight.flatten(1), conv.bias, kind, by_row=False, amax=None, dtype=torch.float32)
    LowPointwise(conv, linear)(random(batch, 32, side, side))
    assert taken == [((32, 1), (1, 32))]


def test_zeros_stay_zeros_and_nan_is_never_hidden() -> None:
    for kind in (INT8, FP8):
        layer = LowLinear(random(16, 16), None, kind, by_row=False, amax=None, dtype=torch.float32)
        assert layer(torch.zeros(2, 16)).abs().max() == 0
        bad = torch.zeros(2, 16)
        bad[0, 0] = float("nan")
        assert torch.isnan(layer(bad)).any()


def test_moving_a_module_to_bfloat16_leaves_scales_and_codes_alone() -> None:
    layer = LowLinear(random(16, 16), random(16), FP8, by_row=False, amax=3.0, dtype=torch.bfloat16)
    before = layer.weight_scale.clone()
    layer.to(dtype=torch.bfloat16)
    assert layer.quantized.dtype == torch.float8_e4m3fn
    assert torch.equal(layer.weight_scale, before)
    assert layer.fixed_scale.dtype == torch.float32
    assert layer(torch.ones(3, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_layers_that_do_not_fit_are_kept_and_say_why() -> None:
    attention = torch.nn.MultiheadAttention(16, 2)
    shared = torch.nn.Linear(16, 16)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 16, 1, groups=2), torch.nn.Linear(12, 16),
        torch.nn.Linear(16, 20), shared, shared, attention,
    )  # fmt: skip
    made = replace_layers(module, INT8, by_row=False, amax={}, dtype=torch.float32)
    assert made.low == ("4", "5")
    assert module[4] is module[5]
    assert made.kept == {
        "0": "a convolution of 3x3 is no single product",
        "1": "its 1 x 1 convolution has groups or padding",
        "2": "its 12 inputs are no multiple of 8",
        "3": "its 20 outputs are no multiple of 8",
        "6.out_proj": "NonDynamicallyQuantizableLinear is read without being called",
    }


def test_the_probe_refuses_a_product_that_is_wrong_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for by_row in (False, True):
        low.probe(INT8, "cpu", by_row=by_row)
        low.probe(FP8, "cpu", by_row=by_row)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.int() @ b.int()) + 1000)
    with pytest.raises(TargetUnavailableError, match="int8 products on cpu that are off by"):
        low.probe(INT8, "cpu")
    monkeypatch.delattr(torch, "_scaled_mm")
    with pytest.raises(TargetUnavailableError, match="has no float8e4m3fn products on cpu"):
        low.probe(FP8, "cpu")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"precision": "bfloat16"}, 0.03),
        ({"precision": "int8"}, 0.03),
        ({"precision": "int8", "scales": "row"}, 0.03),
        ({"precision": "int8", "rest": "bfloat16"}, 0.05),
        ({"precision": "float8e4m3fn"}, 0.1),
        ({"precision": "float8e4m3fn", "scales": "row", "rest": "bfloat16"}, 0.1),
    ],
    ids=str,
)
def test_a_session_in_each_precision(
    small: Model,
    feeds: dict[str, Any],
    settings: dict[str, str],
    error: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whatever the CPU has: torch computes the same numbers without the instructions, slower.
    monkeypatch.setattr("edgekd_torch.runtime.this_cpu", lambda: DeviceFacts(name="any CPU"))
    path = small.folder / "model.json"
    wanted = TorchRuntime().open(path, SessionOptions()).run(feeds)["logits"]
    session = TorchRuntime().open(path, SessionOptions(settings=settings))
    found = session.run(feeds)["logits"]
    assert found.dtype == np.float32, "outputs are what the model says they are"
    off = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    assert 1e-5 < off < error
    bound = session.bind(feeds)
    bound()
    np.testing.assert_array_equal(bound.outputs()["logits"], found)
    detail = session.placement.detail
    assert detail["precision"] == settings["precision"]
    assert ("emulated" in detail) is (settings["precision"] == "float8e4m3fn")
    if settings["precision"] in KINDS:
        assert detail["low_precision"]["layers"] == ["pointwise", "hidden"]
        assert set(detail["low_precision"]["kept"]) == {"spatial", "head"}
        assert detail["low_precision"]["rest"] == settings.get("rest", "float32")


def test_the_share_of_the_work_is_counted_by_layer(small: Model, feeds: dict[str, Any]) -> None:
    options = SessionOptions(settings={"precision": "int8"})
    assert isinstance(TorchRuntime(), PlacingRuntime)
    ops = TorchRuntime().place(small.folder / "model.json", options, feeds)
    macs = {op.name: (op.dtype, op.to_json()["macs"]) for op in ops}
    # batch 3, 8 x 8 positions, then 4 x 4 after the stride; two products of 64 x 16 x 64 outside of layers.
    assert macs == {
        "spatial": ("float32", 3 * 64 * 32 * 16 * 9),
        "pointwise.linear": ("int8", 3 * 16 * 64 * 32),
        "hidden": ("int8", 3 * 32 * 64),
        "head": ("float32", 3 * 10 * 32),
        "(outside of layers)": ("float32", 2 * 3 * 64 * 16 * 64),
    }
    session = TorchRuntime().open(small.folder / "model.json", options)
    session.bind(feeds)
    share = (macs["pointwise.linear"][1] + macs["hidden"][1]) / sum(m for _, m in macs.values())
    assert session.placement.detail["low_precision"]["macs_share"] == pytest.approx(share)
    assert {op.place for op in ops} == {"CPU"}


def test_calibrated_scales_stand_still(small: Model, feeds: dict[str, Any]) -> None:
    from edgekd_torch.modules import load_module

    amax = calibrate(load_module(small), [(torch.from_numpy(feeds["x"]),)])
    assert set(amax) == {"pointwise", "hidden", "head"}
    given = {"precision": "int8", "amax": {k: amax[k] for k in ("pointwise", "hidden")}}
    path = small.folder / "model.json"
    session = TorchRuntime().open(path, SessionOptions(settings=given))
    assert session.placement.detail["low_precision"]["activation_scales"] == "calibrated"
    dynamic = TorchRuntime().open(path, SessionOptions(settings={"precision": "int8"})).run(feeds)["logits"]
    np.testing.assert_allclose(session.run(feeds)["logits"], dynamic, atol=5e-3)
    louder = {"x": feeds["x"] * 10}
    other = TorchRuntime().open(path, SessionOptions(settings={"precision": "int8"})).run(louder)["logits"]
    assert np.abs(session.run(louder)["logits"] - other).max() > 5e-3, "what lies beyond the scale is clamped"
    with pytest.raises(TargetUnavailableError, match="amax names 'head', which is no int8 layer"):
        TorchRuntime().open(path, SessionOptions(settings={"precision": "int8", "amax": amax}))


def test_a_model_without_a_layer_that_fits_is_refused(digits_model: Model) -> None:
    with pytest.raises(TargetUnavailableError, match=r"no layer of .* can be float8e4m3fn \(.* no ") as e:
        TorchRuntime().open(
            digits_model.folder / "model.json", SessionOptions(settings={"precision": "float8e4m3fn"})
        )
    assert e.value.exit_code == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "float16"}, "cpu has no precision 'float16'; give precision one of float32, bfloat16"),
        ({"precision": "tf32"}, "no precision 'tf32'"),
        ({"mode": "cuda-graph"}, "cpu has no mode 'cuda-graph'; give mode one of eager, compile"),
        ({"mode": "aoti"}, "no mode 'aoti'"),
        ({"scales": "row"}, "'scales' goes with precision float8e4m3fn or int8, got float32"),
        ({"precision": "int8", "scales": "block"}, "no scales 'block'"),
        ({"precision": "int8", "amax": {"a": float("nan")}}, "give a mapping from layer"),
        ({"precision": "int8", "amax": {"a": 1.0}, "scales": "row"}, "one per row"),
        ({"compile_mode": "default"}, "goes with mode compile, got eager"),
        ({"graph": True}, "no setting 'graph'; it has mode, compile_mode, precision"),
    ],
    ids=str,
)
def test_settings_that_do_not_exist_or_contradict(
    digits_model: Model, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        TorchRuntime().open(digits_model.folder / "model.json", SessionOptions(settings=settings))


def test_autocast_around_a_session_is_refused(digits_model: Model) -> None:
    path = digits_model.folder / "model.json"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(TargetUnavailableError, match=r"torch\.autocast is on for cpu"):
            TorchRuntime().open(path, SessionOptions())


def test_bfloat16_is_refused_on_a_cpu_without_it(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    older = DeviceFacts(name="Older CPU", features=frozenset({"avx2"}))
    monkeypatch.setattr("edgekd_torch.runtime.this_cpu", lambda: older)
    options = SessionOptions(settings={"precision": "bfloat16"})
    with pytest.raises(
        TargetUnavailableError, match=r"Older CPU has no instructions for bfloat16.*use float32 or int8"
    ):
        TorchRuntime().open(small.folder / "model.json", options)


def test_what_a_gpu_lacks_is_refused_by_its_name() -> None:
    from edgekd_torch.settings import check_device, read_settings

    cuda = SimpleNamespace(get_device_name=lambda i: "An older GPU", get_device_capability=lambda i: (8, 0))
    fake = SimpleNamespace(
        cuda=cuda, version=SimpleNamespace(cuda="13.0"),
        backends=SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 91000)),
    )  # fmt: skip
    assert check_device(read_settings("cuda", {"precision": "tf32"}), fake)["capability"] == "8.0"
    with pytest.raises(
        TargetUnavailableError,
        match=r"An older GPU \(compute capability 8\.0\) has no float8e4m3fn; that takes 8\.9",
    ):
        check_device(read_settings("cuda", {"precision": "float8e4m3fn"}), fake)
    assert read_settings("cuda", {"precision": "int8"}).rest == "bfloat16"


@pytest.fixture
def flags_put_back() -> Iterator[None]:
    """Torch's flags of float32 belong to the process."""
    get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    places = ("all", "matmul", "conv", "rnn")
    before = {p: get("cuda", p) for p in places}
    old = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = old
    for place in places:
        put("cuda", place, before[place])


def flags(tf32: bool) -> dict[str, Any]:
    word = "tf32" if tf32 else "ieee"
    return {
        "tf32_matmul": tf32, "tf32_convolution": tf32, "float32_matmul_precision": "high" if tf32 else "highest",
        "fp32_precision": dict.fromkeys(("cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn"), word),
    }  # fmt: skip


@pytest.mark.usefixtures("flags_put_back")
@pytest.mark.parametrize(("precision", "flag"), [("float32", False), ("tf32", True), ("float16", False)])
def test_tf32_is_what_was_asked_for(precision: str, flag: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    settings = TorchSettings(precision=precision)
    # Whatever was set before, by either interface, is no longer there.
    torch.backends.cudnn.fp32_precision = torch.backends.cuda.matmul.fp32_precision = (
        "ieee" if flag else "tf32"
    )
    assert apply_flags(settings, "cuda") == flags(flag)
    # What inductor reads in torch 2.13.
    read = (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.fp32_precision)
    assert read == (("tf32", "tf32") if flag else ("ieee", "ieee"))
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is flag
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0" if flag else "1")
    if precision != "float16":
        with pytest.raises(TargetUnavailableError, match=r"NVIDIA_TF32_OVERRIDE=. decides otherwise"):
            apply_flags(settings, "cuda")


def older_torch(*, deaf: bool = False) -> Any:
    """A torch with the older of the two interfaces only."""

    class Switch:
        allow_tf32 = False

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value and not deaf)

    matmul, cudnn = Switch(), Switch()
    return SimpleNamespace(
        backends=SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn),
        is_autocast_enabled=lambda device: False,
        get_float32_matmul_precision=lambda: "high" if matmul.allow_tf32 else "highest",
    )


def test_a_torch_without_the_newer_flags_and_one_that_does_not_take_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(torch_settings, "require", lambda *a, **k: older_torch())
    for precision, flag in (("tf32", True), ("float32", False)):
        found = apply_flags(TorchSettings(precision=precision), "cuda")
        assert found == {**flags(flag), "fp32_precision": {}}
    monkeypatch.setattr(torch_settings, "require", lambda *a, **k: older_torch(deaf=True))
    with pytest.raises(TargetUnavailableError, match="asked for TF32 on, torch's flags are"):
        apply_flags(TorchSettings(precision="tf32"), "cuda")
