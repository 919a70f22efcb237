"""Device profiles: what is known about real devices, every figure with the document that it is from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any

from edgekd.errors import InputError, MissingDependencyError, UsageError

#: Figures that a document has to stand behind; of ``peaks`` each dtype does, as ``peaks.int8``.
FIGURES = (
    "arch", "dtypes", "features", "processors", "memory_bytes", "memory_bytes_per_s", "power_watts",
    "price_usd_per_hour",
)  # fmt: skip
POWER_SOURCES = ("mains", "battery", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where figures are from.

    Attributes:
        title, url: of the document; date: of it or of the day it was read, ``YYYY`` to ``YYYY-MM-DD``.
        note: how a figure was taken from it, where it is not there word for word.
    """

    title: str
    url: str
    date: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A state that the figures hold in; it is checked, never set.

    Attributes:
        what: in words; fix: the command that its owner runs.
        read: a file (``*`` allowed) or a command that tells; expect: a regular expression that every reading contains.
    """

    what: str
    read: str
    expect: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What is known about a device; unknown is None or absent, never zero.

    Attributes:
        name: the profile's name; title: the device's own.
        kind: ``server``, ``accelerator``, ``laptop``, ``board``, ``phone`` or ``generic``.
        arch: of its processor, as ``uname -m`` says: ``x86_64``, ``aarch64``; empty for a card that has a host.
        dtypes: precisions with instructions of their own, in ONNX spelling.
        features: processor features that decide how fast a precision is, in Linux's spelling.
        processors: logical processors.
        memory_bytes: of the machine, or of its container where that is less; memory_bytes_per_s: peak bandwidth.
        peaks: dtype -> operations per second, dense; a multiply-add is two.
        power_watts: the power budget that the peaks are given at.
        price_usd_per_hour: what an hour on it costs; price_how: whose price, or how it was amortised.
        power_source: ``mains``, ``battery`` or ``unknown``.
        requires: states that the figures hold in.
        sources: figure -> its document.
    """

    name: str
    arch: str
    dtypes: tuple[str, ...]
    title: str = ""
    kind: str = "generic"
    features: tuple[str, ...] = ()
    processors: int | None = None
    memory_bytes: int | None = None
    memory_bytes_per_s: float | None = None
    peaks: Mapping[str, float] = field(default_factory=dict)
    power_watts: float | None = None
    price_usd_per_hour: float | None = None
    price_how: str = ""
    power_source: str = "unknown"
    requires: tuple[Requirement, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)

    def unsourced(self) -> list[str]:
        """Figures that it has and no document stands behind."""
        present = [name for name in FIGURES if getattr(self, name) not in (None, "", ())]
        return [name for name in [*present, *(f"peaks.{d}" for d in self.peaks)] if name not in self.sources]


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    try:
        tomli = importlib.import_module("tomli")
    except ImportError as e:
        raise MissingDependencyError(
            "reading device profiles needs Python 3.11, or the package 'tomli' before it", "pip install tomli"
        ) from e
    return dict(tomli.loads(text))


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that ship with EdgeKD, sorted."""
    folder = resources.files("edgekd_devices") / "profiles"
    return tuple(sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")))


def load_profile(name: str) -> DeviceProfile:
    """Read a profile that ships with EdgeKD.

    Raises:
        UsageError: no such profile; MissingDependencyError: no TOML reader before Python 3.11.
    """
    if name not in list_profiles():
        raise UsageError(f"no device profile is called '{name}'", f"known: {', '.join(list_profiles())}")
    text = (resources.files("edgekd_devices") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_profile(text, where=f"{name}.toml")


def parse_profile(text: str, *, where: str) -> DeviceProfile:
    """Read a profile from TOML.

    Raises:
        InputError: not TOML, an unknown or missing key, a figure without a source, or a source without its figure.
    """
    try:
        value: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in _parse_toml(text).items()
        }
        listed = value.pop("sources", ())
        sources = {
            figure: Source(**{k: v for k, v in entry.items() if k != "figures"})
            for entry in listed
            for figure in entry["figures"]
        }
        value["requires"] = tuple(Requirement(**r) for r in value.get("requires", ()))
        profile = DeviceProfile(**value, sources=sources)
    except (ValueError, TypeError, KeyError) as e:
        known = ", ".join(f.name for f in fields(DeviceProfile))
        raise InputError(f"device profile {where} cannot be read ({e})", f"it has {known}") from e
    for figure in profile.unsourced():
        raise InputError(
            f"device profile {where} gives {figure} without a source", "name the document in [[sources]]"
        )
    for figure in sources:
        name, _, dtype = figure.partition(".")
        if (dtype and dtype not in profile.peaks) or (
            not dtype and getattr(profile, name, None) in (None, "", ())
        ):
            raise InputError(
                f"device profile {where} has a source for {figure}, which it does not give", "drop it"
            )
    if profile.power_source not in POWER_SOURCES:
        raise InputError(
            f"device profile {where} has the power source '{profile.power_source}'", ", ".join(POWER_SOURCES)
        )
    if (profile.price_usd_per_hour is None) != (not profile.price_how):
        raise InputError(f"device profile {where} does not say how its price was found", "give both or none")
    return profile


def requirements_of(name: str) -> dict[str, Any]:
    """A profile's requirements as plain data, for :func:`edgekd.board.requirements.check_requirements`.

    Raises:
        UsageError: no such profile, or one of a card, which is no board.
    """
    profile = load_profile(name)
    if not profile.arch:
        raise UsageError(f"the profile {name} is of a card, and no board", "name the profile of its host")
    requires = [{f.name: getattr(r, f.name) for f in fields(Requirement)} for r in profile.requires]
    return {"name": name, "arch": profile.arch, "requires": requires}
