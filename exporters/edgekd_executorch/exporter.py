"""ExecuTorch as a format: .pte programs from torch modules, and .pte files from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import storage_error, write_bytes
from edgekd.lazy import require
from edgekd.model import MODEL_FILE, Model
from edgekd.parity import Parity, check_parity, parity_batches, parity_feeds
from edgekd.quantize.config import QuantConfig
from edgekd.stages import tool_versions
from edgekd.target import SessionOptions
from edgekd_executorch import settings
from edgekd_executorch.library import EXTRA, WRITING, quiet
from edgekd_executorch.lowering import Lowered, export_program, lower, table, wrap
from edgekd_executorch.program import ENTRY, ETRECORD, read_program
from edgekd_executorch.settings import ExportOptions, read_options
from edgekd_executorch.sizes import Sizes, plan_sizes


class ExecuTorchExporter:
    """Writes and reads ``.pte``."""

    format = "executorch"
    OPTIONS: Mapping[str, str] = settings.OPTIONS

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``model`` into the existing folder ``out`` as ``model.pte``, checked against torch.

        Args:
            model: a ``model.json`` folder.
            out: where to write; equal models and options give equal bytes.
            options: ``shapes``, ``feeds``, ``atol``, ``rtol`` as of every exporter, ``dtype`` (float32 or float16,
                with float32 at the boundary), and :data:`OPTIONS`.

        Raises:
            ModelError: in training mode, not exportable, nothing that the backend takes, or beyond the tolerance
            (nothing is left in ``out``); UsageError: an unknown option, or a size that nothing bounds.
        """
        from edgekd_torch.modules import load_module
        from edgekd_torch.runtime import refuse_training

        asked = read_options(options)
        sizes = plan_sizes(model.inputs, asked.shapes, asked.max_batch)
        module = load_module(model)
        refuse_training(module, model.name)
        wrapped = wrap(module, model.outputs, model.name, asked.dtype)
        program = export_program(wrapped, model.name, sizes, starred=True)
        lowered = lower(
            program, model, sizes, backend=asked.backend, dtype=asked.dtype, devtools=asked.devtools
        )
        try:
            write_program(lowered, out)
            parity = _parity(model, out / ENTRY, sizes, asked, options.get("feeds") or ())
        except BaseException:
            remove(out)
            raise
        return artifact(
            model, out, lowered, sizes, asked,
            {"parity": parity.to_json(), "tools": tool_versions("torch", "executorch")},
        )  # fmt: skip

    def quantize_model(
        self,
        model: Model,
        config: QuantConfig,
        feeds: Iterable[Mapping[str, Array]],
        out: Path,
        options: Mapping[str, Any],
    ) -> Artifact:
        """Write a statically quantized INT8 ``model`` into the existing folder ``out`` (PT2E, XNNPACKQuantizer).

        Args:
            model: a ``model.json`` folder.
            config: ``variant`` cpu; ``calibration`` minmax (``observer`` histogram is an option).
            feeds: calibration feeds; read once, at most ``config.examples`` examples.
            out: where to write; equal inputs give equal bytes.
            options: as of :meth:`export`; the backend must be xnnpack.

        Raises:
            DataError: no feeds, feeds that do not fit, NaN or infinity; ModelError: nothing to quantize;
            UsageError: a configuration that ExecuTorch's quantizer does not have.
        """
        from edgekd_executorch.quantizing import quantize_module

        return quantize_module(model, config, feeds, out, options)

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Always refused: a program's weights are packed for its backend and cannot be quantized any more.

        Raises:
            UsageError: names the way that works.
        """
        raise UsageError(
            f"{artifact.path} is an ExecuTorch program, whose weights are packed for its backend",
            "quantize from the torch model: edgekd quantize MODEL --dtype int8 --format executorch",
        )

    def read(self, path: Path, outputs: Sequence[str] = ()) -> Artifact:
        """A ``.pte`` file as an artifact; nothing is written and nothing of it is run.

        Names and varying sizes are those that EdgeKD wrote into the file. A program from elsewhere has inputs
        ``input_0``, … and outputs ``output_0``, … (:func:`edgekd_executorch.boundary.bare_boundary`).

        Args:
            outputs: the outputs that matter, in order; empty for all.

        Raises:
            ModelError: missing, damaged, or without such an output.
        """
        program = read_program(path)
        found = {s.name: s for s in program.boundary.outputs}
        missing = [name for name in outputs if name not in found]
        if missing:
            raise ModelError(f"{path} has no output '{missing[0]}'", f"it has {', '.join(found)}")
        return Artifact(
            folder=path.parent,
            entry=path.name,
            format=self.format,
            dtype=program.boundary.dtype,
            files=(record_file(path.parent, path.name),),
            inputs=program.boundary.inputs,
            outputs=tuple(found[name] for name in outputs) if outputs else program.boundary.outputs,
            lineage={
                "source": path.name,
                "backends": list(program.backends),
                "limits": _limits(program.boundary.limits),
                "operators": list(program.operators),
            },
        )


def write_program(lowered: Lowered, out: Path) -> None:
    """Write ``model.pte``, and ``model.etrecord`` where there is one.

    Raises:
        StorageError: a write failed.
    """
    write_bytes(out / ENTRY, lowered.buffer)
    if lowered.etrecord is not None:
        try:
            with quiet():
                lowered.etrecord.save(str(out / ETRECORD))
        except OSError as e:
            raise storage_error(e, out / ETRECORD) from e


def remove(out: Path) -> None:
    """Take back what :func:`write_program` wrote."""
    for name in (ENTRY, ETRECORD):
        (out / name).unlink(missing_ok=True)


def _parity(
    model: Model, path: Path, sizes: Sizes, asked: ExportOptions, real: Iterable[Mapping[str, Array]]
) -> Parity:
    from edgekd_executorch.runtime import ExecuTorchRuntime
    from edgekd_torch.runtime import TorchRuntime

    torch = require("torch", extra=EXTRA, purpose=WRITING)
    reference = TorchRuntime().open(
        model.folder / MODEL_FILE, SessionOptions(threads=torch.get_num_threads())
    )
    candidate = ExecuTorchRuntime().open(path, SessionOptions(threads=pool_threads()))
    try:
        return check_parity(
            reference,
            candidate,
            parity_feeds(sizes.inputs, sizes.usual),
            atol=asked.atol,
            rtol=asked.rtol,
            batches=parity_batches(sizes.inputs, sizes.usual),
            real=real,
            dtype=asked.dtype,
        )
    finally:
        reference.close()
        candidate.close()


def pool_threads() -> int:
    """As many threads as the process's pool has: another number would be refused while a session is open."""
    from edgekd_executorch.library import bindings

    with quiet():
        return int(bindings()._threadpool_get_thread_count())


def artifact(
    model: Model, out: Path, lowered: Lowered, sizes: Sizes, asked: ExportOptions, lineage: Mapping[str, Any]
) -> Artifact:
    """The artifact of what :func:`write_program` wrote."""
    record = {} if lowered.etrecord is None else {"companions": [_companion(out, ETRECORD)]}
    made = Artifact(
        folder=out,
        entry=ENTRY,
        format=ExecuTorchExporter.format,
        dtype=lowered.boundary.dtype,
        files=(record_file(out, ENTRY),),
        inputs=lowered.boundary.inputs,
        outputs=lowered.boundary.outputs,
        output=dict(model.output),
        lineage={
            "model": model.as_artifact().digest,
            "factory": model.factory,
            "backend": asked.backend,
            "limits": _limits(sizes.limits),
            "placement": table(lowered.placement),
            **record,
            **lineage,
        },
    )
    return replace(made, prepare=dict(model.prepare))


def _companion(out: Path, name: str) -> dict[str, str]:
    return {"path": name, "sha256": record_file(out, name).sha256}


def _limits(limits: Mapping[str, tuple[int, int]]) -> dict[str, list[int]]:
    return {name: list(ends) for name, ends in limits.items()}
