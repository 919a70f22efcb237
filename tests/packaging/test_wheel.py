"""What a user gets: the packages whole, and no import name that could shadow a user's own."""

from __future__ import annotations

import configparser
import zipfile
from pathlib import Path

import pytest

_SOURCE_ROOTS = {
    "edgekd": ".",
    "edgekd_onnx": "exporters",
    "edgekd_torch": "exporters",
    "edgekd_openvino": "exporters",
    "edgekd_tensorrt": "exporters",
    "edgekd_executorch": "exporters",
    "edgekd_litert": "exporters",
    "edgekd_devices": "devices",
}


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _metadata(wheel: Path, file: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{file}"))
        return archive.read(name).decode()


def test_top_level_is_edgekd_only(names: list[str]) -> None:
    top = {n.partition("/")[0] for n in names}
    packages = {t for t in top if not t.endswith(".dist-info")}
    assert packages == set(_SOURCE_ROOTS)
    assert len(top - packages) == 1


@pytest.mark.parametrize("package", sorted(_SOURCE_ROOTS))
def test_packages_are_whole(package: str, names: list[str], repository: Path) -> None:
    root = repository / _SOURCE_ROOTS[package]
    files = {
        f.relative_to(root).as_posix()
        for f in (root / package).rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and not f.name.startswith(".")
    }
    assert f"{package}/py.typed" in files
    assert {n for n in names if n.startswith(f"{package}/")} == files


def test_every_first_party_package_is_in_the_wheel(repository: Path) -> None:
    folders = [f for root in ("exporters", "devices") for f in (repository / root).glob("*/__init__.py")]
    assert {f.parent.name for f in folders} | {"edgekd"} == set(_SOURCE_ROOTS)


def test_schemas_and_device_profiles_are_inside(names: list[str]) -> None:
    assert [n for n in names if "/schemas/" in n and n.endswith(".json")]
    assert [n for n in names if "/profiles/" in n and n.endswith(".toml")]


def test_entry_points_name_files_in_the_wheel(wheel: Path, names: list[str]) -> None:
    parser = configparser.ConfigParser(delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(_metadata(wheel, "entry_points.txt"))
    values = {
        f"{group}.{name}": value for group in parser.sections() for name, value in parser[group].items()
    }
    assert values["console_scripts.edgekd"] == "edgekd.cli:main"
    missing = {
        point: value
        for point, value in values.items()
        if not {(stem := value.partition(":")[0].replace(".", "/")) + ".py", f"{stem}/__init__.py"}
        & set(names)
    }
    assert missing == {}


def test_base_requires_neither_torch_nor_a_runtime(wheel: Path) -> None:
    lines = _metadata(wheel, "METADATA").splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    base = {r.partition(">")[0].lower() for r in required if "extra ==" not in r}
    assert base == {"numpy", "onnx", "pydantic", "pyyaml", "tomli"}
    (tomli,) = (r for r in required if r.startswith("tomli"))
    assert tomli.replace('"', "'").endswith("python_version < '3.11'"), tomli
    assert "License-Expression: Apache-2.0" in lines
