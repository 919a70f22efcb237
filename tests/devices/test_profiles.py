"""Device profiles: readable, plausible, and no figure without the document that it is from."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest

from edgekd.errors import InputError, MissingDependencyError, UsageError
from edgekd_devices.profile import (
    FIGURES,
    DeviceProfile,
    list_profiles,
    load_profile,
    parse_profile,
    requirements_of,
)

#: ONNX's names of element types (onnx.proto, TensorProto.DataType).
_DTYPES = {"float64", "float32", "float16", "bfloat16", "float8e4m3fn", "float8e5m2", "int8", "int4"}
_KINDS = {"server", "accelerator", "laptop", "board", "phone", "generic"}


@pytest.fixture(scope="module", autouse=True)
def _toml() -> None:
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


@pytest.fixture(scope="module")
def profiles() -> list[DeviceProfile]:
    return [load_profile(name) for name in list_profiles()]


def test_at_least_twenty_real_devices_of_every_kind(profiles: list[DeviceProfile]) -> None:
    real = [p for p in profiles if p.kind != "generic"]
    assert len(real) >= 20
    assert {p.kind for p in profiles} == _KINDS
    assert [p.name for p in profiles] == list(list_profiles())
    assert all(p.title for p in real)


def test_every_figure_has_a_document(profiles: list[DeviceProfile]) -> None:
    for profile in profiles:
        assert profile.unsourced() == []
        for source in profile.sources.values():
            assert source.url.startswith("https://")
            assert re.fullmatch(r"20\d\d(-\d\d){0,2}", source.date)
            assert len(source.title) > 10
            # Its note tells a figure that was read again from one that is remembered.
            assert profile.kind == "generic" or "re-read" in source.note


def test_figures_are_plausible(profiles: list[DeviceProfile]) -> None:
    for p in profiles:
        assert p.arch in ("x86_64", "aarch64", "arm64") or (p.arch == "" and p.kind == "accelerator")
        assert set(p.dtypes) <= _DTYPES
        assert set(p.peaks) <= set(p.dtypes)
        assert p.memory_bytes is None or 1 << 30 <= p.memory_bytes <= 1 << 40
        assert p.memory_bytes_per_s is None or 1e9 <= p.memory_bytes_per_s <= 1e13
        assert all(1e10 <= rate <= 1e16 for rate in p.peaks.values())
        assert p.price_usd_per_hour is None or 0.001 <= p.price_usd_per_hour <= 100
        # Fewer bits are never slower.
        bits = {"float32": 32, "float16": 16, "bfloat16": 16, "float8e4m3fn": 8, "int8": 8, "int4": 4}
        ordered = sorted(p.peaks, key=lambda d: -bits[d])
        assert all(p.peaks[a] <= p.peaks[b] for a, b in itertools.pairwise(ordered) if bits[a] != bits[b])


def test_requirements_are_read_and_never_set(profiles: list[DeviceProfile]) -> None:
    required = [(p.name, r) for p in profiles for r in p.requires]
    assert len(required) >= 10
    for name, requirement in required:
        assert requirement.what, name
        assert requirement.fix, name
        re.compile(requirement.expect)
        assert requirement.read.startswith("/sys/") or requirement.read.split()[0] in (
            "nvpmodel", "vcgencmd", "dumpsys", "pmset",
        )  # fmt: skip
        assert "sudo" not in requirement.read
        assert not {"-m", "set", "-s", "tee"} & set(requirement.read.split()[1:])
    nx = requirements_of("jetson-orin-nx-16gb")
    assert nx["arch"] == "aarch64"
    (mode,) = nx["requires"]
    assert re.search(mode["expect"], "NV Power Mode: MAXN\n0")
    assert not re.search(mode["expect"], "NV Power Mode: MAXN_SUPER\n2")
    assert not re.search(mode["expect"], "NV Power Mode: 15W\n1")
    with pytest.raises(UsageError, match="of a card"):
        requirements_of("nvidia-l4")


def test_amortised_prices_follow_from_the_price_that_is_named(profiles: list[DeviceProfile]) -> None:
    for p in profiles:
        named = re.match(r"list price \$([\d,]+) of 20\d\d over three years of 8,760 hours", p.price_how)
        if named:
            expected = int(named[1].replace(",", "")) / (3 * 8760)
            assert p.price_usd_per_hour == pytest.approx(expected, rel=1e-3)


def test_generic_profiles_know_the_least(profiles: list[DeviceProfile]) -> None:
    for p in profiles:
        if p.kind == "generic":
            assert p.memory_bytes is None
            assert "int8" not in p.dtypes
    with pytest.raises(UsageError, match="generic-x86-64"):
        load_profile("jetson")


_HEAD = 'name = "x"\narch = "x86_64"\ndtypes = ["float32"]\n'
_SOURCES = '[[sources]]\nfigures = ["arch", "dtypes"]\ntitle = "t"\nurl = "https://x"\ndate = "2024"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name = ", "cannot be read"),
        ('name = "x"', "cannot be read"),
        (_HEAD + "colour = 1\n" + _SOURCES, "colour"),
        (_HEAD, "gives arch without a source"),
        (_HEAD + "memory_bytes = 1\n" + _SOURCES, "gives memory_bytes without a source"),
        (_HEAD + "[peaks]\nint8 = 1e12\n" + _SOURCES, r"gives peaks\.int8 without a source"),
        (_HEAD + _SOURCES.replace('"dtypes"', '"dtypes", "processors"'), "has a source for processors"),
        (_HEAD + _SOURCES.replace('"dtypes"', '"dtypes", "peaks.int8"'), r"has a source for peaks\.int8"),
        (_HEAD + 'power_source = "sun"\n' + _SOURCES, "power source 'sun'"),
        (
            _HEAD
            + "price_usd_per_hour = 1.0\n"
            + _SOURCES.replace('"dtypes"', '"dtypes", "price_usd_per_hour"'),
            "how its price was found",
        ),
        (_HEAD + '[[requires]]\nwhat = "x"\n' + _SOURCES, "cannot be read"),
    ],
)
def test_wrong_profiles_are_one_line(text: str, why: str) -> None:
    with pytest.raises(InputError, match=rf"mine\.toml.*{why}") as caught:
        parse_profile(text, where="mine.toml")
    assert "\n" not in str(caught.value)


def test_a_whole_profile() -> None:
    profile = parse_profile(_HEAD + _SOURCES, where="mine.toml")
    assert profile.sources["arch"].title == "t"
    assert set(profile.sources) < set(FIGURES)


def test_no_toml_reader_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(MissingDependencyError, match="tomli"):
        load_profile("generic-x86-64")


def test_the_page_names_every_profile(repository: Path) -> None:
    page = (repository / "docs/devices.md").read_text(encoding="utf-8")
    assert [name for name in list_profiles() if f"`{name}`" not in page] == []
