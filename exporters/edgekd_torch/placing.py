"""Which layers of a torch module ran where, in which precision, with how many multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgekd.placement import PlacedOp
from edgekd_torch.bound import torch_module
from edgekd_torch.preparing import Prepared

#: What torch's counter calls the product of an 8-bit layer, which is counted by its layer instead.
_LOW_OPERATORS = ("_scaled_mm", "_int_mm")
#: The name of what is computed outside of layers.
OUTSIDE = "(outside of layers)"


def count_macs(prepared: Prepared, tensors: Sequence[Any], place: str) -> list[PlacedOp]:
    """Run once, eagerly, and count.

    Layers that multiply are linear layers and convolutions; products of none of them (attention) come last, as one
    entry. The total is of ``torch.utils.flop_counter``: two of its operations are one multiply-accumulate.

    Args:
        place: who runs it, ``CPU`` or ``CUDA``.
    """
    torch = torch_module()
    from importlib import import_module

    low_layers = import_module("edgekd_torch._low_layers")
    counter = import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    ops: dict[str, PlacedOp] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: Any, inputs: tuple[Any, ...], made: Any) -> None:
            if isinstance(layer, low_layers.LowLinear):
                macs, dtype = made.numel() * layer.inputs, layer.kind.name
            else:
                macs = made.numel() * layer.weight[0].numel()
                dtype = str(layer.weight.dtype).removeprefix("torch.")
            before = (ops[name].macs or 0) if name in ops else 0
            ops[name] = PlacedOp(
                name=name, op_type=type(layer).__name__, place=place, dtype=dtype, macs=before + int(macs)
            )

        return hook

    layers = (
        low_layers.LowLinear,
        torch.nn.Linear,
        torch.nn.Conv1d,
        torch.nn.Conv2d,
        torch.nn.Conv3d,
    )
    hooks = [
        child.register_forward_hook(watch(name or "(the module)"))
        for name, child in prepared.module.named_modules()
        if isinstance(child, layers)
    ]
    try:
        with torch.inference_mode(), counter:
            prepared.eager(*tensors)
    finally:
        for hook in hooks:
            hook.remove()
    whole = sum(
        int(flops)
        for operator, flops in counter.get_flop_counts().get("Global", {}).items()
        if not any(low in str(operator) for low in _LOW_OPERATORS)
    )
    plain = sum(op.macs or 0 for op in ops.values() if op.op_type != "LowLinear")
    outside = whole // 2 - plain
    if outside > 0:
        types = {str(t.dtype).removeprefix("torch.") for t in prepared.module.parameters()}
        dtype = types.pop() if len(types) == 1 else ""
        ops[OUTSIDE] = PlacedOp(name=OUTSIDE, op_type="matmul", place=place, dtype=dtype, macs=outside)
    return list(ops.values())


def low_share(ops: Sequence[PlacedOp], dtype: str) -> float:
    """Share of multiply-accumulates in a dtype; 0 where there are none."""
    whole = sum(op.macs or 0 for op in ops)
    return sum(op.macs or 0 for op in ops if op.dtype == dtype) / whole if whole else 0.0
