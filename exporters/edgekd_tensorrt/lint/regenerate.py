"""Makes ``operators.json`` from onnx-tensorrt's ``docs/operators.md``; what people checked by hand stays beside it.

::

    python -m edgekd_tensorrt.lint.regenerate operators.md --commit COMMIT

The table states which operators TensorRT's parser takes and in which element types; its last column holds restrictions
in prose. Those were turned into checks by hand (``operator_checks.json``), each kept with a digest of the text that it
came from, so that a text which changed stops the generator until somebody has read it. The text itself is not kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import DataError, EdgeKDError
from edgekd.files import storage_error, write_bytes

SCHEMA = "edgekd.tensorrt_operators/1"
HERE = Path(__file__).resolve().parent.parent
TABLE, CHECKS = HERE / "operators.json", HERE / "operator_checks.json"

#: The element types that the table may name; another word means that its form changed.
TYPES = ("FP32", "FP16", "BF16", "FP8", "FP4", "INT64", "INT32", "INT8", "INT4", "UINT8", "BOOL")

_HEADER = re.compile(
    r"TensorRT (?P<version>\d+\.\d+) supports operators in the inclusive range of opset (?P<low>\d+) to opset (?P<high>\d+)"
)
_ROW = re.compile(r"^\|\s*(?P<op>[A-Za-z0-9]+)\s*\|\s*(?P<yes>[YN])\s*\|(?P<rest>.*)$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operator of the table.

    Attributes:
        types: element types in the table's words; empty where it is not supported.
        restriction: the last column, spaces levelled; empty where there is none.
    """

    op: str
    supported: bool
    types: tuple[str, ...]
    restriction: str

    @property
    def digest(self) -> str:
        """Of the restriction; empty where there is none."""
        return restriction_digest(self.restriction) if self.restriction else ""


def restriction_digest(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a restriction's words."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def parse_table(text: str) -> tuple[str, tuple[int, int], list[Row]]:
    """TensorRT's version, its first and last opset, and the rows of the table.

    Raises:
        DataError: the text has another form, names an element type that is not known, or an operator twice.
    """
    header = _HEADER.search(text)
    if header is None:
        raise DataError(
            "operators.md does not say which TensorRT supports which opsets", "give onnx-tensorrt's own file"
        )
    rows: dict[str, Row] = {}
    for match in _ROW.finditer(text):
        op, supported = match["op"], match["yes"] == "Y"
        if op in rows:
            raise DataError(f"operators.md lists {op} twice", "give onnx-tensorrt's own file")
        kinds, _, restriction = match["rest"].partition("|")
        if not supported and not restriction:
            kinds, restriction = "", kinds
        names = tuple(k.strip() for k in kinds.split(",") if k.strip())
        unknown = [n for n in names if n not in TYPES]
        if unknown or (supported and not names):
            raise DataError(
                f"operators.md gives {op} the element type {(unknown or ['none'])[0]!r}",
                f"known are {', '.join(TYPES)}: teach the generator, or repair the file",
            )
        note = " ".join(restriction.strip().rstrip("|").split())
        rows[op] = Row(op=op, supported=supported, types=names if supported else (), restriction=note)
    return header["version"], (int(header["low"]), int(header["high"])), list(rows.values())


def build(text: str, *, commit: str, before: Mapping[str, Any], checks: Mapping[str, Any]) -> dict[str, Any]:
    """The table as it is stored.

    Args:
        before: the stored table that it replaces; empty for the first.
        checks: ``operator_checks.json``: operator -> ``{"restriction": digest, "checks": [...]}``.

    Raises:
        DataError: as :func:`parse_table`; fewer rows than before; a restriction that nobody turned into checks, whose
            words changed, or that is gone.
    """
    version, (low, high), rows = parse_table(text)
    was = len(before.get("supported", {})) + len(before.get("unsupported", []))
    if len(rows) < was:
        raise DataError(
            f"operators.md has {len(rows)} operators, the stored table {was}", "a row was lost: read the file"
        )
    for row in rows:
        stored = checks.get(row.op, {}).get("restriction", "")
        if row.digest != stored:
            raise DataError(
                f"the restriction of {row.op} is not the one that was read: {row.restriction or 'none now'!r}",
                f"write its checks and the digest {row.digest or 'none'} into {CHECKS.name}",
            )
    gone = sorted(set(checks) - {r.op for r in rows})
    if gone:
        raise DataError(
            f"{CHECKS.name} holds checks of {gone[0]}, which operators.md does not list", "remove them"
        )
    return {
        "schema": SCHEMA,
        "source": {
            "file": "onnx/onnx-tensorrt docs/operators.md", "commit": commit, "tensorrt": version, "license": "Apache-2.0",
        },
        "opset": [low, high],
        "supported": {r.op: list(r.types) for r in sorted(rows, key=lambda r: r.op) if r.supported},
        "unsupported": sorted(r.op for r in rows if not r.supported),
    }  # fmt: skip


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two tables, one line each."""
    lines = []
    for key in ("opset", "source"):
        if before.get(key) != after[key]:
            lines.append(f"{key}: {before.get(key)} -> {after[key]}")
    old: Mapping[str, Any] = before.get("supported", {})
    new: Mapping[str, Any] = after["supported"]
    lines += [f"+ {op}: {', '.join(new[op])}" for op in sorted(set(new) - set(old))]
    lines += [f"- {op}" for op in sorted(set(old) - set(new))]
    lines += [
        f"~ {op}: {', '.join(old[op])} -> {', '.join(new[op])}"
        for op in sorted(set(old) & set(new))
        if old[op] != new[op]
    ]
    return lines


def dump(table: Mapping[str, Any]) -> str:
    """JSON with one operator a line, so that a diff shows what changed."""
    rows = ",\n".join(f"  {json.dumps(op)}: {json.dumps(types)}" for op, types in table["supported"].items())
    head = ",\n".join(f" {json.dumps(k)}: {json.dumps(table[k])}" for k in ("schema", "source", "opset"))
    names = json.dumps(table["unsupported"], indent=1).replace("\n", "\n ")
    return f'{{\n{head},\n "supported": {{\n{rows}\n }},\n "unsupported": {names}\n}}\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite ``operators.json``; prints what changed. Exit code 2 where something has to be read first."""
    parser = argparse.ArgumentParser(prog="python -m edgekd_tensorrt.lint.regenerate", description=__doc__)
    parser.add_argument("operators", type=Path, help="onnx-tensorrt's docs/operators.md")
    parser.add_argument("--commit", required=True, help="the commit that it was read at")
    parser.add_argument("--table", type=Path, default=TABLE, help="the table to rewrite")
    options = parser.parse_args(arguments)
    try:
        try:
            text = options.operators.read_text(encoding="utf-8")
            before = json.loads(options.table.read_text(encoding="utf-8")) if options.table.exists() else {}
            checks = json.loads(CHECKS.read_text(encoding="utf-8"))["operators"]
        except OSError as e:
            raise storage_error(e, options.operators) from e
        except ValueError as e:
            raise DataError(f"cannot read {options.operators} or {options.table} ({e})", "repair it") from e
        table = build(text, commit=options.commit, before=before, checks=checks)
        write_bytes(options.table, dump(table).encode())
    except EdgeKDError as e:
        sys.stderr.write(f"error: {e}\n")
        return e.exit_code
    sys.stdout.write("".join(f"{line}\n" for line in changes(before, table)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
