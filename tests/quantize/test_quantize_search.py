"""The search on simulated models: it finds the best mixture in few questions, and never returns an inferior one."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError
from edgekd.quantize.mixture import Latency, Mixture, Trial
from edgekd.quantize.search import SAME_SPEED, Outcome, find_mixture

FLOAT = Mixture(target="cpu:a")
INT8 = Mixture(target="cpu:a", config=QuantConfig())
ENTROPY = Mixture(target="cpu:a", config=QuantConfig(calibration="entropy"))
OTHER = Mixture(target="cpu:b", config=QuantConfig())
BF16 = Mixture(target="cpu:b", settings=(("precision", "bf16"),))


@dataclass
class Model:
    """Layers with a damage (what quantizing one costs in accuracy) and a cost (milliseconds in float; INT8 takes 0.3 of it)."""

    damage: Sequence[float]
    cost: Sequence[float]
    margin: float = 0.01
    #: Share of the margin within which a mixture is assured.
    room: float = 0.5
    speed: Mapping[str, float] = field(default_factory=lambda: {"cpu:a": 0.3, "cpu:b": 0.3})
    floats: Mapping[Mixture, tuple[float, float]] = field(default_factory=dict)
    scale: Callable[[Mixture], float] = lambda m: 1.0
    loss: Callable[[frozenset[int]], float] | None = None
    asked: list[Mixture] = field(default_factory=list)
    races: list[tuple[tuple[Mixture, ...], bool]] = field(default_factory=list)

    def quantized(self, mixture: Mixture) -> frozenset[int]:
        kept = {int(name) for name in mixture.kept}
        return frozenset(i for i in range(len(self.damage)) if i not in kept)

    def drop(self, mixture: Mixture) -> float:
        if mixture == FLOAT:
            return 0.0
        if mixture.config is None:
            return self.floats[mixture][0]
        if self.loss is not None:
            return self.loss(self.quantized(mixture))
        return self.scale(mixture) * sum(self.damage[i] for i in self.quantized(mixture))

    def ratio(self, mixture: Mixture) -> float:
        if mixture == FLOAT:
            return 1.0
        if mixture.config is None:
            return self.floats[mixture][1]
        part = self.speed[mixture.target]
        low = self.quantized(mixture)
        return sum(c * (part if i in low else 1.0) for i, c in enumerate(self.cost)) / sum(self.cost)

    def judge(self, mixture: Mixture) -> Trial:
        self.asked.append(mixture)
        drop = self.drop(mixture)
        decision = "pass" if drop <= self.margin else "reject"
        assured = drop <= self.room * self.margin
        return Trial(mixture=mixture, decision=decision, difference=-drop, assured=assured, size_bytes=100)

    def layers(self, mixture: Mixture) -> Sequence[LayerError]:
        return [
            LayerError(
                name=str(i),
                op_type="Conv",
                sqnr_db=None,
                own_sqnr_db=-10 * math.log10(d) if d else None,
                macs=int(1000 * c),
            )
            for i, (d, c) in enumerate(zip(self.damage, self.cost, strict=True))
        ]

    def race(self, mixtures: Sequence[Mixture], *, final: bool) -> Mapping[Mixture, Latency]:
        self.races.append((tuple(mixtures), final))
        return {m: Latency(ratio=r, lower=r, upper=r) for m in mixtures for r in [self.ratio(m)]}

    def best(self) -> float:
        """The least ratio of all subsets that are assured, by trying them all."""
        n = len(self.damage)
        found = [1.0]
        for kept in itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(n)):
            mixture = INT8.keeping(map(str, kept))
            if self.drop(mixture) <= self.room * self.margin:
                found.append(self.ratio(mixture))
        return min(found)


def search(model: Model, **more: object) -> Outcome:
    return find_mixture(model, **{"floats": [FLOAT], "classes": [[INT8]], **more})  # type: ignore[arg-type]


def test_what_holds_whole_needs_one_question_and_one_race() -> None:
    model = Model(damage=[0.0001] * 30, cost=[1.0] * 30)
    found = search(model)
    assert found.winner.mixture == INT8
    assert found.evaluations == 1
    assert [final for _, final in model.races] == [True]
    assert found.layers == {}


@pytest.mark.parametrize("bad", [1, 2, 7, 29])
def test_equal_layers_are_solved_exactly_within_the_bound(bad: int) -> None:
    n = 30
    rng = random.Random(bad)
    damage = [0.0001] * n
    for i in rng.sample(range(n), bad):
        damage[i] = 0.01
    model = Model(damage=damage, cost=[1.0] * n)
    found = search(model)
    assert set(found.winner.mixture.kept) == {str(i) for i, d in enumerate(damage) if d == 0.01}
    assert found.evaluations <= 1 + 2 * math.ceil(math.log2(n)) + 1 + bad
    assert found.layers[INT8.label][0].name in found.winner.mixture.kept


def test_unequal_layers_come_near_the_optimum() -> None:
    gaps, questions = [], []
    for seed in range(60):
        rng = random.Random(seed)
        n = 10
        model = Model(
            damage=[0.02 * 10 ** rng.uniform(-3, 0) for _ in range(n)],
            cost=[10 ** rng.uniform(-1, 1) for _ in range(n)],
        )
        found = search(model)
        assert found.winner.latency is not None
        gaps.append(found.winner.latency.ratio / model.best() - 1)
        questions.append(found.evaluations)
        assert found.winner.assured
    assert sum(g < 1e-9 for g in gaps) >= 0.5 * len(gaps)
    assert sum(gaps) / len(gaps) < 0.05
    assert max(questions) <= 1 + 2 * math.ceil(math.log2(10)) + 1 + 10


def test_kept_layers_that_do_not_matter_are_quantized_again() -> None:
    # The errors say that layer 0 is the worst, and its damage is none: only trying it tells.
    model = Model(damage=[0.05, 0.04, 0.0001, 0.0001], cost=[1.0] * 4)
    model.loss = lambda low: 0.02 * (1 in low)
    assert search(model).winner.mixture.kept == ("1",)


def test_layers_that_quantize_the_inputs_stay_in_float_too() -> None:
    class Chained(Model):
        def layers(self, mixture: Mixture) -> Sequence[LayerError]:
            found = super().layers(mixture)
            return [replace(x, feeders=(str(i - 1),) if i else ()) for i, x in enumerate(found)]

    # Layer 5 loses what layer 4 rounded on its way out, and nothing shows at layer 4.
    model = Chained(damage=[1e-6] * 4 + [1e-6, 0.03] + [1e-6] * 4, cost=[1.0] * 10)
    model.loss = lambda low: 0.02 * (bool(low & {4, 5}))
    found = search(model)
    assert found.winner.mixture.kept == ("4", "5")
    assert found.evaluations <= 1 + 2 * 4 + 1 + 2


def test_without_any_order_in_the_layers_it_is_still_safe() -> None:
    """Losses that have nothing to do with the errors, and grow when layers are kept."""
    holding = 0
    for seed in range(200):
        rng = random.Random(seed)
        n = 12
        model = Model(damage=[10 ** rng.uniform(-3, -1) for _ in range(n)], cost=[1.0] * n)
        table: dict[frozenset[int], float] = {}
        model.loss = lambda low, r=rng, t=table: t.setdefault(low, r.uniform(0, 0.02))  # type: ignore[misc]
        found = search(model)
        assert found.winner.holds
        assert model.drop(found.winner.mixture) <= model.margin
        assert found.winner.latency is not None and found.winner.latency.ratio <= 1
        holding += found.winner.mixture != FLOAT
    assert holding > 100


def test_the_float_model_wins_where_nothing_else_holds() -> None:
    model = Model(damage=[1.0, 1.0], cost=[1.0, 1.0])
    found = search(model)
    assert found.winner.mixture == FLOAT
    assert found.winner.holds


def test_the_float_model_wins_where_quantization_is_slower() -> None:
    model = Model(damage=[0.0, 0.0], cost=[1.0, 1.0], speed={"cpu:a": 1.3})
    assert search(model).winner.mixture == FLOAT
    # A class that is slower as it is is not mended either.
    model = Model(damage=[1.0] * 8, cost=[1.0] * 8, speed={"cpu:a": 1.3})
    found = search(model)
    assert (found.winner.mixture, found.evaluations, found.layers) == (FLOAT, 1, {})


def test_of_one_class_the_next_calibration_is_tried_only_where_the_first_fails() -> None:
    both = [[INT8, ENTROPY]]
    model = Model(damage=[0.001], cost=[1.0])
    assert search(model, classes=both).evaluations == 1
    model = Model(damage=[0.02], cost=[1.0], scale=lambda m: 0.1 if m.config == ENTROPY.config else 1.0)
    found = search(model, classes=both)
    assert (found.winner.mixture, found.evaluations) == (ENTROPY, 2)


def test_the_least_hurt_calibration_is_mended() -> None:
    damage = [0.05, *[0.0001] * 7]
    model = Model(
        damage=damage,
        cost=[1.0] * 8,
        scale=lambda m: 0.9 if m.config and m.config.calibration == "entropy" else 1.0,
    )
    found = search(model, classes=[[INT8, ENTROPY]])
    assert found.winner.mixture == ENTROPY.keeping(["0"])


def test_runtimes_compete_by_measured_latency() -> None:
    model = Model(
        damage=[0.001] * 4, cost=[1.0] * 4, speed={"cpu:a": 0.5, "cpu:b": 0.2}, floats={BF16: (0.0001, 0.3)}
    )
    found = search(model, floats=[FLOAT, BF16], classes=[[INT8], [OTHER]])
    assert found.winner.mixture == OTHER
    model.speed = {"cpu:a": 0.5, "cpu:b": 0.4}
    assert search(model, floats=[FLOAT, BF16], classes=[[INT8], [OTHER]]).winner.mixture == BF16


def test_a_class_that_a_float_setting_beats_is_neither_judged_nor_mended() -> None:
    model = Model(damage=[0.1] * 8, cost=[1.0] * 8, floats={BF16: (0.0001, 0.25)})
    found = search(model, floats=[FLOAT, BF16])
    assert (found.winner.mixture, found.evaluations) == (BF16, 1)
    assert [(t.mixture, t.decision) for t in found.trials[2:]] == [(INT8, "slower")]


def test_equal_speed_goes_to_the_smaller_file() -> None:
    class Sized(Model):
        def judge(self, mixture: Mixture) -> Trial:
            trial = super().judge(mixture)
            size = {INT8: 90, OTHER: 60}.get(mixture, 300)
            return Trial(
                mixture=mixture, decision=trial.decision, difference=0.0, assured=True, size_bytes=size
            )

    model = Sized(damage=[0.0], cost=[1.0], speed={"cpu:a": 0.5, "cpu:b": 0.5 + 0.9 * SAME_SPEED})
    assert search(model, classes=[[INT8], [OTHER]]).winner.mixture == OTHER
    model.speed = {"cpu:a": 0.5, "cpu:b": 0.5 + 2 * SAME_SPEED}
    assert search(model, classes=[[INT8], [OTHER]]).winner.mixture == INT8


def test_what_cannot_be_made_is_passed_over() -> None:
    class Broken(Model):
        def judge(self, mixture: Mixture) -> Trial:
            if mixture.target == "cpu:b":
                return Trial(mixture=mixture, decision="error", reason="no such operator")
            return super().judge(mixture)

    found = search(Broken(damage=[0.001], cost=[1.0]), classes=[[OTHER], [INT8]])
    assert found.winner.mixture == INT8
    assert [t.decision for t in found.trials] == ["pass", "error", "pass"]


def test_when_time_is_over_the_best_so_far_wins() -> None:
    # The errors point elsewhere, so that more is asked than time allows.
    model = Model(damage=[0.05, *[0.0001] * 15], cost=[1.0] * 16)
    model.loss = lambda low: 0.02 * (9 in low)
    for allowed in range(1, 6):
        model.asked.clear()
        found = search(model, expired=lambda limit=allowed: len(model.asked) >= limit)
        assert found.evaluations <= max(allowed - 1, 0)
        assert found.out_of_time
        assert found.winner.assured


def test_what_is_known_is_not_asked_again() -> None:
    model = Model(damage=[0.02 * 0.7**i for i in range(12)], cost=[1.0 + i % 3 for i in range(12)])
    search(model)
    assert len(model.asked) == len(set(model.asked))


def test_what_made_one_mixture_hold_is_tried_first_on_the_next() -> None:
    damage = [0.05, 0.05, *[0.0001] * 14]
    lower = replace(INT8, settings=(("precision", "bf16"),))
    model = Model(damage=damage, cost=[1.0] * 16)
    found = search(model, classes=[[INT8], [lower]])
    mended = [m for m in model.asked if m.settings == lower.settings]
    assert mended == [lower, lower.keeping(["0", "1"])]
    assert found.winner.mixture.kept == ("0", "1")


def test_a_class_that_a_mended_one_leaves_far_behind_is_not_mended() -> None:
    damage = [0.05, *[0.0001] * 15]
    model = Model(damage=damage, cost=[1.0] * 16, speed={"cpu:a": 0.2, "cpu:b": 0.8})
    found = search(model, classes=[[INT8], [OTHER]])
    assert found.winner.mixture == INT8.keeping(["0"])
    assert [m for m in model.asked if m.target == "cpu:b"] == []
    # One that may still win is.
    model.speed = {"cpu:a": 0.2, "cpu:b": 0.21}
    search(model, classes=[[INT8], [OTHER]])
    assert OTHER.keeping(["0"]) in model.asked


def test_the_fastest_is_judged_first_and_what_is_slower_never() -> None:
    model = Model(
        damage=[0.001] * 4, cost=[1.0] * 4, speed={"cpu:a": 0.6, "cpu:b": 0.2}, floats={BF16: (0.0001, 0.5)}
    )
    found = search(model, floats=[FLOAT, BF16], classes=[[INT8], [OTHER]])
    assert model.asked == [FLOAT, OTHER]
    assert {t.mixture for t in found.trials if t.decision == "slower"} == {BF16, INT8}
    assert model.races[-1] == ((FLOAT, OTHER), True)
    assert found.evaluations == 1


def test_what_a_glance_cannot_tell_apart_is_judged_and_raced() -> None:
    model = Model(damage=[0.001] * 4, cost=[1.0] * 4, speed={"cpu:a": 0.41, "cpu:b": 0.4})
    search(model, classes=[[INT8], [OTHER]])
    assert model.races[-1] == ((FLOAT, OTHER, INT8), True)


def test_what_a_glance_misses_is_judged_to_learn_why() -> None:
    class Unseen(Model):
        def race(self, mixtures: Sequence[Mixture], *, final: bool) -> Mapping[Mixture, Latency]:
            found = super().race(mixtures, final=final)
            return {m: x for m, x in found.items() if final or m != OTHER}

        def judge(self, mixture: Mixture) -> Trial:
            trial = super().judge(mixture)
            return replace(trial, decision="error", assured=False) if mixture == OTHER else trial

    found = search(Unseen(damage=[0.001], cost=[1.0]), classes=[[INT8], [OTHER]])
    assert {t.mixture: t.decision for t in found.trials} == {FLOAT: "pass", OTHER: "error", INT8: "pass"}
    assert found.winner.mixture == INT8


def test_a_mixture_that_other_settings_beat_at_both_ends_is_not_mended() -> None:
    class Lower(Model):
        def ratio(self, mixture: Mixture) -> float:
            part = 0.9 if mixture.settings else 1.0
            return part * super().ratio(replace(mixture, settings=()))

    lower = replace(INT8, settings=(("precision", "bf16"),))
    floats = [FLOAT, replace(FLOAT, settings=lower.settings)]
    model = Lower(damage=[0.05, *[0.0001] * 15], cost=[1.0] * 16, floats={floats[1]: (0.0, 0.9)})
    found = search(model, floats=floats, classes=[[INT8], [lower]], max_drop=0.01)
    assert found.winner.mixture == lower.keeping(["0"])
    assert INT8.keeping(["0"]) not in model.asked


def test_the_layers_errors_and_the_margin_say_where_to_begin() -> None:
    for bad in (1, 3, 12):
        damage = [0.02] * bad + [1e-5] * (40 - bad)
        model = Model(damage=damage, cost=[1.0] * 40)
        found = search(model, max_drop=0.01)
        assert len(found.winner.mixture.kept) == bad
        tried = [len(m.kept) for m in model.asked if m.kept]
        # The guess, the one below it, and each kept layer that weighs something by itself: none weighs 4 %.
        assert len(tried) <= 4 and tried[0] in (bad - 1, bad, bad + 1)


def test_guesses_that_lead_nowhere_cost_few_questions() -> None:
    """Errors that point at the wrong end: the steps grow, and the best of the order is found all the same."""
    n = 64
    for needed in (1, 2, 9, 33, 60):
        model = Model(damage=[0.02] + [1e-6] * (n - 1), cost=[1.0 + i * 1e-9 for i in range(n)])
        model.loss = lambda low, k=needed: 0.02 * any(i in low for i in range(k))  # type: ignore[misc]
        found = search(model, max_drop=0.01)
        assert len(found.winner.mixture.kept) == needed
        assert found.evaluations <= 1 + 3 * math.ceil(math.log2(n)) + 4 + needed


SMOOTH = Mixture(target="cpu:a", config=QuantConfig(smoothing=0.5))
_LOWER = (("precision", "bf16"),)


def _lower(mixture: Mixture) -> Mixture:
    return replace(mixture, settings=_LOWER)


def test_far_off_another_calibration_is_not_tried_and_smoothing_is() -> None:
    def search_with(drop: float) -> list[Mixture]:
        model = Model(damage=[drop], cost=[1.0], scale=lambda m: 0.9)
        search(model, classes=[[INT8, SMOOTH, ENTROPY]], max_drop=0.01)
        return model.asked

    assert search_with(0.02)[:4] == [FLOAT, INT8, SMOOTH, ENTROPY]
    assert ENTROPY not in search_with(0.08)
    assert SMOOTH in search_with(0.08)


def test_channels_with_a_range_each_are_tried_however_far_off_it_is() -> None:
    channel = replace(INT8, config=QuantConfig(activation_granularity="channel"))
    model = Model(damage=[0.08], cost=[1.0], scale=lambda m: 0.01 if m == channel else 1.0)
    found = search(model, classes=[[INT8, channel, ENTROPY]], max_drop=0.01)
    assert (found.winner.mixture, model.asked) == (channel, [FLOAT, INT8, channel])
    model = Model(damage=[0.08], cost=[1.0], scale=lambda m: 0.9 if m == channel else 1.0)
    search(model, classes=[[INT8, channel, ENTROPY]], max_drop=0.01)
    assert ENTROPY not in model.asked


def test_float_models_are_judged_before_layers_stay_in_float() -> None:
    """However much slower than the whole quantized model they are: they say what a mixture has to beat."""
    model = Model(damage=[0.05, *[0.0001] * 15], cost=[1.0] * 16, floats={BF16: (0.0, 0.6)})
    search(model, floats=[FLOAT, BF16], classes=[[INT8]], max_drop=0.01)
    assert model.asked[:3] == [FLOAT, INT8, BF16]


def test_layers_that_cost_little_are_found_where_the_worst_ones_cost_much() -> None:
    model = Model(
        damage=[0.0045, 0.004, 0.004, *[1e-6] * 8],
        cost=[20.0, *[1.0] * 10],
        margin=0.01,
        floats={BF16: (0.0, 0.55)},
    )
    found = search(model, floats=[FLOAT, BF16], classes=[[INT8]], max_drop=0.01)
    assert found.winner.mixture == INT8.keeping(["1", "2"])


def test_layers_of_a_mixture_without_hope_are_not_tried_one_by_one() -> None:
    class Passing(Model):
        """Numbers that pass between float and integers cost time, too; session settings cost nothing."""

        def ratio(self, mixture: Mixture) -> float:
            own = replace(mixture, settings=()) if mixture.config else mixture
            return super().ratio(own) + 0.05 * len(mixture.kept)

    model = Passing(
        damage=[*[0.02] * 6, *[1e-6] * 10],
        cost=[1.0] * 16,
        floats={_lower(FLOAT): (0.0, 0.45), BF16: (0.0, 0.45)},
    )
    found = search(
        model, floats=[FLOAT, _lower(FLOAT), BF16], classes=[[INT8], [_lower(INT8)]], max_drop=0.01
    )
    assert found.winner.mixture.config is None
    tried = [m for m in model.asked if m.kept]
    assert 0 < len(tried) <= 3
    # Nor are those of the same files under settings that are no faster.
    assert len({m.settings for m in tried}) == 1


class SlowWhereSmoothed(Model):
    """One layer of sixteen is hurt; smoothing takes ``factor`` of the time, and leaves ``left`` of the damage."""

    def __init__(self, factor: float, left: float, **more: object) -> None:
        super().__init__(
            damage=[0.05, *[0.0001] * 15], cost=[1.0] * 16,
            scale=lambda m: left if m.config and m.config.smoothing else 1.0, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        self.factor = factor

    def ratio(self, mixture: Mixture) -> float:
        return super().ratio(mixture) * (self.factor if mixture.config and mixture.config.smoothing else 1.0)


def test_what_is_slow_whole_is_not_mended() -> None:
    """The least hurt of a class would be mended; its own time, not that of the class, says that it is not worth it."""
    model = SlowWhereSmoothed(2.0, 0.9, floats={BF16: (0.0, 0.33)})
    found = search(model, floats=[FLOAT, BF16], classes=[[INT8, SMOOTH]], max_drop=0.01)
    assert (found.winner.mixture, found.layers) == (BF16, {})


def test_what_holds_by_smoothing_is_not_mended() -> None:
    model = Model(
        damage=[0.05, *[0.0001] * 7],
        cost=[1.0] * 8,
        scale=lambda m: 0.01 if m.config and m.config.smoothing else 1.0,
    )
    found = search(model, classes=[[INT8, SMOOTH, ENTROPY]], max_drop=0.01)
    assert (found.winner.mixture, found.layers) == (SMOOTH, {})
    assert model.asked == [FLOAT, INT8, SMOOTH]


def test_what_smoothing_makes_slow_is_mended_too() -> None:
    """A multiplication for every activation costs more here than one layer in float."""
    model = SlowWhereSmoothed(1.5, 0.01)
    found = search(model, classes=[[INT8, SMOOTH], [OTHER]], max_drop=0.01)
    assert SMOOTH in model.asked
    assert found.winner.mixture == INT8.keeping(["0"])


@pytest.mark.parametrize(("lower", "first"), [(0.995, False), (0.9, True)])
def test_of_settings_that_are_equal_at_a_glance_the_plain_ones_come_first(lower: float, first: bool) -> None:
    class Twins(Model):
        def ratio(self, mixture: Mixture) -> float:
            return super().ratio(replace(mixture, settings=())) * (lower if mixture.settings else 1.0)

    for classes in ([[INT8], [_lower(INT8)]], [[_lower(INT8)], [INT8]]):
        model = Twins(damage=[0.0001] * 4, cost=[1.0] * 4)
        search(model, classes=classes)
        assert model.asked[1] == (_lower(INT8) if first else INT8)


def test_other_settings_of_what_holds_are_judged_only_where_they_are_faster() -> None:
    class Settled(Model):
        lower: float = 1.0

        def ratio(self, mixture: Mixture) -> float:
            return super().ratio(mixture) * (
                self.lower if mixture.settings and mixture.config == SMOOTH.config else 1.0
            )

    def search_with(lower: float) -> tuple[Outcome, list[Mixture]]:
        model = Settled(
            damage=[0.05], cost=[1.0], scale=lambda m: 0.01 if m.config and m.config.smoothing else 1.0
        )
        model.lower = lower
        classes = [[INT8, SMOOTH], [_lower(INT8), _lower(SMOOTH)]]
        return search(model, classes=classes, max_drop=0.01), model.asked

    found, asked = search_with(1.1)
    assert (found.winner.mixture, asked) == (SMOOTH, [FLOAT, INT8, SMOOTH])
    # The plain ones are equally fast; the smoothed ones are not.
    found, asked = search_with(0.8)
    assert found.winner.mixture == _lower(SMOOTH)


def test_what_misses_under_some_settings_is_not_judged_under_others() -> None:
    class Even(Model):
        def ratio(self, mixture: Mixture) -> float:
            return super().ratio(replace(mixture, settings=()))

    def asked_with(drop: float) -> tuple[Outcome, list[Mixture]]:
        model = Even(
            damage=[drop], cost=[1.0], scale=lambda m: 0.9 if m.config and m.config.smoothing else 1.0
        )
        classes = [[INT8, SMOOTH], [_lower(INT8), _lower(SMOOTH)]]
        return search(model, classes=classes, max_drop=0.01), [m for m in model.asked if m.settings]

    found, asked = asked_with(0.03)
    assert asked == []
    assert [t.mixture for t in found.trials if t.decision == "skipped"] == [_lower(INT8), _lower(SMOOTH)]
    assert found.evaluations == 2
    # What misses by less than the margin may hold with other rounding.
    _, asked = asked_with(0.009)
    assert asked == [_lower(INT8), _lower(SMOOTH)]


def test_layers_stay_in_float_where_float_is_fastest() -> None:
    """Of two sessions that are as fast when all is quantized, the one whose float layers cost less is mended; the other is
    not."""
    damage = [0.05, *[0.0001] * 7]

    class Faster(Model):
        def ratio(self, mixture: Mixture) -> float:
            ratio = super().ratio(mixture)
            kept = 0.3 * len(mixture.kept) / len(damage)
            return ratio - kept if mixture.settings and mixture.config else ratio

    model = Faster(damage=damage, cost=[1.0] * 8, floats={_lower(FLOAT): (0.0, 0.6)})
    found = search(model, floats=[FLOAT, _lower(FLOAT)], classes=[[INT8], [_lower(INT8)]], max_drop=0.01)
    assert found.winner.mixture == _lower(INT8).keeping(["0"])
    assert INT8.keeping(["0"]) not in model.asked


def test_more_layers_than_speed_allows_are_not_tried() -> None:
    """A runtime that is hardly faster than what holds has room for few layers in float."""
    damage = [*[0.02] * 6, *[0.0001] * 2]
    model = Model(
        damage=damage, cost=[1.0] * 8, speed={"cpu:a": 0.3, "cpu:b": 0.33},
        scale=lambda m: 0.01 if m.target == "cpu:b" else 1.0,
    )  # fmt: skip
    found = search(model, classes=[[INT8], [OTHER]], max_drop=0.01)
    assert found.winner.mixture == OTHER
    # Half of the error is in six layers of eight; at what is saved per layer, one may stay in float.
    kept = [len(m.kept) for m in model.asked if m.target == "cpu:a" and m.config is not None]
    assert kept == [0, 1]


def test_a_whole_model_that_is_hardly_faster_than_what_holds_is_not_mended() -> None:
    model = Model(
        damage=[0.05, *[0.0001] * 7], cost=[1.0] * 8, speed={"cpu:a": 0.32, "cpu:b": 0.325},
        scale=lambda m: 0.01 if m.target == "cpu:b" else 1.0,
    )  # fmt: skip
    found = search(model, classes=[[INT8], [OTHER]], max_drop=0.01)
    assert (found.winner.mixture, found.layers) == (OTHER, {})
    assert model.asked == [FLOAT, INT8, OTHER]
