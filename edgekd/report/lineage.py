"""Where what ships comes from: teacher and data -> student -> export -> quantization -> artifact, as one graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.artifact import ARTIFACT_FILE, ARTIFACT_SCHEMA
from edgekd.errors import EvidenceError
from edgekd.evidence.run import Run
from edgekd.files import read_json

Kind = Literal["teacher", "data", "student", "step", "shipped"]

#: Hops of an artifact's lineage that are followed; more would be a lineage that loops.
_MOST_STEPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One thing in the line.

    Attributes:
        key: unique in the graph: a digest, or ``teacher:0``.
        rank: column from the left: 0 what it was learned from, then each step.
        title: its name; lines: what else there is to say, a line each.
    """

    key: str
    kind: Kind
    rank: int
    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """``target`` was made from ``source``; ``how`` in one or two words, empty where nobody recorded it."""

    source: str
    target: str
    how: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Nodes by rank and the edges between them; every edge leads to a greater rank."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def node(self, key: str) -> Node:
        return next(n for n in self.nodes if n.key == key)

    def sources(self, key: str) -> list[Edge]:
        return [e for e in self.edges if e.target == key]


def load_lineage(folder: Path, run: Run, declared: Mapping[str, Any]) -> Lineage | None:
    """The line of every artifact that was selected; None where the run has none.

    Args:
        folder: run folder or bundle; a bundle has only the artifacts that ship, and gives the same graph.
        declared: ``{"teacher": {...} or [...], "data": ...}`` as declared; empty where nobody did.

    Raises:
        EvidenceError: an artifact.json that is damaged, or a lineage that loops.
    """
    shipped = list(dict.fromkeys(run.selected.values()))
    if not shipped:
        return None
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    recipe = _recipe(folder)
    roots = [*_roots(run, declared)]
    for node in roots:
        nodes[node.key] = node
    for digest in shipped:
        steps = _steps(folder, run, digest)
        student = f"student:{steps[0].model}"
        if student not in nodes:
            nodes[student] = _student(student, steps[0], recipe)
            edges += [Edge(source=n.key, target=student, how=_taught(n, recipe)) for n in roots]
        before = student
        for rank, step in enumerate(steps, start=2):
            if step.digest not in nodes or step.digest == digest:
                nodes[step.digest] = _node(run, step, rank, step.digest == digest)
            edge = Edge(source=before, target=step.digest, how=step.how)
            if edge not in edges:
                edges.append(edge)
            before = step.digest
    return _settled(nodes, edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """An artifact on the way, the last one first when collected; ``model`` is the digest of what was exported."""

    digest: str
    how: str
    model: str = ""
    lineage: Mapping[str, Any]


def _steps(folder: Path, run: Run, digest: str) -> list[_Step]:
    """From the first export to the artifact, by what each one's lineage says that it was made from."""
    found: list[_Step] = []
    inherited: Mapping[str, Any] = {}
    while digest:
        if len(found) == _MOST_STEPS or digest in {s.digest for s in found}:
            raise EvidenceError(f"the lineage of {digest[:19]}… does not end", "make the artifact again")
        # What was made from an artifact carries its lineage, so one that is not here is still known in part.
        known = {**inherited, **_lineage_of(folder, run, digest)}
        key = _last_step(run, digest, known)
        how = _how(run, digest, known, key)
        found.append(_Step(digest=digest, how=how, model=str(known.get("model", "")), lineage=known))
        inherited = {
            k: known[k] for k in (*_CARRIED, *(_QUANTIZED if key == "source" else ("source",))) if k in known
        }
        digest = str(known[key]) if key else ""
    return found[::-1]


#: Keys of a lineage that hold for what an artifact was made from as well; then those of a quantization, which hold
#: where the last step was a conversion.
_CARRIED = ("model", "factory", "opset")
_QUANTIZED = ("quantized_from", "quantization", "calibration")


def _last_step(run: Run, digest: str, lineage: Mapping[str, Any]) -> str:
    """Which key names what the artifact was made from; empty where it was exported, or nobody recorded it.

    A lineage with both was quantized and converted: quantization keeps the format, so it came last where the formats
    are the same.
    """
    named = [k for k in ("quantized_from", "source") if str(lineage.get(k, "")).startswith("sha256:")]
    if len(named) < 2:
        return "".join(named)
    own = run.artifacts.get(digest, {}).get("format")
    before = run.artifacts.get(str(lineage["quantized_from"]), {}).get("format")
    return "source" if own and before and own != before else "quantized_from"


def _lineage_of(folder: Path, run: Run, digest: str) -> Mapping[str, Any]:
    record = run.artifacts.get(digest, {})
    path = folder / str(record.get("folder", "")) / ARTIFACT_FILE
    if not record or not path.is_file():
        return {}
    lineage = read_json(path, ARTIFACT_SCHEMA).get("lineage", {})
    return lineage if isinstance(lineage, dict) else {}


def _how(run: Run, digest: str, lineage: Mapping[str, Any], key: str) -> str:
    if key == "quantized_from":
        made = lineage.get("quantization")
        mode = made.get("mode") if isinstance(made, dict) else None
        return f"quantized ({mode})" if mode else "quantized"
    if key == "source":
        return f"converted to {run.artifacts.get(digest, {}).get('format', 'another format')}"
    return "exported" if lineage.get("model") else ""


def _roots(run: Run, declared: Mapping[str, Any]) -> Iterator[Node]:
    teachers, data = entries(declared.get("teacher")), entries(declared.get("data"))
    digest = run.references.get("teacher", "") or next((c.baseline for c in run.candidates if c.baseline), "")
    for i, teacher in enumerate(teachers):
        lines = [f"licence: {_word(teacher, 'licence')}"]
        if teacher.get("access"):
            lines.append(f"reached by {teacher['access']}")
        if digest and len(teachers) == 1:
            lines.append(f"run as {short(digest)}")
        yield Node(
            key=f"teacher:{i}", kind="teacher", rank=0, title=_word(teacher, "name"), lines=tuple(lines)
        )
    if not teachers and digest:
        name = str(run.artifacts.get(digest, {}).get("name", "teacher"))
        yield Node(key="teacher:0", kind="teacher", rank=0, title=name, lines=("not declared", short(digest)))
    for i, item in enumerate(data):
        yield Node(
            key=f"data:{i}",
            kind="data",
            rank=0,
            title=_word(item, "name"),
            lines=(f"licence: {_word(item, 'licence')}",),
        )


def entries(value: Any) -> list[Mapping[str, Any]]:
    """One entry or several, as a list."""
    if isinstance(value, Mapping):
        return [value]
    return [v for v in value or () if isinstance(v, Mapping)]


def _word(entry: Mapping[str, Any], key: str) -> str:
    return str(entry.get(key) or "not declared")


def short(digest: str) -> str:
    """The first of a digest's hex digits, as a report shows it.

    >>> short("sha256:0123456789abcdef")
    '0123456789ab'
    """
    return digest.removeprefix("sha256:")[:12]


def _student(key: str, step: _Step, recipe: Mapping[str, Any]) -> Node:
    told = recipe.get("student")
    student = told if isinstance(told, dict) else {}
    name = str(step.lineage.get("factory") or student.get("model") or "student")
    lines = (f"weights {short(step.model)}",) if step.model else ("as it was given",)
    return Node(key=key, kind="student", rank=1, title=name, lines=lines)


def _taught(node: Node, recipe: Mapping[str, Any]) -> str:
    distill = recipe.get("distill")
    if not isinstance(distill, dict):
        return ""
    if node.kind == "data":
        return "trained on"
    method = distill.get("method")
    return f"distilled ({method})" if method else "distilled"


def _node(run: Run, step: _Step, rank: int, is_shipped: bool) -> Node:
    record = run.artifacts.get(step.digest, {})
    lines = []
    if record:
        lines.append(
            f"{record.get('format', '')} {record.get('dtype', '')}, {int(record.get('size_bytes', 0)):,} bytes"
        )
    lines.append(short(step.digest))
    calibration = step.lineage.get("calibration")
    if step.lineage.get("quantized_from") and isinstance(calibration, dict) and calibration.get("digest"):
        lines.append(f"calibrated on {short(str(calibration['digest']))}")
    if is_shipped:
        lines += [f"ships to {target}" for target, chosen in run.selected.items() if chosen == step.digest]
    title = str(record.get("name") or "an artifact that is not kept")
    return Node(
        key=step.digest, kind="shipped" if is_shipped else "step", rank=rank, title=title, lines=tuple(lines)
    )


def _settled(nodes: Mapping[str, Node], edges: Sequence[Edge]) -> Lineage:
    order = {key: i for i, key in enumerate(nodes)}
    placed = sorted(nodes.values(), key=lambda n: (n.rank, order[n.key]))
    return Lineage(nodes=tuple(placed), edges=tuple(edges))


def _recipe(folder: Path) -> Mapping[str, Any]:
    """The recipe beside the run; a run of ``gate`` has none, and a damaged one tells nothing."""
    try:
        value = json.loads((folder / "recipe.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A node with what it was made from below it; ``how`` its parent was made from it."""

    node: Node
    how: str
    made_from: tuple[Branch, ...]


def tree(graph: Lineage) -> tuple[Branch, ...]:
    """What ships, each with all that it comes from below it."""

    def branch(key: str, how: str) -> Branch:
        below = tuple(branch(e.source, e.how) for e in graph.sources(key))
        return Branch(node=graph.node(key), how=how, made_from=below)

    return tuple(branch(n.key, "") for n in graph.nodes if n.kind == "shipped")


def outline(graph: Lineage, escaped: Callable[[str], str]) -> list[str]:
    """The graph as an indented Markdown list: what ships first, what each thing was made from below it."""
    lines: list[str] = []

    def tell(branch: Branch, depth: int) -> None:
        said = f"{escaped(branch.how)} from " if branch.how else ""
        rest = ", ".join(map(escaped, (branch.node.kind, *branch.node.lines)))
        lines.append(f"{'  ' * depth}- {said}**{escaped(branch.node.title)}** ({rest})")
        for below in branch.made_from:
            tell(below, depth + 1)

    for root in tree(graph):
        tell(root, 0)
    return lines
