"""Whether a quantized artifact's calibration covers other data of the task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.deviation import Probe, ProbingRuntime
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.files import write_bytes
from edgekd.pipeline.real_feeds import RealFeeds
from edgekd.pipeline.routes import exporter_for
from edgekd.plugins import list_plugins, load_plugin
from edgekd.prepare import prepare_key
from edgekd.quantize.coverage import LIMITS, Coverage, RangedExporter, measure_coverage
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec

#: Examples that ranges are looked at on.
EXAMPLES = 32
_SENTENCE = "sentence.txt"


def check_coverage(
    float_artifact: Artifact,
    quantized_artifact: Artifact,
    task: TaskSpec,
    split: str = "select",
    n: int = EXAMPLES,
) -> Coverage:
    """Inner tensors of the float file on ``n`` examples of a split against the ranges of the quantized file.

    Raises:
        UsageError: no such split, a file that was not calibrated, or a format whose ranges cannot be read; DataError: the
        data does not fit; ModelError: the float file does not run.
    """
    if split not in task.data:
        raise UsageError(f"the task has no {split} data", f"give task.data.{split}")
    if not calibrated(quantized_artifact):
        raise UsageError(
            f"{quantized_artifact.path} has no calibrated ranges", "give a statically quantized file"
        )
    exporter = exporter_for(quantized_artifact.format)
    probe = _open_probe(float_artifact)
    if not isinstance(exporter, RangedExporter) or probe is None:
        raise UsageError(
            f"ranges of {quantized_artifact.format} files cannot be read",
            "quantize for onnx or openvino to look at them",
        )
    feeds = RealFeeds(task=_only(task, split), role="student", examples=n).arrays(float_artifact, {})
    ranges = exporter.quantized_ranges(quantized_artifact, float_artifact)
    method = str(quantized_artifact.lineage["quantization"].get("calibration", "minmax"))
    return measure_coverage(probe, ranges, feeds, LIMITS[method])


def calibrated(artifact: Artifact) -> bool:
    """Whether an artifact was quantized here with ranges from calibration data."""
    made = artifact.lineage.get("quantization")
    return isinstance(made, dict) and made.get("mode") == "static" and "calibration" in artifact.lineage


def coverage_note(
    float_artifact: Artifact, quantized_artifact: Artifact, task: TaskSpec, label: str, store: StageStore
) -> str:
    """One sentence for a report where calibration misses what the selection data holds; else empty.

    Empty as well where nothing can be said: the file was not calibrated here, its format hides its ranges, or the task
    has no selection data. Where the look itself fails the sentence says so: it is no reason to end a run.
    """
    exporter = exporter_for(quantized_artifact.format)
    if (
        "select" not in task.data
        or not calibrated(quantized_artifact)
        or not isinstance(exporter, RangedExporter)
    ):
        return ""

    def build(out: Path, resume: Path) -> None:
        found = check_coverage(float_artifact, quantized_artifact, task)
        write_bytes(out / _SENTENCE, found.sentence.encode())

    try:
        key = {
            "float": float_artifact.digest,
            "quantized": quantized_artifact.digest,
            "prepare": prepare_key(float_artifact.prepare),
            "data": task.split_digest("select"),
            "examples": EXAMPLES,
            "limits": str(LIMITS),
        }
        kept = store.run("coverage", f"coverage of {label}", key, build).folder / _SENTENCE
    except (DataError, ModelError, UsageError) as e:
        return f"{label}: whether its calibration covers the data was not looked at: {e.what}."
    sentence = kept.read_text(encoding="utf-8")
    return f"{label}: {sentence}." if sentence else ""


def _only(task: TaskSpec, split: str) -> TaskSpec:
    return replace(task, data={split: task.data[split]})


def _open_probe(artifact: Artifact) -> Probe | None:
    for name in list_plugins("edgekd.runtimes"):
        runtime = load_plugin("edgekd.runtimes", name)()
        if artifact.format in runtime.formats and isinstance(runtime, ProbingRuntime):
            return runtime.open_probe(artifact.path)
    return None
