"""Puts fake quantization into a traced module where ONNX Runtime's quantizer put its own.

Tensors of the two are paired by the values that they hold, so no name of an exporter or optimiser is relied on.
"""

# ruff: noqa: TID253
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd_onnx.quantized_sites import Activation, Sites, Weight
from edgekd_torch._fake_quant import FakeQuantize, FakeQuantized, FakeQuantLayer, norm_factor
from edgekd_torch.fake_quant_types import Rounding

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORM = nn.modules.batchnorm._BatchNorm
#: float32 sums in another order, relative to the greatest magnitude of the tensor.
_RTOL = 1e-4
_FIX = "train without fake_quant and quantize afterwards, or replace the operation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where to round.

    Attributes:
        nodes: tensor of the ONNX graph -> node of the traced one, in the order of execution.
        readers: tensor -> the nodes that read it rounded, where not all do.
        channels: layer -> whether each of its output channels has a scale.
        folded: layer -> the batch norm that is folded into it.
    """

    nodes: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    channels: Mapping[str, bool]
    folded: Mapping[str, str]


def scattered(module: Any, seed: int) -> Any:
    """A copy in eval mode whose parameters and statistics differ everywhere, so that equal values mean equal tensors."""
    made = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point():
                spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
                noise = torch.rand(tensor.shape, generator=generator) - 0.5
                tensor.add_(noise * (spread or 0.5))
        for norm in made.modules():
            if isinstance(norm, _NORM) and norm.running_var is not None:
                norm.running_var.clamp_(min=0.1)
    return made


def trace(module: Any, name: str) -> Any:
    """A ``torch.fx.GraphModule`` that shares the module's layers.

    Raises:
        ModelError: control flow that depends on values, or on whether the module is training.
    """
    graphs = []
    was = module.training
    try:
        for training in (True, False):
            module.train(training)
            # fx says a branch on a value by TraceError, and what a proxy cannot do by the plain Python errors.
            graphs.append(fx.symbolic_trace(module))
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError, AttributeError) as e:
        raise ModelError(
            f"{name} cannot be traced for fake quantization ({' '.join(str(e).split())[:200]})",
            "remove control flow that depends on tensors, or train without fake_quant",
        ) from e
    finally:
        module.train(was)
    if graphs[0].code != graphs[1].code:
        raise ModelError(
            f"{name} computes something else in training than in eval mode outside of its layers",
            "use layers for it, such as nn.Dropout, or train without fake_quant",
        )
    return graphs[0]


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every floating tensor."""

    def __init__(self, graph: Any) -> None:
        super().__init__(graph)
        self.values: dict[str, Array] = {}

    def run_node(self, n: Any) -> Any:
        made = super().run_node(n)
        if isinstance(made, torch.Tensor) and n.op != "output":
            self.values[n.name] = made.detach().float().numpy().copy()
        return made


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape or not one.size:
        return False
    a, b = one.astype(np.float64), other.astype(np.float64)
    return bool(np.abs(a - b).max() <= _RTOL * max(np.abs(b).max(), 1e-12))


def place(scattered_module: Any, name: str, sites: Sites, feeds: Sequence[Array]) -> Placement:
    """Pair the sites with nodes and layers of a traced module.

    Args:
        scattered_module: of :func:`scattered`, whose export ``sites`` were read from.
        feeds: the inputs in order, whose values ``sites`` holds.

    Raises:
        ModelError: an operation or a constant that is quantized, and that no layer or node answers to; named.
    """
    graph = trace(scattered_module, name)
    layers = {m: (c, _norm_after(graph, m)) for m, c in graph.named_modules() if isinstance(c, _LAYERS)}
    channels: dict[str, bool] = {}
    folded: dict[str, str] = {}
    for constant, weight in sites.weights.items():
        if weight.values.size == 1:
            continue  # one value is a point of its own grid
        layer, norm = _layer_of(constant, weight, layers, graph, name)
        channels[layer] = weight.axis is not None
        if norm:
            folded[layer] = norm
    recorder = _Recorder(graph)
    with torch.no_grad():
        recorder.run(*(torch.from_numpy(f) for f in feeds))
    nodes = {t: _node_of(t, a, a.values, recorder.values, name) for t, a in sites.activations.items()}
    readers = {
        t: tuple(_node_of(t, a, v, recorder.values, name) for v in a.readers.values())
        for t, a in sites.activations.items()
        if a.readers is not None
    }
    return Placement(nodes=nodes, readers=readers, channels=channels, folded=folded)


def _node_of(
    tensor: str, activation: Activation, wanted: Array, values: Mapping[str, Array], name: str
) -> str:
    for node, value in values.items():
        if _same(value, wanted):
            return node
    raise ModelError(
        f"{name}: the quantizer rounds '{tensor}', made by {activation.op_type}, inside one operation of the torch module",
        _FIX,
    )


def _layer_of(
    constant: str, weight: Weight, layers: Mapping[str, tuple[Any, str]], graph: Any, name: str
) -> tuple[str, str]:
    """The layer whose weight this is, and the batch norm that is folded into it, if any."""
    for layer, (module, norm) in layers.items():
        own = module.weight.detach()
        for fold in (norm, ""):
            made = own
            if fold:
                factor = norm_factor(graph.get_submodule(fold)).detach()
                made = own * factor.reshape(-1, *[1] * (own.ndim - 1))
            values = made.numpy()
            turned = values.T if values.ndim == 2 else values
            if _same(values, weight.values) or _same(turned, weight.values):
                return layer, fold
    raise ModelError(
        f"{name}: the quantizer stores '{constant}', read by {weight.op_type}, in 8 bits, and it is no weight of a "
        f"convolution or linear layer",
        _FIX,
    )


def _norm_after(graph: Any, layer: str) -> str:
    """The batch norm that alone reads what ``layer`` gives, where both are called once; else empty."""
    calls = [n for n in graph.graph.nodes if n.op == "call_module" and n.target == layer]
    if len(calls) != 1 or len(calls[0].users) != 1:
        return ""
    after = next(iter(calls[0].users))
    norm = graph.get_submodule(after.target) if after.op == "call_module" else None
    once = sum(n.target == after.target for n in graph.graph.nodes) == 1
    return str(after.target) if isinstance(norm, _NORM) and norm.running_var is not None and once else ""


def wrap(
    module: Any, name: str, placement: Placement, rounding: Rounding, *, start: int, freeze: int
) -> FakeQuantized:
    """The network to train in a module's place; they share every parameter and statistic.

    Raises:
        ModelError: as :func:`trace` says.
    """
    graph = trace(module, name)
    named = {n.name: n for n in graph.graph.nodes}
    for layer, channels in placement.channels.items():
        norm = placement.folded.get(layer, "")
        own = graph.get_submodule(layer)
        rounded = FakeQuantLayer(own, graph.get_submodule(norm) if norm else None, channels=channels)
        _put(graph, layer, rounded)
        if norm:
            after = next(n for n in graph.graph.nodes if n.op == "call_module" and n.target == norm)
            named[after.name] = after.args[0]
            after.replace_all_uses_with(after.args[0])
            graph.graph.erase_node(after)
            graph.delete_submodule(norm)
    sites: dict[str, FakeQuantize] = {}
    for i, (tensor, node_name) in enumerate(placement.nodes.items()):
        sites[tensor] = FakeQuantize(rounding)
        graph.add_submodule(f"fake_quantize_{i}", sites[tensor])
        readers = placement.readers.get(tensor)
        _insert(
            graph,
            named[node_name],
            f"fake_quantize_{i}",
            None if readers is None else [named[r] for r in readers],
            f"{name}: the quantizer rounds '{tensor}' for some of its readers",
        )
    graph.delete_all_unused_submodules()
    graph.recompile()
    return FakeQuantized(graph, sites, start=start, freeze=freeze)


def _put(graph: Any, path: str, module: Any) -> None:
    parent, _, last = path.rpartition(".")
    setattr(graph.get_submodule(parent), last, module)


def _insert(graph: Any, node: Any, target: str, readers: Sequence[Any] | None, what: str) -> None:
    """Let ``readers`` (None: all) of a node read it by way of a module."""
    with graph.graph.inserting_after(node):
        made = graph.graph.call_module(target, (node,))
    if readers is None:
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        return
    for reader in readers:
        if node not in reader.all_input_nodes:
            raise ModelError(f"{what}, and not by a direct one in the torch module", _FIX)
        reader.replace_input_with(node, made)
