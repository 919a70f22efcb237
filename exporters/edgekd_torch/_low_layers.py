"""Layers whose products are 8-bit; imported only where a session asks for them, so ``torch`` is at the top."""

# ruff: noqa: TID253
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgekd_torch._low_precision import product, quantize, scale_of
from edgekd_torch.low_kinds import Kind


class LowLinear(torch.nn.Module):
    """A linear layer with quantized weight and activations.

    Args:
        weight: (outputs, inputs) floating point; bias: (outputs,) or None.
        by_row: one scale per row of activations and per output, else one per tensor.
        amax: greatest magnitude of the input from calibration; None takes each call's.
        dtype: of results.
    """

    def __init__(
        self, weight: Any, bias: Any, kind: Kind, *, by_row: bool, amax: float | None, dtype: Any
    ) -> None:
        super().__init__()
        self.kind, self.by_row, self.dtype = kind, by_row, dtype
        self.outputs, self.inputs = (int(d) for d in weight.shape)
        scale = scale_of(weight.detach(), kind, by_row=by_row)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("quantized", quantize(weight.detach(), scale, kind).contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        fixed = None if amax is None else torch.tensor(amax / kind.greatest, dtype=torch.float32)
        self.register_buffer("fixed_scale", fixed)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves between devices, but keeps its types: ``module.to(dtype)`` is about the rest of the module."""
        return super()._apply(lambda t: t.to(fn(t).device), recurse)

    def forward(self, x: Any) -> Any:
        """(..., inputs) -> (..., outputs)."""
        rows = x.reshape(-1, self.inputs)
        scale = (
            self.fixed_scale
            if self.fixed_scale is not None
            else scale_of(rows, self.kind, by_row=self.by_row)
        )
        made = product(
            quantize(rows, scale, self.kind), self.quantized, scale, self.weight_scale, self.kind, self.dtype
        )
        if self.bias is not None:
            made = made + self.bias
        return made.reshape(*x.shape[:-1], self.outputs)


class LowPointwise(torch.nn.Module):
    """A 1 x 1 convolution as one product over channels; NCHW."""

    def __init__(self, conv: Any, linear: LowLinear) -> None:
        super().__init__()
        self.linear = linear
        self.stride = tuple(conv.stride)

    def forward(self, x: Any) -> Any:
        """(n, channels, h, w) -> (n, outputs, h / stride, w / stride)."""
        down, right = self.stride
        picked = x[:, :, ::down, ::right].permute(0, 2, 3, 1)
        return self.linear(picked).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """What became of a module's products.

    Attributes:
        low: names of layers that are 8-bit now.
        kept: layer -> why it was kept.
    """

    low: tuple[str, ...]
    kept: Mapping[str, str]


def replace_layers(
    module: Any, kind: Kind, *, by_row: bool, amax: Mapping[str, float], dtype: Any
) -> Replaced:
    """Put 8-bit layers in place of linear layers and 1 x 1 convolutions, wherever their sizes fit.

    Args:
        module: float32, on the CPU or a device; changed in place.
        dtype: of the layers' results.
    """
    low: list[str] = []
    kept: dict[str, str] = {}
    made: dict[int, Any] = {}
    for parent_name, parent in list(module.named_modules()):
        # Not named_children, which leaves out a layer's second name.
        for child_name, child in list(parent._modules.items()):
            name = f"{parent_name}.{child_name}" if parent_name else child_name
            if child is None or isinstance(child, (LowLinear, LowPointwise)):
                continue
            if id(child) in made:  # one layer under two names
                setattr(parent, child_name, made[id(child)])
                low.append(name)
                continue
            why = _why_not(child)
            if why is None:
                continue
            weight = child.weight.flatten(1)
            why = why or kind.misfit(int(weight.shape[1]), int(weight.shape[0]))
            if why:
                kept[name] = why
                continue
            linear = LowLinear(weight, child.bias, kind, by_row=by_row, amax=amax.get(name), dtype=dtype)
            made[id(child)] = linear if isinstance(child, torch.nn.Linear) else LowPointwise(child, linear)
            setattr(parent, child_name, made[id(child)])
            low.append(name)
    return Replaced(low=tuple(low), kept=kept)


def _why_not(child: Any) -> str | None:
    """Why a layer is not a plain product; empty where it is one, None where it has no product at all."""
    # Not isinstance: torch's attention reads the weight of its own subclass of Linear without calling it.
    if type(child) is torch.nn.Linear:
        return ""
    if isinstance(child, torch.nn.Linear):
        return f"{type(child).__name__} is read without being called"
    if not isinstance(child, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return None
    if isinstance(child, torch.nn.Conv2d) and tuple(child.kernel_size) == (1, 1):
        plain = child.groups == 1 and tuple(child.padding) == (0, 0)
        return "" if plain else "its 1 x 1 convolution has groups or padding"
    return f"a convolution of {'x'.join(map(str, child.kernel_size))} is no single product"


def calibrate(module: Any, batches: Any) -> dict[str, float]:
    """Layer -> greatest magnitude of its input over batches, for the setting ``amax``.

    Args:
        module: not quantized; batches: an iterable of tuples of input tensors.
    """
    found: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            found[name] = max(found.get(name, 0.0), float(inputs[0].abs().max()))

        return hook

    hooks = [
        child.register_forward_pre_hook(watch(name))
        for name, child in module.named_modules()
        if _why_not(child) == ""
    ]
    try:
        with torch.inference_mode():
            for batch in batches:
                module(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found
