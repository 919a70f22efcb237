"""What an exporter and its runtime keep together: the file answers as the model does, at every size that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import EdgeKDError
from edgekd.model import MODEL_FILE, Model
from edgekd.parity import PARITY_ATOL, PARITY_RTOL, Parity, check_parity, parity_batches, parity_feeds
from edgekd.plugins import load_plugin
from edgekd.target import Exporter, Runtime, SessionOptions
from edgekd.testing.conformance import ConformanceError, _folder, _require


def check_round_trip(
    exporter: Exporter,
    runtime: Runtime,
    model: Model,
    tmp_path: Path,
    *,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]],
    real: Iterable[Mapping[str, Array]] = (),
    options: Mapping[str, Any] | None = None,
    dynamic: bool = True,
    device: str = "cpu",
    provider: str = "",
    atol: float = PARITY_ATOL,
    rtol: float = PARITY_RTOL,
) -> tuple[Artifact, Parity]:
    """Export a model twice and run the file beside torch: this check compares by itself, whatever the exporter said.

    Args:
        model: its inputs must be drawable.
        tmp_path: an empty folder.
        shapes: least, usual and greatest size of each dynamic input, of three different sizes.
        real: feeds of real data, compared as well.
        dynamic: whether the format keeps dynamic sizes; False for one that fixes them.

    Returns:
        The first export, and how far it was from torch over batches 1, 2 and the greatest, the three sizes, and ``real``.

    Raises:
        ConformanceError: names the rule (``parity``, ``parity-recorded``, ``deterministic``, ``dynamic``).
    """
    # A format that fixes sizes takes the usual ones.
    kept_sizes = shapes if dynamic else {name: (sizes[1],) * 3 for name, sizes in shapes.items()}
    chosen = {**(options or {}), "shapes": kept_sizes}
    made = [exporter.export(model, _folder(tmp_path, f"export-{i}"), chosen) for i in range(2)]
    artifact = made[0]
    _require(
        artifact.digest == made[1].digest, "deterministic", "two exports of one model differ in their bytes"
    )
    _check_recorded(artifact, dynamic)
    for spec, wanted in zip(artifact.inputs, model.inputs, strict=True):
        kept = [isinstance(d, str) for d in spec.shape] == [isinstance(d, str) for d in wanted.shape]
        _require(kept or not dynamic, "dynamic", f"input {wanted} became {spec}")
    reference = load_plugin("edgekd.runtimes", "torch")().open(model.folder / MODEL_FILE, SessionOptions())
    candidate = runtime.open(artifact.path, SessionOptions(device=device, provider=provider))
    try:
        found = check_parity(
            reference, candidate, parity_feeds(artifact.inputs, kept_sizes), atol=atol, rtol=rtol,
            batches=parity_batches(artifact.inputs, kept_sizes), names=_outputs(model, candidate), real=real,
            dtype=artifact.dtype,
        )  # fmt: skip
    except EdgeKDError as e:
        raise ConformanceError("parity", f"{artifact.format}: {e}") from e
    finally:
        reference.close()
        candidate.close()
    return artifact, found


def _check_recorded(artifact: Artifact, dynamic: bool) -> None:
    """The exporter compared, too, and wrote down how far it was off."""
    recorded = artifact.lineage.get("parity")
    _require(isinstance(recorded, Mapping), "parity-recorded", "lineage says nothing of parity")
    for key in ("max_abs_error", "feeds", "atol", "rtol", "reference"):
        _require(key in (recorded or {}), "parity-recorded", f"lineage.parity has no '{key}'")
    _require(
        int((recorded or {})["feeds"]) >= (3 if dynamic else 1),
        "parity-recorded",
        f"only {(recorded or {})['feeds']} feeds were compared",
    )


def _outputs(model: Model, candidate: Any) -> dict[str, str]:
    """Reference output -> candidate output: by name, or by position where a format keeps none."""
    names = [s.name for s in candidate.outputs]
    if {s.name for s in model.outputs} <= set(names):
        return {}
    return {s.name: n for s, n in zip(model.outputs, names, strict=True)}
