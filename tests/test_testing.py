from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact, load_artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec
from edgekd.target import Placement, SessionOptions
from edgekd.testing import (
    ConformanceError,
    FakeRuntime,
    FakeSession,
    check_exporter,
    check_runtime,
    spin,
    write_fake,
)


def test_the_fake_runtime_conforms(tmp_path: Path) -> None:
    artifact = write_fake(tmp_path)
    assert load_artifact(tmp_path) == artifact
    work = tmp_path / "work"
    work.mkdir()
    check_runtime(FakeRuntime(), artifact.path, work, threads=3)


def test_fake_answers_and_durations(tmp_path: Path) -> None:
    path = write_fake(tmp_path, latency_ns=(5, 7)).path
    session = FakeRuntime().open(path, SessionOptions())
    spent: list[int] = []
    session.wait = spent.append
    x = np.array([[0, 0, 0, 0], [2, 2, 4, 4]], np.float32)
    assert session.run({"x": x})["logits"].tolist() == [[0, 1, 2], [3, 4, 5]]
    bound = session.bind({"x": x})
    bound(), bound()
    assert spent == [5, 7, 5]
    assert session.calls == 3


def test_fake_needs_numpy_only(tmp_path: Path) -> None:
    path = write_fake(tmp_path).path
    code = (
        "import sys; from pathlib import Path; from edgekd.plugins import load_path\n"
        "from edgekd.target import SessionOptions\n"
        f"load_path('edgekd.testing:FakeRuntime')().open(Path({str(path)!r}), SessionOptions())\n"
        "print([m for m in ('onnx', 'pydantic', 'yaml', 'torch', 'onnxruntime', 'pytest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_spinning_waits_at_least_that_long() -> None:
    import time

    start = time.perf_counter_ns()
    spin(200_000)
    assert time.perf_counter_ns() - start >= 200_000


# --- every rule is broken once, and found


class _Open(FakeRuntime):
    """A runtime whose sessions are changed after opening."""

    change: Callable[[FakeSession], object] = staticmethod(lambda session: session)

    def open(self, path: Path, options: SessionOptions) -> Any:
        return type(self).change(super().open(path, options))


def _changed(**members: Any) -> type[FakeRuntime]:
    return type("Changed", (FakeRuntime,), members)


def _session(change: Callable[[FakeSession], object]) -> type[FakeRuntime]:
    return type("ChangedSession", (_Open,), {"change": staticmethod(change)})


def _placed(**fields: Any) -> type[FakeRuntime]:
    def change(session: FakeSession) -> FakeSession:
        session.placement = replace(session.placement, **fields)
        return session

    return _session(change)


def _answers(edit: Callable[[dict[str, Array], int], dict[str, Array]]) -> type[FakeRuntime]:
    def change(session: FakeSession) -> FakeSession:
        real = session._answer
        session._answer = lambda feeds: edit(real(feeds), session.calls)  # type: ignore[method-assign]
        return session

    return _session(change)


def _no_checks(session: FakeSession) -> FakeSession:
    session._check = lambda feeds: None  # type: ignore[method-assign]
    return session


def _ignores_device(self: FakeRuntime, path: Path, options: SessionOptions) -> Any:
    return FakeRuntime.open(self, path, replace(options, device="cpu", provider=""))


def _lenient_open(self: FakeRuntime, path: Path, options: SessionOptions) -> Any:
    if self.unavailable(options.device, options.provider):
        raise TargetUnavailableError("no")
    if not path.is_file():
        raise ModelError("not there")
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
    placed = Placement(device="cpu", provider="cpu", runtime="fake 1", threads=1, detail={})
    return FakeSession(inputs=(spec,), outputs=(replace(spec, name="y"),), placement=placed)


def _wrong_bind(session: FakeSession) -> FakeSession:
    real = session.bind

    def bind(feeds: Mapping[str, Array]) -> Callable[[], object]:
        session._check(feeds)
        return real({k: v + 1 for k, v in feeds.items()})

    session.bind = bind  # type: ignore[method-assign]
    return session


def _many_lines(self: FakeRuntime, path: Path, options: SessionOptions) -> Any:
    try:
        return FakeRuntime.open(self, path, options)
    except ModelError as e:
        raise ModelError("first\nsecond") from e


def _renamed(session: FakeSession) -> FakeSession:
    session.inputs = (replace(session.inputs[0], name=""),)
    return session


@pytest.mark.parametrize(
    ("runtime", "rule"),
    [
        (_changed(name=""), "protocol"),
        (_changed(formats=["fake"]), "protocol"),
        (_changed(unavailable=lambda *a: "never"), "available"),
        (_changed(unavailable=lambda *a: ""), "unknown-device"),
        (_changed(open=_ignores_device), "unknown-device"),
        (_changed(open=_lenient_open), "damaged-file"),
        (_changed(open=_many_lines), "missing-file"),
        (_session(lambda s: object()), "protocol"),
        (_placed(device="npu"), "placement"),
        (_placed(threads=64), "placement"),
        (_placed(provider=""), "placement"),
        (_placed(runtime="fake"), "placement"),
        (_session(_renamed), "specs"),
        (_session(_no_checks), "wrong-dtype"),
        (_session(_wrong_bind), "bind-agrees"),
        (_answers(lambda out, calls: {}), "outputs-true"),
        (_answers(lambda out, calls: {k: v.astype(np.float64) for k, v in out.items()}), "outputs-true"),
        (_answers(lambda out, calls: {k: v[:, :2] for k, v in out.items()}), "outputs-true"),
        (_answers(lambda out, calls: {k: v[:1] for k, v in out.items()}), "outputs-true"),
        (_answers(lambda out, calls: {k: v + calls for k, v in out.items()}), "deterministic"),
    ],
)
def test_a_broken_runtime_is_found(runtime: type[FakeRuntime], rule: str, tmp_path: Path) -> None:
    artifact = write_fake(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(ConformanceError) as caught:
        check_runtime(runtime(), artifact.path, work)
    assert caught.value.rule == rule


class _CopyExporter:
    """An exporter that writes a model's boundary as JSON; small enough to break in every way."""

    format = "fake"

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        if options:
            raise UsageError("no options", "remove them")
        return self.write(model.inputs, model.outputs, out, "float32", model.prepare, model.output)

    def write(
        self, inputs: Any, outputs: Any, out: Path, dtype: str, prepare: Any, output: Any, **more: Any
    ) -> Artifact:
        value = {
            "inputs": [s.to_json() for s in inputs], "outputs": [s.to_json() for s in outputs],
            "dtype": dtype, **more,
        }  # fmt: skip
        (out / "model.fake").write_text(json.dumps(value))
        return replace(
            self.read(out / "model.fake"), prepare=prepare, output=output, lineage={"tools": {"fake": "1"}}
        )

    def quantize(self, artifact: Artifact, config: QuantConfig, feeds: Any, out: Path) -> Artifact:
        batches = list(feeds)
        if not batches or not all(np.isfinite(v).all() for b in batches for v in b.values()):
            raise DataError("bad calibration feeds", "repair them")
        return self.write(
            artifact.inputs, artifact.outputs, out, config.dtype, artifact.prepare, artifact.output
        )

    def read(self, path: Path, outputs: Any = ()) -> Artifact:
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError) as e:
            raise ModelError(f"cannot read {path}", "make it again") from e
        return Artifact(
            folder=path.parent, entry=path.name, format="fake", dtype=value["dtype"],
            files=(record_file(path.parent, path.name),),
            inputs=tuple(TensorSpec.from_json(s) for s in value["inputs"]),
            outputs=tuple(TensorSpec.from_json(s) for s in value["outputs"]),
        )  # fmt: skip


@pytest.fixture
def plain_model(tmp_path: Path) -> Model:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "student.safetensors").write_bytes(b"weights")
    model = Model(
        folder=folder, name="plain", factory="zoo:none", parameters=1, prepare={"scale": 2},
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
        output={"name": "y", "kind": "logits"},
    )  # fmt: skip
    model.save()
    return model


def test_a_good_exporter_conforms(plain_model: Model, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    check_exporter(_CopyExporter(), plain_model, work, quantize=QuantConfig())  # type: ignore[arg-type]


class _AnyOption(_CopyExporter):
    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        return super().export(model, out, {})


class _Leftover(_CopyExporter):
    def write(self, *args: Any, **more: Any) -> Artifact:
        (args[2] / "work.tmp").write_text("left")
        return super().write(*args, **more)


class _Stamped(_CopyExporter):
    count = 0

    def write(self, *args: Any, **more: Any) -> Artifact:
        type(self).count += 1
        return super().write(*args, **more, stamp=type(self).count)


class _TellsPath(_CopyExporter):
    def write(self, *args: Any, **more: Any) -> Artifact:
        return super().write(*args, **more, made_at=str(args[2]))


class _ForgetsPrepare(_CopyExporter):
    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        return replace(super().export(model, out, options), prepare={})


class _CleansNames(_CopyExporter):
    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        inputs = tuple(replace(s, name=s.name.replace(" ", "_")) for s in model.inputs)
        return super().export(replace(model, inputs=inputs), out, options)


class _NoLineage(_CopyExporter):
    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        return replace(super().export(model, out, options), lineage={})


class _LiesAboutDtype(_CopyExporter):
    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        return replace(super().export(model, out, options), dtype="int8")


class _ReadsAnything(_CopyExporter):
    def read(self, path: Path, outputs: Any = ()) -> Artifact:
        return super().read(path) if path.is_file() and path.stat().st_size else super().read(_last[0])

    def write(self, *args: Any, **more: Any) -> Artifact:
        made = super().write(*args, **more)
        _last[:] = [made.path]
        return made


_last: list[Path] = []


class _CalibratesOnNothing(_CopyExporter):
    def quantize(self, artifact: Artifact, config: QuantConfig, feeds: Any, out: Path) -> Artifact:
        return super().quantize(artifact, config, [{"x": np.zeros(1)}], out)


class _StaysFloat(_CopyExporter):
    def quantize(self, artifact: Artifact, config: QuantConfig, feeds: Any, out: Path) -> Artifact:
        made = super().quantize(artifact, config, feeds, out)
        return self.write(made.inputs, made.outputs, out, "float32", made.prepare, made.output)


@pytest.mark.parametrize(
    ("exporter", "rule"),
    [
        (_AnyOption, "unknown-option"),
        (_Leftover, "leftovers"),
        (_Stamped, "deterministic"),
        (_TellsPath, "machine-paths"),
        (_ForgetsPrepare, "carries-prepare"),
        (_CleansNames, "names"),
        (_NoLineage, "lineage"),
        (_LiesAboutDtype, "read-back"),
        (_ReadsAnything, "missing-file"),
        (_CalibratesOnNothing, "empty-calibration"),
        (_StaysFloat, "quantized"),
    ],
)
def test_a_broken_exporter_is_found(
    exporter: type[_CopyExporter], rule: str, plain_model: Model, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(ConformanceError) as caught:
        check_exporter(exporter(), plain_model, work, quantize=QuantConfig())  # type: ignore[arg-type]
    assert caught.value.rule == rule
