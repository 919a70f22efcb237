"""Which names of TensorRT this package uses, and whether 10.x and 11.x have them: read off its own source.

``python -m edgekd_tensorrt.contract --signatures FOLDER`` reads ``trt_sig_10.16.json`` and ``trt_sig_11.4.json`` (names
and arguments of both bindings), and writes ``contract.json``: the part of them that this package uses, and no more.
``--table FILE`` writes the same as a page. The scan follows one convention: an object of TensorRT's is held under the
name that :data:`ROLES` gives its class.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONTRACT = HERE / "contract.json"
VERSIONS = ("10.16", "11.4")

#: Modules that talk to TensorRT or CUDA.
MODULES = ("building", "configure", "cuda", "engine", "execution", "library", "probe", "profiling", "runtime")
#: Name that an object is held under -> its class.
ROLES = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "fault": "ParserError",
    "config": "IBuilderConfig", "profile": "IOptimizationProfile", "cache": "ITimingCache", "tensor": "ITensor",
    "runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext", "inspector": "EngineInspector",
    "refitter": "Refitter", "parser_refitter": "OnnxParserRefitter", "filled": "ITimingCache",
}  # fmt: skip
#: Calls whose argument is a set of flags, so that a number there would mean different things in 10 and 11.
_FLAG_CALLS = (
    "create_network",
    "set_flag",
    "clear_flag",
    "get_flag",
    "set_preview_feature",
    "set_tactic_sources",
)
#: Own names that look like a role's: modules, and attributes of our value types.
_NOT_TENSORRT = {"cache": {"source", "path", "before", "sha256", "keep"}}


@dataclass(frozen=True, order=True)
class Use:
    """One name that the source uses: ``owner`` is a class, an enum, or empty for the module itself."""

    owner: str
    name: str
    module: str
    line: int
    guarded: bool


def _guards(tree: ast.AST) -> set[ast.AST]:
    """Nodes inside an ``if`` that asks for the major version."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and any(
            isinstance(n, ast.Attribute) and n.attr == "major" for n in ast.walk(node.test)
        ):
            for branch in (*node.body, *node.orelse):
                found.update(ast.walk(branch))
    return found


def _chain(node: ast.expr) -> list[str]:
    """``["trt", "BuilderFlag", "TF32"]`` of such an expression; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def scan(source: str, module: str) -> Iterator[Use]:
    """Every use of a TensorRT or CUDA name in one module's source."""
    tree = ast.parse(source)
    guarded = _guards(tree)
    inner = {n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        chain = _chain(node)
        if not chain:
            continue
        if "trt" in chain[:-1] and node not in inner:
            rest = chain[chain.index("trt") + 1 :]
            if "__members__" in rest:  # pybind11's own, on every enum
                rest = rest[: rest.index("__members__")]
            for owner, name in zip(["", *rest], rest, strict=False):
                yield Use(owner, name, module, node.lineno, node in guarded)
        elif "cudart" in chain[:-1] and node not in inner:
            rest = chain[chain.index("cudart") + 1 :]
            for owner, name in zip(["cuda", *rest], rest, strict=False):
                yield Use(owner, name, module, node.lineno, node in guarded)
        elif chain[-2] in ROLES and node.attr not in _NOT_TENSORRT.get(chain[-2], ()):
            yield Use(ROLES[chain[-2]], node.attr, module, node.lineno, node in guarded)


def uses(folder: Path = HERE) -> list[Use]:
    """Every use in :data:`MODULES`; flags that are looked up by name count as well."""
    from edgekd_tensorrt.configure import FLAGS
    from edgekd_tensorrt.options import HARDWARE

    found = [u for m in MODULES if (folder / f"{m}.py").is_file()
             for u in scan((folder / f"{m}.py").read_text(), m)]  # fmt: skip
    by_name = {"BuilderFlag": FLAGS, "HardwareCompatibilityLevel": tuple(HARDWARE.values())}
    found += [Use(enum, name, "configure", 0, False) for enum, names in by_name.items() for name in names]
    return found


def literal_flags(source: str) -> list[int]:
    """Lines where a number stands for a flag: ``1 << 3``, ``set_flag(3)``, ``config.flags = 3``."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
            one = isinstance(node.left, ast.Constant) and node.left.value == 1
            # 1 << 20 is a size; flags stop below.
            small = isinstance(node.right, ast.Constant) and 0 <= int(str(node.right.value)) < 20
            lines += [node.lineno] if one and small else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _FLAG_CALLS and any(isinstance(a, ast.Constant) for a in node.args):
                lines.append(node.lineno)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            lines += [t.lineno for t in node.targets if isinstance(t, ast.Attribute) and t.attr == "flags"]
    return lines


def find(table: Mapping[str, Any], owner: str, name: str) -> str:
    """How a version has a name: its signatures, ``property``, an enum's member or a class; empty where it lacks it."""
    classes, enums = table["classes"], table["enums"]
    if not owner:
        return (
            "class"
            if name in classes
            else "enum"
            if name in enums
            else "version"
            if name == "__version__"
            else ""
        )
    if owner in enums:
        return f"member {enums[owner][name]}" if name in enums[owner] else ""
    while owner in classes:
        spec = classes[owner]
        if name in spec["methods"]:
            return "; ".join(spec["methods"][name])
        if name in spec["props"]:
            return "read and write" if spec["props"][name]["settable"] else "read"
        if f"{owner}.{name}" in enums:
            return "enum"
        owner = next((b for b in spec["bases"] if b in classes), "")
    return ""


def trim(table: Mapping[str, Any], used: Sequence[Use]) -> dict[str, Any]:
    """The part of a version's table that ``used`` names."""
    names = {(u.owner, u.name) for u in used}
    wanted = {o for o, _ in names} | {n for o, n in names if not o}
    # Nothing of a logger, profiler or allocator is called here: they are subclassed, and called by TensorRT.
    wanted |= {"ILogger", "IHostMemory", "ITimingCache"}
    classes: dict[str, Any] = {}
    for name in sorted(wanted & set(table["classes"])):
        spec = table["classes"][name]
        keep = {n for o, n in names if o == name} | {"__init__"}
        keep |= {"log"} if name == "ILogger" else set()
        keep |= {"report_layer_time"} if name == "IProfiler" else set()
        classes[name] = {
            "bases": [b for b in spec["bases"] if b in wanted],
            "methods": {m: s for m, s in spec["methods"].items() if m in keep},
            "props": {p: s for p, s in spec["props"].items() if p in keep},
        }
    # Of enums that are walked through or read back by name, every member; they are names and numbers only.
    enums = {n: dict(v) for n, v in sorted(table["enums"].items()) if n in wanted or n in _READ_BACK}
    return {"version": table["version"], "classes": classes, "enums": enums}


#: Enums that reach us as values: the names of their members are read.
_READ_BACK = ("ILogger.Severity", "DataType", "ErrorCode", "TilingOptimizationLevel", "RuntimePlatform")


def make_contract(folder: Path) -> dict[str, Any]:
    """The committed table, from the signature files of both versions."""
    used = uses()
    tables = {v: json.loads((folder / f"trt_sig_{v}.json").read_text()) for v in VERSIONS}
    return {
        "note": "Names and arguments that edgekd_tensorrt uses, of the bindings' published API; made by its contract.py.",
        "tensorrt": {v: trim(t, used) for v, t in tables.items()},
        "cuda": sorted({u.name for u in used if u.owner == "cuda"}),
    }


def rows(contract: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, in 10.16, in 11.4) of everything that the source uses."""
    seen: dict[str, tuple[str, str]] = {}
    for use in sorted(uses()):
        if use.owner == "cuda" or use.owner.startswith("cuda"):
            continue
        label = f"{use.owner}.{use.name}" if use.owner else use.name
        first, second = (find(contract["tensorrt"][v], use.owner, use.name) for v in VERSIONS)
        seen[label] = (first, second)
    return [(name, *how) for name, how in seen.items()]


def page(contract: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    versions = [contract["tensorrt"][v]["version"] for v in VERSIONS]
    lines = [
        "# TensorRT: every name that EdgeKD uses, in both versions",
        "",
        "Made by `python -m edgekd_tensorrt.contract --table docs/results/tensorrt_contract.md` from the package's source",
        "and the published signatures of both bindings. It says that the calls exist, not that any engine was built:",
        "none ever was by this project.",
        "",
        f"| name | {versions[0]} | {versions[1]} |",
        "|---|---|---|",
    ]
    return (
        "\n".join([*lines, *(f"| `{n}` | {_cell(a)} | {_cell(b, a)} |" for n, a, b in rows(contract))]) + "\n"
    )


def _cell(how: str, other: str = "") -> str:
    if not how:
        return "—"
    if how == other:
        return "the same"
    if "(" not in how:
        return how
    shown = (re.sub(r"^\w+\(self: trt\.\w+(, )?", "(", s).replace("trt.", "") for s in how.split("; "))
    return "; ".join(f"`{s}`" for s in shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write ``contract.json`` or the page."""
    parser = argparse.ArgumentParser(prog="python -m edgekd_tensorrt.contract", description=__doc__)
    parser.add_argument("--signatures", type=Path, metavar="FOLDER", help="write contract.json from these")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the page from contract.json")
    args = parser.parse_args(arguments)
    if args.signatures is not None:
        CONTRACT.write_text(json.dumps(make_contract(args.signatures), indent=1, sort_keys=True) + "\n")
    if args.table is not None:
        args.table.write_text(page(json.loads(CONTRACT.read_text())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
