"""Is a quantized artifact faster than its float twin on a target, and if not, why? Both are run once more to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ChildError, DataError, EvidenceError, ModelError
from edgekd.evidence.measurement import BASELINE, TWIN, Measurement
from edgekd.evidence.placement import OpPlacement
from edgekd.evidence.speedup import Speedup
from edgekd.gates.statistic import choose_statistic, restart_effects, unusable
from edgekd.measure import Setting, ledger
from edgekd.measure.placing import place_artifact
from edgekd.pipeline.routes import exporter_for
from edgekd.pipeline.targets import board_of
from edgekd.placement import PlacedOp
from edgekd.quantize.executed import LOW, time_of
from edgekd.quantize.facts import DescribingExporter, GraphFacts, kept_float
from edgekd.quantize.reason import Ratio, is_faster
from edgekd.quantize.slowness import why_not_faster
from edgekd.statistics.student_t import t_interval

#: Fresh sessions whose operators are timed; the least time of each counts.
_LOOKS = 3
#: Precisions that a file can be quantized to.
_FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model as it was timed.

    Attributes:
        feeds: one call of it.
        settings, threads: of its session; None takes the artifact's own and the setting's.
    """

    label: str
    artifact: Artifact
    feeds: Mapping[str, Array]
    settings: Mapping[str, Any] | None = None
    threads: int | None = None

    @property
    def used(self) -> Mapping[str, Any]:
        return self.artifact.settings if self.settings is None else self.settings


def is_quantized(artifact: Artifact) -> bool:
    """Whether it was made smaller than 16 bits."""
    return artifact.dtype in LOW or bool(artifact.lineage.get("quantized_from"))


def twin_of(
    quantized: Artifact, others: Sequence[tuple[str, Artifact]], *, same_model: bool
) -> tuple[str, Artifact] | None:
    """The float model among others that a quantized one is to be compared with; None where there is none.

    By digest where its lineage says what it was quantized from; else the most exact float one of its format.

    Args:
        same_model: whether the others are known to be the same model; where they are not, most of their products
            (convolutions, matrix products) must have the names of its own.

    Raises:
        ModelError: a file that cannot be read.
    """
    if not is_quantized(quantized):
        return None
    source = quantized.lineage.get("quantized_from")
    floats = [(label, a) for label, a in others if a.dtype in _FLOATS and not is_quantized(a)]
    exact = [pair for pair in floats if source is not None and pair[1].digest == source]
    alike = [pair for pair in floats if pair[1].format == quantized.format] if not exact else []
    alike.sort(key=lambda pair: _FLOATS.index(pair[1].dtype))
    return next(
        (pair for pair in (*exact, *alike) if pair in exact or same_model or _alike(quantized, pair[1])), None
    )


def _alike(quantized: Artifact, other: Artifact) -> bool:
    mine, theirs = (graph_facts_of(a).products for a in (quantized, other))
    return bool(mine) and 2 * len(mine & theirs) > max(len(mine), len(theirs))


def ratio_between(measurement: Measurement, arm: str, twin: str) -> Ratio:
    """Time of one arm / time of another per example, with its 95 % interval over restarts; the baseline is an arm, too.

    Both are paired with the baseline in every restart, so their ratio is of the same minutes (METHOD 1, step 5).

    Raises:
        EvidenceError: no such arm, no restart, or samples that cannot be used.
    """
    effects = _effects(measurement, arm) - _effects(measurement, twin)
    if not len(effects):
        raise EvidenceError("the measurement holds no restart", "measure again")
    found, lower, upper = t_interval(effects, 0.975)
    return float(np.exp(found)), float(np.exp(lower)), float(np.exp(upper))


def _effects(measurement: Measurement, arm: str) -> Array:
    if arm == BASELINE:
        return np.zeros(len(measurement.restarts))
    if trouble := unusable(measurement, arm, twin=False):
        raise EvidenceError(trouble)
    return restart_effects(measurement, arm, choose_statistic(measurement, arm).statistic)


def arm_of(measurement: Measurement, artifact: Artifact) -> str:
    """The arm that an artifact ran as; empty where it is not in the measurement."""
    return next(
        (n for n, r in measurement.arms.items() if n != TWIN and r.get("artifact") == artifact.digest), ""
    )


def graph_facts_of(artifact: Artifact) -> GraphFacts:
    """What its format's exporter reads in the file; of a format that has no reader, what its lineage says."""
    exporter = exporter_for(artifact.format)
    if isinstance(exporter, DescribingExporter):
        return exporter.graph_facts(artifact)
    return GraphFacts(keep_float=kept_float(artifact))


def explain_speed(twin: Contender, quantized: Contender, setting: Setting, ratio: Ratio) -> Speedup:
    """The ratio, and where it is not below 1 the reasons: both models run once more on the target, in children.

    Args:
        twin: the float model; quantized: what was made of it.
        setting: that the ratio was measured in.
        ratio: time of the quantized / time of the twin.

    Raises:
        ModelError: a file that cannot be read; what fails while the operators are looked at is told in ``problem``.
    """
    found = Speedup(
        label=quantized.label, artifact=quantized.artifact.digest, dtype=quantized.artifact.dtype,
        twin_label=twin.label, twin=twin.artifact.digest, twin_dtype=twin.artifact.dtype, target=str(setting.target),
        ratio=ratio, batch=setting.batch, threads=quantized.threads or setting.threads,
    )  # fmt: skip
    if is_faster(ratio):
        return found
    board = board_of(setting.target)
    placed, problem = _placed((twin, quantized), setting) if board is None else ({}, _ON_BOARD)
    before, now = (_ops(placed, who) for who in (twin, quantized))
    environment = placed[quantized.artifact.digest].environment if quantized.artifact.digest in placed else {}
    reasons = why_not_faster(
        before, now,
        facts=graph_facts_of(quantized.artifact), float_facts=graph_facts_of(twin.artifact),
        machine=ledger.machine() if board is None else board.machine, settings=quantized.used, batch=setting.batch,
        emulated=_emulated(environment, quantized.artifact), ratio=ratio,
    )  # fmt: skip
    told = bool(before and now)
    timed = told and all(op.time_ns is not None for op in (*before, *now))
    return replace(
        found,
        operators=(len(before), len(now)) if told else None,
        operator_ns=(time_of(before), time_of(now)) if timed else None,
        reasons=reasons,
        problem=problem,
        environment=environment,
    )


_ON_BOARD = "operators of a model on a board are not looked at here"


def _placed(who: Sequence[Contender], setting: Setting) -> tuple[dict[str, OpPlacement], str]:
    """What ran where, by digest, and why something is missing: a reason that is not known spoils no evidence."""
    found: dict[str, OpPlacement] = {}
    for one in who:
        try:
            own = replace(setting, threads=one.threads or setting.threads)
            placed = place_artifact(one.label, one.artifact, one.feeds, own, one.settings, looks=_LOOKS)
        except (DataError, ModelError, ChildError) as e:
            return found, str(e)
        found[one.artifact.digest] = placed
        if placed.problem:
            return found, placed.problem
    return found, ""


def _ops(placed: Mapping[str, OpPlacement], who: Contender) -> tuple[PlacedOp, ...]:
    return placed[who.artifact.digest].ops if who.artifact.digest in placed else ()


def _emulated(environment: Mapping[str, Any], artifact: Artifact) -> str:
    """The precision that the session says it emulates."""
    told = dict(environment.get("detail") or {}).get("emulated")
    if not told:
        return ""
    return told if isinstance(told, str) else artifact.dtype


def timed_contender(
    who: tuple[str, Artifact], measurement: Measurement, feeds: Callable[[int], Mapping[str, Array]]
) -> Contender:
    """A model with the batch, threads and settings that it was timed with.

    Args:
        feeds: inputs of so many examples.
    """
    label, artifact = who
    arm = arm_of(measurement, artifact)
    record = measurement.arms[arm]
    return Contender(
        label=label,
        artifact=artifact,
        feeds=feeds(artifact.fixed_batch or measurement.session_batch(arm)),
        settings=dict(record.get("settings") or {}),
        threads=int(record.get("threads") or measurement.threads),
    )


def explain_timed(
    twin: Contender, quantized: Contender, setting: Setting, measurement: Measurement
) -> Speedup:
    """:func:`explain_speed` by the ratio of a measurement that both ran in.

    Raises:
        EvidenceError: samples that cannot be used; else as :func:`explain_speed`.
    """
    arms = [arm_of(measurement, one.artifact) for one in (quantized, twin)]
    batch = measurement.session_batch(arms[0])
    return explain_speed(
        twin, quantized, replace(setting, batch=batch), ratio_between(measurement, arms[0], arms[1])
    )


def explain_arms(
    entries: Sequence[tuple[str, Artifact, Callable[[int], Mapping[str, Array]]]],
    setting: Setting,
    measurement: Measurement,
) -> list[Speedup]:
    """Every quantized model of a measurement beside its float twin, where that ran in it, too.

    Args:
        entries: (label, artifact, feeds of so many examples) of the arms.
    """
    found = []
    for label, artifact, feeds in entries:
        others = [(n, a) for n, a, _ in entries if a is not artifact]
        pair = twin_of(artifact, others, same_model=False)
        if pair is None:
            continue
        twin_feeds = next(f for n, a, f in entries if a is pair[1])
        ran = [
            timed_contender(pair, measurement, twin_feeds),
            timed_contender((label, artifact), measurement, feeds),
        ]
        try:
            found.append(explain_timed(ran[0], ran[1], setting, measurement))
        except EvidenceError:
            continue  # A search for a rate times no calls, and an emulated precision has none that count.
    return found
