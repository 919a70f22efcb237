"""What answers the search's questions: artifacts made, evaluated and timed through the store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.sources import pick_rows
from edgekd.errors import (
    ChildError,
    DataError,
    EdgeKDError,
    ModelError,
    TargetUnavailableError,
    UsageError,
)
from edgekd.evaluate import EvaluationRequest, OpenChildren
from edgekd.evaluate.evaluation import place_of
from edgekd.evidence import Evaluation
from edgekd.evidence.evaluation import join_rows, take_rows
from edgekd.gates.accuracy import is_proportion, judge_accuracy
from edgekd.gates.verdict import Gate
from edgekd.model import Model
from edgekd.pipeline.artifacts import Spools, calibration_feeds, export_to, quantize_artifact
from edgekd.pipeline.collect import evaluate_artifact
from edgekd.pipeline.execution import PLAIN_BATCH
from edgekd.pipeline.routes import exporter_for
from edgekd.pipeline.search_looks import early_answer, is_assured
from edgekd.pipeline.search_times import Plan, race, stored_glance
from edgekd.pipeline.targets import board_of
from edgekd.plugins import list_plugins, load_path
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError, SearchableExporter
from edgekd.quantize.mixture import Latency, Mixture, Trial
from edgekd.quantize.trained import load_trained
from edgekd.stages import StageStore, tool_versions
from edgekd.target import usable_cpus
from edgekd.tasks import TaskSpec

#: Rows after which a mixture that is clearly good or bad is judged without the rest.
_EARLY = (500, 1000)
#: An early look is worth its while only where there are so many times more rows.
_WORTH = 2
#: Calibrations of one class that are tried: where a second one does not help, layers in float do, and sooner than a third.
_ALTERNATIVES = 2
#: Calibration examples that layers are compared on.
_LAYER_EXAMPLES = 32
#: Models of more bytes together are not held open for a glance.
_SIDE_BY_SIDE_BYTES = 1 << 30
#: What makes one mixture unusable, and leaves the others as they are.
_UNUSABLE = (ModelError, UsageError, ChildError, TargetUnavailableError)


@runtime_checkable
class LowerPrecisionRuntime(Protocol):
    """A runtime plugin that can compute a float32 file in a lower precision; this is optional."""

    def lower_precisions(self, device: str, provider: str) -> Sequence[Mapping[str, Any]]:
        """Session settings for each such precision that this device has instructions for."""
        ...


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
    #: One thread for the whole search: a child ends with the thread that started it.
    _beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _floats: dict[str, Artifact] = field(default_factory=dict)
    _made: dict[Mixture, Artifact] = field(default_factory=dict)
    _evaluations: dict[tuple[Mixture, str], Evaluation] = field(default_factory=dict)
    _refused: dict[Mixture, EdgeKDError] = field(default_factory=dict)
    _parts: dict[tuple[str, int, int | None], tuple[TaskSpec, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._spools = Spools(folder=Path(self._folder.name))

    def __enter__(self) -> StoreOracle:
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()
        self._beside.shutdown()
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
        return [_first_calibrations(alternatives) for alternatives in found.values()]

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
            plain = replace(mixture, settings=())
            if plain in self._refused:
                raise self._refused[plain]
            if mixture.config is not None:
                try:
                    made = quantize_artifact(
                        made, mixture.config, self.plan.task, self.store, f"quantize {plain.label}",
                        self.plan.rename, self._spools,
                    )  # fmt: skip
                except (ModelError, UsageError) as e:
                    self._refused[plain] = e
                    raise
            self._made[mixture] = replace(made, settings={**made.settings, **dict(mixture.settings)})
        return self._made[mixture]

    def digests(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Label -> digest of every trial that was made."""
        return {t.mixture.label: self._made[t.mixture].digest for t in trials if t.mixture in self._made}

    def evaluate(self, mixture: Mixture, split: str, rows: slice | None = None) -> Evaluation:
        """Its answers on a split, or on some rows of it.

        Raises:
            DataError, UsageError, ModelError, ChildError: as :func:`edgekd.evaluate.evaluate`.
        """
        key = (mixture, f"{split}:{rows}")
        if key not in self._evaluations:
            request = self._request(mixture, split)
            if rows is not None:
                task, digest = self._part(split, rows)
                request = replace(request, task=task, data_digest=digest)
            self._evaluations[key] = evaluate_artifact(request, self.store, self._children)
        return self._evaluations[key]

    def _request(self, mixture: Mixture, split: str) -> EvaluationRequest:
        plan = self.plan
        target = plan.targets[mixture.target]
        artifact = self.artifact(mixture)
        # Ranges that are taken in every call depend on what is in it.
        alone = split == "test" or (mixture.config is not None and mixture.config.mode == "dynamic")
        return EvaluationRequest(
            label=mixture.label,
            artifact=artifact,
            target=target.target,
            runtime_paths=target.runtime_paths,
            task=plan.task,
            split=split,
            data_digest=plan.digests[split],
            output=plan.output,
            rename=plan.rename,
            batch=artifact.fixed_batch or (plan.batch if alone else PLAIN_BATCH),
            threads=plan.threads,
            search=plan.search,
        )

    def _part(self, split: str, rows: slice) -> tuple[TaskSpec, str]:
        """The task with only these rows of a split, and their digest."""
        key = (split, rows.start, rows.stop)
        if key not in self._parts:
            task = self.plan.task
            picked = pick_rows(task.data[split], rows, task.search)
            task = replace(task, data={**task.data, split: picked})
            self._parts[key] = (task, task.split_digest(split))
        return self._parts[key]

    def judge(self, mixture: Mixture) -> Trial:
        """See :class:`edgekd.quantize.search.Oracle`; what cannot be made or run is a trial of decision ``error``.

        Raises:
            DataError: the data is unusable, whatever the mixture.
        """
        self.progress(mixture.label)
        reference = next(iter(self.float_mixtures()))
        against = self._reference(reference)
        if mixture == reference:
            return Trial(
                mixture=mixture, decision="pass", difference=0.0, interval=(0.0, 0.0), n=against.n, assured=True,
                size_bytes=self.artifact(mixture).size_bytes, reason="the float model itself",
            )  # fmt: skip
        try:
            size = self.artifact(mixture).size_bytes
            own, early = self._look(mixture, against)
            if early is not None:
                return replace(early, size_bytes=size)
            gate = judge_accuracy(against, own, max_drop=self.plan.max_drop, against="float32")
        except _UNUSABLE as e:
            return Trial(mixture=mixture, decision="error", reason=str(e))
        if gate.decision == "error":
            raise DataError(gate.reason, "the search needs data that the accuracy gate can judge")
        return replace(_trial(mixture, gate), size_bytes=size)

    def _reference(self, reference: Mixture) -> Evaluation:
        """The float model's answers; while its child works on the first ones, what will be glanced at is made here."""
        if (reference, f"select:{None}") in self._evaluations:
            return self.evaluate(reference, "select")
        self.float_artifact(reference.target)
        answers = self._beside.submit(self.evaluate, reference, "select")
        first = [alternatives[0] for alternatives in self.classes()]
        if len(first) > 1:
            for mixture in first:
                if answers.done() and answers.exception() is not None:
                    break
                self._can_be_made(mixture)
        return answers.result()

    def evaluate_pair(self, one: Mixture, other: Mixture, split: str) -> tuple[Evaluation, Evaluation]:
        """Two mixtures' answers; side by side where each has a child of its own."""
        places = [place_of(self._request(m, split)) for m in (one, other)]
        if places[0] == places[1] or usable_cpus() < 2:
            return self.evaluate(one, split), self.evaluate(other, split)
        first = self._beside.submit(self.evaluate, one, split)
        return self.evaluate(other, split), first.result()

    def _look(self, mixture: Mixture, against: Evaluation) -> tuple[Evaluation, Trial | None]:
        """Its answers on the selection rows, and None; or those up to where enough is known, and that trial."""
        _, mark, named = self.plan.task.data["select"].rpartition("#")
        looks = [rows for rows in _EARLY if against.n >= _WORTH * rows]
        if not looks or not is_proportion(against) or (mark and named.isalpha()):
            return self.evaluate(mixture, "select"), None
        seen = self.evaluate(mixture, "select", slice(0, looks[0]))
        for rows, following in zip(looks, [*looks[1:], None], strict=True):
            # Paired by the whole split's digest: the parts are all of it, in order.
            seen = replace(seen, data=against.data)
            part = take_rows(against, np.arange(rows))
            gate = judge_accuracy(part, seen, max_drop=self.plan.max_drop, against="float32")
            known = early_answer(gate, against.n)
            if known is not None:
                return seen, replace(
                    _trial(mixture, gate),
                    reason=f"{known} on the first {rows:,} examples",
                )
            seen = join_rows(seen, self.evaluate(mixture, "select", slice(rows, following)))
        return replace(seen, data=against.data), None

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
        if not final:
            others = [m for m in others if self._can_be_made(m)]
            if not others:
                return found
        artifacts = [(m.label, self.artifact(m)) for m in (reference, *others)]
        self.races += 1
        if final or not self._side_by_side(artifacts):
            targets = [self.plan.targets[m.target] for m in (reference, *others)]
            times, self.measured = race(self.plan, artifacts, targets, self.store, final=final)
        else:
            requests = [self._request(m, "select") for m in (reference, *others)]
            times = stored_glance(self.plan, requests, self.store, self._children)
        return found | {m: t for m, t in zip(others, times, strict=True) if t is not None}

    def _can_be_made(self, mixture: Mixture) -> bool:
        try:
            self.artifact(mixture)
        except _UNUSABLE:
            return False
        return True

    def _side_by_side(self, artifacts: Sequence[tuple[str, Artifact]]) -> bool:
        """Whether the children that evaluate can take the times as well: on this machine's CPU, all open at once."""
        here = all(
            t.target.device == "cpu" and board_of(t.target) is None for t in self.plan.targets.values()
        )
        return here and sum(a.size_bytes for _, a in artifacts) <= _SIDE_BY_SIDE_BYTES


def _first_calibrations(alternatives: Sequence[Mixture]) -> list[Mixture]:
    """Those of the first methods of calibration, smoothed or not."""
    configured = [(m, m.config.calibration) for m in alternatives if m.config is not None]
    methods = list(dict.fromkeys(method for _, method in configured))[:_ALTERNATIVES]
    return [m for m, method in configured if method in methods]


def _trial(mixture: Mixture, gate: Gate) -> Trial:
    wanted = gate.detail.get("n_that_would_decide")
    return Trial(
        mixture=mixture, decision=gate.decision, difference=gate.estimate, interval=gate.interval, n=gate.n or 0,
        assured=is_assured(gate), reason=gate.reason, wanted=wanted if isinstance(wanted, int) else None,
    )  # fmt: skip
