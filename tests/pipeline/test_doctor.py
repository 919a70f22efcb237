"""What the doctor finds, and what it says where something is missing, broken or only looks installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fixtures_listed
import pytest
from fixtures_tensorrt_place import Place, make_place

from edgekd.cli import main
from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.pipeline import doctor, doctor_gpu, targets
from edgekd_tensorrt import library, probe


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield from make_place(tmp_path, "11.4")


def states(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in rows}


def no_tensorrt(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    def absent(purpose: str) -> Any:
        raise MissingDependencyError(
            f"{purpose} needs the package 'tensorrt', which did not import ({message})", "fix"
        )

    monkeypatch.setattr(library, "bindings", absent)


def test_without_tensorrt_it_says_what_can_still_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    no_tensorrt(monkeypatch, "No module named 'tensorrt'")
    rows = probe.probe()
    found = states(rows)
    assert found["tensorrt"] == found["trt-build"] == found["trt-run"] == found["for TensorRT"] == "missing"
    (line,) = [r["evidence"] for r in rows if r["name"] == "for TensorRT"]
    assert line == (
        "can: quantize, export ONNX, lint, numerics on the CPU; "
        "cannot: build engines (tensorrt: not installed), run engines (tensorrt: not installed)"
    )


def test_bindings_without_their_library_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    no_tensorrt(monkeypatch, "libnvinfer.so.11: cannot open shared object file")
    rows = {r["name"]: r for r in probe.probe()}
    assert rows["trt-build"]["state"] == "broken"
    assert "libnvinfer.so.11 is not found" in rows["trt-build"]["evidence"]


def test_a_builder_is_really_made(place: Place) -> None:
    found = states(probe.probe())
    assert found["tensorrt"] == found["trt-build"] == found["trt-run"] == found["for TensorRT"] == "ok"
    place.fault("builder")  # what a stub library answers
    rows = {r["name"]: r for r in probe.probe()}
    assert rows["tensorrt"]["state"] == "ok" and rows["trt-build"]["state"] == "broken"
    assert "factory function returned nullptr" in rows["trt-build"]["evidence"]


def test_without_a_gpu_nothing_is_built(place: Place) -> None:
    place.fault("no-gpu")
    rows = {r["name"]: r for r in probe.probe()}
    assert rows["trt-build"]["state"] == "missing" and "cudaErrorNoDevice" in rows["trt-build"]["evidence"]


@pytest.mark.parametrize(("version", "fits"), [("10.12.0.1", False), ("10.13.0.1", True), ("11.9.0.1", True),
                                               ("12.0.0.1", False), ("soon", False)])  # fmt: skip
def test_versions_outside_are_refused(monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
    monkeypatch.setattr(library, "bindings", lambda purpose: SimpleNamespace(__version__=version))
    if fits:
        assert str(library.load("a test")[1]) == version
        return
    with pytest.raises(TargetUnavailableError, match=r"version|supported"):
        library.load("a test")


def test_the_doctor_lists_every_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    no_tensorrt(monkeypatch, "No module named 'tensorrt'")
    found = doctor.examine()
    names = [f.name for f in found]
    assert len(set(names)) == len(names)
    assert {"trt-build", "trt-run", "openvino", "executorch", "ai-edge-litert", "NVIDIA driver"} <= set(names)
    assert not any("later version" in f.evidence for f in found)
    assert all(f.state in ("ok", "missing", "broken", "not applicable") for f in found)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def path(group: str, name: str) -> str:
        return "fixtures_listed:ListedRuntime"

    def load(group: str, name: str) -> Any:
        return fixtures_listed.ListedRuntime if group == "edgekd.runtimes" else plain(group, name)

    plain = targets.load_plugin
    monkeypatch.setattr(targets, "load_plugin", load)
    monkeypatch.setattr(targets, "plugin_path", path)
    # A child finds that file by its name.
    monkeypatch.setenv("PYTHONPATH", str(Path(fixtures_listed.__file__).parent), prepend=os.pathsep)


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("text", "state", "evidence"),
    [
        ("cuda:onnxruntime", "broken", "libcudnn.so.9: cannot open shared object file"),
        ("cuda:onnxruntime+crash", "broken", "a session on cuda:onnxruntime+crash crashed with SIGABRT"),
        ("cuda:onnxruntime+fine", "ok", "opens onnx, ort; a session ran on CPUExecutionProvider"),
        ("cpu:onnxruntime+dnnl", "ok", "opens onnx, ort; a session ran on CPUExecutionProvider"),
    ],
)
def test_a_provider_that_is_only_listed_is_not_ok(text: str, state: str, evidence: str) -> None:
    found = doctor.examine_target(text)
    assert found.state == state
    assert found.evidence.startswith(evidence)


@pytest.mark.usefixtures("listed")
def test_a_need_that_is_only_listed_ends_in_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", list)
    assert main(["doctor", "--need", "cuda:onnxruntime"]) == 4
    said = capsys.readouterr().out
    assert "! cuda:onnxruntime  libcudnn.so.9: cannot open" in said
    assert "fix: install cuDNN" in said


def test_on_the_cpu_no_session_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(found: Any) -> str:
        raise AssertionError("the doctor is to stay quick")

    monkeypatch.setattr(doctor, "try_session", never)
    for text in ("cpu:onnxruntime", "cpu:onnxruntime+cpu", "cpu:torch"):
        assert doctor.examine_target(text).state == "ok"


def test_a_plugin_that_does_not_load_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(group: str, name: str) -> Any:
        raise MissingDependencyError("the plugin does not load", "install it again")

    monkeypatch.setattr(doctor, "load_plugin", broken)
    found = doctor._probed()
    assert found and {f.state for f in found} == {"broken"}


def test_low_precision_products_agree_with_float32_on_the_cpu() -> None:
    torch = pytest.importorskip("torch")
    assert doctor_gpu.fp8_error(torch, "cpu") < 1 / 128
    assert doctor_gpu.int8_error(torch, "cpu") == 0.0
    assert doctor_gpu.product_row("INT8 products", doctor_gpu.int8_error, torch, "cpu")["state"] == "ok"
    wrong = doctor_gpu.product_row("INT8 products", lambda t, d: 0.5, torch, "cpu")
    assert wrong["state"] == "broken" and "off by 0.5" in wrong["evidence"]
    nothing = doctor_gpu.product_row("FP8 products", lambda t, d: t._no_such(), torch, "cpu")
    assert nothing["state"] == "broken"
    assert doctor_gpu.product_row("x", lambda t, d: float("nan"), torch, "cpu")["state"] == "broken"


class _Cuda:
    """``torch.cuda`` of a machine with a GPU of this capability."""

    def __init__(self, capability: tuple[int, int] | None) -> None:
        self.capability = capability

    def is_available(self) -> bool:
        return self.capability is not None

    def get_device_capability(self) -> tuple[int, int] | None:
        return self.capability

    def get_device_name(self) -> str:
        return "Double GPU"

    def mem_get_info(self) -> tuple[int, int]:
        return 1 << 30, 2 << 30


@pytest.mark.parametrize(
    ("driver", "capability", "wanted"),
    [
        (
            True,
            (8, 6),
            {
                "NVIDIA driver": "ok",
                "torch CUDA": "ok",
                "FP8 products": "not applicable",
                "INT8 products": "ok",
            },
        ),
        (
            True,
            (9, 0),
            {"NVIDIA driver": "ok", "torch CUDA": "ok", "FP8 products": "ok", "INT8 products": "ok"},
        ),
        (True, None, {"NVIDIA driver": "ok", "torch CUDA": "broken"}),
        (False, None, {"NVIDIA driver": "not applicable", "torch CUDA": "not applicable"}),
    ],
)
def test_the_gpu_section(
    monkeypatch: pytest.MonkeyPatch, driver: bool, capability: tuple[int, int] | None, wanted: dict[str, str]
) -> None:
    def find() -> Any:
        if not driver:
            raise TargetUnavailableError("no NVIDIA driver on this machine")
        return SimpleNamespace(name="Double GPU")

    torch = SimpleNamespace(cuda=_Cuda(capability), version=SimpleNamespace(cuda="13.0"), __version__="2")
    monkeypatch.setattr(doctor_gpu, "find_gpu", find)
    monkeypatch.setattr(doctor_gpu, "require", lambda *a, **k: torch)
    monkeypatch.setattr(doctor_gpu, "fp8_error", lambda t, d: 0.0)
    monkeypatch.setattr(doctor_gpu, "int8_error", lambda t, d: 0.0)
    assert states(doctor_gpu.gpu_rows()) == wanted


def test_the_double_is_gone_afterwards(tmp_path: Path) -> None:
    before = list(sys.path)
    there = {n for n in sys.modules if n.split(".")[0] in ("tensorrt", "cuda")}
    for place in make_place(tmp_path, "10.16"):
        assert library.load("a test")[1].major == 10
        place.use("11.4")
        assert library.load("a test")[1].major == 11
    assert sys.path == before
    assert {n for n in sys.modules if n.split(".")[0] in ("tensorrt", "cuda")} == there
