"""A student that plain INT8 ruins, made of any trained ONNX network without changing what it computes.

Scaling a channel between a convolution with ReLU and the next convolution, and dividing that one's weights by the same
factor, leaves the float function as it is (Nagel et al. 2019, *Data-Free Quantization Through Weight Equalization and
Bias Correction*, section 4.1, who undo such differences; MobileNets have them by nature). One range per tensor then
rounds the small channels away.

    python bench/quantization/rescale.py resnet8.onnx -o rescaled.onnx --powers 3

prints the pairs that were rescaled.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

POWERS = 3.0


@dataclass(frozen=True)
class Pair:
    """Two convolutions with nothing but a ReLU between them."""

    first: Any
    second: Any


def find_pairs(graph: Any) -> list[Pair]:
    """All of them, in order, whose tensor in between nobody else reads."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in graph.node:
        after = readers.get(node.output[0], [])
        if node.op_type != "Conv" or len(after) != 1 or after[0].op_type != "Relu":
            continue
        behind = readers.get(after[0].output[0], [])
        if len(behind) == 1 and behind[0].op_type == "Conv":
            found.append(Pair(node, behind[0]))
    return found


def rescale(model: Any, pairs: list[Pair], *, powers: float, seed: int = 0) -> None:
    """Scale the channels between each pair by 2**u, u uniform in [-powers, powers]."""
    rng = np.random.default_rng(seed)
    weights = {w.name: w for w in model.graph.initializer}

    def put(name: str, values: Any) -> None:
        weights[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    for pair in pairs:
        first = numpy_helper.to_array(weights[pair.first.input[1]])
        second = numpy_helper.to_array(weights[pair.second.input[1]])
        factor = 2.0 ** rng.uniform(-powers, powers, len(first))
        put(pair.first.input[1], first * factor[:, None, None, None])
        if len(pair.first.input) > 2:
            bias = numpy_helper.to_array(weights[pair.first.input[2]])
            put(pair.first.input[2], bias * factor)
        deep = second.shape[1] == 1 and len(second) == len(first)
        put(
            pair.second.input[1],
            second / (factor[:, None, None, None] if deep else factor[None, :, None, None]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--powers", type=float, default=POWERS, help="of two, each way (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--pair", type=int, action="append", help="only this pair, counted from 0 (repeatable; default: all)"
    )
    args = parser.parse_args()
    model = onnx.load(args.model)
    pairs = find_pairs(model.graph)
    if not pairs:
        parser.error(f"{args.model} has no two convolutions with a ReLU between them")
    if args.pair:
        pairs = [pairs[k] for k in args.pair]
    rescale(model, pairs, powers=args.powers, seed=args.seed)
    for k, node in enumerate(model.graph.node):
        node.name = f"{node.op_type.lower()}_{k}"  # converters' names fill a page each
    onnx.save(model, args.out)
    for pair in pairs:
        print(f"{pair.first.name} -> {pair.second.name}")


if __name__ == "__main__":
    main()
