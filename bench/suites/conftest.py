"""Options of the suites, and the students that they time: built once per session, in the target's own format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import EdgeKDError
from edgekd.models import open_reference
from edgekd.pipeline.artifacts import export_to, quantize_to
from edgekd.pipeline.routes import exporter_for
from edgekd.pipeline.targets import present_target
from edgekd.quantize import QuantConfig
from edgekd.spec import draw_feeds, parse_shapes
from edgekd.stages import StageStore, default_cache_root
from edgekd.target import FixedSizeExporter
from edgekd.tasks import TaskSpec

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("edgekd suites")
    group.addoption(
        "--suite-size", choices=["full", "tiny"], default="full", help="size of the students (default: full)"
    )
    group.addoption(
        "--suite-students", default="", metavar="A,B", help="only these architectures (default: all)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "architecture" not in metafunc.fixturenames:
        return
    zoo = architectures.FULL if metafunc.config.getoption("suite_size") == "full" else architectures.TINY
    asked = [n for n in metafunc.config.getoption("suite_students").split(",") if n]
    if unknown := [n for n in asked if n not in zoo]:
        raise pytest.UsageError(f"--suite-students {unknown[0]} is not known: {', '.join(zoo)}")
    metafunc.parametrize("architecture", asked or list(zoo))


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A student in a format and precision, and the sizes of its inputs."""

    artifact: Artifact
    shapes: tuple[str, ...]


Build = Callable[[str, str], Built]


@pytest.fixture(scope="session")
def build_student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """``build_student(architecture, precision)``; skips with the exporter's own reason where there is no way.

    INT8 is calibrated on drawn inputs: good for timing, and for nothing else.
    """
    name = request.config.getoption("edgekd_target") or "cpu:onnxruntime"
    try:
        target = present_target(name)
    except EdgeKDError as e:
        pytest.exit(f"edgekd: {e}", returncode=e.exit_code)
    store = StageStore(default_cache_root(os.environ))
    format_name = next(iter(target.runtime_paths))
    known: dict[tuple[str, str], Built | str] = {}

    def build(architecture: str, precision: str) -> Built:
        key = (architecture, precision)
        if key not in known:
            try:
                known[key] = _build(architecture, precision, format_name, store, tmp_path_factory)
            except EdgeKDError as e:
                known[key] = str(e)
        found = known[key]
        if isinstance(found, str):
            pytest.skip(f"{architecture} {precision} on {name}: {found}")
        return found

    return build


def _build(
    architecture: str, precision: str, format_name: str, store: StageStore, folders: pytest.TempPathFactory
) -> Built:
    zoo = {**architectures.FULL, **architectures.TINY}
    shapes = zoo[architecture]
    model: Any = open_reference(f"python:architectures:{architecture}", weights=None, base=HERE, store=store)
    sizes = parse_shapes(shapes)
    exporter = exporter_for(format_name)
    if isinstance(exporter, FixedSizeExporter) and exporter.fixed_sizes:
        sizes = {name: (usual,) * 3 for name, (_, usual, _) in sizes.items()}
    options: dict[str, Any] = {"shapes": sizes} if sizes else {}
    label = f"{architecture} {precision}"
    if format_name == "torch":
        if precision != "float32":
            pytest.skip(f"{label}: torch runs float32 models here")
        return Built(artifact=model.as_artifact(), shapes=shapes)
    if precision == "float32":
        return Built(artifact=export_to(model, format_name, options, store, label), shapes=shapes)
    if precision != "int8":
        return Built(
            artifact=export_to(model, format_name, {**options, "dtype": precision}, store, label),
            shapes=shapes,
        )
    drawn = draw_feeds(model.inputs, seed=1, shapes=options.get("shapes", {}), batch=8)
    rows = min(len(v) for v in drawn.values())
    data = folders.mktemp("calibration") / f"{architecture}.npz"
    np.savez(data, **{k: v[:rows] for k, v in drawn.items()}, label=np.zeros(rows, dtype=np.int64))
    task = TaskSpec(kind="classification", data={"calibration": str(data)}, base=str(HERE))
    made = quantize_to(model, format_name, QuantConfig(dtype="int8"), task, options, store, label)
    return Built(artifact=made, shapes=shapes)
