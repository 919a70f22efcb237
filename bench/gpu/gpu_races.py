"""Runs one part of the suite: a network at a batch, every cell opened once, then the races, then energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_figures
from gpu_cells import BASELINE, ENERGY, Cell, groups_for

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess, Limits
from edgekd.errors import EdgeKDError, TargetUnavailableError
from edgekd.evidence import save_measurement
from edgekd.evidence.measurement import Measurement
from edgekd.lazy import require
from edgekd.measure import Protocol, Setting, arms_of, measure
from edgekd.measure.arm import Arm
from edgekd.measure.meters import Meter, NvmlMeter, find_meters
from edgekd.measure.resources import Inspection, inspect_resources
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.spec import draw_feeds
from edgekd.stages import StageStore
from edgekd.target import parse_target

HERE = Path(__file__).resolve().parent
RUNTIMES = {
    "torch": "edgekd_torch.runtime:TorchRuntime",
    "onnx": "edgekd_onnx.runtime:OnnxRuntime",
    "tensorrt": "edgekd_tensorrt.runtime:TensorRtRuntime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one part is measured.

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


def _exported(model: Model, cell: Cell, batch: int, plan: Plan) -> Artifact:
    """The artifact that a cell opens, made where it is not there yet.

    Raises:
        EdgeKDError: why this machine cannot make it.
    """
    if cell.format == "torch":
        return model.as_artifact()
    shapes = {
        s.name: (
            (1, *map(int, s.shape[1:])),
            (batch, *map(int, s.shape[1:])),
            (batch, *map(int, s.shape[1:])),
        )
        for s in model.inputs
    }
    out = plan.work / f"{model.name}-b{batch}-{cell.format}-{cell.dtype}"
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


def run_part(name: str, batch: int, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """One network at one batch: plain data for the page.

    Raises:
        EdgeKDError: not even the baseline runs.
    """
    store = StageStore(plan.work / "stages")
    model = open_reference(f"python:gpu_nets:{name}", weights=None, base=HERE, store=store)
    if not isinstance(model, Model):
        raise TargetUnavailableError(f"{name} is no torch module")
    setting = Setting(
        target=parse_target(f"{plan.device}:torch"), runtime_paths=RUNTIMES, batch=batch,
        timeout_s=plan.timeout_s, search=(HERE,),
    )  # fmt: skip
    feeds = _feeds(model, batch)
    baseline = arms_of((BASELINE.label, _exported(model, BASELINE, batch, plan), feeds), [])[0]
    say(f"{name}, batch {batch}: {BASELINE.label}")
    wanted = _answers(baseline, setting)
    part: dict[str, Any] = {
        "model": name,
        "batch": batch,
        "parameters": model.parameters,
        "races": {},
        "not_run": {},
    }
    errors: dict[str, Any] = {}
    for group, cells in groups_for(plan.device).items():
        if group not in plan.groups:
            part["not_run"].update({c.label: "not asked for" for c in cells})
            continue
        arms: list[tuple[Cell, Artifact]] = []
        for cell in cells:
            say(f"{name}, batch {batch}: trying {cell.label}")
            try:
                _check_unavailable(plan.device, cell)
                artifact = _exported(model, cell, batch, plan)
                arm = replace(baseline, label=cell.label, artifact=artifact, settings=cell.settings)
                errors[cell.label] = gpu_figures.numerics(_answers(arm, setting), wanted)
            except EdgeKDError as e:
                part["not_run"][cell.label] = str(e)
            else:
                arms.append((cell, artifact))
        if arms:
            say(f"{name}, batch {batch}: racing {group} ({len(arms)} against {BASELINE.label})")
            try:
                part["races"][group] = _race(baseline, arms, setting, plan, f"{name}-b{batch}-{group}")
            except EdgeKDError as e:
                part["not_run"].update({cell.label: str(e) for cell, _ in arms})
    part["numerics"] = errors
    part["energy"] = _energy(baseline, part, setting, plan, say)
    return part


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


def _meters(device: str) -> tuple[list[Meter], dict[str, str]]:
    """The GPU's own meter, whether or not plugins are installed; on the CPU those there are."""
    if device != "cuda":
        return find_meters("", device)
    gpu = NvmlMeter()
    why = gpu.unavailable()
    return ([], {gpu.name: why}) if why else ([gpu], {})


def _energy(
    baseline: Arm, part: Mapping[str, Any], setting: Setting, plan: Plan, say: Callable[[str], None]
) -> dict[str, Any]:
    """Label -> joules per inference, gross and above idle, or why not."""
    asked = ENERGY if plan.energy is None else plan.energy
    raced = {row["label"] for race in part["races"].values() for row in race["rows"]}
    meters, absent = _meters(plan.device)
    found: dict[str, Any] = {}
    cells = {c.label: c for group in groups_for(plan.device).values() for c in group}
    for label in asked:
        if label != BASELINE.label and (label not in raced or cells[label].format != "torch"):
            continue
        if not meters:
            found[label] = {"unavailable": "; ".join(f"{n}: {w}" for n, w in absent.items()) or "no meter"}
            continue
        say(f"{part['model']}, batch {part['batch']}: energy of {label}")
        settings = {} if label == BASELINE.label else dict(cells[label].settings)
        arm = replace(baseline, label=label, settings=settings)
        looked = inspect_resources(
            [arm], setting, inspection=Inspection(starts=0), meters=meters, meters_absent=absent
        )[arm.name]
        readings = looked.get("energy")
        if not readings:
            found[label] = {"unavailable": looked["unavailable"].get("energy", "no reading")}
            continue
        found[label] = {
            meter: {
                "joules": entry["joules_per_call"] / part["batch"],
                "above_idle": entry["joules_per_call_above_idle"] / part["batch"],
                "watts": entry["busy_watts"],
                "idle_watts": entry["idle_watts"],
                "window_s": min(entry["block_seconds"]),
            }
            for meter, entry in readings.items()
        }
    return found
