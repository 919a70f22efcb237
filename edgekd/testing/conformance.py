"""The rules that every runtime and exporter keeps; each broken one raises an error that names it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import ARTIFACT_FILE, Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import DataError, EdgeKDError, InputError, TargetUnavailableError, UsageError
from edgekd.files import canonical_json
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec, draw_feeds
from edgekd.target import Exporter, Runtime, Session, SessionOptions

_SEED = 7
#: Names that have broken exporters: a space, a path separator, a colon, another alphabet.
HOSTILE_NAMES = ("an input", "scope/tensor:0", "Bild-größe", "入力")


class ConformanceError(AssertionError):
    """A plugin breaks a rule.

    Attributes:
        rule: the rule's name, e.g. ``"outputs-true"``.
    """

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


def _require(holds: object, rule: str, what: str) -> None:
    if not holds:
        raise ConformanceError(rule, what)


@contextmanager
def _refuses(rule: str, what: str, *errors: type[EdgeKDError]) -> Iterator[None]:
    """The block must raise one of ``errors``, with a message of one line."""
    names = " or ".join(e.__name__ for e in errors)
    try:
        yield
    except errors as e:
        _require("\n" not in str(e), rule, f"{what}: the message has several lines: {e}")
    except Exception as e:
        raise ConformanceError(rule, f"{what}: raised {type(e).__name__} ({e}), expected {names}") from e
    else:
        raise ConformanceError(rule, f"{what}: accepted, expected {names}")


def check_runtime(
    runtime: Runtime,
    path: Path,
    tmp_path: Path,
    *,
    device: str = "cpu",
    provider: str = "",
    threads: int = 1,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]] | None = None,
    batches: Sequence[int] = (1, 2, 7),
) -> None:
    """Check a runtime against the protocol on one good model file.

    Args:
        runtime: an instance of the plugin.
        path: a file that it opens.
        tmp_path: an empty folder.
        shapes: sizes of dynamic dimensions other than the batch (see :func:`edgekd.spec.parse_shapes`).
        batches: batch sizes to run, where the batch is dynamic.

    Raises:
        ConformanceError: names the rule.
    """
    _require(isinstance(runtime, Runtime), "protocol", f"{type(runtime).__name__} lacks a member of Runtime")
    _require(isinstance(runtime.name, str) and runtime.name, "protocol", "name is not a word")
    formats = runtime.formats
    _require(isinstance(formats, tuple) and formats, "protocol", "formats is not a non-empty tuple")
    _require(runtime.unavailable(device, provider) == "", "available", f"says no to {device}+{provider}")
    _require(runtime.unavailable("no-such-device", ""), "unknown-device", "says yes to a device that is not")
    for rule, wrong in (
        ("unknown-device", SessionOptions(device="no-such-device")),
        ("unknown-provider", SessionOptions(device=device, provider="no-such-provider")),
    ):
        with _refuses(rule, f"opening on {wrong.device}+{wrong.provider}", TargetUnavailableError):
            runtime.open(path, wrong)
    options = SessionOptions(device=device, provider=provider, threads=threads)
    _check_damaged(runtime, path, tmp_path, options)
    session = runtime.open(path, options)
    _require(isinstance(session, Session), "protocol", f"{type(session).__name__} lacks a member of Session")
    found = session.placement
    _require(found.device == device, "placement", f"is on {found.device!r}, asked for {device!r}")
    _require(found.provider, "placement", "does not say which provider it uses")
    _require(found.threads == threads, "placement", f"has {found.threads} threads, asked for {threads}")
    _require(runtime.name in found.runtime and any(c.isdigit() for c in found.runtime), "placement",
             f"{found.runtime!r} is not name and version")  # fmt: skip
    canonical_json(dict(found.detail))
    for specs in (session.inputs, session.outputs):
        names = [s.name for s in specs]
        _require(names and all(names) and len(set(names)) == len(names), "specs", f"names are {names}")
    dynamic = any(s.dynamic_batch for s in session.inputs)
    for batch in batches if dynamic else (1,):
        sized = {
            s.name: ((batch, *(shapes[s.name][1][1:])) if s.dynamic_batch else shapes[s.name][1],) * 3
            for s in session.inputs
            if shapes and s.name in shapes
        }
        _check_calls(session, draw_feeds(session.inputs, seed=_SEED, shapes=sized, batch=batch))
    _check_feeds(session, draw_feeds(session.inputs, seed=_SEED, shapes=shapes or {}))
    session.close()
    session.close()


def _check_damaged(runtime: Runtime, path: Path, tmp_path: Path, options: SessionOptions) -> None:
    with _refuses("missing-file", "a file that is not there", InputError):
        runtime.open(tmp_path / "no-such-file" / path.name, options)
    data = path.read_bytes()
    for name, content in (("empty", b""), ("truncated", data[: len(data) // 2]), ("junk", b"\x93junk" * 40)):
        broken = tmp_path / f"conformance-{name}" / path.name
        broken.parent.mkdir(exist_ok=True)
        broken.write_bytes(content)
        with _refuses("damaged-file", f"an {name} file", InputError):
            runtime.open(broken, options)


def _check_calls(session: Session, feeds: dict[str, Array]) -> None:
    first, second = session.run(feeds), session.run(feeds)
    _require(list(first) == [s.name for s in session.outputs], "outputs-true", f"run gave {list(first)}")
    sizes: dict[str, int] = {}
    for spec in session.inputs:
        sizes.update(
            {d: n for d, n in zip(spec.shape, feeds[spec.name].shape, strict=True) if isinstance(d, str)}
        )
    for spec in session.outputs:
        made = first[spec.name]
        _require(isinstance(made, np.ndarray), "outputs-true", f"'{spec.name}' is a {type(made).__name__}")
        fits = str(made.dtype) == spec.dtype and made.ndim == len(spec.shape)
        fits = fits and all(
            n == (d if isinstance(d, int) else sizes.get(d, n))
            for d, n in zip(spec.shape, made.shape, strict=True)
        )
        _require(fits, "outputs-true", f"promised {spec}, gave {made.dtype}{made.shape}")
        _require(made.tobytes() == second[spec.name].tobytes(), "deterministic", f"'{spec.name}' varies")
    bound = session.bind({name: array.copy() for name, array in feeds.items()})
    gc.collect()  # whatever was not kept alive is gone now
    returned = [bound() for _ in range(3)][-1]
    outputs = getattr(bound, "outputs", None)
    after = outputs() if callable(outputs) else returned
    if isinstance(after, Mapping) and all(isinstance(v, np.ndarray) for v in after.values()):
        for name, made in first.items():
            same = name in after and np.array_equal(after[name], made, equal_nan=made.dtype.kind == "f")
            _require(same, "bind-agrees", f"'{name}' differs between run and bind")
    again = session.run(feeds)
    unchanged = all(again[n].tobytes() == first[n].tobytes() for n in first)
    _require(unchanged, "bind-agrees", "a bound call changed what run answers")


def _check_feeds(session: Session, feeds: dict[str, Array]) -> None:
    spec = session.inputs[0]
    array = feeds[spec.name]
    other = np.float64 if array.dtype != np.float64 else np.float32
    for rule, wrong in (
        ("wrong-dtype", {**feeds, spec.name: array.astype(other)}),
        ("wrong-rank", {**feeds, spec.name: array[None]}),
        ("missing-input", {k: v for k, v in feeds.items() if k != spec.name}),
        ("unknown-input", {**feeds, "no such input": array}),
    ):
        for call in (session.run, session.bind):
            with _refuses(rule, f"{call.__name__} with input {spec}", DataError):
                call(wrong)


def check_exporter(
    exporter: Exporter,
    model: Model,
    tmp_path: Path,
    *,
    options: Mapping[str, Any] | None = None,
    quantize: QuantConfig | None = None,
) -> Artifact:
    """Check an exporter against the protocol on one good model; returns the export.

    Args:
        exporter: an instance of the plugin.
        model: a model that it can write; its inputs must be drawable.
        tmp_path: an empty folder.
        quantize: also check quantization with this configuration.

    Raises:
        ConformanceError: names the rule.
    """
    _require(
        isinstance(exporter, Exporter), "protocol", f"{type(exporter).__name__} lacks a member of Exporter"
    )
    _require(isinstance(exporter.format, str) and exporter.format, "protocol", "format is not a word")
    options = dict(options or {})
    with _refuses("unknown-option", "an option that does not exist", UsageError):
        exporter.export(model, _folder(tmp_path, "option"), {**options, "no-such-option": 1})
    artifact = exporter.export(model, _folder(tmp_path, "first"), options)
    _check_artifact(exporter, artifact, tmp_path / "first", model.inputs, model.outputs)
    _require(artifact.prepare == model.prepare, "carries-prepare", f"prepare became {artifact.prepare}")
    _require(artifact.output == model.output, "carries-output", f"output became {artifact.output}")
    again = exporter.export(model, _folder(tmp_path, "second"), options)
    _require(
        again.digest == artifact.digest, "deterministic", "two exports of one model differ in their bytes"
    )
    with _refuses("missing-file", "a file that is not there", InputError):
        exporter.read(tmp_path / "no-such-file" / artifact.entry)
    data = artifact.path.read_bytes()
    for name, content in (("empty", b""), ("truncated", data[: len(data) // 2])):
        broken = _folder(tmp_path, name) / artifact.entry
        broken.write_bytes(content)
        with _refuses("damaged-file", f"an {name} file", InputError):
            exporter.read(broken)
    _check_hostile_names(exporter, model, tmp_path, options)
    if quantize is not None:
        _check_quantize(exporter, artifact, tmp_path, quantize)
    return artifact


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def _check_artifact(
    exporter: Exporter,
    artifact: Artifact,
    out: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> None:
    _require(artifact.format == exporter.format, "artifact", f"format is {artifact.format!r}")
    names = [f.path for f in artifact.files]
    _require(
        artifact.folder == out and artifact.entry in names, "artifact", f"{artifact.entry} is not in {names}"
    )
    _require(names == sorted(names), "artifact", f"files are not sorted: {names}")
    there = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.name != ARTIFACT_FILE)
    _require(there == names, "leftovers", f"{out.name} holds {there}, the artifact names {names}")
    _require(all(record_file(out, f.path) == f for f in artifact.files), "artifact", "a digest is wrong")
    for kind, wanted, found in (("inputs", inputs, artifact.inputs), ("outputs", outputs, artifact.outputs)):
        _require([s.name for s in wanted] == [s.name for s in found], "names", f"{kind} became {found}")
    canonical_json(artifact.to_json())
    _require(artifact.lineage.get("tools"), "lineage", "does not say which tool versions made it")
    text = b"".join((out / name).read_bytes() for name in names)
    for place in (str(out), sys.prefix, str(Path(__file__).parent)):
        _require(place.encode() not in text, "machine-paths", f"the file names {place}")
    read = exporter.read(artifact.path)
    same = (read.digest, read.dtype, read.inputs, read.outputs) == (
        artifact.digest, artifact.dtype, artifact.inputs, artifact.outputs,
    )  # fmt: skip
    _require(same, "read-back", f"read {read.dtype} {read.inputs} {read.outputs}, exported {artifact.dtype} "
             f"{artifact.inputs} {artifact.outputs}")  # fmt: skip


def _check_hostile_names(
    exporter: Exporter, model: Model, tmp_path: Path, options: Mapping[str, Any]
) -> None:
    folder = _folder(tmp_path, "hostile-model")
    (folder / model.weights).write_bytes((model.folder / model.weights).read_bytes())

    def renamed(specs: Sequence[TensorSpec], start: int) -> tuple[TensorSpec, ...]:
        names = [f"{HOSTILE_NAMES[(start + i) % 4]} {start + i}" for i in range(len(specs))]
        return tuple(replace(s, name=n) for s, n in zip(specs, names, strict=True))

    hostile = replace(
        model, folder=folder, inputs=renamed(model.inputs, 0), outputs=renamed(model.outputs, 1), output={}
    )
    hostile.save()
    made = exporter.export(hostile, _folder(tmp_path, "hostile"), options)
    _check_artifact(exporter, made, tmp_path / "hostile", hostile.inputs, hostile.outputs)


def _check_quantize(exporter: Exporter, artifact: Artifact, tmp_path: Path, config: QuantConfig) -> None:
    batches = [draw_feeds(artifact.inputs, seed=i, shapes={}, batch=2) for i in range(2)]
    with _refuses("empty-calibration", "no calibration feeds", DataError):
        exporter.quantize(artifact, config, [], _folder(tmp_path, "no-feeds"))
    spoiled = {k: v.copy() for k, v in batches[0].items()}
    name = next((k for k, v in spoiled.items() if v.dtype.kind == "f" and v.size), None)
    if name is not None:
        spoiled[name].flat[0] = np.nan
        with _refuses("spoiled-calibration", "NaN in the calibration feeds", DataError):
            exporter.quantize(artifact, config, [spoiled], _folder(tmp_path, "nan-feeds"))
    made = [
        exporter.quantize(artifact, config, iter(batches), _folder(tmp_path, f"quantized-{i}"))
        for i in range(2)
    ]
    _check_artifact(exporter, made[0], tmp_path / "quantized-0", artifact.inputs, artifact.outputs)
    _require(
        made[0].dtype == config.dtype, "quantized", f"dtype is {made[0].dtype}, asked for {config.dtype}"
    )
    _require(made[0].prepare == artifact.prepare, "carries-prepare", "quantizing lost it")
    _require(made[0].digest == made[1].digest, "deterministic", "two quantizations differ in their bytes")
    for left in ("no-feeds", "nan-feeds"):
        folder = tmp_path / left
        _require(
            not folder.is_dir() or not any(folder.iterdir()), "leftovers", f"a refusal left files in {left}"
        )
