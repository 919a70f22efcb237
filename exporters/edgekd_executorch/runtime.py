"""ExecuTorch's own runtime in Python. Needs numpy, torch (which the wheel links to) and executorch."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.deviation import TensorDifference
from edgekd.errors import MissingDependencyError, ModelError, TargetUnavailableError, UsageError
from edgekd.model import Model
from edgekd.placement import PlacedOp
from edgekd.spec import TensorSpec
from edgekd.target import Placement, SessionOptions
from edgekd_executorch.boundary import Boundary
from edgekd_executorch.library import NativeLog, bindings, load, quiet, runtime, version
from edgekd_executorch.program import FORWARD, Program, read_program

PORTABLE = "portable"
#: Operators of XNNPACK's quantized models that stay outside the delegate; the wheel keeps them in a library apart.
_QUANTIZED = "quantized_decomposed::"
#: Programs that are loaded now. XNNPACK keeps a pointer to the thread pool that it was loaded with.
_LOADED: weakref.WeakSet[_Method] = weakref.WeakSet()


def backend_name(identifier: str) -> str:
    """A provider's name for ExecuTorch's backend id.

    >>> backend_name("XnnpackBackend")
    'xnnpack'
    """
    return re.sub("(?i)_?backend$", "", identifier).lower()


def provider_of(program: Program) -> str:
    """Where most of a program is meant to run: its backends, or ``portable`` where it delegates nothing."""
    return "+".join(backend_name(b) for b in program.backends) or PORTABLE


class _Method:
    """A loaded program and its forward method; alive as long as anything may run it."""

    def __init__(self, program: Any) -> None:
        self._program = program
        self.execute = program.load_method(FORWARD).execute
        _LOADED.add(self)


def set_threads(wanted: int) -> int:
    """Give the process's thread pool ``wanted`` threads and return how many it has.

    Raises:
        TargetUnavailableError: a program is loaded, whose pool would vanish under it.
    """
    library = bindings()
    with quiet():
        found = int(library._threadpool_get_thread_count())
        if found != wanted:
            gc.collect()  # what nobody holds any more is not in use
            if len(_LOADED):
                raise TargetUnavailableError(
                    f"asked for {wanted} threads, executorch has one pool per process, which has {found} and is in use",
                    "close the other ExecuTorch sessions first, or open them with the same number of threads",
                )
            library._unsafe_reset_threadpool(wanted)
            found = int(library._threadpool_get_thread_count())
    if found != wanted:
        raise TargetUnavailableError(
            f"asked for {wanted} threads, executorch {version()} gives {found}", f"ask for {found}"
        )
    return found


def load_method(path: Path, **options: Any) -> tuple[Any, _Method]:
    """A program from a checked file, and its forward method; ``options`` of ExecuTorch's ``load_program``.

    Raises:
        ModelError: ExecuTorch cannot load it.
    """
    log = NativeLog()
    found = runtime()
    try:
        with quiet() as log:
            program = found.load_program(path, **options)
            return program, _Method(program)
    except (RuntimeError, ValueError, KeyError) as e:
        raise ModelError(
            f"executorch {version()} cannot load {path} ({log.reason(e)})",
            "the file is damaged, or was made for another version: export it again",
        ) from e


class BoundMethod:
    """Runs one method on tensors made once; keeps them and the last outputs."""

    __slots__ = ("_execute", "_keep", "_session", "_tensors", "made")

    def __init__(self, session: ExecuTorchSession, method: _Method, tensors: list[Any]) -> None:
        self._session = session
        self._keep = method
        self._execute = method.execute
        self._tensors = tensors
        self.made: Any = None

    def __call__(self) -> None:
        try:
            self.made = self._execute(self._tensors)
        except RuntimeError as e:
            raise self._session.failed(e) from e

    def outputs(self) -> dict[str, Array]:
        """What the last call made."""
        return self._session.arrays(self.made)


class ExecuTorchSession:
    """A loaded .pte."""

    def __init__(self, path: Path, boundary: Boundary, method: _Method, placement: Placement) -> None:
        self.path = path
        self.inputs: tuple[TensorSpec, ...] = boundary.inputs
        self.outputs: tuple[TensorSpec, ...] = boundary.outputs
        self.placement = placement
        self._boundary = boundary
        self._method: _Method | None = method

    def _open(self) -> _Method:
        if self._method is None:
            raise ModelError(f"the session of {self.path} is closed", "open it again")
        return self._method

    def _tensors(self, feeds: Mapping[str, Array]) -> list[Any]:
        self._boundary.check(feeds, str(self.path))
        torch = load("torch", "running ExecuTorch programs")
        # A copy, because torch warns about (and could write to) memory-mapped, read-only arrays.
        return [torch.from_numpy(np.array(feeds[s.name], order="C")) for s in self.inputs]

    def failed(self, error: RuntimeError) -> ModelError:
        """An error of ExecuTorch on one line; its own words went to standard error."""
        line = " ".join(str(error).split())[:300]
        return ModelError(f"{self.path} failed while running ({line})", "check the model and the feeds")

    def arrays(self, made: Sequence[Any]) -> dict[str, Array]:
        """ExecuTorch's outputs (copies of its planned memory, made by its own bindings) as arrays."""
        return {s.name: t.detach().numpy() for s, t in zip(self.outputs, made, strict=True)}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array.

        Raises:
            DataError: feeds that do not fit, or larger than memory was planned for; ModelError: it failed.
        """
        method = self._open()
        tensors = self._tensors(feeds)
        try:
            return self.arrays(method.execute(tensors))
        except RuntimeError as e:
            raise self.failed(e) from e

    def bind(self, feeds: Mapping[str, Array]) -> BoundMethod:
        """Make the input tensors now; the result runs once per call.

        Each call copies the inputs into the planned memory and the outputs out of it, as ExecuTorch's API does.

        Raises:
            DataError: feeds that do not fit.
        """
        method = self._open()
        return BoundMethod(self, method, self._tensors(feeds))

    def close(self) -> None:
        """Let go of the program; a second call does nothing."""
        self._method = None


class ExecuTorchRuntime:
    """Opens ``.pte`` files with the ExecuTorch wheel, on the backends that they were lowered to."""

    name = "executorch"
    formats: tuple[str, ...] = ("executorch",)

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can.

        Args:
            provider: ``xnnpack``, ``portable`` or another backend of the wheel; empty for whatever the file says.
        """
        if device != "cpu":
            return f"executorch does not run on device '{device}' here; it knows cpu"
        try:
            registry = runtime().backend_registry
        except MissingDependencyError as e:
            return str(e)
        present = {backend_name(b): b for b in registry.registered_backend_names}
        if provider in ("", PORTABLE):
            return ""
        if provider not in present:
            return (
                f"executorch {version()} has no backend '{provider}'; "
                f"it has {', '.join(sorted([*present, PORTABLE]))}"
            )
        if not registry.is_available(present[provider]):
            return (
                f"executorch {version()} has {present[provider]}, which is not usable on this machine; "
                "install what it drives, or export for xnnpack"
            )
        return ""

    def open(self, path: Path, options: SessionOptions) -> ExecuTorchSession:
        """Open a .pte.

        ExecuTorch's thread pool belongs to the process and to every program loaded in it.

        Raises:
            ModelError: missing, damaged, or an operator that this build does not have; TargetUnavailableError: a
            backend that is not there, another one than asked for, or threads that the pool does not give;
            UsageError: a setting (there are none).
        """
        program, placement = self._check(path, options)
        _, method = load_method(path)
        return ExecuTorchSession(path, program.boundary, method, placement)

    def _check(self, path: Path, options: SessionOptions) -> tuple[Program, Placement]:
        if options.settings:
            raise UsageError(f"executorch has no setting '{sorted(options.settings)[0]}'", "remove it")
        if options.threads < 1:
            raise UsageError(f"threads is {options.threads}", "ask for 1 or more")
        self._refuse_unavailable(options.device, options.provider, "")
        program = read_program(path)
        for backend in program.backends:
            self._refuse_unavailable(
                options.device, backend_name(backend), f"{path} delegates to {backend}: "
            )
        found = provider_of(program)
        if options.provider not in ("", found):
            raise TargetUnavailableError(
                f"asked for {options.provider}, {path} was lowered for {found}",
                f"write cpu:executorch+{found}, or export it with --option backend={options.provider}",
            )
        _refuse_missing_operators(path, program)
        threads = set_threads(options.threads)
        return program, Placement(
            device=options.device,
            provider=found,
            runtime=f"executorch {version()}",
            threads=threads,
            detail={
                "backends": list(program.backends),
                "registered": sorted(runtime().backend_registry.registered_backend_names),
                "delegated_calls": sum(bool(i.backend) for i in program.instructions),
                "kernel_calls": sum(bool(i.operator) for i in program.instructions),
                "planned_bytes": program.planned_bytes,
            },
        )

    def _refuse_unavailable(self, device: str, provider: str, where: str) -> None:
        why = self.unavailable(device, provider)
        if why:
            what, _, fix = why.partition("; ")
            raise TargetUnavailableError(where + what, fix)

    def compare_layers(
        self, model: Model, artifact: Artifact, feeds: Mapping[str, Array]
    ) -> Sequence[TensorDifference]:
        """See :class:`edgekd.deviation.LayerComparingRuntime`; by ExecuTorch's event trace and Inspector."""
        from edgekd_executorch.inspect import layer_errors

        return [error.as_difference() for error in layer_errors(model, artifact, feeds)]

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> Sequence[PlacedOp]:
        """See :class:`edgekd.placement.PlacingRuntime`: kernels by name, and XNNPACK's own operators as it fused them."""
        from edgekd_executorch.placing import place_program

        program, _ = self._check(path, options)
        return place_program(path, program, feeds)


def _refuse_missing_operators(path: Path, program: Program) -> None:
    library = bindings()
    wanted = {op.removesuffix(".default") for op in program.operators}
    have = {str(op) for op in library._get_operator_names()}
    if any(op.startswith(_QUANTIZED) and op not in have for op in wanted):
        load("executorch.kernels.quantized", "running quantized ExecuTorch programs")
        have = {str(op) for op in library._get_operator_names()}
    # Arithmetic on sizes and views is built into the runtime and is listed in part only.
    missing = sorted(op for op in wanted - have if not op.startswith("executorch_prim::"))
    if missing:
        raise ModelError(
            f"{path} calls the operator {missing[0]}, which executorch {version()} does not have on this machine"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
            "replace it in the module, or install the library that brings it",
        )
