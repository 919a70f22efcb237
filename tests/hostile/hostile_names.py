"""Names that would speak to the terminal: whatever the refusal, none of it may reach the terminal as it is."""

from __future__ import annotations

from pathlib import Path

import hostile_protobuf as pb
from hostile_case import DATA, INSPECT, OPEN, POLICY, RECIPE, Case, hostile

CASES: list[Case] = []
_CLEARS = "\x1b[2J\x1b[H\x1b]0;owned\x07"


def _named(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@hostile(CASES, INSPECT, "a file whose name clears the screen", names="", code=2)
def _name_clears(folder: Path) -> Path:
    return _named(folder, f"a{_CLEARS}.onnx", b"\x08")


@hostile(CASES, INSPECT, "a file whose name turns the text round: `xnno.exe`", names="", code=2)
def _name_bidi(folder: Path) -> Path:
    return _named(folder, "a\u202eexe.onnx", b"\x08")


@hostile(CASES, OPEN, "a file whose name holds a line break and a line like ours", names="", code=2)
def _name_line_break(folder: Path) -> Path:
    return _named(folder, "a\nedgekd: pass\n.onnx", b"\x08")


@hostile(CASES, OPEN, "a model that is not there, by a name that clears the screen", code=2, names="")
def _name_absent(folder: Path) -> Path:
    return folder / f"gone{_CLEARS}.onnx"


@hostile(CASES, OPEN, "a name that is no UTF-8", names="", code=2)
def _name_bytes(folder: Path) -> Path:
    return _named(folder, b"a\xff\xfe.onnx".decode("utf-8", "surrogateescape"), b"\x08")


@hostile(CASES, DATA, "a column whose name clears the screen", code=2, names="rows.csv")
def _column_clears(folder: Path) -> Path:
    return _named(folder, "rows.csv", f'"{_CLEARS}",label\n"[1, x]",0\n'.encode())


@hostile(CASES, RECIPE, "a key that clears the screen", code=2)
def _key_clears(folder: Path) -> Path:
    return _named(folder, "recipe.yaml", b'"\\e[2J\\e]0;owned\\a": 1\nedgekd: 1\n')


@hostile(CASES, POLICY, "a value of C1 control characters", code=2)
def _value_c1(folder: Path) -> Path:
    return _named(folder, "policy.yaml", b'gates: {latency: {max_ratio: "\\x9b2J"}}\n')


@hostile(CASES, RECIPE, "a recipe whose own name clears the screen", code=2, names="")
def _recipe_name_clears(folder: Path) -> Path:
    return _named(folder, f"r{_CLEARS}.yaml", b"a: [")


@hostile(CASES, INSPECT, "an operator whose domain clears the screen", names="model.onnx")
def _domain_clears(folder: Path) -> Path:
    graph = pb.node("Run", ["x"], ["y"], domain=_CLEARS) + pb.value(11, "x") + pb.value(12, "y")
    return _named(folder, "model.onnx", pb.model(graph, opsets=pb.opset() + pb.opset(_CLEARS, 1)))
