"""From a float32 module to what a session runs: precision, 8-bit layers, compilation; each one read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.errors import TargetUnavailableError
from edgekd.spec import TensorSpec
from edgekd_torch.bound import torch_module
from edgekd_torch.low_kinds import KINDS
from edgekd_torch.outputs import named_outputs
from edgekd_torch.settings import LOW, TorchSettings


@dataclass(slots=True)
class Prepared:
    """What a session runs.

    Attributes:
        module: with its parameters in the asked precision, on the device.
        forward: takes tensors as the model's inputs say and returns what its outputs say.
        eager: as ``forward``, never compiled.
        detail: what was read back.
    """

    module: Any
    forward: Callable[..., Any]
    eager: Callable[..., Any]
    detail: dict[str, Any]


def prepare(
    module: Any, name: str, outputs: Sequence[TensorSpec], settings: TorchSettings, device: str
) -> Prepared:
    """Move a module to its device in the precision and mode that ``settings`` ask for.

    Raises:
        TargetUnavailableError: the precision did not take, or no layer fits an 8-bit one.
    """
    torch = torch_module()
    detail: dict[str, Any] = {"mode": settings.mode, "precision": settings.precision}
    if settings.precision in LOW:
        detail["low_precision"] = _lower(module, name, settings, device)
    dtype = getattr(torch, settings.dtype)
    # float32 is what modules are; one with parts in float64 keeps them, as it always has.
    module.to(device=device) if settings.dtype == "float32" else module.to(device=device, dtype=dtype)
    found = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()}
    if settings.dtype != "float32" and found - {settings.dtype}:
        raise TargetUnavailableError(
            f"asked for {settings.dtype}, {name} has parameters in {', '.join(sorted(found))}",
            "do not pin types inside the module",
        )
    eager = module if settings.dtype == "float32" else _cast(module, name, outputs, dtype)
    forward = eager
    if settings.mode == "compile":
        torch.compiler.reset()  # a limit on recompilations is counted over the whole process
        forward = torch.compile(eager, mode=settings.compile_mode)
    return Prepared(module=module, forward=forward, eager=eager, detail=detail)


def _lower(module: Any, name: str, settings: TorchSettings, device: str) -> dict[str, Any]:
    from edgekd_torch._low_layers import replace_layers
    from edgekd_torch._low_precision import probe

    kind, by_row = KINDS[settings.precision], settings.scales == "row"
    probe(kind, device, by_row=by_row)
    dtype = getattr(torch_module(), settings.rest)
    made = replace_layers(module, kind, by_row=by_row, amax=settings.amax, dtype=dtype)
    if not made.low:
        kept = "; ".join(f"{layer}: {why}" for layer, why in list(made.kept.items())[:2])
        raise TargetUnavailableError(
            f"no layer of {name} can be {kind.name}" + (f" ({kept})" if kept else ""),
            "choose another precision",
        )
    unused = sorted(set(settings.amax) - set(made.low))
    if unused:
        raise TargetUnavailableError(
            f"amax names '{unused[0]}', which is no {kind.name} layer of {name}",
            f"its {kind.name} layers are {', '.join(made.low[:8])}",
        )
    return {
        "dtype": kind.name,
        "rest": settings.rest,
        "scales": settings.scales,
        "activation_scales": "calibrated" if settings.amax else "dynamic",
        "layers": list(made.low),
        "kept": dict(made.kept),
    }


def _cast(module: Any, name: str, outputs: Sequence[TensorSpec], dtype: Any) -> Callable[..., Any]:
    """The module between casts: floating-point inputs to ``dtype``, outputs to what the model says they are."""
    torch = torch_module()
    wanted = {s.name: getattr(torch, s.dtype) for s in outputs}

    def forward(*tensors: Any) -> Any:
        made = module(*[t.to(dtype) if t.is_floating_point() else t for t in tensors])
        return {k: v.to(wanted[k]) for k, v in named_outputs(made, outputs, name).items()}

    return forward


def compiled_so_far() -> dict[str, int]:
    """Graphs that torch.compile made in this process since it was last reset, and its graph breaks."""
    torch_module()
    from importlib import import_module

    counters = import_module("torch._dynamo.utils").counters
    return {
        "graphs": int(counters["stats"]["unique_graphs"]),
        "graph_breaks": int(sum(counters["graph_break"].values())),
    }


def check_compiled(before: dict[str, int], name: str) -> dict[str, int]:
    """What was compiled since ``before``.

    Raises:
        TargetUnavailableError: nothing: the module ran eagerly.
    """
    now = compiled_so_far()
    made = {key: now[key] - before[key] for key in now}
    if made["graphs"] < 1:
        raise TargetUnavailableError(
            f"torch.compile compiled nothing of {name}, it ran eagerly",
            "use mode eager, or look for TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE",
        )
    return made
