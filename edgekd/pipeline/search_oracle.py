"""What answers the search's questions: artifacts made, evaluated and timed through the store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.sources import pick_rows
from edgekd.errors import ChildError, DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.evaluate import EvaluationRequest, OpenChildren
from edgekd.evidence import Evaluation, Measurement
from edgekd.evidence.evaluation import take_rows
from edgekd.evidence.measurement import BASELINE, CANDIDATE
from edgekd.gates.accuracy import POWER, AccuracyLimit, compare, is_proportion, judge_accuracy
from edgekd.gates.latency import ratio_of
from edgekd.measure import Protocol as Race
from edgekd.measure import Setting
from edgekd.model import Model
from edgekd.pipeline.artifacts import Spools, calibration_feeds, export_to, quantize_artifact
from edgekd.pipeline.collect import Comparison, Feeds, evaluate_artifact, measure_comparison
from edgekd.pipeline.execution import PLAIN_BATCH
from edgekd.pipeline.routes import exporter_for
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.plugins import list_plugins, load_path
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError, SearchableExporter
from edgekd.quantize.search import Latency, Mixture, Trial
from edgekd.quantize.trained import load_trained
from edgekd.stages import StageStore, tool_versions
from edgekd.statistics.tango import normal_quantile
from edgekd.tasks import TaskSpec

#: Rows after which a mixture that is clearly worse is dropped without the rest.
_EARLY = (500, 1000)
#: An early look is worth a session of its own only where so many times more rows follow.
_WORTH = 4
#: One-sided level at which it is dropped early: each look may err, and costs a good mixture then.
_EARLY_CONFIDENCE = 0.999
#: Calibrations of one class that are tried: where a second one does not help, layers in float do, and sooner than a third.
_ALTERNATIVES = 2
#: Calibration examples that layers are compared on.
_LAYER_EXAMPLES = 32
#: A glance at the times; the final race is :class:`edgekd.measure.Protocol`'s own, with this many restarts.
_GLANCE = Race(min_restarts=1, max_restarts=1, rounds=8, warm_s=0.1)
_FINAL = Race(min_restarts=4, max_restarts=4)


@runtime_checkable
class LowerPrecisionRuntime(Protocol):
    """A runtime plugin that can compute a float32 file in a lower precision; this is optional."""

    def lower_precisions(self, device: str, provider: str) -> Sequence[Mapping[str, Any]]:
        """Session settings for each such precision that this device has instructions for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What does not change during a search; see :class:`edgekd.pipeline.search.SearchRequest`.

    Attributes:
        targets: by name; digests: of the rows of ``select`` and ``test``.
    """

    model: Model | Artifact
    task: TaskSpec
    targets: Mapping[str, ResolvedTarget]
    max_drop: float
    digests: Mapping[str, str]
    threads: int
    batch: int
    options: Mapping[str, Mapping[str, Any]]
    output: Mapping[str, str]
    rename: Mapping[str, str]
    remeasure: bool
    search: tuple[Path, ...]


@dataclass
class StoreOracle:
    """See :class:`edgekd.quantize.search.Oracle`; a context that ends its children and lets go of its scratch files.

    Attributes:
        races: measurements asked for; measured: of the last one, for the evidence.
    """

    plan: Plan
    store: StageStore
    progress: Callable[[str], None] = lambda text: None
    races: int = 0
    measured: dict[str, Any] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="edgekd-search-")
    )
    _spools: Spools = field(init=False)
    _children: OpenChildren = field(default_factory=OpenChildren)
    _floats: dict[str, Artifact] = field(default_factory=dict)
    _made: dict[Mixture, Artifact] = field(default_factory=dict)
    _evaluations: dict[tuple[Mixture, str], Evaluation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._spools = Spools(folder=Path(self._folder.name))

    def __enter__(self) -> StoreOracle:
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()
        self._folder.cleanup()

    def float_artifact(self, target: str) -> Artifact:
        """The student in the format of a target, in float32.

        Raises:
            UsageError: no format that can be searched; ModelError: it is no float32 file.
        """
        if target not in self._floats:
            formats = self.plan.targets[target].runtime_paths
            written = list_plugins("edgekd.exporters")
            chosen = next(
                (f for f in formats if f in written and isinstance(exporter_for(f), SearchableExporter)), None
            )
            if chosen is None:
                raise UsageError(
                    f"{target} opens {', '.join(formats)}, none of which can be searched",
                    "leave --max-accuracy-drop out, or search cpu:onnxruntime or cpu:openvino",
                )
            options = self.plan.options.get(chosen, {})
            made = export_to(self.plan.model, chosen, options, self.store, f"export for {target}")
            if made.dtype != "float32":
                raise ModelError(f"{made.path} is {made.dtype} already", "give the float32 model")
            self._floats[target] = made
        return self._floats[target]

    def float_mixtures(self) -> list[Mixture]:
        """The float model on each target, in float32 and in the lower precisions of its runtime."""
        return [
            Mixture(target=name, settings=settings)
            for name in self.plan.targets
            for settings in self._settings(name)
        ]

    def classes(self) -> list[list[Mixture]]:
        """Whole-model quantizations, in classes of about equal speed."""
        found: dict[tuple[Any, ...], list[Mixture]] = {}
        for name, target in self.plan.targets.items():
            artifact = self.float_artifact(name)
            exporter = exporter_for(artifact.format)
            if not isinstance(exporter, SearchableExporter):
                raise AssertionError("float_artifact chooses what can be searched")
            trained = self._trained(artifact.format)
            for config in [*trained, *exporter.quantization_choices(artifact, target.target.device)]:
                block = config.block_size if config.granularity == "block" else 0
                for settings in self._settings(name):
                    kind = (name, settings, config.dtype, config.mode, config.variant, block)
                    mixture = Mixture(target=name, config=config, settings=settings)
                    found.setdefault(kind, []).append(mixture)
        return [alternatives[:_ALTERNATIVES] for alternatives in found.values()]

    def _trained(self, format_name: str) -> list[QuantConfig]:
        """The quantization that the model was trained for, where it was for one."""
        model = self.plan.model
        if format_name != "onnx" or not isinstance(model, Model) or not model.quantization:
            return []
        ranges = load_trained(model.folder / model.quantization)
        config = QuantConfig(granularity=ranges.granularity, variant=ranges.variant)
        return [ranges.applied(config, model.name)]

    def _settings(self, name: str) -> list[tuple[tuple[str, Any], ...]]:
        target = self.plan.targets[name]
        runtime = load_path(target.runtime_paths[self.float_artifact(name).format])()
        lower: Sequence[Mapping[str, Any]] = ()
        if isinstance(runtime, LowerPrecisionRuntime):
            lower = runtime.lower_precisions(target.target.device, target.target.provider)
        return [(), *(tuple(sorted(settings.items())) for settings in lower)]

    def artifact(self, mixture: Mixture) -> Artifact:
        """The mixture's files, with its session settings.

        Raises:
            ModelError, UsageError, DataError: as quantization says.
        """
        if mixture not in self._made:
            made = self.float_artifact(mixture.target)
            if mixture.config is not None:
                label = f"quantize {replace(mixture, settings=()).label}"
                made = quantize_artifact(
                    made, mixture.config, self.plan.task, self.store, label, self.plan.rename, self._spools
                )
            self._made[mixture] = replace(made, settings={**made.settings, **dict(mixture.settings)})
        return self._made[mixture]

    def digests(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Label -> digest of every trial that was made."""
        return {t.mixture.label: self._made[t.mixture].digest for t in trials if t.mixture in self._made}

    def evaluate(self, mixture: Mixture, split: str, rows: int | None = None) -> Evaluation:
        """Its answers on a split, or on the first ``rows`` of it.

        Raises:
            DataError, UsageError, ModelError, ChildError: as :func:`edgekd.evaluate.evaluate`.
        """
        key = (mixture, f"{split}:{rows}")
        if key not in self._evaluations:
            self._evaluations[key] = self._evaluate(mixture, split, rows)
        return self._evaluations[key]

    def _evaluate(self, mixture: Mixture, split: str, rows: int | None) -> Evaluation:
        plan = self.plan
        target = plan.targets[mixture.target]
        task, digest = plan.task, plan.digests[split]
        if rows is not None:
            picked = pick_rows(task.data[split], slice(0, rows), task.search)
            task = replace(task, data={**task.data, split: picked})
            digest = task.split_digest(split)
        artifact = self.artifact(mixture)
        # Ranges that are taken in every call depend on what is in it.
        alone = split == "test" or (mixture.config is not None and mixture.config.mode == "dynamic")
        request = EvaluationRequest(
            label=mixture.label,
            artifact=artifact,
            target=target.target,
            runtime_paths=target.runtime_paths,
            task=task,
            split=split,
            data_digest=digest,
            output=plan.output,
            rename=plan.rename,
            batch=artifact.fixed_batch or (plan.batch if alone else PLAIN_BATCH),
            threads=plan.threads,
            search=plan.search,
        )
        return evaluate_artifact(request, self.store, self._children)

    def judge(self, mixture: Mixture) -> Trial:
        """See :class:`edgekd.quantize.search.Oracle`; what cannot be made or run is a trial of decision ``error``.

        Raises:
            DataError: the data is unusable, whatever the mixture.
        """
        self.progress(mixture.label)
        reference = next(iter(self.float_mixtures()))
        against = self.evaluate(reference, "select")
        if mixture == reference:
            return Trial(
                mixture=mixture, decision="pass", difference=0.0, interval=(0.0, 0.0), n=against.n, assured=True,
                size_bytes=self.artifact(mixture).size_bytes, reason="the float model itself",
            )  # fmt: skip
        try:
            size = self.artifact(mixture).size_bytes
            early = self._early(mixture, against)
            if early is not None:
                return replace(early, size_bytes=size)
            gate = judge_accuracy(
                against, self.evaluate(mixture, "select"), max_drop=self.plan.max_drop, against="float32"
            )
        except (ModelError, UsageError, ChildError, TargetUnavailableError) as e:
            return Trial(mixture=mixture, decision="error", reason=str(e))
        if gate.decision == "error":
            raise DataError(gate.reason, "the search needs data that the accuracy gate can judge")
        wanted = gate.detail.get("n_that_would_decide")
        return Trial(
            mixture=mixture, decision=gate.decision, difference=gate.estimate, interval=gate.interval, n=gate.n or 0,
            assured=_assured(gate.decision, gate.estimate, gate.interval, self.plan.max_drop), size_bytes=size,
            reason=gate.reason, wanted=wanted if isinstance(wanted, int) else None,
        )  # fmt: skip

    def _early(self, mixture: Mixture, against: Evaluation) -> Trial | None:
        """A rejection on the first rows, where they show it clearly; None where all rows are needed."""
        _, mark, rows_of = self.plan.task.data["select"].rpartition("#")
        if not is_proportion(against) or (mark and rows_of.isalpha()):
            return None
        for rows in _EARLY:
            if against.n < _WORTH * rows:
                break
            own = self.evaluate(mixture, "select", rows)
            first = take_rows(against, np.arange(rows))
            found = compare(
                first, own, AccuracyLimit(max_drop=self.plan.max_drop), confidence=_EARLY_CONFIDENCE
            )
            if found.interval is not None and found.interval[1] < -self.plan.max_drop:
                return Trial(
                    mixture=mixture, decision="reject", difference=found.estimate, interval=found.interval, n=rows,
                    reason=f"clearly below float32 on the first {rows:,} examples",
                )  # fmt: skip
        return None

    def layers(self, mixture: Mixture) -> Sequence[LayerError]:
        """See :class:`edgekd.quantize.search.Oracle`."""
        self.progress(f"layers of {mixture.label}")
        before, after = self.float_artifact(mixture.target), self.artifact(mixture)
        exporter = exporter_for(before.format)
        if not isinstance(exporter, SearchableExporter):
            raise AssertionError("float_artifact chooses what can be searched")
        key = {
            "before": before.digest,
            "after": after.digest,
            "config": mixture.config.to_json() if mixture.config else {},
            "examples": _LAYER_EXAMPLES,
            "rename": dict(self.plan.rename),
            "tools": tool_versions("edgekd", "numpy", "onnx", "onnxruntime", "openvino"),
        }

        def build(out: Path, resume: Path) -> None:
            feeds = list(
                islice(
                    calibration_feeds(self.plan.task, before, _LAYER_EXAMPLES, self.plan.rename),
                    _LAYER_EXAMPLES,
                )
            )
            found = [x.to_json() for x in exporter.layer_errors(before, after, feeds)]
            (out / "layers.json").write_text(json.dumps(found))

        folder = self.store.run(
            "layers", f"layers of {replace(mixture, settings=()).label}", key, build
        ).folder
        return [LayerError.from_json(x) for x in json.loads((folder / "layers.json").read_text())]

    def race(self, mixtures: Sequence[Mixture], *, final: bool) -> Mapping[Mixture, Latency]:
        """See :class:`edgekd.quantize.search.Oracle`: one race on one device, each arm in its own runtime."""
        reference = next(iter(self.float_mixtures()))
        others = [m for m in mixtures if m != reference]
        found = {reference: Latency(ratio=1.0, lower=1.0, upper=1.0)}
        if not others:
            return found
        self.progress(f"times of {len(others)} mixtures")
        paths = {
            self.artifact(m).format: self.plan.targets[m.target].runtime_paths[self.artifact(m).format]
            for m in (reference, *others)
        }
        first = self.plan.targets[reference.target].target
        comparison = Comparison(
            baseline=(reference.label, self.artifact(reference)),
            candidates=[(m.label, self.artifact(m)) for m in others],
            limits={},
            feeds=Feeds(task=self.plan.task, split="select", rename={"student": self.plan.rename}),
            setting=Setting(
                target=first, runtime_paths=paths, threads=self.plan.threads, batch=self.plan.batch,
                search=self.plan.search,
            ),
            occasion="search" if final else "glance",
            baseline_role="student",
            own_settings=False,
        )  # fmt: skip
        made = measure_comparison(
            comparison, self.store, remeasure=self.plan.remeasure, decided=lambda m: True,
            protocol=_FINAL if final else _GLANCE,
        )  # fmt: skip
        self.races += 1
        self.measured = _record(made)
        for k, mixture in enumerate(others):
            ratio, lower, upper = ratio_of(made, CANDIDATE if k == 0 else f"{CANDIDATE}_{k + 1}")
            found[mixture] = Latency(ratio=ratio, lower=lower, upper=upper)
        return found


def _record(made: Measurement) -> dict[str, Any]:
    """What the evidence keeps of the race that decided."""
    blocks = [int(b.min()) for r in made.restarts for b in r.blocks[BASELINE]]
    return {
        "threads": made.threads,
        "batch": made.batch,
        "restarts": len(made.restarts),
        "redrawn": len(made.redrawn),
        "float32_ms": float(np.median(blocks)) / 1e6 if blocks else None,
        "runtimes": sorted(
            {str(c["placement"]["runtime"]) for r in made.restarts for c in r.children.values()}
        ),
        "collected_at": made.collected_at,
    }


def _assured(
    decision: str, estimate: float | None, interval: tuple[float, float] | None, max_drop: float
) -> bool:
    """Whether a test of as many other rows agrees with the power that METHOD plans with (80 %), if this is the truth."""
    if decision != "pass" or estimate is None or interval is None:
        return False
    error = (interval[1] - interval[0]) / (2 * normal_quantile(0.95))
    return estimate + max_drop >= (normal_quantile(0.95) + normal_quantile(POWER)) * error
