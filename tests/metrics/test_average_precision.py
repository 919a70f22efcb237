"""Average precision from stored matches against COCOeval itself, plain and with repeated images."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest

from edgekd.errors import EvidenceError
from edgekd.metrics import detection as module
from edgekd.metrics import metric_value, take_statistics
from edgekd.metrics.detection import NAMES, average_precision
from edgekd.tasks.matching import match

coco_module = pytest.importorskip("pycocotools.coco")
eval_module = pytest.importorskip("pycocotools.cocoeval")
Boxes = list[list[dict[str, Any]]]


def scenes(
    n: int, classes: int, seed: int, *, ties: bool = False, crowds: bool = True
) -> tuple[Boxes, Boxes]:
    """Answers and truths: near hits, wrong classes, doubles, noise, crowds, empty pictures, boxes beyond the edge."""
    rng = np.random.default_rng(seed)
    answers: Boxes = []
    truths: Boxes = []
    for _ in range(n):
        truth, answer = [], []
        for _ in range(int(rng.poisson(2.5))):
            box = np.concatenate([rng.random(2) * 80 - 5, 5 + rng.random(2) * 20])
            label = int(rng.choice([3, 7, 90][:classes]))
            crowd = int(crowds and rng.random() < 0.15)
            truth.append({"category_id": label, "bbox": box.tolist(), "iscrowd": crowd})
            for _ in range(int(rng.integers(0, 3))):
                said = label if rng.random() < 0.8 else 3
                near = box + rng.normal(0, 1.5, 4) * [1, 1, 0.5, 0.5]
                answer.append({"category_id": said, "score": rng.random(), "bbox": near.tolist()})
        for _ in range(int(rng.poisson(2))):
            box = np.concatenate([rng.random(2) * 80, 5 + rng.random(2) * 20])
            answer.append(
                {"category_id": int(rng.choice([3, 7, 90])), "score": rng.random(), "bbox": box.tolist()}
            )
        for k, found in enumerate(answer):
            # Scores of different pictures may tie; those of one class within one picture do not.
            found["score"] = k / 20 if ties else float(found["score"])
        truths.append(truth)
        answers.append(answer)
    return answers, truths


def by_coco(answers: Boxes, truths: Boxes, index: int = 0) -> float:
    """What COCOeval's own summary prints, with its own parameters."""
    sets = []
    with redirect_stdout(io.StringIO()):
        for rows in (truths, answers):
            coco = coco_module.COCO()
            notes = [
                {**b, "image_id": i, "area": b["bbox"][2] * b["bbox"][3], "iscrowd": b.get("iscrowd", 0)}
                for i, row in enumerate(rows)
                for b in row
            ]
            coco.dataset = {
                "images": [{"id": i} for i in range(len(rows))],
                "categories": [{"id": c} for c in (3, 7, 90)],
                "annotations": [{"id": k, **b} for k, b in enumerate(notes, 1)],
            }
            coco.createIndex()
            sets.append(coco)
        judge = eval_module.COCOeval(*sets, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[index])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("metric", "index"), [("map", 0), ("map50", 1)])
def test_the_value_is_that_of_coco_eval(seed: int, metric: str, index: int) -> None:
    answers, truths = scenes(25, 3, seed)
    value, statistics = match(metric, answers, truths)
    assert set(statistics) == set(NAMES)
    assert 0.05 < value < 0.9
    assert value == pytest.approx(by_coco(answers, truths, index), abs=1e-12)
    assert metric_value("average_precision", statistics, 25) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_whole_weights_are_repeated_pictures(seed: int, ties: bool) -> None:
    n = 20
    answers, truths = scenes(n, 3, seed, ties=ties)
    _, statistics = match("map", answers, truths)
    counts = np.random.RandomState(seed).multinomial(n, np.ones(n) / n, size=8)
    values = average_precision(statistics, counts)
    for row, value in zip(counts, values, strict=True):
        which = np.repeat(np.arange(n), row)
        repeated = by_coco([answers[i] for i in which], [truths[i] for i in which])
        assert value == pytest.approx(repeated, abs=1e-9)


def test_weights_in_parts_are_weights_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, truths = scenes(30, 3, 1)
    _, statistics = match("map", answers, truths)
    weights = np.random.default_rng(0).random((50, 30))
    whole = average_precision(statistics, weights)
    monkeypatch.setattr(module, "_CELLS", 300)
    np.testing.assert_array_equal(average_precision(statistics, weights), whole)


def test_a_subset_is_weights_of_nought_and_a_class_without_truths_is_left_out() -> None:
    answers, truths = scenes(30, 3, 2, crowds=False)
    _, statistics = match("map50", answers, truths)
    only = np.asarray([all(t["category_id"] != 90 for t in truth) for truth in truths], float)
    assert 5 < only.sum() < 25
    rows = np.flatnonzero(only)
    value, _ = match("map50", [answers[i] for i in rows], [truths[i] for i in rows])
    assert average_precision(statistics, only[None])[0] == pytest.approx(value, abs=1e-12)
    assert np.isnan(average_precision(statistics, np.zeros((1, 30)))[0])


def test_a_recall_that_meets_its_level_in_the_last_bit() -> None:
    """3 of 10 found: the level 0.30 counts or not by one bit, as in COCOeval."""
    box = [0.0, 0.0, 10.0, 10.0]
    for found in range(1, 11):
        truths: Boxes = [[{"category_id": 3, "bbox": box, "iscrowd": 0}] for _ in range(10)]
        answers: Boxes = [
            [{"category_id": 3, "score": 0.9 - 0.01 * i, "bbox": box}] if i < found else [] for i in range(10)
        ]
        value, statistics = match("map50", answers, truths)
        assert value == pytest.approx(by_coco(answers, truths, 1), abs=1e-12)
        assert average_precision(statistics, np.ones((1, 10)))[0] == pytest.approx(value, abs=1e-12)


def test_nothing_found_is_nought() -> None:
    truths: Boxes = [[{"category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 0}]]
    value, statistics = match("map", [[]], truths)
    assert value == 0
    assert average_precision(statistics, np.ones((2, 1))).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("truth_count", None, "needs statistics 'truth_count'"),
        ("detection_matched", lambda a: a[:, 0], r"have shapes \(\d+,\)"),
        ("detection_ignored", lambda a: a[:-1], "expected .detections, thresholds. twice"),
        ("detection_class", lambda a: a[:-1], "'detection_class' have"),
        ("detection_example", lambda a: a + 20, r"'detection_example' name an example outside 0..19"),
        ("truth_example", lambda a: a - 20, "'truth_example' name an example outside"),
        ("detection_score", lambda a: a * np.nan, "hold NaN"),
    ],
)
def test_broken_statistics_are_refused(name: str, change: Any, message: str) -> None:
    _, statistics = match("map", *scenes(20, 3, 0))
    if change is None:
        del statistics[name]
    else:
        statistics[name] = change(statistics[name])
    with pytest.raises(EvidenceError, match=message):
        average_precision(statistics, np.ones((1, 20)))


def test_some_images_are_judged_as_if_the_others_were_not_there() -> None:
    """For slices: the statistics of chosen images, in any order, make the value of just those images."""
    answers, truths = scenes(60, 3, 5)
    _, statistics = match("map", answers, truths)
    rows = np.asarray([40, 3, 17, 59, 0, 22, 8, 31, 12, 45])
    alone, _ = match("map", [answers[i] for i in rows], [truths[i] for i in rows])
    taken = take_statistics("average_precision", statistics, rows)
    assert metric_value("average_precision", taken, len(rows)) == pytest.approx(alone, abs=1e-12)
    none = take_statistics("average_precision", statistics, np.asarray([], np.int64))
    assert {name: len(values) for name, values in none.items()} == dict.fromkeys(NAMES, 0)
