"""Shapes that vary: profiles (TRT061, TRT064), sizes known only afterwards (TRT063), inputs that are shapes (TRT065)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgekd_tensorrt.lint.context import Context, Profile, shape_text
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Dim

#: Operators that TensorRT takes and whose output has as many rows as there happen to be.
_DATA_DEPENDENT = ("NonZero", "NonMaxSuppression")

#: Operator -> inputs that hold sizes or positions rather than data.
_SHAPE_INPUTS: Mapping[str, Sequence[int]] = {
    "Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2), "Slice": (1, 2, 3, 4), "Tile": (1,),
    "Resize": (2, 3), "Pad": (1,), "TopK": (1,), "Split": (1,),
}  # fmt: skip


def shape_findings(context: Context) -> Iterator[Finding]:
    """TRT061, TRT064: the model's inputs and the profiles; TRT063: nodes; TRT065: inputs again."""
    graph, shapes = context.graph, context.asked.shapes
    names = [n for n in graph.inputs if n not in graph.constants]
    for name in shapes:
        if name not in names:
            yield context.find(
                "TRT064", None, f"a profile is given for '{name}', the model has {', '.join(names) or 'no inputs'}",
                tensor=name,
            )  # fmt: skip
    for name in names:
        shape = graph.shape(name)
        if shape is None:
            continue
        if name in shapes:
            problem = _misfit(shape, shapes[name])
            if problem:
                yield context.find(
                    "TRT061", None, f"input '{name}' {shape_text(shape)}: {problem}", tensor=name
                )
        elif not all(isinstance(d, int) for d in shape):
            # With no profile at all, somebody who only asks about the graph is told once for each input.
            yield context.find(
                "TRT061", None, f"input '{name}' {shape_text(shape)} varies and has no profile", tensor=name,
                severity="error" if shapes else "warning",
            )  # fmt: skip
    yield from _unequal(context, names)
    for node in context.nodes:
        if node.op_type in _DATA_DEPENDENT and node.domain == "" and not node.graph.is_fixed(node.input(0)):
            yield context.find(
                "TRT063", node, f"the size of '{node.output(0)}' depends on its input's values", tensor=node.output(0)
            )  # fmt: skip
    yield from _shape_tensors(context, names)


def _misfit(shape: Sequence[Dim], profile: Profile) -> str:
    if len(profile) != 3:
        return f"a profile has a minimum, an optimum and a maximum, got {len(profile)} shapes"
    for given in profile:
        if len(given) != len(shape):
            return f"the profile {shape_text(given)} has {len(given)} dimensions, expected {len(shape)}"
    for at, (low, best, high) in enumerate(zip(*profile, strict=True)):
        fixed = shape[at]
        if not low <= best <= high or low < 0:
            return f"dimension {at} is {low}:{best}:{high}, expected minimum <= optimum <= maximum"
        if isinstance(fixed, int) and {low, best, high} != {fixed}:
            return f"dimension {at} is {low}:{best}:{high}, the model has {fixed}"
    return ""


def _unequal(context: Context, names: Sequence[str]) -> Iterator[Finding]:
    """Dimensions of one name are one size (ONNX, IR.md), in every profile."""
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        shape, profile = context.graph.shape(name), context.asked.shapes.get(name)
        if shape is None or profile is None or _misfit(shape, profile):
            continue
        for at, dim in enumerate(shape):
            if not isinstance(dim, str):
                continue
            sizes = tuple(p[at] for p in profile)
            other, known = first.setdefault(dim, (name, sizes))
            if sizes != known:
                yield context.find(
                    "TRT061", None, f"dimension '{dim}' is {_colons(known)} in input '{other}' and {_colons(sizes)} in '{name}'",
                    tensor=name, severity="warning", fix="give one range to dimensions of one name",
                )  # fmt: skip


def _colons(sizes: Sequence[int]) -> str:
    return ":".join(map(str, sizes))


def _shape_tensors(context: Context, names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        found = next(
            (
                n
                for n, i in context.graph.read_by(name)
                if n.domain == "" and i in _SHAPE_INPUTS.get(n.op_type, ())
            ),
            None,
        )
        if found is not None:
            yield context.find(
                "TRT065",
                found,
                f"input '{name}' is a shape to it: its profile has to hold values",
                tensor=name,
            )
