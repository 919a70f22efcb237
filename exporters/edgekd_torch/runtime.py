"""Torch modules as a runtime: opens ``model.json``; eager, compiled or as a CUDA graph, in the precision asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import (
    DataError,
    EdgeKDError,
    MissingDependencyError,
    ModelError,
    TargetUnavailableError,
    UsageError,
)
from edgekd.measure.device_events import OUT_OF_DEVICE_MEMORY
from edgekd.model import MODEL_FILE, load_model
from edgekd.placement import PlacedOp
from edgekd.quantize.hardware import FLOAT8, refuse_precision, this_cpu
from edgekd.spec import TensorSpec, check_feeds
from edgekd.target import Placement, SessionOptions
from edgekd_torch.bound import BoundModule, GraphCall, StreamCall
from edgekd_torch.bound import torch_module as _torch
from edgekd_torch.outputs import named_outputs
from edgekd_torch.placing import count_macs, low_share
from edgekd_torch.preparing import Prepared, check_compiled, compiled_so_far, prepare
from edgekd_torch.settings import LOW, TorchSettings, apply_flags, check_device, read_settings

__all__ = ["TorchRuntime", "TorchSession", "named_outputs", "refuse_training"]

_DEVICES = ("cpu", "cuda")

#: Input shapes that a session in mode cuda-graph keeps a captured graph for.
_GRAPHS = 4


def refuse_training(module: Any, name: str) -> None:
    """Refuse a module of which any part is in training mode: batch norm and dropout would change its answers.

    Raises:
        ModelError: such a part; the message names the first.
    """
    for part, child in module.named_modules():
        if child.training:
            raise ModelError(
                f"{name}: {part or 'the module'} ({type(child).__name__}) is in training mode",
                "call .eval() on it, and do not override train()",
            )


def _one_line(error: RuntimeError, name: str, device: str) -> EdgeKDError:
    """An error of torch on one line; of the device's memory by the device's name."""
    torch = _torch()
    line = " ".join(str(error).split())[:400]
    if isinstance(error, torch.OutOfMemoryError):
        where = torch.cuda.get_device_name(0) if device == "cuda" else device
        return TargetUnavailableError(
            f"{OUT_OF_DEVICE_MEMORY}: {where} has too little for {name} ({line})",
            "use a smaller batch or model, or free the device",
        )
    return ModelError(f"{name} failed while running ({line})", "check the module and the feeds' shapes")


class TorchSession:
    """A loaded torch module."""

    def __init__(
        self,
        prepared: Prepared,
        *,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        placement: Placement,
        settings: TorchSettings,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.placement = placement
        self._prepared: Prepared | None = prepared
        self._name = name
        self._settings = settings
        self._compiled = compiled_so_far() if settings.mode == "compile" else {}
        self._graphs: dict[tuple[tuple[int, ...], ...], GraphCall] = {}
        cuda = _torch().cuda if placement.device == "cuda" else None
        # A stream of its own, never the default one, which waits for all others.
        self._stream = cuda.Stream() if cuda is not None else None
        self._pool = cuda.graph_pool_handle() if cuda is not None and settings.mode == "cuda-graph" else None

    def _opened(self) -> Prepared:
        if self._prepared is None:
            raise ModelError(f"the session of {self._name} is closed", "open it again")
        return self._prepared

    def _tensors(self, feeds: Mapping[str, Array]) -> list[Any]:
        self._opened()
        check_feeds(self.inputs, feeds, self._name)
        apply_flags(self._settings, self.placement.device)
        torch = _torch()
        # A copy, because torch warns about (and could write to) memory-mapped, read-only arrays.
        host = [torch.from_numpy(np.array(feeds[s.name], order="C")) for s in self.inputs]
        if self._stream is None:
            return host
        try:
            with torch.cuda.stream(self._stream):
                return [t.to("cuda") for t in host]
        except RuntimeError as e:
            raise self.failed(e) from e

    def _call(self, tensors: Sequence[Any]) -> BoundModule:
        forward = self._opened().forward
        if self._stream is None:
            return BoundModule(self, forward, tensors)
        if self._settings.mode != "cuda-graph":
            return StreamCall(self, forward, tensors, self._stream)
        where = f"{self._name} on {self.placement.detail['device_name']}"
        made = GraphCall(self, forward, tensors, self._stream, pool=self._pool, where=where)
        self._note(graphs_captured=int(self.placement.detail.get("graphs_captured", 0)) + 1)
        return made

    def _note(self, **found: Any) -> None:
        """Add what was read back to the placement."""
        self.placement = replace(self.placement, detail={**self.placement.detail, **found})

    def _note_compiled(self) -> None:
        if self._settings.mode == "compile":
            self._note(compiled=check_compiled(self._compiled, self._name))

    def failed(self, error: RuntimeError) -> EdgeKDError:
        """An error of torch on one line."""
        return _one_line(error, self._name, self.placement.device)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array.

        Raises:
            DataError: feeds that do not fit; ModelError: the module failed, or returned something else;
            TargetUnavailableError: out of device memory, nothing was compiled, or no graph could be captured.
        """
        tensors = self._tensors(feeds)
        try:
            call = self._captured(tensors) if self._pool is not None else self._call(tensors)
            call()
        except IndexError as e:  # an embedding was asked for a row that it does not have
            raise DataError(
                f"{self._name} refused its inputs ({e})",
                "an id lies beyond the model's table: the data or the tokenizer belongs to another model",
            ) from e
        self._note_compiled()
        return call.outputs()

    def _captured(self, tensors: Sequence[Any]) -> GraphCall:
        """The graph of these shapes, filled with these inputs."""
        key = tuple(tuple(t.shape) for t in tensors)
        if key in self._graphs:
            self._graphs[key].refill(tensors)
            return self._graphs[key]
        while len(self._graphs) >= _GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        made = self._call(tensors)
        if not isinstance(made, GraphCall):
            raise TargetUnavailableError(f"{self._name} was not captured as a CUDA graph", "report it")
        self._graphs[key] = made
        return made

    def arrays(self, made: Any) -> dict[str, Array]:
        """What the module returned, as arrays in host memory."""
        return {k: v.cpu().numpy() for k, v in named_outputs(made, self.outputs, self._name).items()}

    def bind(self, feeds: Mapping[str, Array]) -> BoundModule:
        """Move the inputs once; each call runs the module and waits for the device.

        Compilation and capture happen here, not in the first call; 8-bit layers are counted here.
        """
        tensors = self._tensors(feeds)
        begin = time.perf_counter()
        call = self._call(tensors)
        if self._settings.mode == "compile":
            call()
            self._note_compiled()
        if self._settings.mode != "eager":
            self._note(prepare_s=time.perf_counter() - begin)
        if self._settings.precision in LOW and "macs_share" not in self.placement.detail["low_precision"]:
            self._count(tensors)
        return call

    def _count(self, tensors: Sequence[Any]) -> None:
        try:
            ops = count_macs(self._opened(), tensors, self.placement.device.upper())
        except RuntimeError as e:
            raise self.failed(e) from e
        share = low_share(ops, self._settings.precision)
        self._note(low_precision={**self.placement.detail["low_precision"], "macs_share": share})

    def place(self, feeds: Mapping[str, Array]) -> list[PlacedOp]:
        """See :meth:`TorchRuntime.place`."""
        tensors = self._tensors(feeds)
        try:
            return list(count_macs(self._opened(), tensors, self.placement.device.upper()))
        except RuntimeError as e:
            raise self.failed(e) from e

    def close(self) -> None:
        """Let go of the module; a second call does nothing."""
        self._prepared = None
        self._graphs.clear()


class TorchRuntime:
    """Opens ``model.json`` folders."""

    name = "torch"
    formats: tuple[str, ...] = ("torch",)

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can."""
        if device not in _DEVICES:
            return f"torch does not run on device '{device}' here; it knows {', '.join(_DEVICES)}"
        if provider not in ("", device):
            return f"torch has no providers, asked for '{provider}'; write {device}:torch"
        try:
            torch = _torch()
        except MissingDependencyError as e:
            return str(e)
        if device == "cuda" and not torch.cuda.is_available():
            return f"torch {torch.__version__} sees no CUDA device; install a CUDA build and its driver"
        return ""

    def open(self, path: Path, options: SessionOptions) -> TorchSession:
        """Open a ``model.json`` with its weights.

        torch's thread count and TF32 flags belong to the process: the session used last decides them.

        Args:
            options: ``settings`` as in :class:`edgekd_torch.settings.TorchSettings`.

        Raises:
            ModelError: no such model, or weights that do not fit; TargetUnavailableError: no such device, a precision
            that it does not have, or out of its memory; UsageError: a setting.
        """
        if options.threads < 1:
            raise UsageError(f"threads is {options.threads}", "ask for 1 or more")
        device = options.device
        if device in _DEVICES:
            settings = read_settings(device, options.settings)
        why = self.unavailable(device, options.provider)
        if why:
            what, _, fix = why.partition("; ")
            raise TargetUnavailableError(what, fix)
        if path.name != MODEL_FILE:
            raise ModelError(f"{path} is not a {MODEL_FILE}", f"torch opens folders that hold {MODEL_FILE}")
        from edgekd_torch.modules import load_module

        torch = _torch()
        model = load_model(path.parent)
        module = load_module(model)
        refuse_training(module, model.name)
        torch.set_num_threads(options.threads)
        detail = {"cpu_capability": str(torch.backends.cpu.get_cpu_capability())}
        if device == "cuda":
            detail.update(check_device(settings, torch))
        elif settings.precision == "bfloat16":  # torch would go through float32, slower than float32 itself
            refuse_precision(settings.precision, this_cpu())
        elif settings.precision == FLOAT8:
            detail["emulated"] = FLOAT8
        detail.update(apply_flags(settings, device))
        try:
            prepared = prepare(module, model.name, model.outputs, settings, device)
        except torch.OutOfMemoryError as e:
            raise _one_line(e, model.name, device) from e
        found = {p.device.type for p in module.parameters()} or {device}
        if found != {device}:
            raise TargetUnavailableError(
                f"asked for {device}, {model.name} has parameters on {', '.join(sorted(found))}",
                "do not pin devices inside the module",
            )
        placement = Placement(
            device=device,
            provider=device,
            runtime=f"torch {torch.__version__}",
            threads=int(torch.get_num_threads()),
            detail={**detail, **prepared.detail},
        )
        return TorchSession(
            prepared, name=model.name, inputs=model.inputs, outputs=model.outputs, placement=placement,
            settings=settings,
        )  # fmt: skip

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> Sequence[PlacedOp]:
        """See :class:`edgekd.placement.PlacingRuntime`; layers that multiply, each with its ``macs``.

        One eager call is counted: torch.compile and CUDA graphs run the same layers, fused.
        """
        session = self.open(path, options)
        try:
            return session.place(feeds)
        finally:
            session.close()
