"""What a hostile file is here: how it is made, which door it comes to, and how that door must refuse it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekd.inspect.rules import DAMAGE

#: The doors, as docs/hostile.md and the table call them.
INSPECT = "edgekd inspect"
OPEN = "open a model"
DATA = "read data"
RECIPE = "read a recipe"
POLICY = "read a policy"
VERIFY = "edgekd verify"
BENCHMARKS = "read pytest-benchmark JSON"
EVALUATION = "read a teacher's evaluation"
RUN = "read a run"
TOKENIZER = "read a tokenizer"
TUNED = "read tuned settings"
EVENT = "read a GitHub event"
BASELINE = "fetch a baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One hostile file.

    Attributes:
        name: of the case.
        trick: what is hostile about it, for the table.
        door: what it is given to.
        make: makes it in an empty folder and returns what the door is given.
        code: the exit code that is due: 5 file safety, 2 a mistake in the file; 0 where the door may take it.
        rule: of :data:`edgekd.inspect.RULES`; empty where the refusal is by no such rule.
        word: part of the line.
        names: what of the path the line must hold; None for the file's own name.
    """

    name: str
    trick: str
    door: str
    make: Callable[[Path], Path]
    code: int = 5
    rule: str = ""
    word: str = ""
    names: str | None = None


_Make = Callable[[Path], Path]


def hostile(
    into: list[Case],
    door: str,
    trick: str,
    *,
    code: int | None = None,
    rule: str = "",
    word: str = "",
    names: str | None = None,
) -> Callable[[_Make], _Make]:
    """Register a maker as a case; the function's name is the case's."""

    def keep(make: _Make) -> _Make:
        name = make.__name__.strip("_").replace("_", "-")
        due = (2 if rule in DAMAGE else 5) if code is None else code
        into.append(
            Case(name=name, trick=trick, door=door, make=make, code=due, rule=rule, word=word, names=names)
        )
        return make

    return keep


def written(data: bytes, name: str) -> _Make:
    """A maker of one file of these bytes."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def sparse(path: Path, size: int, head: bytes = b"") -> Path:
    """A file of ``size`` bytes that takes no room but for its head."""
    with path.open("wb") as f:
        f.write(head)
        f.truncate(size)
    return path


def all_cases() -> Iterator[Case]:
    """Every case of the corpus."""
    import hostile_archives
    import hostile_bundles
    import hostile_documents
    import hostile_formats
    import hostile_names
    import hostile_onnx
    import hostile_tensors
    import hostile_text

    for module in (
        hostile_onnx, hostile_tensors, hostile_archives, hostile_formats, hostile_text, hostile_documents, hostile_bundles, hostile_names,
    ):  # fmt: skip
        yield from module.CASES
