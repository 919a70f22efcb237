"""From an ONNX model in memory to a checked artifact: opset, optimisation, precision, bytes, parity."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.parity import check_parity, parity_batches, parity_feeds
from edgekd.spec import TensorSpec
from edgekd.target import Session, SessionOptions
from edgekd_onnx import writing
from edgekd_onnx.export_options import ExportOptions
from edgekd_onnx.precision import convert_precision
from edgekd_onnx.reading import guess_dtype
from edgekd_onnx.reference import NoReferenceError, ReferenceSession
from edgekd_onnx.rewriting import convert_opset, optimise
from edgekd_onnx.writing import ENTRY, EXTERNAL, strip_provenance, write_proto

#: What ONNX Runtime says of a type that it has no kernel for (onnxruntime/core/framework/session_state_utils.cc).
_NO_KERNEL = ("NOT_IMPLEMENTED", "Could not find an implementation", "is not supported", "Type Error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a model in memory was made of.

    Attributes:
        name: for messages.
        open_reference: opens the session that the file must agree with.
        adapt: feeds of the file -> feeds of the reference, where they differ.
        feeds: draws the feeds of parity from the file's inputs; None draws them as everywhere.
        refuse: raises where a session of the file does not have the boundary that was promised.
        outputs: session -> specs with the source's own names of dimensions.
        prepare, output, lineage: of the artifact.
        dtype: of the source where it is quantized, which the file has to keep; empty where it is float.
    """

    name: str
    open_reference: Callable[[], Session]
    refuse: Callable[[Session], None]
    outputs: Callable[[Session], tuple[TensorSpec, ...]]
    prepare: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    feeds: Callable[[tuple[TensorSpec, ...]], Iterable[Mapping[str, Array]]] | None = None
    quantized: str = ""


def threads_here() -> int:
    """Threads of the sessions that parity is checked with."""
    return min(4, os.cpu_count() or 1)


def finish(proto: Any, source: Source, asked: ExportOptions, out: Path) -> Artifact:
    """Change ``proto`` as asked, write it into ``out`` and check it against its source.

    Raises:
        ModelError: it cannot be changed so, does not run, or answers beyond the tolerance; nothing is left in ``out``.
    """
    lineage: dict[str, Any] = dict(source.lineage)
    if asked.opset is not None:
        proto, before = convert_opset(proto, asked.opset)
        lineage |= {"opset": asked.opset} | ({"opset_converted_from": before} if before else {})
    proto, optimised = optimise(proto, asked.optimize)
    if optimised:
        lineage["optimize"] = optimised
    dtype = guess_dtype(proto)
    if source.quantized and dtype != source.quantized:
        raise ModelError(
            f"{asked.optimize} folded the {source.quantized} weights of {source.name} into {dtype}",
            "optimise before quantizing, or with ort-basic",
        )
    if asked.dtype != "float32":
        proto, lineage["precision"] = convert_precision(proto, asked.dtype, asked.io)
        dtype = asked.dtype
    strip_provenance(proto)
    with _kept_only_whole(out):
        files = write_proto(proto, out, large=writing.weight_bytes(proto) > writing.EXTERNAL_BYTES)
        inputs, outputs, lineage["parity"] = _check(out / ENTRY, proto, source, asked)
    return Artifact(
        folder=out,
        entry=ENTRY,
        format="onnx",
        dtype=dtype,
        files=tuple(record_file(out, f) for f in sorted(files)),
        inputs=inputs,
        outputs=outputs,
        prepare=dict(source.prepare),
        output=dict(source.output),
        lineage=lineage,
    )


@contextlib.contextmanager
def _kept_only_whole(out: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for name in (ENTRY, EXTERNAL):
            with contextlib.suppress(OSError):
                (out / name).unlink()
        raise


def _check(
    path: Path, proto: Any, source: Source, asked: ExportOptions
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, Any]]:
    """The file's inputs and outputs, and how far it is from its source (or why that was not run)."""
    from edgekd_onnx.runtime import OnnxRuntime

    candidate: Session
    try:
        candidate = OnnxRuntime().open(path, SessionOptions(threads=threads_here()))
    except ModelError as e:
        if asked.dtype != "bfloat16" or not any(words in e.what for words in _NO_KERNEL):
            raise
        # Valid for the devices that have bfloat16, which this one's kernels do not: what ONNX says of it is compared.
        why = e.what.replace(str(path), path.name)
        try:
            candidate = ReferenceSession(path, *_declared(path))
            found = _compare(candidate, source, asked)
        except NoReferenceError as unchecked:
            reasons = f"{why}; {unchecked.what.replace(str(path), path.name)}"
            return (*_declared(path), {"not_run": reasons, "atol": asked.atol, "rtol": asked.rtol})
        return (*found[:2], {**found[2], "checked_with": candidate.placement.runtime, "no_kernel": why})
    return _compare(candidate, source, asked)


def _compare(
    candidate: Session, source: Source, asked: ExportOptions
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, Any]]:
    sessions: list[Session] = [candidate]
    try:
        source.refuse(candidate)
        reference = source.open_reference()
        sessions.append(reference)
        compared = _Converting(candidate, reference) if asked.dtype != "float32" else candidate
        drawn = (
            source.feeds(reference.inputs) if source.feeds else parity_feeds(reference.inputs, asked.shapes)
        )
        parity = check_parity(
            reference, compared, drawn, atol=asked.atol, rtol=asked.rtol,
            batches=parity_batches(reference.inputs, asked.shapes), real=asked.feeds,
            dtype=source.quantized or asked.dtype,
        )  # fmt: skip
        return candidate.inputs, source.outputs(candidate), parity.to_json()
    except ModelError as e:
        lossy = "differs by" in e.what or "real examples" in e.what
        if isinstance(e, NoReferenceError) or asked.dtype == "float32" or not lossy:
            raise
        raise ModelError(
            f"{source.name} in {asked.dtype}: {e.what}",
            "this model loses too much: stay in float32, or allow more with --option atol=... --option rtol=...",
        ) from e
    finally:
        for session in sessions:
            session.close()


def _declared(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from edgekd_onnx.reading import read_artifact

    read = read_artifact(path, ())
    return read.inputs, read.outputs


class _Converting:
    """A session whose feeds and answers are converted to the reference's types."""

    def __init__(self, session: Session, reference: Session) -> None:
        self.inputs, self.outputs, self.placement = reference.inputs, reference.outputs, session.placement
        self._session = session
        self._types = {s.name: s.dtype for s in session.inputs}
        self._wanted = {s.name: s.dtype for s in reference.outputs}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = self._session.run({k: v.astype(self._types[k]) for k, v in feeds.items()})
        return {k: v.astype(self._wanted.get(k, v.dtype)) for k, v in made.items()}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        return self._session.bind(feeds)

    def close(self) -> None:
        self._session.close()
