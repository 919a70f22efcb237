"""What every rule is given: the graph, its Q/DQ nodes, and what the user asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekd.errors import UsageError
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Graph, Node
from edgekd_tensorrt.lint.quantization import MOVES, Step, step_of
from edgekd_tensorrt.lint.rules import RULES

#: Smallest, best and largest shape of an input.
Profile = Sequence[Sequence[int]]

#: A Reshape, a Transpose, and a few more between a DQ and its reader; a bound, since a damaged graph may hold a cycle.
_MOVES_FOLLOWED = 8

_VERSION = re.compile(r"(\d+)(?:\.(\d+))?(?:\.\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the engine is to be.

    Attributes:
        major, minor: TensorRT's version; minor is None where any of the major will do.
        target_sm: compute capability times ten; None where it is open.
        shapes: input name -> profile.
        plugins: operator names, or ``domain::name``, that a plugin library brings.
        dtype: the precision asked for in ONNX spelling (``float16``); None where the graph decides.
    """

    major: int
    minor: int | None
    target_sm: int | None
    shapes: Mapping[str, Profile]
    plugins: frozenset[str]
    dtype: str | None

    def at_least(self, major: int, minor: int) -> bool:
        """Whether every TensorRT that was asked for is this version or a later one."""
        return (self.major, self.minor or 0) >= (major, minor)


def parse_version(text: str) -> tuple[int, int | None]:
    """Major and minor of ``"11"``, ``"10.16"`` or ``"11.4.1"``.

    >>> parse_version("10.16.1")
    (10, 16)

    Raises:
        UsageError: not of that form, or neither 10 nor 11.
    """
    match = _VERSION.fullmatch(text)
    if match is None or int(match[1]) not in (10, 11):
        raise UsageError(
            f"TensorRT version {text!r} is not known to the lint", "give 10 or 11, with or without a minor version"
        )  # fmt: skip
    return int(match[1]), None if match[2] is None else int(match[2])


@dataclass(slots=True, kw_only=True)
class Context:
    """One lint.

    Attributes:
        graph: the model's.
        nodes: all nodes, those in branches too.
        steps: the Q and DQ nodes among them.
        opset: of the default domain.
    """

    graph: Graph
    asked: Asked
    opset: int
    nodes: list[Node] = field(default_factory=list)
    steps: dict[Node, Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = list(self.graph.walk())
        self.steps = {n: s for n in self.nodes if (s := step_of(n, self.opset)) is not None}

    def quantizes(self) -> Iterator[Step]:
        return (s for s in self.steps.values() if s.is_quantize)

    def dequantizes(self) -> Iterator[Step]:
        return (s for s in self.steps.values() if not s.is_quantize)

    def dequantized(self, graph: Graph, name: str) -> Step | None:
        """The DQ that makes a tensor, also behind operators that only move values."""
        node = graph.made_by(name) if name else None
        for _ in range(_MOVES_FOLLOWED):
            if node is None or node.op_type not in MOVES or node.domain != "" or node in self.steps:
                break
            node = node.graph.made_by(node.input(0))
        step = self._step(node)
        return step if step is not None and not step.is_quantize else None

    def quantize_of(self, step: Step) -> Step | None:
        """The Q that a DQ reads."""
        found = self._step(step.node.graph.made_by(step.data)) if step.data else None
        return found if found is not None and found.is_quantize else None

    def _step(self, node: Node | None) -> Step | None:
        return None if node is None else self.steps.get(node)

    def source(self, graph: Graph, name: str) -> str:
        """The tensor behind a Q/DQ pair (or DQ); the tensor itself where there is none."""
        step = self.dequantized(graph, name)
        if step is None:
            return name
        quantize = self.quantize_of(step)
        return step.data if quantize is None else quantize.data

    def find(
        self, rule: str, node: Node | None, message: str, *, tensor: str = "", severity: str = "", fix: str = "",
        source: str = "",
    ) -> Finding:  # fmt: skip
        """A finding of ``rule``, with what the rule says where nothing else is given."""
        known = RULES[rule]
        where = f" (in {node.graph.where})" if node is not None and node.graph.where else ""
        return Finding(
            rule=rule,
            severity=severity or known.severity,
            node="" if node is None else node.label,
            op_type="" if node is None else node.op_type,
            tensor=tensor,
            message=message + where,
            fix=fix or known.fix,
            source=source or known.source,
        )


def shape_text(shape: Sequence[Any]) -> str:
    """``[batch,3,?,8]``"""
    return "[" + ",".join("?" if d is None else str(d) for d in shape) + "]"
