"""The search for the fastest mixture that keeps the accuracy: which precision, and which layers stay in float.

It knows nothing of files or runtimes: an :class:`Oracle` says what a mixture costs. Few questions are asked of it:

1. Whole-model configurations, class by class. Those of one class differ in calibration and granularity only, so in
   accuracy and hardly in speed: the first that holds ends its class.
2. Where a class does not hold, and is fast enough to be worth it, its most sensitive layers stay in float: bisection on
   how many, in two orders (by the error that a layer adds, and by that error per multiply-accumulate). Then each kept
   layer that weighs something is tried without, once.
3. What holds is raced in one measurement. The fastest is the winner; of equals, the smaller file.

A mixture wins only if its own selection bound holds, whatever the order of the layers was worth.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError

#: Ratios to the float model that differ by less are equal: the smaller file wins.
SAME_SPEED = 0.01
#: A glance is that sure of the order: what takes so many times the fastest's time is not the winner.
_BEHIND = 1.25
#: A kept layer with a smaller share of the model's multiply-accumulates is not tried without: nothing is won by it.
_WEIGHTLESS = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """One way to run the model.

    Attributes:
        target: ``device:runtime``.
        config: the quantization, with the layers that stay in float; None is the float model.
        settings: of the runtime's session, sorted, e.g. ``(("precision", "bf16"),)``.
    """

    target: str
    config: QuantConfig | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """Layers in float."""
        return () if self.config is None else self.config.keep_float

    def keeping(self, layers: Iterable[str]) -> Mixture:
        """The same with these layers in float.

        Raises:
            ValueError: of the float model.
        """
        if self.config is None:
            raise ValueError("the float model has no layers to keep in float")
        return replace(self, config=replace(self.config, keep_float=tuple(sorted(layers))))

    @property
    def label(self) -> str:
        """For readers, unique within a search: ``cpu:onnxruntime int8 channel minmax, 3 in float (5f0a)``."""
        parts = ["float32"]
        if self.config is not None:
            c = self.config
            ranges = "trained" if c.ranges else c.calibration
            parts = [c.dtype, c.granularity, ranges if c.mode == "static" else c.mode]
        text = " ".join([self.target, *parts, *(f"{k}={v}" for k, v in self.settings)])
        if not self.kept:
            return text
        which = hashlib.sha256("\n".join(self.kept).encode()).hexdigest()[:4]
        return f"{text}, {len(self.kept)} in float ({which})"

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "quantization": None if self.config is None else self.config.to_json(),
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Ratio to the float model's time, with its interval over restarts."""

    ratio: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of a mixture on the selection split.

    Attributes:
        decision: ``pass``, ``reject``, ``inconclusive``; ``error`` where it could not be made or run.
        difference: score minus the float model's; None where there is none.
        interval: its two one-sided bounds.
        n: examples that decided: fewer than all where it was clearly rejected before.
        assured: it passes with so much room that a test of the same size is likely to agree.
        size_bytes: 0 where it could not be made.
        reason: one sentence.
        latency: None where it was not timed.
        wanted: examples that would decide an inconclusive one; None where none would.
    """

    mixture: Mixture
    decision: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    assured: bool = False
    size_bytes: int = 0
    reason: str = ""
    latency: Latency | None = None
    wanted: int | None = None

    @property
    def holds(self) -> bool:
        return self.decision == "pass"


class Oracle(Protocol):
    """What answers for mixtures."""

    def judge(self, mixture: Mixture) -> Trial:
        """Its accuracy on the selection split against the float model's."""
        ...

    def layers(self, mixture: Mixture) -> Sequence[LayerError]:
        """The layers that a whole-model quantization touches, and how much each suffers; may be empty."""
        ...

    def race(self, mixtures: Sequence[Mixture], *, final: bool) -> Mapping[Mixture, Latency]:
        """Their times beside the float model's, in one interleaved measurement; lacks what did not run.

        Args:
            final: the winner is chosen by it; else a glance will do.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search found.

    Attributes:
        trials: everything that was tried, in order; latencies are those of the last race that had it.
        winner: of the trials; the float model where nothing else holds and is faster.
        layers: label of a whole-model mixture -> its sensitivity, the most sensitive first.
        out_of_time: the budget ended the search before it was through.
    """

    trials: tuple[Trial, ...]
    winner: Trial
    layers: Mapping[str, tuple[LayerError, ...]]
    out_of_time: bool

    @property
    def evaluations(self) -> int:
        """How often the oracle judged; the float model itself needs no judging."""
        return len(self.trials) - 1


@dataclass
class _Search:
    oracle: Oracle
    expired: Callable[[], bool]
    trials: dict[Mixture, Trial] = field(default_factory=dict)
    layers: dict[str, tuple[LayerError, ...]] = field(default_factory=dict)
    out_of_time: bool = False

    def judge(self, mixture: Mixture) -> Trial | None:
        """Judge, or remember; None where time is over."""
        if mixture not in self.trials:
            if self.expired():
                self.out_of_time = True
                return None
            self.trials[mixture] = self.oracle.judge(mixture)
        return self.trials[mixture]

    def race(self, mixtures: Sequence[Mixture], *, final: bool) -> None:
        for mixture, latency in self.oracle.race(mixtures, final=final).items():
            self.trials[mixture] = replace(self.trials[mixture], latency=latency)


def find_mixture(
    oracle: Oracle,
    *,
    floats: Sequence[Mixture],
    classes: Sequence[Sequence[Mixture]],
    expired: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Find the mixture with the lowest measured latency whose accuracy holds.

    With n layers it judges at most ``len(floats) - 1 + sum(map(len, classes))`` whole models and, for each class that
    does not hold, 2 ceil(log2 n) + 1 + k mixtures, where k layers are kept by the bisection.

    Args:
        floats: float mixtures, the first is what everything is compared with, and passes by definition.
        classes: alternatives of about equal speed, the most promising first.
        expired: whether the time to try more is over; asked before every judgement.
    """
    run = _Search(oracle=oracle, expired=expired)
    run.trials[floats[0]] = oracle.judge(floats[0])
    for mixture in floats[1:]:
        run.judge(mixture)
    best = [found for alternatives in classes if (found := _best_of(run, alternatives)) is not None]
    failing = [t.mixture for t in best if not t.assured and t.decision != "error"]
    holding = [t.mixture for t in run.trials.values() if t.holds]
    if failing and not run.out_of_time:
        run.race([*holding, *(m for m in failing if m not in holding)], final=False)
        mended: dict[Mixture, tuple[str, ...]] = {}
        for mixture in _worth_mending(run, failing):
            if not _beaten(run, mixture, mended):
                kept = _mend(run, mixture, list(mended.values()))
                mended |= {} if kept is None else {mixture: kept}
    finalists = _finalists(run, floats[0])
    run.race(finalists, final=True)
    return Outcome(
        trials=tuple(run.trials.values()),
        winner=_winner([run.trials[m] for m in finalists], run.trials[floats[0]]),
        layers=run.layers,
        out_of_time=run.out_of_time,
    )


def _best_of(run: _Search, alternatives: Sequence[Mixture]) -> Trial | None:
    """The first that is assured, else the one that loses least; None where nothing was tried."""
    tried: list[Trial] = []
    for mixture in alternatives:
        trial = run.judge(mixture)
        if trial is None:
            break
        tried.append(trial)
        if trial.assured:
            return trial
    # An error has no difference: it is the last choice.
    return max(tried, key=lambda t: -math.inf if t.difference is None else t.difference, default=None)


def _worth_mending(run: _Search, failing: Sequence[Mixture]) -> list[Mixture]:
    """Those that are faster as they are than anything that is assured, the fastest first.

    Layers in float only make a mixture slower.
    """
    known = [t.latency.ratio for t in run.trials.values() if t.assured and t.latency is not None]
    limit = min(known, default=math.inf)
    timed = [(latency.ratio, m) for m in failing if (latency := run.trials[m].latency) is not None]
    return [m for ratio, m in sorted(timed, key=lambda pair: pair[0]) if ratio < limit]


def _beaten(run: _Search, mixture: Mixture, mended: Mapping[Mixture, tuple[str, ...]]) -> bool:
    """Whether a mixture, faster as it is than it can become, is far behind what a mended one must take.

    That one's time is taken to lie between its own and float's by the kept share of its multiply-accumulates.
    """
    own = run.trials[mixture].latency
    for other, kept in mended.items():
        taken = run.trials[other].latency
        macs = {x.name: x.macs or 0 for x in run.layers[other.label]}
        total = sum(macs.values())
        if own is not None and taken is not None and total > 0:
            share = sum(macs.get(n, 0) for n in kept) / total
            if own.ratio > _BEHIND * (taken.ratio + share * max(1 - taken.ratio, 0.0)):
                return True
    return False


def _mend(run: _Search, mixture: Mixture, others: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Keep as few layers of a whole-model mixture in float as make it hold; None where none do.

    Args:
        others: what made others hold; where it makes this one hold as well, nothing else is tried.
    """
    layers = sorted(run.oracle.layers(mixture), key=_level)
    run.layers[mixture.label] = tuple(layers)
    macs = {layer.name: layer.macs for layer in layers}
    for known in others:
        if set(known) <= set(macs) and (trial := run.judge(mixture.keeping(known))) and trial.assured:
            return known
    kept = _bisect(run, mixture, layers, len(layers))
    if kept is not None and all(macs[x.name] for x in layers):
        weight = {name: float(count or 0) for name, count in macs.items()}
        by_weight = sorted(layers, key=lambda x: -_noise(x) / weight[x.name])
        # Only what leaves less in float than was found already can be faster.
        found = sum(weight[n] for n in kept)
        fits = 0
        while fits < len(layers) and sum(weight[n] for n in _together(by_weight[: fits + 1])) < found:
            fits += 1
        kept = _bisect(run, mixture, by_weight, fits + 1) or kept
    return None if kept is None else _refine(run, mixture, kept, macs)


def _together(layers: Sequence[LayerError]) -> tuple[str, ...]:
    """Layers with those that would quantize their inputs."""
    names = dict.fromkeys(n for layer in layers for n in (layer.name, *layer.feeders))
    return tuple(names)


def _level(layer: LayerError) -> float:
    """dB that order layers: what it adds by itself where that is known; without an error last."""
    own = layer.own_sqnr_db if layer.own_sqnr_db is not None else layer.sqnr_db
    return math.inf if own is None else own


def _noise(layer: LayerError) -> float:
    return 10 ** (-min(_level(layer), 300.0) / 10)


def _bisect(run: _Search, mixture: Mixture, order: Sequence[LayerError], end: int) -> tuple[str, ...] | None:
    """The shortest beginning of ``order``, below ``end`` layers, that is assured in float; None where none is found.

    The mixture without any kept layer is known not to be.
    """
    low, high = 0, end
    found: tuple[str, ...] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        kept = _together(order[:middle])
        trial = run.judge(mixture.keeping(kept))
        if trial is None:
            break
        if trial.assured:
            high, found = middle, kept
        else:
            low = middle
    return found


def _refine(
    run: _Search, mixture: Mixture, kept: Sequence[str], macs: Mapping[str, int | None]
) -> tuple[str, ...]:
    """Try each kept layer that weighs something without, the heaviest first."""
    total = sum(count or 0 for count in macs.values())
    left = list(kept)
    for name in sorted(kept, key=lambda n: -(macs.get(n) or 0)):
        weight = macs.get(name)
        if len(left) == 1 or (weight is not None and weight < _WEIGHTLESS * total):
            continue
        trial = run.judge(mixture.keeping(n for n in left if n != name))
        if trial is None:
            break
        if trial.assured:
            left.remove(name)
    return tuple(left)


def _finalists(run: _Search, reference: Mixture) -> list[Mixture]:
    """Who is raced: the float model, and of everything that holds what no sibling with fewer layers in float beats.

    Mixtures that hold without being assured are raced only where their class has none that is; what was far behind at
    a glance is not raced again.
    """
    chosen: list[Mixture] = [reference]
    families: dict[tuple[Any, ...], list[Trial]] = {}
    for mixture, trial in run.trials.items():
        if not trial.holds or mixture == reference:
            continue
        config = mixture.config and replace(mixture.config, keep_float=())
        families.setdefault((mixture.target, config, mixture.settings), []).append(trial)
    for members in families.values():
        able = [t for t in members if t.assured] or members
        sets = [set(t.mixture.kept) for t in able]
        chosen += [
            t.mixture for t, own in zip(able, sets, strict=True) if not any(other < own for other in sets)
        ]
    seen = {m: latency.ratio for m in chosen if (latency := run.trials[m].latency) is not None}
    slowest = _BEHIND * min(seen.values(), default=math.inf)
    return [m for m in chosen if m == reference or seen.get(m, 0.0) <= slowest]


def _winner(raced: Sequence[Trial], reference: Trial) -> Trial:
    """The fastest that holds; assured ones go first, and of equals the smaller file."""
    timed = [t for t in raced if t.holds and t.latency is not None]
    able = [t for t in timed if t.assured]
    faster = [t for t in able if t.latency is not None and t.latency.ratio < 1 - SAME_SPEED] or timed
    ratios = [t.latency.ratio for t in faster if t.latency is not None]
    if not ratios:
        return reference
    equal = [t for t in faster if t.latency is not None and t.latency.ratio <= min(ratios) + SAME_SPEED]
    return min(equal, key=lambda t: (t.size_bytes or math.inf, t.latency.ratio if t.latency else math.inf))
