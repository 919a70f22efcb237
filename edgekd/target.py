"""Targets: ``device:runtime[+provider]``, and the protocols of the runtimes and exporters behind them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec

_TARGET = re.compile(
    r"(?P<device>[A-Za-z0-9_./@-]+):(?P<runtime>[a-z0-9_-]+)(?:\+(?P<provider>[A-Za-z0-9_-]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A place to run: device x runtime x provider.

    Attributes:
        device: ``cpu``, ``cuda``, or one behind a link: ``ssh/HOST``, ``adb/SERIAL``.
        runtime: a runtime plugin's name, e.g. ``onnxruntime``.
        provider: the execution provider asked for; empty means the runtime's own for that device.
        required: False makes an absent target ``not_run`` instead of inconclusive.
    """

    device: str
    runtime: str
    provider: str = ""
    required: bool = True

    @property
    def remote(self) -> bool:
        """Whether it is a board behind a link, and not this machine."""
        return "/" in self.device

    def __str__(self) -> str:
        return f"{self.device}:{self.runtime}" + (f"+{self.provider}" if self.provider else "")


def parse_target(text: str, *, required: bool = True) -> Target:
    """Read ``device:runtime[+provider]``.

    >>> str(parse_target("cpu:onnxruntime"))
    'cpu:onnxruntime'

    Raises:
        UsageError: not of that form.
    """
    match = _TARGET.fullmatch(text)
    if match is None:
        raise UsageError(
            f"target {text!r} is not of the form device:runtime[+provider]", "for example cpu:onnxruntime"
        )
    return Target(
        device=match["device"], runtime=match["runtime"], provider=match["provider"] or "", required=required
    )


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int) -> None:
    """Refuse more threads than this machine has CPUs: they would only wait for each other.

    Raises:
        UsageError: with the number of CPUs.
    """
    cpus = os.cpu_count() or 1
    if threads > cpus:
        raise UsageError(
            f"{threads} threads were asked for, this machine has {cpus} CPUs", f"ask for 1 to {cpus}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session is opened.

    Attributes:
        device, provider: of the target.
        threads: intra-op threads, >= 1.
        settings: further settings of the runtime (graph level, arena); plain data.
    """

    device: str = "cpu"
    provider: str = ""
    threads: int = 1
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a session really uses, read back after opening it.

    Attributes:
        device, provider, threads: as found, not as asked.
        runtime: name and version, e.g. ``onnxruntime 1.31.1``.
        detail: whatever else identifies the build.
    """

    device: str
    provider: str
    runtime: str
    threads: int
    detail: Mapping[str, Any]


@runtime_checkable
class Session(Protocol):
    """An opened model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Placement

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array."""
        ...

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Bind inputs (and outputs) now; the result runs once per call and keeps its outputs alive."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Runtime(Protocol):
    """A runtime plugin: opens artifacts of its formats."""

    name: str
    formats: tuple[str, ...]

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can."""
        ...

    def open(self, path: Path, options: SessionOptions) -> Session:
        """Open a model file.

        Raises:
            ModelError: it cannot be opened; TargetUnavailableError: another provider than asked for was used.
        """
        ...


@runtime_checkable
class Exporter(Protocol):
    """An exporter plugin: writes one format.

    Options that every exporter understands or refuses by name: ``shapes`` (of :func:`edgekd.spec.parse_shapes`),
    ``feeds`` (real feeds that parity is checked on as well), ``atol``, ``rtol``, ``dtype``, ``opset``. A class may say
    more: ``OPTIONS`` (name -> help, of its own), ``COMMON`` (without ``dtype`` where that is for the step before),
    ``FILE_OPTIONS`` (those of its own that name files: exports are kept by the files' content), ``QUANTIZER`` (a number,
    raised whenever :meth:`quantize` writes something else for the same configuration: kept files are then made anew).
    """

    format: str

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``model`` into the existing folder ``out`` and return the artifact, parity checked."""
        ...

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Write a quantized twin of ``artifact`` into the existing folder ``out``."""
        ...

    def read(self, path: Path, outputs: Sequence[str] = ()) -> Artifact:
        """A file of this format from outside, as an artifact (nothing is written)."""
        ...


@runtime_checkable
class ConvertingExporter(Protocol):
    """An exporter that also makes its format out of another's artifact; this is optional.

    Attributes:
        sources: formats that it takes, the best first.
    """

    sources: tuple[str, ...]

    def convert(self, artifact: Artifact, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``artifact`` in this format into the existing folder ``out``, checked against the source.

        ``prepare``, ``output`` and dtype are carried over; ``lineage["source"]`` is the source's digest.

        Raises:
            ModelError: what the format cannot hold, by node name, or beyond the tolerance; UsageError: an option.
        """
        ...


@runtime_checkable
class ModelQuantizer(Protocol):
    """An exporter whose format is quantized from the torch module, not from its own files; this is optional."""

    def quantize_model(
        self,
        model: Model,
        config: QuantConfig,
        feeds: Iterable[Mapping[str, Array]],
        out: Path,
        options: Mapping[str, Any],
    ) -> Artifact:
        """Write a quantized ``model`` into the existing folder ``out``; as :meth:`Exporter.quantize` otherwise."""
        ...


@runtime_checkable
class FixedSizeExporter(Protocol):
    """An exporter whose format keeps no dynamic size; this is optional.

    Attributes:
        fixed_sizes: True where every size is fixed at export: a recipe's ranges are then their usual sizes.
    """

    fixed_sizes: bool


@runtime_checkable
class MachineBoundExporter(Protocol):
    """An exporter whose files belong to the machine that made them; this is optional."""

    def machine_key(self) -> Mapping[str, Any]:
        """What of this machine decides the files, as plain data: an export is used again only where it is equal.

        Raises:
            MissingDependencyError, TargetUnavailableError: nothing can be made here.
        """
        ...


@runtime_checkable
class QuantizedAtSource(Protocol):
    """An exporter whose format is made of a source that is quantized already; this is optional.

    Attributes:
        quantized_source: the format to quantize in, e.g. ``onnx``; quantized_variant: of :class:`QuantConfig`.
    """

    quantized_source: str
    quantized_variant: str
