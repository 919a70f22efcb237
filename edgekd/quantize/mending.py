"""Which layers of a quantized model have to stay in float for it to hold: few questions, guided by the layers' errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgekd.quantize.layers import LayerError
from edgekd.quantize.mixture import Latency, Mixture, Trial

#: A kept layer with a smaller share of the model's multiply-accumulates is not tried without: nothing is won by it.
_WEIGHTLESS = 0.04
#: The first guess leaves so much of the errors that, were the drop in proportion, it would be this part of the margin.
_AIM = 0.5
#: Where the drop is unknown, the first guess leaves this share of the errors.
_LEFT = 0.1
#: Steps away from a guess grow by this factor.
_STRIDE = 4


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


@dataclass
class State:
    """What a search has asked so far.

    Attributes:
        max_drop: the margin; None where the caller does not know it, and guesses are poorer then.
        trials: in the order of the questions.
        seen: times at a glance, of mixtures that were never judged as well.
    """

    oracle: Oracle
    expired: Callable[[], bool]
    max_drop: float | None = None
    trials: dict[Mixture, Trial] = field(default_factory=dict)
    seen: dict[Mixture, Latency] = field(default_factory=dict)
    layers: dict[str, tuple[LayerError, ...]] = field(default_factory=dict)
    out_of_time: bool = False

    def judge(self, mixture: Mixture) -> Trial | None:
        """Judge, or remember; None where time is over."""
        if mixture not in self.trials:
            if self.expired():
                self.out_of_time = True
                return None
            self.trials[mixture] = replace(self.oracle.judge(mixture), latency=self.seen.get(mixture))
        return self.trials[mixture]

    def glance(self, mixtures: Sequence[Mixture]) -> None:
        """Times of those that have none yet."""
        new = [m for m in mixtures if m not in self.seen]
        if new:
            self._note(self.oracle.race(new, final=False))

    def race(self, mixtures: Sequence[Mixture]) -> None:
        """The times that decide."""
        self._note(self.oracle.race(mixtures, final=True))

    def _note(self, found: Mapping[Mixture, Latency]) -> None:
        self.seen.update(found)
        for mixture, latency in found.items():
            if mixture in self.trials:
                self.trials[mixture] = replace(self.trials[mixture], latency=latency)


def mend(
    state: State,
    mixture: Mixture,
    others: Sequence[tuple[str, ...]],
    affordable: float = 1.0,
    hopeful: Callable[[Mixture], bool] = lambda mixture: True,
) -> tuple[str, ...] | None:
    """Keep as few layers of a whole-model mixture in float as make it hold; None where none do.

    With n layers, of which k stay kept, at most ``len(others) + 3 ceil(log2 n) + 4 + k`` mixtures are judged.

    Args:
        others: what made others hold; where it makes this one hold as well, nothing else is tried.
        affordable: share of the multiply-accumulates in float beyond which the mixture is of no use.
        hopeful: asked of the best of both orders; whether it is worth trying its layers one by one.
    """
    layers = sorted(state.oracle.layers(mixture), key=_level)
    state.layers[mixture.label] = tuple(layers)
    macs = {layer.name: layer.macs for layer in layers}
    for known in others:
        if set(known) <= set(macs) and (trial := state.judge(mixture.keeping(known))) and trial.assured:
            return known
    kept = _shortest(state, mixture, layers, _end(layers, affordable))
    if kept is not None and all(macs[x.name] for x in layers):
        weight = {name: float(count or 0) for name, count in macs.items()}
        by_weight = sorted(layers, key=lambda x: -_noise(x) / weight[x.name])
        # Only what leaves less in float than was found already can be faster.
        found = sum(weight[n] for n in kept)
        fits = 0
        while fits < len(layers) and sum(weight[n] for n in _together(by_weight[: fits + 1])) < found:
            fits += 1
        kept = _shortest(state, mixture, by_weight, fits + 1) or kept
    if kept is None or not hopeful(mixture.keeping(kept)):
        return None
    return _refine(state, mixture, kept, macs)


def _end(layers: Sequence[LayerError], affordable: float) -> int:
    """How many of the layers may be kept, and one more: as many as weigh no more than is affordable, one at least."""
    total = sum(x.macs or 0 for x in layers)
    for count in range(1, len(layers)):
        if sum(x.macs or 0 for x in layers[: count + 1]) > affordable * total:
            return count + 1
    return len(layers)


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


def _guess(state: State, mixture: Mixture, order: Sequence[LayerError]) -> int:
    """How many of ``order`` will have to be kept, were the drop in proportion to the errors that are left."""
    # Session settings hardly change what is rounded.
    own = (t for m, t in state.trials.items() if (m.target, m.config) == (mixture.target, mixture.config))
    whole = next((t for t in own if t.difference is not None), None)
    share = _LEFT
    if state.max_drop is not None and whole is not None and whole.difference is not None:
        share = _AIM * state.max_drop / max(-whole.difference, state.max_drop)
    total = left = sum(map(_noise, order))
    count = 0
    while count < len(order) and left > share * total:
        left -= _noise(order[count])
        count += 1
    return count


def _shortest(
    state: State, mixture: Mixture, order: Sequence[LayerError], end: int
) -> tuple[str, ...] | None:
    """The shortest beginning of ``order``, below ``end`` layers, that is assured in float; None where none is found.

    The mixture without any kept layer is known not to be. From a guess on, steps grow until the answer changes, and a
    bisection ends between the last two.
    """
    low, high, step = 0, end, 1
    at = min(max(_guess(state, mixture, order), 1), end - 1)
    found: tuple[str, ...] | None = None
    while high - low > 1:
        kept = _together(order[:at])
        trial = state.judge(mixture.keeping(kept))
        if trial is None:
            break
        if trial.assured:
            high, found = at, kept
        else:
            low = at
        if low > 0 and high < end:
            at = (low + high) // 2
        else:
            at = max(high - step, 1) if high < end else min(low + step, end - 1)
            step *= _STRIDE
    return found


def _refine(
    state: State, mixture: Mixture, kept: Sequence[str], macs: Mapping[str, int | None]
) -> tuple[str, ...]:
    """Try each kept layer that weighs something without, the heaviest first."""
    total = sum(count or 0 for count in macs.values())
    left = list(kept)
    for name in sorted(kept, key=lambda n: -(macs.get(n) or 0)):
        weight = macs.get(name)
        if len(left) == 1 or (weight is not None and weight < _WEIGHTLESS * total):
            continue
        trial = state.judge(mixture.keeping(n for n in left if n != name))
        if trial is None:
            break
        if trial.assured:
            left.remove(name)
    return tuple(left)
