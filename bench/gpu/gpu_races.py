"""A network of the suite at a batch: every cell of a group opened once, then those that run raced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gpu_figures
from gpu_cells import BASELINE, Cell
from gpu_steps import HERE, StepStore

from edgekd.artifact import Artifact, load_artifact
from edgekd.child import ChildProcess, Limits
from edgekd.errors import EdgeKDError, TargetUnavailableError
from edgekd.evidence import save_measurement
from edgekd.evidence.measurement import Measurement
from edgekd.lazy import require
from edgekd.measure import Protocol, Setting, arms_of, measure
from edgekd.measure.arm import Arm
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.spec import draw_feeds
from edgekd.stages import StageStore
from edgekd.target import parse_target

RUNTIMES = {
    "torch": "edgekd_torch.runtime:TorchRuntime",
    "onnx": "edgekd_onnx.runtime:OnnxRuntime",
    "tensorrt": "edgekd_tensorrt.runtime:TensorRtRuntime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the suite measures.

    Attributes:
        device: ``cuda``, or ``cpu`` for a rehearsal.
        energy: labels of cells whose energy is measured; None: those of :data:`gpu_cells.ENERGY`.
        timeout_s: of one request to a child; compilation is one.
    """

    device: str
    work: Path
    protocol: Protocol
    energy: tuple[str, ...] | None
    groups: tuple[str, ...]
    timeout_s: float


def _exported(model: Model, cell: Cell, batch: int, out: Path) -> Artifact:
    """The file that a cell opens, made in ``out``.

    Raises:
        EdgeKDError: why this machine cannot make it.
    """
    shapes = {
        s.name: (
            (1, *map(int, s.shape[1:])),
            (batch, *map(int, s.shape[1:])),
            (batch, *map(int, s.shape[1:])),
        )
        for s in model.inputs
    }
    out.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"shapes": shapes, "dtype": cell.dtype}
    if cell.format == "onnx":
        from edgekd_onnx.exporter import OnnxExporter

        return OnnxExporter().export(model, out, options)
    from edgekd_tensorrt.exporter import TensorRtExporter

    return TensorRtExporter().export(model, out, options)


def _answers(arm: Arm, setting: Setting) -> dict[str, Any]:
    """Outputs of a cell on the race's inputs, from a child of its own: a cell that cannot run costs only itself.

    Raises:
        EdgeKDError: it cannot be opened or run as asked.
    """
    limits = Limits(timeout_s=setting.timeout_s, threads=setting.threads)
    with ChildProcess(f"trying {arm.label}", limits, setting.search) as child:
        child.request(
            "edgekd.child.sessions:open_for_runs",
            {
                "runtime": setting.runtime_paths[arm.artifact.format],
                "path": str(arm.artifact.path.resolve()),
                "device": setting.target.device,
                "provider": "",
                "threads": setting.threads,
                "settings": dict(arm.settings or {}),
            },
        )
        reply, arrays = child.request(
            "edgekd.child.sessions:run_once", {"feeds": list(arm.feeds)}, list(arm.feeds.values())
        )
        return dict(zip(reply["names"], arrays, strict=True))


def _feeds(model: Model, batch: int) -> dict[str, Any]:
    """Seeded inputs; token ids are drawn up to 64, which every network of the suite has."""
    feeds = draw_feeds(model.inputs, seed=0, shapes={}, batch=batch)
    numpy = require("numpy", extra="", purpose="drawing token ids")
    rng = numpy.random.default_rng(1)
    return {
        name: rng.integers(0, 64, a.shape).astype(a.dtype) if a.dtype.kind == "i" else a
        for name, a in feeds.items()
    }


def _check_unavailable(device: str, cell: Cell) -> None:
    """Refuse a cell whose runtime this machine does not have, before anything is exported for it.

    Raises:
        TargetUnavailableError: what the runtime says.
    """
    from edgekd.plugins import load_path

    why = load_path(RUNTIMES[cell.format])().unavailable(device, "")
    if why:
        what, _, fix = why.partition("; ")
        raise TargetUnavailableError(what, fix)


class Network:
    """A network of the suite at a batch; built, and its baseline tried, when a step first asks for it."""

    def __init__(
        self, name: str, batch: int, plan: Plan, store: StepStore, say: Callable[[str], None]
    ) -> None:
        self.name, self.batch, self.plan, self.say = name, batch, plan, say
        self.title = f"{name}, batch {batch}"
        self._store = store
        self.setting = Setting(
            target=parse_target(f"{plan.device}:torch"), runtime_paths=RUNTIMES, batch=batch,
            timeout_s=plan.timeout_s, search=(HERE,),
        )  # fmt: skip

    @cached_property
    def model(self) -> Model:
        model = open_reference(
            f"python:gpu_nets:{self.name}",
            weights=None,
            base=HERE,
            store=StageStore(self.plan.work / "stages"),
        )
        if not isinstance(model, Model):
            raise TargetUnavailableError(f"{self.name} is no torch module")
        return model

    @property
    def parameters(self) -> int:
        return self.model.parameters

    @cached_property
    def baseline(self) -> Arm:
        return arms_of((BASELINE.label, self.artifact(BASELINE), _feeds(self.model, self.batch)), [])[0]

    @cached_property
    def wanted(self) -> dict[str, Any]:
        """The baseline's outputs.

        Raises:
            EdgeKDError: not even the baseline runs.
        """
        self.say(f"{self.title}: {BASELINE.label}")
        return _answers(self.baseline, self.setting)

    def artifact(self, cell: Cell) -> Artifact:
        """The artifact that a cell opens; of one exported file those that come later take the same."""
        if cell.format == "torch":
            return self.model.as_artifact()
        made = f"{self.name}-b{self.batch}-{cell.format}-{cell.dtype}"
        out = self.plan.work / "artifacts" / self._store.digest[:16] / made
        if (out / "artifact.json").is_file():
            return load_artifact(out)
        artifact = _exported(self.model, cell, self.batch, out)
        artifact.save()
        return artifact


def race_group(network: Network, group: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """Try each cell of a group in a child of its own, then race those that run: plain data for the page.

    Raises:
        EdgeKDError: not even the baseline runs.
    """
    plan, wanted = network.plan, network.wanted
    not_run: dict[str, str] = {}
    errors: dict[str, Any] = {}
    arms: list[tuple[Cell, Artifact]] = []
    for cell in cells:
        network.say(f"{network.title}: trying {cell.label}")
        try:
            _check_unavailable(plan.device, cell)
            artifact = network.artifact(cell)
            arm = replace(network.baseline, label=cell.label, artifact=artifact, settings=cell.settings)
            errors[cell.label] = gpu_figures.numerics(_answers(arm, network.setting), wanted)
        except EdgeKDError as e:
            not_run[cell.label] = str(e)
        else:
            arms.append((cell, artifact))
    race = None
    if arms:
        network.say(f"{network.title}: racing {group} ({len(arms)} against {BASELINE.label})")
        try:
            name = f"{network.name}-b{network.batch}-{group}"
            race = _race(network.baseline, arms, network.setting, plan, name)
        except EdgeKDError as e:
            not_run.update({cell.label: str(e) for cell, _ in arms})
    return {"race": race, "not_run": not_run, "numerics": errors}


def _race(
    baseline: Arm, cells: Sequence[tuple[Cell, Artifact]], setting: Setting, plan: Plan, name: str
) -> dict[str, Any]:
    arms = arms_of(
        (baseline.label, baseline.artifact, baseline.feeds),
        [(cell.label, artifact, baseline.feeds) for cell, artifact in cells],
    )
    settings: list[Mapping[str, Any]] = [{}, {}, *[cell.settings for cell, _ in cells]]
    arms = [replace(a, settings=s) for a, s in zip(arms, settings, strict=True)]
    inputs = {a.label: {"kind": "drawn", "seed": 0, "examples": None} for a in arms}
    found: Measurement = measure(arms, setting, inputs=inputs, protocol=plan.protocol)
    save_measurement(found, plan.work / f"{name.replace(' ', '_')}.json")
    return gpu_figures.figures_of(found, {a.name: a.label for a in arms})
