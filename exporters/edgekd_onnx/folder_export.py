"""A Hugging Face folder as ONNX: traced by optimum or torch, compared with transformers' own network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.lazy import require
from edgekd.parity import PARITY_SEED, Shapes, parity_batches, parity_feeds
from edgekd.spec import Dim, TensorSpec
from edgekd.stages import tool_versions
from edgekd.target import Session
from edgekd_onnx.export_options import DEFAULT_OPSET, ExportOptions
from edgekd_onnx.finishing import Source, finish
from edgekd_onnx.folder_boundary import Boundary, describe, fill_shapes, supported_tasks
from edgekd_onnx.traced_folder import unsupported_boundary
from edgekd_onnx.tracing import trace_module
from edgekd_onnx.transformers_models import (
    Answered,
    Part,
    TransformersSession,
    load_config,
    load_network,
    model_class,
    offline,
    traceable,
)
from edgekd_onnx.writing import one_line, quiet, strip_provenance

#: The newest opset that optimum's tracer writes (torch.onnx, TorchScript exporter); later ones are converted.
_TRACER_OPSET = 20
_EXPORTERS = ("auto", "optimum", "dynamo")


def convert_folder(artifact: Artifact, out: Path, asked: ExportOptions) -> Artifact:
    """See :meth:`edgekd_onnx.exporter.OnnxExporter.convert`.

    The exporter is optimum's where it knows the architecture, else torch's; which of the two is in the lineage. A file
    that does not agree with the network is refused, never made again by the other: the fault should be seen.
    """
    path = artifact.folder
    how = asked.rest.get("exporter", "auto")
    if how not in _EXPORTERS:
        raise UsageError(f"exporter {how!r} is not known", f"choose {', '.join(_EXPORTERS)}")
    config = load_config(path)
    if how == "auto":
        how = "optimum" if supported_tasks(config.model_type) else "dynamo"
    boundary, part = _open(artifact, config, asked, how)
    shapes = fill_shapes(boundary.inputs, config, asked.shapes, boundary.usual)
    asked = replace(asked, shapes=shapes, opset=asked.opset or DEFAULT_OPSET)
    answered = Answered(part)
    outputs = _observed(answered, boundary, shapes, config, path)
    opset = asked.opset or DEFAULT_OPSET
    if how == "optimum":
        proto = _by_optimum(boundary, min(opset, _TRACER_OPSET), path)
    else:
        # The second has batch 2: torch.export takes sizes 0 and 1 for constants.
        feeds = list(_drawn(boundary.inputs, config, {k: (v[1],) * 3 for k, v in shapes.items()}))[1]
        proto = trace_module(
            traceable(part, [s.name for s in outputs]), boundary.inputs, [s.name for s in outputs], feeds=feeds,
            opset=opset, name=str(path), variadic=True,
        )  # fmt: skip
    _declare(proto, outputs)
    other = "dynamo" if how == "optimum" else "optimum"
    source = Source(
        name=str(path),
        open_reference=lambda: TransformersSession(answered, boundary.inputs, outputs),
        refuse=lambda session: _refuse_other_boundary(path, boundary, outputs, session, other),
        outputs=lambda session: _with_types(outputs, session),
        prepare=artifact.prepare,
        output=_answer(outputs, boundary.task),
        lineage={
            **{k: v for k, v in artifact.lineage.items() if v},
            "source": artifact.digest,
            "exporter": "optimum" if how == "optimum" else "torch.onnx dynamo",
            "task": boundary.task,
            **({"part": boundary.part} if boundary.part else {}),
            "opset": opset,
            "weights_dtype": artifact.dtype,
            "tools": tool_versions(
                "torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxscript", "onnxruntime"
            ),
        },
        feeds=lambda inputs: _drawn(inputs, config, shapes),
    )  # fmt: skip
    try:
        return finish(proto, source, asked, out)
    except ModelError as e:
        if how == "optimum" and asked.dtype == "float32" and "differs by" in e.what:
            raise ModelError(
                f"{e.what}, exported by optimum", "try --option exporter=dynamo, or do not use it"
            ) from e
        raise


def _open(artifact: Artifact, config: Any, asked: ExportOptions, how: str) -> tuple[Boundary, Part]:
    """The boundary, and the network behind it with its weights."""
    path = artifact.folder
    size = artifact.lineage.get("image_size")
    task, part = asked.rest.get("task", ""), asked.rest.get("part", "")
    cls = model_class(config, path)
    if task:
        cls = _class_for(task, config, path)
    model = load_network(path, cls)
    if how == "dynamo" and not supported_tasks(config.model_type):
        boundary = unsupported_boundary(model, config, path, asked.shapes, size)
    else:
        boundary = describe(
            config, path, cls=cls, task=task, part=part, shapes=asked.shapes,
            image=tuple(size) if size else None, model=model,
        )  # fmt: skip
    return boundary, Part(model, boundary.part, [s.name for s in boundary.inputs])


def _class_for(task: str, config: Any, path: Path) -> Any:
    """The class of an architecture for another task than it was saved for.

    Raises:
        UsageError: no such task, or not for this architecture.
    """
    tasks = offline("optimum.exporters.tasks").TasksManager
    try:
        with quiet():
            found = tasks.get_model_class_for_task(tasks.map_from_synonym(task), model_type=config.model_type)
            mapping = getattr(found, "_model_mapping", None)
            return found if mapping is None else mapping[type(config)]
    except (KeyError, ValueError) as e:
        known = [t for t in supported_tasks(config.model_type) if not t.endswith("-with-past")]
        raise UsageError(
            f"transformers has no '{config.model_type}' for the task {task!r} ({path})",
            f"choose {', '.join(known)}" if known else "leave task out",
        ) from e


def _by_optimum(boundary: Boundary, opset: int, path: Path) -> Any:
    convert = offline("optimum.exporters.onnx.convert")
    onnx = require("onnx", extra="ort", purpose="exporting to ONNX")
    torch = require("torch", extra="torch", purpose="exporting to ONNX")
    failures = (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        AssertionError,
        ImportError,
    )
    with tempfile.TemporaryDirectory(prefix="edgekd-optimum-") as folder:
        file = Path(folder) / "model.onnx"
        try:
            with quiet(), torch.random.fork_rng(devices=[]):
                convert.export_pytorch(boundary.submodel, boundary.config, opset, file)
        except (*failures, torch.onnx.errors.OnnxExporterError) as e:
            raise ModelError(
                f"optimum cannot export {path} to ONNX opset {opset} ({one_line(e, 200)})",
                "try --option exporter=dynamo",
            ) from e
        proto = onnx.load(str(file))
    strip_provenance(proto)
    return proto


def _drawn(inputs: Sequence[TensorSpec], config: Any, shapes: Shapes) -> Iterator[Mapping[str, Array]]:
    """Parity's feeds with ids over the whole vocabulary, masks padded on the right, and positions that count up.

    Ids of 0 and 1 would take a mixture of experts down the same path at every token, and agree by accident.
    """
    varies = any(isinstance(d, str) for s in inputs for d in s.shape[1:])
    # Where only the batch varies, the three sizes would be the three batches over again.
    few = None if varies else len(parity_batches(inputs, shapes))
    text = getattr(config, "text_config", config)
    vocabulary = int(getattr(text, "vocab_size", 0) or 2)
    for number, feeds in enumerate(islice(parity_feeds(inputs, shapes), few)):
        rng = np.random.default_rng(PARITY_SEED + number)
        filled = dict(feeds)
        for name, array in feeds.items():
            if array.dtype.kind != "i":
                continue
            if name.endswith("input_ids"):
                filled[name] = rng.integers(0, vocabulary, array.shape).astype(array.dtype)
            elif name.endswith("attention_mask") and array.ndim == 2:
                length = array.shape[1]
                lengths = rng.integers((length + 1) // 2, length + 1, array.shape[0])
                lengths[0] = length
                filled[name] = (np.arange(length) < lengths[:, None]).astype(array.dtype)
            elif name == "position_ids":
                filled[name] = np.broadcast_to(np.arange(array.shape[1]), array.shape).astype(array.dtype)
            elif name == "token_type_ids":
                kinds = int(getattr(text, "type_vocab_size", 1) or 1)
                filled[name] = rng.integers(0, kinds, array.shape).astype(array.dtype)
        yield filled


def _observed(
    answered: Answered, boundary: Boundary, shapes: Shapes, config: Any, path: Path
) -> tuple[TensorSpec, ...]:
    """What the network answers, and which dimensions of that follow which input: found by running it at three sizes.

    Raises:
        ModelError: it answers none of the outputs that were named.
    """
    seen: list[tuple[dict[str, int], dict[str, Array]]] = []
    feeds = list(_drawn(boundary.inputs, config, shapes))
    # Least, middle and greatest: different in every dimension that varies.
    for fed in (feeds[0], feeds[len(feeds) // 2], feeds[-1]):
        sizes = {
            d: n
            for s in boundary.inputs
            for d, n in zip(s.shape, fed[s.name].shape, strict=True)
            if isinstance(d, str)
        }
        seen.append((sizes, answered.run(fed)))
    names = [n for n in boundary.outputs if all(n in made for _, made in seen)]
    if not names:
        raise ModelError(
            f"{path} answers {', '.join(seen[0][1]) or 'no tensor'}, optimum expects {', '.join(boundary.outputs)}",
            "name another task: --option task=feature-extraction",
        )
    specs = []
    for name in names:
        arrays = [made[name] for _, made in seen]
        shape = tuple(
            _dimension(f"{name}.{axis}", [a.shape[axis] for a in arrays], [s for s, _ in seen])
            for axis in range(arrays[0].ndim)
        )
        specs.append(TensorSpec(name=name, dtype=str(arrays[0].dtype), shape=shape))
    return tuple(specs)


def _dimension(name: str, found: Sequence[int], sizes: Sequence[Mapping[str, int]]) -> Dim:
    for symbol in sizes[0]:
        values = [s[symbol] for s in sizes]
        if values == list(found) and len(set(values)) > 1:
            return symbol
    return found[0] if len(set(found)) == 1 else name


def _declare(proto: Any, outputs: Sequence[TensorSpec]) -> None:
    """Write the observed shapes of the outputs, of which tracers leave dimensions unnamed."""
    wanted = {s.name: s for s in outputs}
    for value in proto.graph.output:
        spec = wanted.get(value.name)
        if spec is None:
            continue
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for dim in spec.shape:
            if isinstance(dim, int):
                shape.dim.add().dim_value = dim
            else:
                shape.dim.add().dim_param = dim


def _with_types(outputs: Iterable[TensorSpec], session: Session) -> tuple[TensorSpec, ...]:
    found = {s.name: s for s in session.outputs}
    return tuple(replace(s, dtype=found[s.name].dtype) for s in outputs)


def _refuse_other_boundary(
    path: Path, boundary: Boundary, outputs: Sequence[TensorSpec], session: Session, other: str
) -> None:
    for kind, wanted, found in (
        ("inputs", boundary.inputs, session.inputs), ("outputs", outputs, session.outputs),
    ):  # fmt: skip
        ours, theirs = [s.name for s in wanted], [s.name for s in found]
        if sorted(ours) != sorted(theirs):
            raise ModelError(
                f"{path} was exported with {kind} {theirs}, expected {ours}",
                f"the network does not use one of them: try another task, or --option exporter={other}",
            )
        shapes = {s.name: s.shape for s in found}
        for spec in wanted:
            if shapes[spec.name] != spec.shape:
                raise ModelError(
                    f"{path} was exported with '{spec.name}' of shape {shapes[spec.name]}, expected {spec.shape}",
                    f"a size was fixed while it was traced: try --option exporter={other}",
                )


def _answer(outputs: Sequence[TensorSpec], task: str) -> dict[str, str]:
    """The output that holds the answer, of tasks that decode logits."""
    known = task in (
        "image-classification",
        "text-classification",
        "token-classification",
        "audio-classification",
    )
    return {"name": "logits", "kind": "logits"} if known and "logits" in [s.name for s in outputs] else {}
