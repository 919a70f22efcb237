"""Operator sets and functions of an ONNX file: known domains, and calls that end.

``com.microsoft`` and its like are ONNX Runtime's own (docs/ContribOperators.md of onnxruntime); ``trt`` is where NVIDIA's
ModelOpt puts FP8 pairs that TensorRT's ONNX parser has built in. Anything else would need a library of native code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.inspect.limits import Limits
from edgekd.inspect.names import printable
from edgekd.inspect.rules import refuse

#: ONNX's own domain has two names.
DEFAULT_DOMAIN = ("", "ai.onnx")
DOMAINS = (
    *DEFAULT_DOMAIN,
    "ai.onnx.ml",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft",
    "com.microsoft.experimental",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
    "trt",
)
#: No domain has come near it: ONNX's own counts one or two a year and stood at 26 in version 1.21.
_LATEST = 999

#: Domain, name and overload.
FunctionKey = tuple[str, str, str]


@dataclass(slots=True)
class Calls:
    """The operators in one body: that of the model, or of one function, subgraphs included.

    Attributes:
        ops: (domain, operator, overload) -> how many nodes.
        first: the same -> the name of its first node.
        imports: domain -> version.
    """

    ops: Counter[FunctionKey] = field(default_factory=Counter)
    first: dict[FunctionKey, str] = field(default_factory=dict)
    imports: dict[str, int] = field(default_factory=dict)


def check_import(path: Path, calls: Calls, domain: str, version: int) -> None:
    """Note one import.

    Raises:
        PolicyError: opset-version.
    """
    name = "" if domain in DEFAULT_DOMAIN else domain
    shown = printable(domain)[:200] or "ai.onnx"
    if not 1 <= version <= _LATEST:
        raise refuse("opset-version", path, f"it imports version {version} of {shown}, 1 to {_LATEST} exist")
    if calls.imports.setdefault(name, version) != version:
        raise refuse(
            "opset-version", path, f"it imports {shown} as version {calls.imports[name]} and as {version}"
        )


def check_calls(path: Path, main: Calls, functions: Mapping[FunctionKey, Calls], limits: Limits) -> None:
    """Every operator is known, and functions call each other without end or explosion.

    Raises:
        PolicyError: opset-domain, function-recursion, nesting or nodes.
    """
    own = {key[:2] for key in functions}
    for calls in (main, *functions.values()):
        for key, node in calls.first.items():
            domain, op, _ = key
            if domain not in DOMAINS and (domain, op) not in own:
                raise refuse(
                    "opset-domain",
                    path,
                    f"node '{node}' is {printable(domain)[:200]}::{op}, an operator that only a library of somebody's"
                    " own could run",
                    "export the model without custom operators, or with them as functions of the model",
                )
    sizes: dict[FunctionKey, int] = {}
    depths: dict[FunctionKey, int] = {}
    for key in _in_order(path, functions):
        inner = [k for k in functions[key].ops if k in functions]
        depths[key] = 1 + max((depths[k] for k in inner), default=0)
        if depths[key] > limits.nesting:
            raise refuse(
                "nesting", path, f"functions call each other {depths[key]} deep, at most {limits.nesting} do"
            )
        # A call of a function without nodes is still a call to be expanded.
        sizes[key] = max(1, _expanded(functions[key], sizes))
    total = _expanded(main, sizes)
    if total > limits.nodes:
        raise refuse(
            "nodes", path, f"it has {total} nodes once its functions are expanded, at most {limits.nodes}"
        )


def _expanded(calls: Calls, sizes: Mapping[FunctionKey, int]) -> int:
    return sum(count * sizes.get(key, 1) for key, count in calls.ops.items())


def _in_order(path: Path, functions: Mapping[FunctionKey, Calls]) -> list[FunctionKey]:
    """The functions, callees first."""
    done: dict[FunctionKey, bool] = {}  # False while its callees are looked at
    ordered: list[FunctionKey] = []
    for root in functions:
        waiting = [root]
        while waiting:
            key = waiting[-1]
            if done.get(key):
                waiting.pop()
                continue
            if key in done:
                waiting.pop()
                done[key] = True
                ordered.append(key)
                continue
            done[key] = False
            for callee in functions[key].ops:
                if callee not in functions or done.get(callee):
                    continue
                if callee in done:
                    raise refuse(
                        "function-recursion",
                        path,
                        f"function '{printable(callee[1])[:200]}' calls itself by way of '{printable(key[1])[:200]}'",
                    )
                waiting.append(callee)
    return ordered
