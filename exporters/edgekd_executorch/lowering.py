"""From a torch module to the bytes of a .pte: torch.export, delegation to a backend, memory planning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.model import Model
from edgekd.parity import PARITY_SEED
from edgekd.spec import Dim, TensorSpec, draw_feeds
from edgekd_executorch.boundary import METHOD, Boundary
from edgekd_executorch.library import EXTRA, WRITING, load, quiet
from edgekd_executorch.sizes import Sizes
from edgekd_onnx.writing import one_line

#: Backends that this exporter writes for; ``portable`` is ExecuTorch's own kernels.
BACKENDS = ("xnnpack", "portable")
#: ExecuTorch's id of a backend in a program and in its registry.
BACKEND_IDS = {"xnnpack": "XnnpackBackend"}


#: Calls that memory planning turns into views of their input.
_VIEWS = ("aten.view_copy.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A finished program.

    Attributes:
        buffer: the .pte; boundary: as written into it; etrecord: ExecuTorch's record for its Inspector, or None.
        placement: rows of place, op, dtype and count: which of torch's operators went to which backend.
    """

    buffer: bytes
    boundary: Boundary
    placement: tuple[dict[str, Any], ...]
    etrecord: Any


def lowering_errors() -> tuple[type[BaseException], ...]:
    """What torch.export and ExecuTorch raise on a module that they cannot take; they share no base class."""
    error = load("executorch.exir.error", WRITING)
    verifier = require("torch._export.verifier", extra=EXTRA, purpose=WRITING)
    return (
        RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
        error.ExportError, error.InternalError, verifier.SpecViolationError,
    )  # fmt: skip


def wrap(module: Any, outputs: Sequence[TensorSpec], name: str, dtype: str) -> Any:
    """``module`` with its tensors in the order of the specs, and float32 at its boundary where ``dtype`` is less."""
    torch = require("torch", extra=EXTRA, purpose=WRITING)
    from edgekd_torch.runtime import named_outputs

    inner = None if dtype == "float32" else getattr(torch, dtype)

    class Boundaried(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.module = module if inner is None else module.to(inner)

        def forward(self, *feeds: Any) -> tuple[Any, ...]:
            if inner is not None:
                feeds = tuple(f.to(inner) if f.is_floating_point() else f for f in feeds)
            made = tuple(named_outputs(self.module(*feeds), outputs, name).values())
            if inner is not None:
                made = tuple(m.to(torch.float32) if m.dtype == inner else m for m in made)
            return made

    return Boundaried().eval()


def example(sizes: Sizes) -> tuple[Any, ...]:
    """Tensors to trace with, of the greatest sizes.

    torch.export narrows a size's range by every comparison that it meets on the way (a convolution asks whether
    the batch is below 16); traced at the greatest size, the greatest stays within the range.
    """
    torch = require("torch", extra=EXTRA, purpose=WRITING)
    high = {
        s.name: (tuple(sizes.limits[d][1] if isinstance(d, str) else d for d in s.shape),) * 3
        for s in sizes.inputs
    }
    feeds = draw_feeds(sizes.inputs, seed=PARITY_SEED, shapes=high)
    return tuple(torch.from_numpy(feeds[s.name]) for s in sizes.inputs)


def dynamic_shapes(sizes: Sizes) -> tuple[dict[int, Any], ...]:
    """``torch.export`` dimensions of every input: one ``Dim`` per size that varies, shared where the size is."""
    torch = require("torch", extra=EXTRA, purpose=WRITING)
    dims = {
        # Dim wants an identifier; the real names are kept in the boundary.
        name: torch.export.Dim(f"edgekd_dim_{i}", min=low, max=high)
        for i, (name, (low, high)) in enumerate(sizes.limits.items())
    }
    return tuple({i: dims[d] for i, d in enumerate(s.shape) if isinstance(d, str)} for s in sizes.inputs)


def export_program(module: Any, name: str, sizes: Sizes, *, starred: bool) -> Any:
    """``torch.export`` of a module that takes the inputs in order (as one ``*args`` where ``starred``).

    Raises:
        ModelError: torch cannot trace it, or it fixes a size that should vary.
    """
    torch = require("torch", extra=EXTRA, purpose=WRITING)
    dims: Any = dynamic_shapes(sizes)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, example(sizes), dynamic_shapes=(dims,) if starred else dims)
    except lowering_errors() as e:
        raise ModelError(
            f"torch.export cannot trace {name} ({one_line(e)})",
            "change the module so that it can, or fix the size that it names (--option max_batch=1, or one --shape)",
        ) from e


def lower(
    program: Any,
    model: Model,
    sizes: Sizes,
    *,
    backend: str,
    dtype: str,
    devtools: bool,
    per_operator: bool = False,
) -> Lowered:
    """Delegate an exported program, plan its memory, and write it.

    Args:
        devtools: also keep ExecuTorch's record of it; per_operator: a delegate for each operator, nothing fused.

    Raises:
        ModelError: an operator that neither the backend nor ExecuTorch's kernels have, or none that the backend takes.
    """
    exir = load("executorch.exir", WRITING)
    partitioners = []
    if backend == "xnnpack":
        xnnpack = load("executorch.backends.xnnpack.partition.xnnpack_partitioner", WRITING)
        partitioners = [xnnpack.XnnpackPartitioner(per_op_mode=per_operator)]
    boundary = Boundary(
        inputs=sizes.inputs,
        outputs=_output_specs(program, model.outputs, sizes),
        dtype=dtype,
        limits=sizes.limits,
    )
    try:
        with quiet():
            edge = exir.to_edge_transform_and_lower(
                program, partitioner=partitioners, constant_methods={METHOD: boundary.to_text()},
                generate_etrecord=devtools,
            )  # fmt: skip
            rows = _placement(edge.exported_program("forward").graph_module)
            finished = edge.to_executorch()
    except lowering_errors() as e:
        raise ModelError(
            f"ExecuTorch cannot lower {model.name} for {backend} ({one_line(e)})",
            "replace the operator that it names, or export to another format",
        ) from e
    wanted = BACKEND_IDS.get(backend)
    if wanted is not None and all(r["place"] != wanted for r in rows):
        ops = ", ".join(sorted({r["op"] for r in rows})[:5]) or "none at all"
        raise ModelError(
            f"{wanted} takes no operator of {model.name} (it has {ops})",
            "export it with --option backend=portable, or to another format",
        )
    return Lowered(
        buffer=bytes(finished.buffer),
        boundary=boundary,
        placement=rows,
        etrecord=finished.get_etrecord() if devtools else None,
    )


def _output_specs(program: Any, outputs: Sequence[TensorSpec], sizes: Sizes) -> tuple[TensorSpec, ...]:
    """The program's outputs: sizes that are an input's have its name, computed ones the model's or one of their own."""
    values = {
        n.name: n.meta.get("val") for n in program.graph.nodes if n.op in ("placeholder", "call_function")
    }
    symbols: dict[str, str] = {}
    for name, spec in zip(program.graph_signature.user_inputs, sizes.inputs, strict=True):
        for size, dim in zip(values[name].shape, spec.shape, strict=True):
            if isinstance(dim, str):
                symbols[str(size)] = dim
    specs = []
    for name, wanted in zip(program.graph_signature.user_outputs, outputs, strict=True):
        value = values[name]
        asked = sizes.name(wanted.shape)
        shape: list[Dim] = []
        for axis, size in enumerate(value.shape):
            given = asked[axis] if len(asked) == len(value.shape) else None
            own = given if isinstance(given, str) and given not in sizes.limits else f"{wanted.name}.{axis}"
            shape.append(size if isinstance(size, int) else symbols.get(str(size), own))
        specs.append(
            TensorSpec(name=wanted.name, dtype=str(value.dtype).removeprefix("torch."), shape=tuple(shape))
        )
    return tuple(specs)


def _placement(graph: Any) -> tuple[dict[str, Any], ...]:
    """Which operators of the edge graph went where, counted; sizes and views are not operators."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        if "executorch_call_delegate" in str(node.target):
            lowered = getattr(graph, node.args[0].target)
            inner = lowered.original_module.graph_module.graph.nodes
            counts.update((lowered.backend_id, *_op(n)) for n in inner if n.op == "call_function")
        else:
            counts[("portable", *_op(node))] += 1
    return tuple(
        {"place": place, "op": op, "dtype": dtype, "count": n}
        for (place, op, dtype), n in sorted(counts.items())
        if dtype and "getitem" not in op and not op.startswith(_VIEWS)
    )


def _op(node: Any) -> tuple[str, str]:
    name = str(getattr(node.target, "_op", node.target))
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (list, tuple)) and value else value
    return name, str(getattr(value, "dtype", "")).removeprefix("torch.")


def table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``lineage["placement"]``: the rows, and how many of the operators the backend took."""
    delegated = sum(r["count"] for r in rows if r["place"] != "portable")
    return {
        "operators": sum(r["count"] for r in rows),
        "delegated": delegated,
        "rows": [dict(r) for r in rows],
    }


def fixed_model(model: Model, sizes: Sizes) -> Model:
    """``model`` with the sizes that cannot vary as numbers: what the exported program takes."""
    return replace(
        model,
        inputs=sizes.inputs,
        outputs=tuple(replace(s, shape=sizes.name(s.shape)) for s in model.outputs),
    )
