"""Routers of mixtures of experts in an ONNX graph, and how often each expert is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.quantize.experts import ExpertUse, check_experts, count_selected, token_mask
from edgekd.quantize.spool import CalibrationSpool
from edgekd_onnx.probe import OnnxProbe
from edgekd_onnx.reading import load_graph

#: Between a router's product and its TopK: normalisation, a bias that balances, and changes of type or rank.
_BEFORE = (
    "Cast",
    "Softmax",
    "Sigmoid",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
)
#: What indices of experts go into, after changes of rank. TopK of a detector's or a classifier's answers goes into none of
#: these and then into a product.
_CHOICE = ("OneHot", "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Equal", "Where")
_AFTER = ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Flatten", "Expand", "Slice")
_PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A TopK that chooses experts: its node, the scores that it takes, its indices, and how many experts there are."""

    layer: str
    scores: str
    indices: str
    experts: int


class _Batches(Sequence[Mapping[str, Array]]):
    """Spooled batches, read when they are asked for."""

    def __init__(self, spool: CalibrationSpool) -> None:
        self._spool = spool

    def __len__(self) -> int:
        return self._spool.batches

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._spool.batch(index)


def find_routers(model: Any) -> list[Router]:
    """Routers of an ONNX model, in the order of its nodes.

    A router is a TopK whose scores come from a product with a constant of ``experts`` columns, over normalisations only,
    and whose indices choose something before another product: transformers' mixtures, as optimum and torch export them.
    """
    graph = model.graph
    made = {o: n for n in graph.node for o in n.output if o}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    sizes = {i.name: tuple(i.dims) for i in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type != "TopK" or not node.output[1]:
            continue
        experts = _columns(node.input[0], made, sizes)
        if experts > 1 and _chooses(node.output[1], users):
            layer = node.name.rpartition("/")[0].strip("/").replace("/", ".") or node.name or node.output[1]
            found.append(Router(layer=layer, scores=node.input[0], indices=node.output[1], experts=experts))
    return found


def _columns(name: str, made: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Columns of the constant that scores are a product with; 0 where they come from something else."""
    while (node := made.get(name)) is not None:
        if node.op_type in _PRODUCTS:
            return _width(node, made, sizes)
        if node.op_type not in _BEFORE:
            return 0
        name = next((i for i in node.input if i in made and made[i].op_type != "Constant"), "")
    return 0


def _width(node: Any, made: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> int:
    weight = node.input[1]
    turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    while (
        weight not in sizes and weight in made and made[weight].op_type in ("Transpose", "Identity", "Cast")
    ):
        turned ^= made[weight].op_type == "Transpose"
        weight = made[weight].input[0]
    shape = sizes.get(weight, ())
    return shape[0 if turned else 1] if len(shape) == 2 else 0


def _chooses(indices: str, users: Mapping[str, Sequence[Any]]) -> bool:
    """Whether indices go into a choice, and what is chosen into a product."""
    waiting, seen = [indices], set()
    while waiting:
        name = waiting.pop()
        for node in users.get(name, ()):
            if node.op_type in _CHOICE and _reaches_product(node, users):
                return True
            if node.op_type in _AFTER and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return False


def _reaches_product(node: Any, users: Mapping[str, Sequence[Any]]) -> bool:
    waiting, seen = list(node.output), set(node.output)
    while waiting:
        for user in users.get(waiting.pop(), ()):
            if user.op_type in _PRODUCTS:
                return True
            fresh = [o for o in user.output if o not in seen]
            seen.update(fresh)
            waiting += fresh
    return False


def count_experts(probe: OnnxProbe, batches: Sequence[Mapping[str, Array]]) -> list[ExpertUse]:
    """How often each router of a file chooses each of its experts on feeds; padding is left out.

    Raises:
        ModelError: it does not run.
    """
    routers = find_routers(probe.model)
    if not routers:
        return []
    counts: list[Array] = [np.zeros(r.experts, np.int64) for r in routers]
    wrong: set[int] = set()
    names = [n for r in routers for n in (r.scores, r.indices)]
    for feeds, made in zip(_each(batches), probe.fetch(names, batches), strict=True):
        for i, router in enumerate(routers):
            if made[router.scores].shape[-1] != router.experts:
                wrong.add(i)  # the scores were flattened on the way: a choice among places, not among experts
            elif i not in wrong:
                counts[i] += count_selected(made[router.indices], router.experts, token_mask(feeds))
    return [
        ExpertUse(layer=r.layer, counts=tuple(int(n) for n in counts[i]))
        for i, r in enumerate(routers)
        if i not in wrong
    ]


def _each(batches: Sequence[Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    return (batches[i] for i in range(len(batches)))


def check_experts_onnx(path: Path, spool: CalibrationSpool) -> dict[str, list[int]]:
    """Layer -> tokens per expert in calibration, for ``lineage["experts"]``; empty for a model without experts.

    Args:
        path: the float file.

    Raises:
        DataError: an expert saw no token; ModelError: the file does not run.
    """
    if not any(n.op_type == "TopK" for n in load_graph(path).graph.node):
        return {}
    return check_experts(count_experts(OnnxProbe(path), _Batches(spool)), spool.examples)
