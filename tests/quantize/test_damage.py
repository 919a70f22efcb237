"""Broken answers are told from less accurate ones, at bounds that are stated."""

import numpy as np
import pytest

from edgekd.errors import DataError, ModelError
from edgekd.quantize.damage import Answers, Bounds, compare_answers, data_sized
from edgekd.spec import TensorSpec

RNG = np.random.default_rng(6)


def logits(rows: int = 64, classes: int = 10) -> np.ndarray:
    """Decided answers: one class is well above the others."""
    made = RNG.standard_normal((rows, classes)).astype(np.float32)
    made[np.arange(rows), RNG.integers(0, classes, rows)] += 6
    return made


def compare(before: np.ndarray, after: np.ndarray, parts: int = 1, **more):
    return compare_answers(
        [{"y": a} for a in np.array_split(before, parts)],
        [{"y": b} for b in np.array_split(after, parts)],
        **more,
    )


def test_equal_answers_are_exact():
    a = logits()
    damage = compare(a, a.copy())
    assert damage.sqnr_db == {"y": None}
    assert damage.agreement == {"y": 1.0}
    assert damage.to_lineage()["checked_examples"] == 64


def test_sqnr_is_ten_times_the_logarithm_of_the_ratio_of_powers():
    a = np.array([[3.0, 4.0]])
    assert compare(a, a * 0.9).sqnr_db == {"y": 20.0}  # signal 25, noise 0.25


def test_batches_are_summed_not_averaged():
    a, noise = logits(), RNG.standard_normal((64, 10)).astype(np.float32) * np.linspace(0, 1, 64)[:, None]
    assert compare(a, a + noise, parts=7) == compare(a, a + noise)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda a: RNG.standard_normal(a.shape).astype(np.float32), "dB of signal to noise"),
        (lambda a: np.roll(a, 1, axis=1), "dB of signal to noise"),
        (lambda a: np.zeros_like(a), "dB of signal to noise"),
        (lambda a: -a, "dB of signal to noise"),
    ],
    ids=["garbage", "shifted classes", "zeros", "negated"],
)
def test_planted_garbage_is_refused(wrong, said):
    a = logits()
    with pytest.raises(ModelError, match=f"'y'.*{said}"):
        compare(a, wrong(a))


def test_shifted_classes_are_found_beneath_a_common_offset():
    a = logits() + 100  # the offset alone makes it 30 dB
    shifted = np.roll(a, 1, axis=1)
    with pytest.raises(ModelError, match=r"greatest class of its float source for [0-9] of 64"):
        compare(a, shifted)


def test_agreement_alone_is_refused_only_beyond_chance():
    a = logits(7) + 100
    shifted = np.roll(a, 1, axis=1)
    with pytest.raises(ModelError, match="greatest class"):
        compare(a, shifted)
    assert compare(a[:3], shifted[:3]).agreement["y"] < 0.5


def test_a_regression_with_near_ties_is_not_held_for_a_classification():
    a = np.cumsum(RNG.standard_normal((64, 640)), axis=1) / 10  # neighbours are near
    a = np.where(a == a.max(1, keepdims=True), np.sort(a, 1)[:, -2:-1], a)  # the two greatest are equal
    noisy = a + RNG.standard_normal(a.shape) * a.std() * 0.05
    damage = compare(a, noisy)
    assert damage.agreement["y"] < 0.5
    assert damage.sqnr_db["y"] > 20


def test_a_lossy_model_passes_and_is_described():
    a = logits()
    damage = compare(a, a + RNG.standard_normal(a.shape).astype(np.float32) * 0.5)
    assert 10 < damage.sqnr_db["y"] < 20
    assert damage.agreement["y"] > 0.9


def test_one_column_has_no_classes():
    assert compare(logits(classes=1), logits(classes=1), bounds=Bounds(min_sqnr_db=-99)).agreement == {}


def test_new_nan_and_infinity_are_refused():
    a = logits()
    for value in (np.nan, np.inf):
        b = a.copy()
        b[63, 9] = value
        with pytest.raises(ModelError, match="'y' holds NaN or infinity where its float source"):
            compare(a, b, parts=4)


def test_infinity_of_the_source_has_to_stay():
    a = logits()
    a[:, 3] = -np.inf
    assert compare(a, a.copy()).sqnr_db == {"y": None}
    with pytest.raises(ModelError, match="other values where its float source holds NaN or infinity"):
        compare(a, np.where(np.isfinite(a), a, 0))


def test_a_source_of_nothing_but_nan_proves_nothing():
    a = np.full((4, 10), np.nan, np.float32)
    with pytest.raises(ModelError, match="no finite value on any real example"):
        compare(a, a.copy())


def test_noise_without_any_signal_is_refused():
    with pytest.raises(ModelError, match="0 everywhere in its float source"):
        compare(np.zeros((4, 10)), np.full((4, 10), 0.1))


def test_other_shapes_and_missing_outputs_are_refused():
    a = logits()
    with pytest.raises(ModelError, match=r"'y' has shape \(64, 9\), its float source has \(64, 10\)"):
        compare(a, a[:, :9])
    with pytest.raises(ModelError, match="'y' is missing"):
        compare_answers([{"y": a}], [{"z": a}])


def test_labels_and_texts_are_compared_for_equality():
    a = RNG.integers(0, 10, 64)
    damage = compare(a, np.where(np.arange(64) < 8, a + 1, a))
    assert damage.agreement == {"y": 56 / 64}
    assert damage.sqnr_db == {"y": None}
    with pytest.raises(ModelError, match="the value of its float source for 0 of 64"):
        compare(a, a + 1)
    names = np.array(["yes", "no"])
    assert compare(names, np.array(["yes", "yes"])).agreement == {"y": 0.5}


def test_nothing_to_compare_is_an_error():
    with pytest.raises(DataError, match="no real examples"):
        compare_answers([], [])


def test_bounds_are_the_caller_s():
    a = logits()
    noisy = a + RNG.standard_normal(a.shape).astype(np.float32) * 0.5
    with pytest.raises(ModelError, match="at least 30 are asked"):
        compare(a, noisy, bounds=Bounds(min_sqnr_db=30))


def test_integers_of_many_values_are_quantities():
    pixels = RNG.integers(20, 230, (4, 3, 8, 8)).astype(np.uint8)
    damage = compare(pixels, pixels + RNG.integers(1, 3, pixels.shape).astype(np.uint8))
    assert damage.agreement == {"y": 0.0}
    assert damage.sqnr_db["y"] > 30
    for wrong in (np.zeros_like(pixels), np.full_like(pixels, 125), RNG.permuted(pixels)):
        with pytest.raises(ModelError, match="the value of its float source for"):
            compare(pixels, wrong)


def test_few_values_are_no_proof_of_noise():
    a = np.linspace(0.5, 4, 8)[:, None]
    assert compare(a[:1], 3 * a[:1]).sqnr_db["y"] < 0
    assert compare(a[:7], 3 * a[:7]).sqnr_db["y"] < 0
    assert compare(0 * a[:7], 0 * a[:7] + 1e-7).sqnr_db == {"y": None}
    with pytest.raises(ModelError, match="dB of signal to noise"):
        compare(a, 3 * a)


def test_sequences_of_logits_are_compared_row_by_row():
    a = logits(48, 100).reshape(8, 6, 100) + 30  # the common offset alone is enough for the SQNR
    assert compare(a, a + 0.1 * logits(48, 100).reshape(a.shape)).agreement["y"] > 0.9
    for wrong in (np.full_like(a, 30), np.roll(a, 1, axis=2), RNG.permuted(a, axis=2)):
        with pytest.raises(ModelError, match=r"greatest class of its float source for [0-9] of 48 rows"):
            compare(a, wrong)
    masked = np.where(np.arange(48).reshape(8, 6, 1) % 2, a, -np.inf)
    with pytest.raises(ModelError, match="of 24 rows"):
        compare(masked, np.where(np.isfinite(masked), 30.0, masked))


def test_noisy_pictures_have_no_classes_along_their_width():
    a = RNG.uniform(0, 1, (4, 1, 16, 16))
    a[..., 1] = a[..., 0] = a.max(-1) + 1e-3  # near ties
    noisy = a + RNG.standard_normal(a.shape) * 0.12
    assert 10 < compare(a, noisy).sqnr_db["y"] < 20


def test_sizes_that_the_data_decides_may_change():
    inputs = (TensorSpec(name="x", dtype="float32", shape=("batch", 4)),)
    outputs = (
        TensorSpec(name="found", dtype="int64", shape=("n", 3)),
        TensorSpec(name="where", dtype="int64", shape=(2, "m")),
        TensorSpec(name="y", dtype="float32", shape=("batch", 4)),
    )
    free = data_sized(inputs, outputs)
    assert free == {"found": (0,), "where": (1,)}
    y = logits(4, 4)
    one = {"found": np.zeros((7, 3), np.int64), "where": np.zeros((2, 5), np.int64), "y": y}
    other = {"found": np.zeros((6, 3), np.int64), "where": np.zeros((2, 9), np.int64), "y": y}
    seen = Answers(free=free)
    seen.add(one, other)
    seen.add(one, one)
    assert seen.damage().resized == {"found": 1, "where": 1}
    assert seen.damage().to_lineage()["resized_batches"] == {"found": 1, "where": 1}
    assert seen.examples == 8
    for wrong in ({"found": np.zeros((7, 4), np.int64)}, {"where": np.zeros((3, 5), np.int64)}, {"y": y[:3]}):
        with pytest.raises(ModelError, match="has shape"):
            Answers(free=free).add(one, {**one, **wrong})
