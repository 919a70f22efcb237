"""Modules that round as 8-bit integers do while gradients pass; imported only where a training asks for them."""

# ruff: noqa: TID253
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgekd_torch.fake_quant_types import Rounding

#: Share of a new batch in a range (torch.ao.quantization.MovingAverageMinMaxObserver's averaging_constant).
_NEW = 0.01


class FakeQuantize(nn.Module):
    """Rounds activations to 8 bits within a range that follows the batches (Jacob et al. 2018, section 3.1).

    Scale and zero point are those that ``onnxruntime.quantization.quant_utils.compute_scale_zp`` takes from the range.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding = rounding
        self.on = self.observing = False
        # An empty range: nothing was seen.
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))

    @property
    def seen(self) -> bool:
        return bool(self.low <= self.high)

    def observe(self, x: Any) -> None:
        low, high = (v.float() for v in x.detach().aminmax())
        if self.seen:
            low, high = torch.lerp(self.low, low, _NEW), torch.lerp(self.high, high, _NEW)
        self.low.copy_(low)
        self.high.copy_(high)

    def forward(self, x: Any) -> Any:
        """A floating tensor of any shape -> the same, float32 once quantization is on."""
        if not self.on:
            return x
        # Rounding in bfloat16 would lose steps of the 8-bit grid.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.observing or not self.seen:
                self.observe(x)
            scale, zero = self._grid()
            return torch.fake_quantize_per_tensor_affine(
                x, scale, zero, self.rounding.least, self.rounding.greatest
            )

    def _grid(self) -> tuple[Any, Any]:
        low, high = self.low.double().clamp(max=0), self.high.double().clamp(min=0)
        if self.rounding.symmetric:
            return _symmetric_scale(torch.maximum(-low, high)), torch.zeros((), dtype=torch.int32)
        scale = (high - low) / (self.rounding.greatest - self.rounding.least)
        empty = scale < torch.finfo(torch.float32).tiny
        scale = torch.where(empty, torch.ones_like(scale), scale)
        zero = torch.where(empty, 0, torch.round(self.rounding.least - low / scale))
        return scale.float(), zero.to(torch.int32)


def _symmetric_scale(greatest: Any) -> Any:
    """float32 scales of s8 values in [-127, 127], 1 where all is zero; ``greatest`` float64 magnitudes."""
    scale = greatest / 127
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale).float()


class FakeQuantLayer(nn.Module):
    """A convolution or linear layer with 8-bit weights, and the batch norm that is folded into it.

    While batch norm still learns its statistics, the convolution has the weights that folding with the running
    statistics gives, and its result is scaled back before the norm (Krishnamoorthi 2018, "Quantizing deep
    convolutional networks for efficient inference", section 3.2.2). In eval mode that is the folded layer.

    Args:
        layer: nn.Conv1d, 2d, 3d or nn.Linear; kept, with its parameters.
        norm: the batch norm after it, or None.
        channels: one scale per output channel, else one for all.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module | None, *, channels: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.channels = layer, norm, channels
        self.on = False

    def forward(self, x: Any) -> Any:
        layer: Any = self.layer
        norm: Any = self.norm
        if not self.on:
            y = layer(x)
            return y if norm is None else norm(y)
        if norm is None:
            return self._apply_layer(x, self.rounded(layer.weight), layer.bias)
        factor = norm_factor(norm)
        across = (-1, *[1] * (layer.weight.ndim - 1))
        weight = self.rounded(layer.weight * factor.reshape(across))
        bias = 0.0 if layer.bias is None else layer.bias
        if not norm.training:
            shift = 0.0 if norm.bias is None else norm.bias
            return self._apply_layer(x, weight, (bias - norm.running_mean) * factor + shift)
        # A dead channel (factor 0) has weights of 0 either way.
        back = torch.where(factor == 0, torch.ones_like(factor), factor)
        y = self._apply_layer(x, weight, None)
        along = (-1,) if isinstance(layer, nn.Linear) else (-1, *[1] * (layer.weight.ndim - 2))
        y = y / back.reshape(along)
        return norm(y if layer.bias is None else y + layer.bias.reshape(along))

    def rounded(self, weight: Any) -> Any:
        """The weights on the 8-bit grid of their own magnitudes."""
        with torch.autocast(weight.device.type, enabled=False):
            weight = weight.float()
            magnitude = weight.detach().abs().double()
            if not self.channels:
                scale = _symmetric_scale(magnitude.max())
                return torch.fake_quantize_per_tensor_affine(
                    weight, scale, torch.zeros((), dtype=torch.int32), -127, 127
                )
            scale = _symmetric_scale(magnitude.flatten(1).amax(1))
            zeros = torch.zeros(len(scale), dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)

    def _apply_layer(self, x: Any, weight: Any, bias: Any) -> Any:
        layer: Any = self.layer
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        return layer._conv_forward(x, weight, bias)


def norm_factor(norm: Any) -> Any:
    """What folding multiplies a layer's output channels by: gamma / sqrt(variance + eps)."""
    inverse = torch.rsqrt(norm.running_var + norm.eps)
    return inverse if norm.weight is None else norm.weight * inverse


class FakeQuantized(nn.Module):
    """A traced network whose layers and activations are rounded from a step of its training on.

    It counts its own training steps in a buffer, so that a checkpoint of its state resumes where it was.

    Args:
        graph: a torch.fx.GraphModule that holds :class:`FakeQuantLayer` and :class:`FakeQuantize`.
        sites: tensor name -> the module that rounds it; part of ``graph``.
        start, freeze: steps from 0 from which on it rounds, and from which on ranges and statistics stay.
    """

    step: torch.Tensor

    def __init__(self, graph: Any, sites: dict[str, FakeQuantize], *, start: int, freeze: int) -> None:
        super().__init__()
        self.graph = graph
        self.start, self.freeze = start, freeze
        self._sites = tuple(sites.items())
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, *inputs: Any) -> Any:
        step = int(self.step)
        live = self.training and step < self.freeze
        on = step >= self.start if self.training else step > self.start
        for module in self.graph.modules():
            if isinstance(module, FakeQuantize):
                module.on, module.observing = on, self.training and live
            elif isinstance(module, FakeQuantLayer):
                module.on = on
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(live)
        if self.training:
            self.step += 1
        return self.graph(*inputs)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Tensor name -> trained (low, high), exact in float32."""
        return {name: (float(m.low), float(m.high)) for name, m in self._sites}
