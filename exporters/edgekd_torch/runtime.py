"""Torch modules as a runtime: opens ``model.json``, runs eagerly in eval and inference mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import (
    DataError,
    MissingDependencyError,
    ModelError,
    TargetUnavailableError,
    UsageError,
)
from edgekd.lazy import require
from edgekd.model import MODEL_FILE, load_model
from edgekd.spec import TensorSpec, check_feeds
from edgekd.target import Placement, SessionOptions

_DEVICES = ("cpu", "cuda")


def _torch() -> Any:
    return require("torch", extra="torch", purpose="running a torch module")


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


def named_outputs(made: Any, outputs: Sequence[TensorSpec], name: str) -> dict[str, Any]:
    """What a module returned (a tensor, a sequence or a mapping of them), by output name, in the specs' order.

    Raises:
        ModelError: not what the specs say.
    """
    if isinstance(made, Mapping):
        found = dict(made)
    else:
        values = list(made) if isinstance(made, (list, tuple)) else [made]
        if len(values) != len(outputs):
            raise ModelError(
                f"{name} returned {len(values)} tensors, its model.json names {len(outputs)}",
                "write the model again",
            )
        found = {s.name: v for s, v in zip(outputs, values, strict=True)}
    missing = [s.name for s in outputs if s.name not in found]
    if missing:
        raise ModelError(
            f"{name} did not return '{missing[0]}', only {', '.join(map(str, found))}",
            "write the model again",
        )
    return {s.name: found[s.name] for s in outputs}


class BoundModule:
    """Runs one module on tensors that are on its device already; keeps the last outputs."""

    __slots__ = ("_mode", "_module", "_session", "_tensors", "_wait", "made")

    def __init__(self, session: TorchSession, module: Any, tensors: list[Any]) -> None:
        self._session = session
        self._module = module
        self._tensors = tensors
        torch = _torch()
        self._mode = torch.inference_mode
        self._wait = torch.cuda.synchronize if session.placement.device == "cuda" else None
        self.made: Any = None

    def __call__(self) -> None:
        try:
            with self._mode():
                self.made = self._module(*self._tensors)
            if self._wait is not None:
                self._wait()
        except RuntimeError as e:
            raise self._session.failed(e) from e

    def outputs(self) -> dict[str, Array]:
        """What the last call made."""
        return self._session.arrays(self.made)


class TorchSession:
    """A loaded torch module."""

    def __init__(
        self,
        module: Any,
        *,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        placement: Placement,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.placement = placement
        self._module = module
        self._name = name

    def _tensors(self, feeds: Mapping[str, Array]) -> list[Any]:
        if self._module is None:
            raise ModelError(f"the session of {self._name} is closed", "open it again")
        torch = _torch()
        check_feeds(self.inputs, feeds, self._name)
        device = self.placement.device
        # A copy, because torch warns about (and could write to) memory-mapped, read-only arrays.
        return [torch.from_numpy(np.array(feeds[s.name], order="C")).to(device) for s in self.inputs]

    def failed(self, error: RuntimeError) -> ModelError:
        """An error of torch on one line."""
        line = " ".join(str(error).split())[:400]
        return ModelError(
            f"{self._name} failed while running ({line})", "check the module and the feeds' shapes"
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array.

        Raises:
            DataError: feeds that do not fit; ModelError: the module failed, or returned something else.
        """
        tensors = self._tensors(feeds)
        try:
            with _torch().inference_mode():
                made = self._module(*tensors)
        except RuntimeError as e:
            raise self.failed(e) from e
        except IndexError as e:  # an embedding was asked for a row that it does not have
            raise DataError(
                f"{self._name} refused its inputs ({e})",
                "an id lies beyond the model's table: the data or the tokenizer belongs to another model",
            ) from e
        return self.arrays(made)

    def arrays(self, made: Any) -> dict[str, Array]:
        """What the module returned, as arrays in host memory."""
        return {k: v.cpu().numpy() for k, v in named_outputs(made, self.outputs, self._name).items()}

    def bind(self, feeds: Mapping[str, Array]) -> BoundModule:
        """Move the inputs once; each call runs the module and waits for the device."""
        tensors = self._tensors(feeds)
        return BoundModule(self, self._module, tensors)

    def close(self) -> None:
        """Let go of the module; a second call does nothing."""
        self._module = None


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

        torch's thread count belongs to the process: the session opened last decides it.

        Raises:
            ModelError: no such model, or weights that do not fit; TargetUnavailableError: no such device;
            UsageError: a setting (there are none).
        """
        if options.settings:
            raise UsageError(f"torch has no setting '{sorted(options.settings)[0]}'", "remove it")
        if options.threads < 1:
            raise UsageError(f"threads is {options.threads}", "ask for 1 or more")
        why = self.unavailable(options.device, options.provider)
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
        module.to(options.device)
        found = {p.device.type for p in module.parameters()} or {options.device}
        if found != {options.device}:
            raise TargetUnavailableError(
                f"asked for {options.device}, {model.name} has parameters on {', '.join(sorted(found))}",
                "do not pin devices inside the module",
            )
        placement = Placement(
            device=options.device,
            provider=options.device,
            runtime=f"torch {torch.__version__}",
            threads=int(torch.get_num_threads()),
            detail={"cpu_capability": str(torch.backends.cpu.get_cpu_capability())},
        )
        return TorchSession(
            module, name=model.name, inputs=model.inputs, outputs=model.outputs, placement=placement
        )
