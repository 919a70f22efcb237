"""Text: tables, JSON Lines and YAML."""

from __future__ import annotations

import os
from pathlib import Path

from hostile_case import DATA, POLICY, RECIPE, Case, hostile, sparse

CASES: list[Case] = []


def _text(folder: Path, data: bytes | str, name: str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@hostile(CASES, DATA, "NUL bytes in a table", names="rows.csv")
def _csv_nul(folder: Path) -> Path:
    return _text(folder, b"x,label\n1,0\n2\x00,1\n", "rows.csv")


@hostile(CASES, DATA, "a line of 1 GiB", names="rows.csv")
def _csv_line_1_gib(folder: Path) -> Path:
    return sparse(folder / "rows.csv", 1 << 30, b"x,label\n1,0\n2,")


@hostile(CASES, DATA, "a line of 1 GiB", names="rows.jsonl")
def _jsonl_line_1_gib(folder: Path) -> Path:
    return sparse(folder / "rows.jsonl", 1 << 30, b'{"x": 1}\n{"x": "')


@hostile(CASES, DATA, "a quote that never closes, over 40 MB of lines", names="rows.csv")
def _csv_open_quote(folder: Path) -> Path:
    return _text(folder, b'x,label\n"1,0\n' + b"2,1\n" * 10_000_000, "rows.csv")


@hostile(CASES, DATA, "bytes that are no UTF-8", names="rows.csv")
def _csv_no_utf8(folder: Path) -> Path:
    return _text(folder, b"text,label\n\xff\xfe\xc0,1\n", "rows.csv")


@hostile(CASES, DATA, "JSON nested 100,000 deep", names="rows.jsonl")
def _jsonl_deep(folder: Path) -> Path:
    return _text(folder, b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "rows.jsonl")


@hostile(CASES, DATA, "one key twice in a row, of which readers take different ones", names="rows.jsonl")
def _jsonl_key_twice(folder: Path) -> Path:
    return _text(folder, '{"x": 1, "label": 0, "label": 1}\n', "rows.jsonl")


@hostile(CASES, DATA, "a number of 100,000 digits", code=2, names="rows.jsonl")
def _jsonl_digits(folder: Path) -> Path:
    return _text(folder, '{"x": ' + "9" * 100_000 + ', "label": 0}\n', "rows.jsonl")


@hostile(CASES, DATA, "a number of 400 digits beside a fraction", code=2, names="rows.jsonl")
def _jsonl_too_large(folder: Path) -> Path:
    return _text(folder, '{"x": 1.5, "label": 0}\n{"x": ' + "9" * 400 + ', "label": 0}\n', "rows.jsonl")


@hostile(CASES, DATA, "an array that is an object", code=2, names="rows.jsonl")
def _jsonl_object(folder: Path) -> Path:
    return _text(folder, '{"x": {"a": 1}, "label": 0}\n', "rows.jsonl")


_RECIPE = "edgekd: 1\nname: n\n"


@hostile(CASES, RECIPE, "aliases that double 30 times", code=2)
def _yaml_aliases(folder: Path) -> Path:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 31)]
    return _text(folder, _RECIPE + "\n".join(lines), "recipe.yaml")


@hostile(CASES, RECIPE, "an alias that contains itself", code=2)
def _yaml_alias_ring(folder: Path) -> Path:
    return _text(folder, _RECIPE + "task: &a [*a]\n", "recipe.yaml")


@hostile(CASES, RECIPE, "lists nested 100,000 deep", code=2)
def _yaml_deep(folder: Path) -> Path:
    return _text(folder, _RECIPE + "task: " + "[" * 100_000, "recipe.yaml")


@hostile(CASES, RECIPE, "block mappings nested 2,000 deep", code=2)
def _yaml_deep_blocks(folder: Path) -> Path:
    return _text(folder, _RECIPE + "".join(" " * i + "a:\n" for i in range(2000)), "recipe.yaml")


@hostile(CASES, RECIPE, "`!!python/object/apply:os.system`", code=2)
def _yaml_python_tag(folder: Path) -> Path:
    return _text(folder, _RECIPE + "task: !!python/object/apply:os.system ['true']\n", "recipe.yaml")


@hostile(CASES, RECIPE, "`!!python/name` in a key", code=2)
def _yaml_tagged_key(folder: Path) -> Path:
    return _text(folder, _RECIPE + "? !!python/name:os.system ''\n: 1\n", "recipe.yaml")


@hostile(CASES, RECIPE, "a mapping as a key", code=2)
def _yaml_mapping_key(folder: Path) -> Path:
    return _text(folder, _RECIPE + "? {a: 1}\n: 1\n", "recipe.yaml")


@hostile(CASES, RECIPE, "one key twice", code=2, word="twice")
def _yaml_key_twice(folder: Path) -> Path:
    return _text(folder, _RECIPE + "name: m\n", "recipe.yaml")


@hostile(CASES, RECIPE, "a merge key that brings a key in unseen", code=2)
def _yaml_merge(folder: Path) -> Path:
    return _text(folder, _RECIPE + "task: {<<: {kind: classification}, data: {test: d.npz}}\n", "recipe.yaml")


@hostile(CASES, RECIPE, "a million keys, 10 MB", code=2)
def _yaml_million_keys(folder: Path) -> Path:
    return _text(folder, _RECIPE + "".join(f"k{i}: 1\n" for i in range(1_000_000)), "recipe.yaml")


@hostile(CASES, RECIPE, "one line of 64 MB", code=2)
def _yaml_long_line(folder: Path) -> Path:
    return _text(folder, _RECIPE + "task: " + "x" * (64 << 20), "recipe.yaml")


@hostile(CASES, RECIPE, "4 GiB, sparse", code=2)
def _yaml_sparse(folder: Path) -> Path:
    return sparse(folder / "recipe.yaml", 4 << 30, _RECIPE.encode())


@hostile(CASES, RECIPE, "a named pipe", code=2)
def _yaml_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "recipe.yaml")
    return folder / "recipe.yaml"


@hostile(CASES, RECIPE, "a link to /dev/zero", code=2)
def _yaml_endless(folder: Path) -> Path:
    (folder / "recipe.yaml").symlink_to("/dev/zero")
    return folder / "recipe.yaml"


@hostile(CASES, RECIPE, "half of a surrogate pair, by its escape", code=2)
def _yaml_surrogate(folder: Path) -> Path:
    return _text(folder, 'edgekd: 1\nname: "\\ud800"\n', "recipe.yaml")


@hostile(CASES, RECIPE, "a sexagesimal number, `1:1:1:…`, of 100 KB", code=2)
def _yaml_sexagesimal(folder: Path) -> Path:
    return _text(folder, _RECIPE + "task: 1" + ":1" * 50_000 + "\n", "recipe.yaml")


@hostile(CASES, RECIPE, "a variable in a variable's default", code=2)
def _yaml_variable(folder: Path) -> Path:
    return _text(folder, _RECIPE + "task: ${A:-${B}}\n", "recipe.yaml")


@hostile(CASES, POLICY, "a limit that is infinite", code=2)
def _policy_infinite(folder: Path) -> Path:
    return _text(folder, "gates: {accuracy: {max_drop: .inf}}\n", "policy.yaml")


@hostile(CASES, POLICY, "a limit of 10^400", code=2)
def _policy_huge(folder: Path) -> Path:
    return _text(folder, "gates: {accuracy: {max_drop: 1" + "0" * 400 + "}}\n", "policy.yaml")


@hostile(CASES, POLICY, "a gate that is commented out, so that nothing is asked", code=2)
def _policy_asks_nothing(folder: Path) -> Path:
    return _text(folder, "gates:\n  accuracy:\n  #  max_drop: 0.01\n", "policy.yaml")
