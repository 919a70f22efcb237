"""A contract double of ``tensorrt``: classes, arguments and enums from its published signatures, and nothing else.

An unknown attribute, a wrong number of arguments, an unknown keyword, an int where an enum belongs, and a write to a
read-only property all raise, as the real bindings do. What the calls *do* is in fixtures_tensorrt_engine; it stands in
for TensorRT's contract only, and says nothing about real engines.
"""

from __future__ import annotations

import enum
import json
import os
import re
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONTRACT = HERE.parent / "exporters" / "edgekd_tensorrt" / "contract.json"
FACTS = HERE.parent.parent / "shared" / "facts"
VERSIONS = ("10.16", "11.4")

#: How a test steers the double, in this process and in children.
VERSION_VARIABLE, FAULTS_VARIABLE = "EDGEKD_FAKE_TRT", "EDGEKD_FAKE_TRT_FAULTS"
LOG_VARIABLE, GPU_VARIABLE = "EDGEKD_FAKE_TRT_LOG", "EDGEKD_FAKE_GPU"


def signatures(version: str) -> dict[str, Any]:
    """The whole signature table where it is on this machine, else the part of it that the project keeps."""
    whole = FACTS / f"trt_sig_{version}.json"
    if whole.is_file():
        return dict(json.loads(whole.read_text()))
    return dict(json.loads(CONTRACT.read_text())["tensorrt"][version])


def has_fault(name: str) -> bool:
    """Whether the test asked for this fault."""
    return name in os.environ.get(FAULTS_VARIABLE, "").split(",")


def note(call: str, *args: object) -> None:
    """Write one call to the log that tests read."""
    if path := os.environ.get(LOG_VARIABLE):
        with open(path, "a") as f:
            f.write(json.dumps([call, [str(a) for a in args]]) + "\n")


class Parameter:
    """One parameter of a signature."""

    def __init__(self, text: str) -> None:
        self.default = "=" in re.sub(r"<[^>]*>", "", text) or "= " in text
        name, _, kind = text.partition(":")
        self.name = name.strip()
        self.kind = kind.partition(" = ")[0].strip()


def parameters(signature: str) -> list[Parameter]:
    """Those of ``f(self: T, a: X = 1) -> R``, without ``self``."""
    start = signature.index("(")
    depth, end = 0, start
    for end in range(start, len(signature)):
        depth += {"(": 1, ")": -1}.get(signature[end], 0)
        if depth == 0:
            break
    parts, depth, last = [], 0, ""
    for c in signature[start + 1 : end]:
        depth += {"[": 1, "(": 1, "<": 1, "]": -1, ")": -1, ">": -1}.get(c, 0)
        if c == "," and depth == 0:
            parts.append(last)
            last = ""
        else:
            last += c
    return [p for p in map(Parameter, [*parts, last]) if p.name and p.name != "self"]


class Double:
    """The module, with a strict class for every class of the table.

    Args:
        behaviour: ``Class.method`` or ``Class.property`` -> what it does; see fixtures_tensorrt_engine.
    """

    def __init__(self, table: dict[str, Any], behaviour: Any) -> None:
        self.table, self.behaviour = table, behaviour
        module = types.ModuleType("tensorrt")
        module.__version__ = table["version"]  # type: ignore[attr-defined]
        self.module = module
        self.enums: dict[str, Any] = {}
        for name, members in table["enums"].items():
            # IntEnum: int() works as on the bindings' enums, and an int is still not a member.
            self.enums[name] = enum.IntEnum(name.rpartition(".")[2], members)
        self.classes: dict[str, Any] = {}
        for name in table["classes"]:
            self._class(name)
        for name, made in {**self.classes, **self.enums}.items():
            owner, _, last = name.rpartition(".")
            setattr(self.classes[owner] if owner else module, last, made)
            if owner:
                for member in made:
                    setattr(self.classes[owner], member.name, member)

    def _class(self, name: str) -> Any:
        if name in self.classes:
            return self.classes[name]
        spec = self.table["classes"][name]
        bases = tuple(self._class(b) for b in spec["bases"] if b in self.table["classes"])
        body: dict[str, Any] = {"__module__": "tensorrt"}
        for method, overloads in spec["methods"].items():
            if method != "__init__":
                body[method] = self._method(name, method, overloads)
        for prop, how in spec["props"].items():
            body[prop] = self._property(name, prop, bool(how["settable"]))
        known = set(body) | {n for b in bases for n in dir(b)}
        body["__init__"] = self._init(name, spec["methods"].get("__init__"))

        def refuse(this: Any, attribute: str, value: object) -> None:
            plain = type(this).__module__ == "tensorrt"  # a subclass of the project's may have its own
            if plain and attribute not in known and not attribute.startswith("_"):
                raise AttributeError(f"{name} has no attribute {attribute!r}")
            object.__setattr__(this, attribute, value)

        body["__setattr__"] = refuse
        self.classes[name] = type(name.rpartition(".")[2], bases or (object,), body)
        return self.classes[name]

    def _init(self, name: str, overloads: list[str] | None) -> Any:
        def init(this: Any, *args: Any, **kwargs: Any) -> None:
            if overloads is None and "_made" not in kwargs:
                raise TypeError(f"{name}: No constructor defined!")
            kwargs.pop("_made", None)
            if overloads is not None:
                self._check(f"{name}.__init__", overloads, args, kwargs)
            note(f"{name}()", *args)
            made = getattr(self.behaviour, f"{name}_init", None)
            if made is not None:
                made(this, *args, **kwargs)

        return init

    def _method(self, owner: str, method: str, overloads: list[str]) -> Any:
        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            self._check(f"{owner}.{method}", overloads, args, kwargs)
            note(f"{owner}.{method}", *args)
            does = getattr(self.behaviour, f"{owner}_{method}", None)
            if does is None:
                raise NotImplementedError(f"the double does not act out {owner}.{method}")
            return does(this, *args, **kwargs)

        return call

    def _property(self, owner: str, prop: str, settable: bool) -> property:
        def get(this: Any) -> Any:
            kept = this.__dict__.get(f"_{prop}")
            does = getattr(self.behaviour, f"{owner}_get_{prop}", None)
            if does is not None and kept is None:
                return does(this)
            if does is None and f"_{prop}" not in this.__dict__:
                raise NotImplementedError(f"the double does not act out {owner}.{prop}")
            return kept

        def put(this: Any, value: Any) -> None:
            note(f"{owner}.{prop}=", value)
            this.__dict__[f"_{prop}"] = value

        return property(get, put if settable else None)

    def _check(self, call: str, overloads: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrong = [self._misfit(parameters(text), args, kwargs) for text in overloads]
        if wrong and all(wrong):
            raise TypeError(f"{call}(): incompatible arguments: {wrong[0]}; signatures: {overloads}")

    def _misfit(self, wanted: list[Parameter], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if len(args) > len(wanted):
            return f"{len(args)} arguments for {len(wanted)}"
        given = dict(zip((p.name for p in wanted), args, strict=False))
        for key, value in kwargs.items():
            if key in given or key not in {p.name for p in wanted}:
                return f"keyword {key!r}"
            given[key] = value
        for p in wanted:
            if p.name not in given:
                if not p.default:
                    return f"{p.name!r} is missing"
                continue
            if not self._is(p.kind, given[p.name]):
                return f"{p.name!r} is {given[p.name]!r}, not {p.kind}"
        return ""

    def _is(self, kind: str, value: Any) -> bool:
        last = re.sub(r"^(trt\.|nvinfer1::|nvonnxparser::|tensorrt\.)", "", kind)
        if last in self.enums:
            return isinstance(value, self.enums[last])
        if last == "Dims":
            return isinstance(value, tuple | list) and all(isinstance(n, int) for n in value)
        if last in self.classes:
            return isinstance(value, self.classes[last])
        plain = {"str": str, "bool": bool, "tuple": tuple, "list": list}.get(kind)
        if plain is not None:
            return isinstance(value, plain)
        if kind == "typing.SupportsInt":
            return hasattr(value, "__int__") and not isinstance(value, str)
        if kind == "typing_extensions.Buffer":
            return isinstance(value, bytes | bytearray | memoryview)
        return True

    def make(self, name: str, **state: Any) -> Any:
        """An object of a class that has no constructor."""
        made = self.classes[name](_made=True)
        for key, value in state.items():
            object.__setattr__(made, key, value)
        return made


def install(version: str | None = None) -> types.ModuleType:
    """The module for ``version``, else for the one that the environment names."""
    from fixtures_tensorrt_engine import Behaviour

    behaviour = Behaviour()
    double = Double(signatures(version or os.environ[VERSION_VARIABLE]), behaviour)
    behaviour.double = double
    return double.module


def read_log(path: Path) -> list[tuple[str, list[str]]]:
    """The calls so far, in order."""
    if not path.is_file():
        return []
    return [(c, a) for c, a in map(json.loads, path.read_text().splitlines())]
