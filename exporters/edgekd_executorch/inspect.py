"""Where a program deviates from its torch module, operator by operator, by ExecuTorch's event trace and Inspector."""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.deviation import TensorDifference
from edgekd.errors import ModelError, UsageError
from edgekd.model import Model
from edgekd_executorch.library import RUNNING, load, quiet, version
from edgekd_executorch.lowering import BACKEND_IDS, export_program, lower, wrap
from edgekd_executorch.program import ENTRY, ETRECORD, read_program
from edgekd_executorch.runtime import PORTABLE, load_method
from edgekd_executorch.sizes import plan_sizes

#: torch runs the graph that the backends were given, whose operators have the handles of the trace.
_REFERENCE = "edge_dialect_exported_program"
#: The debug buffer holds every operator's inputs and outputs at once; a few bytes more of alignment for each.
_BUFFER_FACTOR, _BUFFER_SPARE = 4, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """One operator, or one group that a backend ran as a whole.

    Attributes:
        layer: name of the torch module that its last operator belongs to; empty for the model's own forward.
        operators: names in the exported graph, in order; place: who ran it.
        max_abs_error: against the same operators run by torch; max_abs: greatest absolute value that torch gave.
    """

    layer: str
    operators: tuple[str, ...]
    place: str
    max_abs_error: float
    max_abs: float

    def as_difference(self) -> TensorDifference:
        """For `edgekd compare`."""
        relative = self.max_abs_error / self.max_abs if self.max_abs else None
        return TensorDifference(
            name=self.operators[-1] if self.operators else self.layer,
            op_type=self.place,
            is_output=False,
            max_abs_error=self.max_abs_error,
            relative_error=0.0 if self.max_abs_error == 0 else relative,
            sqnr_db=None,
            problem="",
            module=self.layer,
        )


def layer_errors(model: Model, artifact: Artifact, feeds: Mapping[str, Array]) -> list[LayerError]:
    """Errors of every operator of ``artifact`` on ``feeds``, in execution order.

    What a backend fuses is one opaque step. A float program is therefore lowered again, every operator by itself, for
    exactly the sizes of ``feeds``: the kernels are the same, their fusion is not. An INT8 program is compared as it
    is, in its delegates, with the quantized graph that was lowered (so the error is the backend's, not that of
    quantization), and needs the ``model.etrecord`` that ``--option devtools=yes`` leaves beside it.

    Raises:
        DataError: feeds that do not fit; UsageError: a float16 program (the trace holds none of its values), or an
        INT8 one without its record; ModelError: an artifact of another model, or the trace fails.
    """
    if artifact.lineage.get("model") != model.as_artifact().digest:
        raise ModelError(
            f"{artifact.path} was not made from {model.folder}", "give the model that it was made from"
        )
    if artifact.dtype == "float16":
        raise UsageError(
            f"{artifact.path} is float16, which ExecuTorch's event trace does not hold",
            "compare a float32 export",
        )
    program = read_program(artifact.path)
    program.boundary.check(feeds, str(artifact.path))
    ordered = [np.array(feeds[s.name], order="C") for s in program.boundary.inputs]
    if artifact.dtype != "int8":
        with tempfile.TemporaryDirectory() as name:
            path, record = _apart(model, artifact, feeds, Path(name))
            return list(_compare(path, record, ordered, Path(name)))
    found = artifact.folder / ETRECORD
    if not found.is_file():
        raise UsageError(
            f"{artifact.path} is int8 and has no {ETRECORD} beside it",
            "quantize it again with --option devtools=yes",
        )
    record = _read_record(artifact, found)
    with tempfile.TemporaryDirectory() as name:
        return list(_compare(artifact.path, record, ordered, Path(name)))


def _read_record(artifact: Artifact, path: Path) -> Any:
    """The program's own record: read by unpickling, so only where it is the file that was written.

    Raises:
        ModelError: it is not that file, or cannot be read.
    """
    companions = {c["path"]: c["sha256"] for c in artifact.lineage.get("companions", ())}
    found = record_file(path.parent, path.name).sha256
    if companions.get(path.name) != found:
        recorded = f"sha256 {companions[path.name][:12]}…" if path.name in companions else "none"
        raise ModelError(
            f"{path} has sha256 {found[:12]}…, {artifact.path.name} was made with {recorded}",
            "quantize it again with --option devtools=yes",
        )
    records = load("executorch.devtools.etrecord", RUNNING)
    try:
        with quiet() as log:
            return records.parse_etrecord(str(path))
    except (
        RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, EOFError, ImportError, OSError,
        pickle.UnpicklingError, zipfile.BadZipFile,
    ) as e:  # fmt: skip
        raise ModelError(
            f"executorch {version()} cannot read {path} ({log.reason(e)})",
            "it was made with another version: quantize it again with --option devtools=yes",
        ) from e


def _apart(model: Model, artifact: Artifact, feeds: Mapping[str, Array], folder: Path) -> tuple[Path, Any]:
    """The model lowered for these sizes only, one delegate per operator; its file and its record."""
    from edgekd_torch.modules import load_module

    backend = next((n for n, i in BACKEND_IDS.items() if i in read_program(artifact.path).backends), PORTABLE)
    shapes = {name: (np.shape(array),) * 3 for name, array in feeds.items()}
    batch = next((np.shape(feeds[s.name])[0] for s in model.inputs if s.dynamic_batch), None)
    sizes = plan_sizes(model.inputs, shapes, batch)
    module = wrap(load_module(model), model.outputs, model.name, artifact.dtype)
    program = export_program(module, model.name, sizes, starred=True)
    lowered = lower(
        program, model, sizes, backend=backend, dtype=artifact.dtype, devtools=True, per_operator=True
    )
    path = folder / ENTRY
    path.write_bytes(lowered.buffer)
    return path, lowered.etrecord


def _compare(path: Path, record: Any, ordered: list[Array], folder: Path) -> Iterator[LayerError]:
    torch = load("torch", RUNNING)
    devtools = load("executorch.devtools", RUNNING)
    tensors = [torch.from_numpy(a) for a in ordered]
    size = read_program(path).activation_bytes * _BUFFER_FACTOR + _BUFFER_SPARE
    loaded, method = load_method(path, enable_etdump=True, debug_buffer_size=size)
    dump, values, saved = folder / "run.etdump", folder / "run.values", folder / ETRECORD
    try:
        with quiet() as log:
            record.update_representative_inputs([tensors])
            record.save(str(saved))  # read back by the Inspector: of a live record it takes no handles
            method.execute(tensors)
            loaded.write_etdump_result_to_file(str(dump), str(values))
            inspector = devtools.Inspector(
                etdump_path=str(dump), etrecord=str(saved), debug_buffer_path=str(values)
            )
            rows = inspector.calculate_numeric_gap("MSE", reference_graph=_REFERENCE).to_dict("records")
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError) as e:
        raise ModelError(
            f"ExecuTorch's Inspector cannot compare {path.name} with torch ({log.reason(e)})",
            "compare the outputs only",
        ) from e
    modules = _modules(inspector)
    for row in rows:
        want, have = _last(row["aot_intermediate_output"]), _last(row["runtime_intermediate_output"])
        if want is None or have is None or want.shape != have.shape or want.size == 0:
            continue
        layer, place = modules.get(_handles(row["runtime_debug_handle"]), ("", ""))
        yield LayerError(
            layer=layer,
            operators=tuple(row["aot_ops"]),
            place=place,
            max_abs_error=float(np.max(np.abs(want - have))),
            max_abs=float(np.max(np.abs(want))),
        )


def _last(value: Any) -> Array | None:
    value = value[-1] if isinstance(value, (list, tuple)) and value else value
    return value.detach().double().numpy() if hasattr(value, "detach") else None


def _handles(value: Any) -> tuple[int, ...]:
    return tuple(sorted({int(v) for v in (value if isinstance(value, (list, tuple, set)) else [value])}))


def _modules(inspector: Any) -> dict[tuple[int, ...], tuple[str, str]]:
    """Debug handles of an event -> name of the torch module of its last operator, and who ran it."""
    found = {}
    for block in inspector.event_blocks:
        for event in block.events:
            if event.debug_handles is None or not event.module_hierarchy:
                continue
            # Inserted operators (quantize, dequantize) belong to none; every other is inside "module", the wrapper.
            stacks = [[str(m[0]) for m in stack.values()] for stack in event.module_hierarchy.values()]
            name = next((s[-1] for s in reversed(stacks) if s and s[-1].startswith("module")), "")
            place = event.delegate_backend_name or PORTABLE
            found[_handles(event.debug_handles)] = (name.removeprefix("module").removeprefix("."), place)
    return found
