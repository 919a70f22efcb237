"""The whole line with stages that take no time: real store, run folder, evaluations, gates and release; no models.

Two trainings with checkpoints, an export, a quantization, evaluations by the real rows of a fake session, measurements
with made-up times, judge, reports, bundle. Everything that it leaves is a function of the recipe, of ``token`` (which
stands in every time that is measured) and of a clock that stands still, so that two lines can be compared by bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from edgekd.artifact import Artifact, record_file
from edgekd.cli import main
from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.evidence.measurement import Measurement, Restart
from edgekd.files import building, write_bytes
from edgekd.model import Model
from edgekd.plugins import load_path
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore
from edgekd.target import SessionOptions
from edgekd.testing import FakeRuntime, FakeSession, write_fake

EPOCHS = 3
EXAMPLES = 300
#: 2026-01-31T12:00:00Z, for everybody.
NOW = time.struct_time((2026, 1, 31, 12, 0, 0, 5, 31, 0))

_PLUGIN = """[edgekd.exporters]
fake = faults.line:FakeExporter
[edgekd.runtimes]
fake = faults.line:LineRuntime
"""
_RECIPE = """edgekd: 1
name: fault-line
task:
  kind: classification
  metric: top1
  data: {calibration: data.npz, select: select.npz, test: data.npz}
teacher: {model: line/models/teacher}
student: {model: line/models/student}
quantize: [float32, int8]
export: [fake]
targets: [cpu:fake]
provenance:
  teacher: {name: fault teacher, licence: own, source: made here, access: weights}
  data: {name: fault data, licence: own, source: made here}
gates:
  accuracy: {against: teacher, max_drop: 0.05}
  latency: {against: teacher, max_ratio: 0.9}
  size: {max_mib: 1}
release: {formats: [fake]}
"""


class LineSession(FakeSession):
    """Answers with its own inputs: what is greatest is the class."""

    def _answer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"logits": np.asarray(feeds["x"][:, :3], np.float32)}


class LineRuntime(FakeRuntime):
    """Opens ``.fake`` files with :class:`LineSession`."""

    def open(self, path: Path, options: SessionOptions) -> FakeSession:
        made = super().open(path, options)
        return LineSession(inputs=made.inputs, outputs=made.outputs, placement=made.placement)


class FakeExporter:
    """Writes ``.fake`` files out of ``.fake`` files; a quantized one is a little shorter."""

    format = "fake"
    sources: tuple[str, ...] = ("fake",)

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        raise UsageError(
            f"{model.name} is no .fake file", "give a .fake file: others are not written as such"
        )

    def convert(self, artifact: Artifact, out: Path, options: Mapping[str, Any]) -> Artifact:
        return artifact.copy_to(out)

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        seen = sum(len(f["x"]) for f in feeds)
        made = write_fake(out, inputs=artifact.inputs, outputs=artifact.outputs)
        (out / "ranges.bin").write_bytes(hashlib.sha256(str(seen).encode()).digest() * 1000)
        return Artifact(
            folder=out, entry=made.entry, format="fake", dtype=config.dtype,
            files=(*made.files, record_file(out, "ranges.bin")), inputs=made.inputs, outputs=made.outputs,
            lineage={"quantized_from": artifact.digest},
        )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a line works.

    Attributes:
        base: recipe and data; ``line`` below it is all that the line writes, and where faults happen.
    """

    base: Path

    @property
    def root(self) -> Path:
        return self.base / "line"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def journal(self) -> Path:
        """What was built, one ``kind token`` a line."""
        return self.base / "journal"

    def prepare(self) -> None:
        """Write recipe, data and the plugin's entry points; put them on the path of this process."""
        info = self.base / "plugins" / "edgekd_fault_line-1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgekd-fault-line\nVersion: 1\n")
        (info / "entry_points.txt").write_text(_PLUGIN)
        (self.base / "edgekd.yaml").write_text(_RECIPE)
        for seed, name in enumerate(("data.npz", "select.npz")):
            rng = np.random.default_rng(seed)
            x = rng.random((EXAMPLES, 4), np.float32)
            np.savez(self.base / name, x=x, label=np.where(rng.random(EXAMPLES) < 0.9, x[:, :3].argmax(1), 0))
        if str(info.parent) not in sys.path:
            sys.path.append(str(info.parent))


class _InProcess:
    """A child that is none: the same operations on the same arguments."""

    def __init__(self, *_: object) -> None:
        self._state: dict[str, Any] = {}

    def __enter__(self) -> _InProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def request(self, call: str, args: Mapping[str, Any]) -> Any:
        return load_path(call)(self._state, dict(args), [])


def _measured(token: int) -> Callable[..., Measurement]:
    """Times that say which line measured them: every one ends in ``token``."""

    def measure(
        scenario: Any, baseline: Any, candidates: Sequence[Any], setting: Any, *, protocol: Any, **_: Any
    ) -> Measurement:
        entries = {"baseline": baseline, "baseline_twin": baseline}
        entries |= {f"candidate_{k}" if k > 1 else "candidate": c for k, c in enumerate(candidates, 1)}
        levels = [100_000, 100_000, *(60_000 - 10_000 * k for k in range(len(candidates)))]
        rng, restarts = np.random.default_rng(0), []
        for _ in range(max(8, protocol.min_restarts)):
            blocks = {
                arm: tuple(
                    (level * (1 + rng.normal(0, 0.002, 10))).astype(np.int64) // 10 * 10 + token
                    for _ in range(10)
                )
                for arm, level in zip(entries, levels, strict=True)
            }
            restarts.append(
                Restart(
                    blocks=blocks, order=tuple(entries), cpus=(0,),
                    warmup={a: {"seconds": 0.2, "calls": 200, "steady": True} for a in entries},
                    children={a: {"load_ns": 5_000_000, "peak_memory_bytes": 40_000_000} for a in entries},
                    ledger={"steal": 0.0, "frequency_mhz": None},
                )
            )  # fmt: skip
        arms = {
            arm: {"name": e[0], "artifact": e[1].digest, "dtype": e[1].dtype, "size_bytes": e[1].size_bytes}
            for arm, e in entries.items()
        }
        return Measurement(
            arms=arms, target=str(setting.target), scenario="single-stream", batch=1, threads=1,
            inputs={"kind": "data", "split": "test"}, protocol={"rounds": 10, "block_calls": 10},
            restarts=tuple(restarts), redrawn=(), environment={"token": token}, parent_cpu=0.0,
            collected_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )  # fmt: skip

    return measure


@contextlib.contextmanager
def _faked(place: Place, token: int) -> Iterator[None]:
    real = StageStore.run

    def run(
        self: StageStore, kind: str, name: str, key: Any, build: Callable[[Path, Path], None], **more: Any
    ) -> Any:
        def counted(out: Path, resume: Path) -> None:
            note(place, f"{kind}/{self.folder(kind, key).name} {token}")
            build(out, resume)

        return real(self, kind, name, key, counted, **more)

    with (
        mock.patch.object(StageStore, "run", run),
        mock.patch("edgekd.evaluate.evaluation.ChildProcess", _InProcess),
        mock.patch("edgekd.pipeline.collect.measure_scenario", _measured(token)),
        mock.patch("edgekd.pipeline.candidates.explain_student", lambda *_: ""),
        mock.patch("time.gmtime", lambda *_: NOW),
        mock.patch.dict(os.environ, {"EDGEKD_CACHE": str(place.cache)}),
    ):
        yield


def note(place: Place, text: str) -> None:
    """One line of the journal, outside of where faults happen, in one write."""
    with place.journal.open("a") as f:
        f.write(text + "\n")


def _train(place: Place, store: StageStore, name: str, token: int) -> None:
    """A chain of digests, one an epoch; a checkpoint after each, as trainings do."""

    def build(out: Path, resume: Path) -> None:
        checkpoint = resume / "checkpoint.json"
        state = json.loads(checkpoint.read_bytes()) if checkpoint.exists() else {"epoch": 0, "weights": name}
        while state["epoch"] < EPOCHS:
            note(place, f"epoch/{name}/{state['epoch']} {token}")
            weights = hashlib.sha256(state["weights"].encode()).hexdigest()
            state = {"epoch": state["epoch"] + 1, "weights": weights}
            write_bytes(checkpoint, json.dumps(state).encode())
        spec = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
        made = write_fake(out, inputs=(spec,))
        (out / "weights.bin").write_bytes(bytes.fromhex(state["weights"]) * 2000)
        Artifact(
            folder=out, entry=made.entry, format="fake", dtype="float32",
            files=(*made.files, record_file(out, "weights.bin")), inputs=made.inputs, outputs=made.outputs,
            output={"name": "logits", "kind": "logits"}, lineage={"trained": name},
        ).save()  # fmt: skip

    made = store.run("train", name, {"name": name, "epochs": EPOCHS}, build)
    from edgekd.artifact import load_artifact

    with building(place.root / "models" / name) as out:
        load_artifact(made.folder).copy_to(out)


def run_line(place: Place, token: int, *more: str) -> int:
    """Train, run (with ``more`` options), release: the first exit code that is not 0."""
    (place.root / "tmp").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(place.root / "tmp")
    with _faked(place, token):
        store = StageStore(place.cache)
        try:
            for name in ("teacher", "student"):
                _train(place, store, name, token)
        except Exception as e:  # noqa: BLE001 - said as the command line says it
            code = getattr(e, "exit_code", 4)
            print(f"edgekd: error: {e}", file=sys.stderr)
            return int(code)
        code = main(["run", str(place.base / "edgekd.yaml"), "--out", str(place.run), *more])
        return code or main(["release", str(place.run), "-o", str(place.bundle)])
