"""The search for the fastest mixture that keeps the accuracy: which precision, and which layers stay in float.

It knows nothing of files or runtimes: an :class:`~edgekd.quantize.mending.Oracle` says what a mixture costs. Few
questions are asked of it:

1. A glance at the times of whole-model configurations, one of each class. Those of one class differ in calibration and
   granularity only, so in accuracy and hardly in speed.
2. The fastest is judged first, by the alternatives of its class until one holds. What is slower than something that
   holds is never judged; nor is what differs by session settings alone from what is settled, and is no faster.
3. Where a class does not hold, its most sensitive layers stay in float (:mod:`edgekd.quantize.mending`). Layers in float
   only make it slower: a class that is hardly faster as it is than what holds is not mended.
4. What holds and is near the fastest is raced in one measurement. The fastest is the winner; of equals, the smaller
   file.

A mixture wins only if its own selection bound holds, whatever the order of the layers was worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgekd.quantize.layers import LayerError
from edgekd.quantize.mending import Oracle, State, mend
from edgekd.quantize.mixture import Mixture, Trial

#: Ratios to the float model that differ by less are equal: the smaller file wins.
SAME_SPEED = 0.01
#: What misses by more margins than this is not mended by another method of calibration.
FAR = 3.0
#: A glance is that sure of the order: what takes so many times the fastest's time is not the winner.
NEAR = 1.05
#: Layers that have to stay in float are sought where the whole takes less than so much of the time of what holds.
WORTH = 0.97
#: A whole model that takes up to so many times the time of another is judged before layers of that one are kept in float:
#: it takes one question, and they cost time too. Nor is a mixture followed up that takes so many times the best one's.
MENDED = 1.15
#: Layers in float cost their share of the multiply-accumulates; half of that at least.
_SAVED = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search found.

    Attributes:
        trials: everything that was tried, in order; latencies are those of the last race that had it. Whole models
            that were timed and never judged come last, as ``slower`` or ``skipped``.
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
        return sum(t.decision not in ("slower", "skipped") for t in self.trials) - 1


@dataclass
class _Walk:
    """Whole models and what becomes of them, the fastest first."""

    state: State
    reference: Mixture
    #: Alternatives of about equal speed, by the first of them, whose time stands for all.
    classes: dict[Mixture, tuple[Mixture, ...]]
    #: First of a class -> of those that are not assured, the alternative that lost least.
    failing: dict[Mixture, Mixture] = field(default_factory=dict)
    #: First of a class -> the alternative that is assured as it is.
    holding: dict[Mixture, Mixture] = field(default_factory=dict)
    #: First of a class -> what has to stay in float.
    mended: dict[Mixture, tuple[str, ...]] = field(default_factory=dict)
    #: Firsts of classes with nothing that may be the fastest, whatever stays in float.
    hopeless: set[Mixture] = field(default_factory=set)

    def run(self) -> None:
        open_ = list(self.classes)
        if len(open_) > 1:
            self.state.glance(open_)
        while open_ and not self.state.out_of_time:
            first = self._next(open_)
            open_.remove(first)
            if self._outdone(first):
                continue
            if first in self.failing:
                self._mend(first)
            elif self._bound(first) <= NEAR * self._best() and (self._fails_as(first) or self._fails(first)):
                open_.append(first)

    def _next(self, open_: Sequence[Mixture]) -> Mixture:
        """The fastest; of those that differ by session settings alone and are equal at a glance, the one with the fewest,
        so that noise does not choose. One of which layers have to stay in float comes after whole models that are hardly
        slower, and after float ones; and of its equals the one that is fastest in float comes first."""
        first = min(open_, key=self._bound)
        if first in self.failing:
            others = [m for m in open_ if m not in self.failing and not _is_twin(m, first)]
            near = [m for m in others if m.config is None or self._bound(m) <= MENDED * self._bound(first)]
            first = min(near, key=self._bound, default=first)
        equal = [first, *(m for m in open_ if _is_twin(m, first) and self._no_faster(first, m))]
        if first not in self.failing:
            return min((m for m in equal if m not in self.failing), key=lambda m: len(m.settings))
        return min(equal, key=lambda m: self._ratios().get(replace(m, config=None), math.inf))

    def _ratios(self) -> dict[Mixture, float]:
        return {m: x.ratio for m, x in self.state.seen.items()} | {self.reference: 1.0}

    def _no_faster(self, one: Mixture, other: Mixture) -> bool:
        """Whether a glance does not show that ``one`` is the faster."""
        ratios = self._ratios()
        return one in ratios and other in ratios and ratios[one] >= ratios[other] * (1 - 2 * SAME_SPEED)

    def _bound(self, mixture: Mixture) -> float:
        """The least ratio that it can have; what could not be timed is asked first, to learn why."""
        seen = self.state.seen.get(mixture)
        return 0.0 if seen is None else seen.ratio

    def _best(self, without: Mixture | None = None) -> float:
        """The least ratio of what is assured."""
        able = [m for m, t in self.state.trials.items() if t.assured and m != without]
        return min((self.state.seen[m].ratio for m in able if m in self.state.seen), default=1.0)

    def _fails_as(self, first: Mixture) -> bool:
        """Whether a class that differs by session settings alone misses by more than a margin at its best: so will this
        one."""
        margin = self.state.max_drop
        for other, least in self.failing.items():
            if other in self.holding or margin is None or not _is_twin(other, first):
                continue
            if _difference(self.state.trials[least]) < -margin:
                self.failing[first] = replace(least, settings=first.settings)
                return True
        return False

    def _fails(self, first: Mixture) -> bool:
        """Judge the alternatives until one is assured; whether layers in float might help those before it."""
        found: Trial | None = None
        for mixture in self.classes[first]:
            if found is not None and self._is_far(found) and _other_ranges(mixture, found.mixture):
                continue
            trial = self.state.judge(mixture)
            if trial is None:
                break
            if trial.assured:
                if self.state.seen or found is not None:  # alone it needs none: the final race follows
                    self.state.glance([mixture])
                self.holding[first] = mixture
                break
            # An error has no difference: it is the last choice.
            if found is None or _difference(trial) > _difference(found):
                found = trial
        if found is None or found.decision == "error" or found.mixture.config is None:
            return False
        self.failing[first] = found.mixture
        return True

    def _mend(self, first: Mixture) -> None:
        mixture = self.failing[first]
        self.state.glance([first, mixture])
        if self._bound(mixture) >= WORTH * self._best():
            return
        kept = mend(
            self.state,
            mixture,
            list(self.mended.values()),
            affordable=self._affordable(mixture),
            hopeful=self._hopeful,
        )
        if kept is None:
            self.hopeless.add(first)
        else:
            self.mended[first] = kept
            self.state.glance([mixture.keeping(kept)])

    def _hopeful(self, mixture: Mixture) -> bool:
        """Whether fewer layers in float may still make it the fastest."""
        self.state.glance([mixture])
        return self._bound(mixture) <= MENDED * self._best(without=mixture)

    def _affordable(self, mixture: Mixture) -> float:
        """Share of the multiply-accumulates that may stay in float, for all that is known, and leave it the fastest."""
        whole, ratios = self._bound(mixture), self._ratios()
        in_float = ratios.get(replace(mixture, config=None), 1.0)
        return _SAVED * (self._best() - whole) / (in_float - whole) if in_float > whole else 1.0

    def _outdone(self, first: Mixture) -> bool:
        """Whether a class that is settled differs by session settings alone and is no slower: as what holds of it, or at
        both its ends, quantized and float, where layers of it stay in float."""
        for other, held in self.holding.items():
            if other != first and _is_twin(other, first):
                own = replace(held, settings=first.settings)
                self.state.glance([own])
                return self._no_faster(own, held)
        return any(
            _is_twin(other, first)
            and self._no_faster(first, other)
            and self._no_faster(replace(first, config=None), replace(other, config=None))
            for other in (*self.mended, *self.hopeless)
        )

    def _is_far(self, trial: Trial) -> bool:
        margin = self.state.max_drop
        return margin is not None and _difference(trial) < -FAR * margin


def _is_twin(one: Mixture, other: Mixture) -> bool:
    """Whether two quantizations differ by session settings alone."""
    return one.config is not None and (one.target, one.config) == (other.target, other.config)


def _other_ranges(one: Mixture, other: Mixture) -> bool:
    """Whether two quantizations differ by the method of calibration, however uneven channels are dealt with."""
    if one.config is None or other.config is None:
        return False
    ranged = replace(
        one.config, calibration=other.config.calibration, smoothing=other.config.smoothing,
        activation_granularity=other.config.activation_granularity,
    )  # fmt: skip
    return one.config.calibration != other.config.calibration and ranged == other.config


def find_mixture(
    oracle: Oracle,
    *,
    floats: Sequence[Mixture],
    classes: Sequence[Sequence[Mixture]],
    expired: Callable[[], bool] = lambda: False,
    max_drop: float | None = None,
) -> Outcome:
    """Find the mixture with the lowest measured latency whose accuracy holds.

    It judges at most ``len(floats) - 1 + sum(map(len, classes))`` whole models and, for each class that does not hold,
    what :func:`edgekd.quantize.mending.mend` needs.

    Args:
        floats: float mixtures, the first is what everything is compared with, and passes by definition.
        classes: alternatives of about equal speed, the most promising first.
        expired: whether the time to try more is over; asked before every judgement.
        max_drop: the margin; it only makes guesses better.
    """
    state = State(oracle=oracle, expired=expired, max_drop=max_drop)
    reference = floats[0]
    state.trials[reference] = oracle.judge(reference)
    alternatives = {a[0]: tuple(a) for a in (*((m,) for m in floats[1:]), *classes) if a}
    walk = _Walk(state=state, reference=reference, classes=alternatives)
    walk.run()
    finalists = _finalists(state, reference)
    state.race(finalists)
    tried = dict(state.trials)
    passed_over = [
        Trial(mixture=m, decision="skipped", latency=x, reason="other settings of what misses: not judged")
        if m in walk.failing.values() or m in walk.failing
        else Trial(mixture=m, decision="slower", latency=x, reason="slower than what holds: not judged")
        for m, x in state.seen.items()
        if m not in tried
    ]
    return Outcome(
        trials=(*tried.values(), *passed_over),
        winner=_winner([tried[m] for m in finalists], tried[reference]),
        layers=state.layers,
        out_of_time=state.out_of_time,
    )


def _difference(trial: Trial) -> float:
    return -math.inf if trial.difference is None else trial.difference


def _finalists(state: State, reference: Mixture) -> list[Mixture]:
    """Who is raced: the float model, and of everything that holds what no sibling with fewer layers in float beats.

    Mixtures that hold without being assured are raced only where nothing that is assured is faster than float; what was
    far behind at a glance is not raced again.
    """
    chosen: list[Mixture] = [reference]
    families: dict[tuple[Any, ...], list[Trial]] = {}
    holding = [t for m, t in state.trials.items() if t.holds and m != reference]
    for trial in holding:
        mixture = trial.mixture
        config = mixture.config and replace(mixture.config, keep_float=())
        families.setdefault((mixture.target, config, mixture.settings), []).append(trial)
    for members in families.values():
        able = [t for t in members if t.assured] or members
        sets = [set(t.mixture.kept) for t in able]
        chosen += [
            t.mixture for t, own in zip(able, sets, strict=True) if not any(other < own for other in sets)
        ]
    assured = [
        state.seen[m].ratio for m in chosen if m in state.seen and m != reference and state.trials[m].assured
    ]
    slowest = NEAR * min([*assured, 1.0])
    return [m for m in chosen if m == reference or m not in state.seen or state.seen[m].ratio <= slowest]


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
