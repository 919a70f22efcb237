"""torch.compile on the CPU, and streams and CUDA graphs on a made-up torch: what is enqueued, in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.errors import ModelError, TargetUnavailableError
from edgekd.measure.device_events import DeviceCall
from edgekd.model import Model
from edgekd.target import SessionOptions
from edgekd_torch import bound, preparing
from edgekd_torch import runtime as module
from edgekd_torch.bound import GraphCall, StreamCall
from edgekd_torch.runtime import TorchRuntime

torch = pytest.importorskip("torch")

FEEDS = {"image": np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)}


def test_a_compiled_session_agrees_and_says_what_was_compiled(digits_model: Model) -> None:
    path = digits_model.folder / "model.json"
    wanted = TorchRuntime().open(path, SessionOptions()).run(FEEDS)["logits"]
    session = TorchRuntime().open(path, SessionOptions(settings={"mode": "compile"}))
    call = session.bind(FEEDS)
    call()
    np.testing.assert_allclose(call.outputs()["logits"], wanted, rtol=1e-4, atol=1e-5)
    assert session.placement.detail["compiled"] == {"graphs": 1, "graph_breaks": 0}
    assert session.placement.detail["prepare_s"] > 0
    np.testing.assert_allclose(session.run(FEEDS)["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_a_session_that_compiled_nothing_is_refused(
    digits_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, mode: forward)
    session = TorchRuntime().open(
        digits_model.folder / "model.json", SessionOptions(settings={"mode": "compile"})
    )
    with pytest.raises(TargetUnavailableError, match=r"compiled nothing of .*, it ran eagerly"):
        session.run(FEEDS)


def test_graph_breaks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([{"graphs": 3, "graph_breaks": 0}, {"graphs": 5, "graph_breaks": 2}])
    monkeypatch.setattr(preparing, "compiled_so_far", lambda: next(found))
    before = preparing.compiled_so_far()
    assert preparing.check_compiled(before, "m") == {"graphs": 2, "graph_breaks": 2}


# --- a made-up torch.cuda -----------------------------------------------------------------------------------------


class _Context:
    def __init__(self, log: list[Any], name: str, error: BaseException | None = None) -> None:
        self.log, self.name, self.error = log, name, error

    def __enter__(self) -> None:
        self.log.append(f"enter {self.name}")

    def __exit__(self, kind: Any, *_: object) -> None:
        self.log.append(f"leave {self.name}")
        if self.error is not None and kind is None:
            raise self.error


class _Stream:
    cuda_stream = 77

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("wait")


class _OutOfMemoryError(RuntimeError):
    pass


def fake_torch(log: list[Any], error: BaseException | None = None) -> Any:
    graph = SimpleNamespace(replay=lambda: log.append("replay"))
    return SimpleNamespace(
        inference_mode=lambda: _Context([], "inference"),
        OutOfMemoryError=_OutOfMemoryError,
        cuda=SimpleNamespace(
            stream=lambda s: _Context(log, "stream"),
            CUDAGraph=lambda: graph,
            graph=lambda g, pool, stream: _Context(log, f"capture in {pool}", error),
            get_device_name=lambda i: "A GPU",
        ),
    )


class _Owner:
    def failed(self, error: RuntimeError) -> Exception:
        return ModelError(f"failed: {error}")

    def arrays(self, made: Any) -> Any:
        return made


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    monkeypatch.setattr(bound, "torch_module", lambda: fake_torch(made))
    return made


def test_a_launch_enqueues_and_a_call_waits(log: list[Any]) -> None:
    call = StreamCall(_Owner(), lambda x: log.append(f"run {x}"), [1], _Stream(log))
    assert isinstance(call, DeviceCall)
    assert call.stream == 77
    call.launch()
    assert log == ["enter stream", "run 1", "leave stream"]
    call()
    assert log[3:] == ["enter stream", "run 1", "leave stream", "wait"]


def test_a_graph_is_warmed_up_captured_once_and_replayed(log: list[Any]) -> None:
    call = GraphCall(
        _Owner(), lambda x: log.append("run") or "made", [1], _Stream(log), pool="pool 3", where="m on A GPU"
    )
    before = ["enter stream", "run", "leave stream"] * 3
    assert log == [*before, "wait", "enter capture in pool 3", "run", "leave capture in pool 3"]
    del log[:]
    call()
    assert log == ["enter stream", "replay", "leave stream", "wait"], "the module itself is not run again"
    assert call.outputs() == "made"
    assert isinstance(call, DeviceCall)


def test_a_module_that_cannot_be_captured_is_refused_never_run_eagerly(
    log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("operation not permitted when stream is capturing\nmore")
    monkeypatch.setattr(bound, "torch_module", lambda: fake_torch(log, error))
    with pytest.raises(TargetUnavailableError, match="m on A GPU cannot be captured as a CUDA graph") as e:
        GraphCall(_Owner(), lambda x: x, [1], _Stream(log), pool="p", where="m on A GPU")
    assert "\n" not in str(e.value)


def test_out_of_device_memory_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_torch", lambda: fake_torch([]))
    found = module._one_line(_OutOfMemoryError("CUDA out of memory. Tried\nto allocate 2 GiB"), "vit", "cuda")
    assert isinstance(found, TargetUnavailableError)
    assert str(found).startswith(
        "out of device memory: A GPU has too little for vit (CUDA out of memory. Tried to"
    )
    assert str(found).endswith("use a smaller batch or model, or free the device")
    assert isinstance(module._one_line(RuntimeError("shape"), "vit", "cuda"), ModelError)


def fake_cuda_session(log: list[Any], mode: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session on a made-up device, whose tensors stay on the CPU."""
    from edgekd.spec import TensorSpec
    from edgekd.target import Placement
    from edgekd_torch.preparing import Prepared
    from edgekd_torch.settings import TorchSettings

    fake = fake_torch(log)
    fake.cuda.Stream = lambda: _Stream(log)
    fake.cuda.graph_pool_handle = lambda: "pool"
    fake.from_numpy = lambda a: SimpleNamespace(
        shape=a.shape, to=lambda d: SimpleNamespace(shape=a.shape, copy_=lambda o: log.append("copy"))
    )
    monkeypatch.setattr(bound, "torch_module", lambda: fake)
    monkeypatch.setattr(module, "_torch", lambda: fake)
    monkeypatch.setattr(module, "apply_flags", lambda settings, device: log.append("flags") or {})

    def forward(*_: Any) -> Any:
        log.append("run")
        return SimpleNamespace(cpu=lambda: SimpleNamespace(numpy=lambda: np.zeros((1, 2), np.float32)))

    return module.TorchSession(
        Prepared(module=None, forward=forward, eager=forward, detail={}), name="m",
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
        placement=Placement(
            device="cuda", provider="cuda", runtime="torch", threads=1, detail={"device_name": "A GPU"}
        ),
        settings=TorchSettings(mode=mode),
    )  # fmt: skip


def test_a_graph_session_captures_each_shape_once_and_refills_it(
    log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = fake_cuda_session(log, "cuda-graph", monkeypatch)
    x = np.zeros((1, 4), np.float32)
    assert set(session.run({"x": x})) == {"y"}
    assert log.count("enter capture in pool") == 1
    del log[:]
    session.run({"x": x})
    assert log == [
        "flags", "enter stream", "leave stream", "enter stream", "copy", "leave stream",
        "enter stream", "replay", "leave stream", "wait",
    ]  # fmt: skip
    session.run({"x": np.zeros((2, 4), np.float32)})
    assert session.placement.detail["graphs_captured"] == 2
    for rows in range(3, 8):
        session.run({"x": np.zeros((rows, 4), np.float32)})
    assert len(session._graphs) == 4
    session.close()
    with pytest.raises(ModelError, match="is closed"):
        session.run({"x": x})


def test_an_eager_session_on_a_device_never_waits_in_launch(
    log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = fake_cuda_session(log, "eager", monkeypatch)
    call = session.bind({"x": np.zeros((1, 4), np.float32)})
    assert isinstance(call, DeviceCall)
    del log[:]
    call.launch()
    assert log == ["enter stream", "run", "leave stream"]
    assert "graphs_captured" not in session.placement.detail
