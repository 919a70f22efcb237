"""Detectors of other sizes and outputs, made comparable in the picture's own pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.data.example import Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO, Prediction, check_scores
from edgekd.tasks.detection import Detection

pytest.importorskip("PIL.Image")
TASK = Detection(data={})
#: One picture of 40 x 20 pixels with a white block at x 10..20, y 4..12.
PICTURE = np.zeros((20, 40, 3), np.uint8)
PICTURE[4:12, 10:20] = (255, 0, 51)


def example(image: np.ndarray = PICTURE, ids: tuple[int, ...] = (3, 7, 90)) -> Example:
    return Example(id="a", inputs={"image": image, "category_ids": np.asarray(ids)}, label="{}")


def model(shape: tuple[int | str, ...] = ("n", 3, 20, 40), dtype: str = "float32", **prepare: Any) -> ModelIO:
    spec = TensorSpec(name="pixels", dtype=dtype, shape=shape)
    return ModelIO(role="student", inputs=(spec,), outputs=(), prepare=prepare)


def found(outputs: dict[str, Any], io: ModelIO, picture: Example | None = None) -> list[list[float]]:
    arrays = {k: np.asarray(v, np.float32) for k, v in outputs.items()}
    return json.loads(TASK.decode_for(picture or example(), arrays, io).value)


def test_stretched_to_the_models_own_size() -> None:
    feed = TASK.prepare(example(), model(("n", 3, 10, 10)))["pixels"]
    assert (feed.shape, feed.dtype) == ((1, 3, 10, 10), np.float32)
    assert feed[0, :, 3, 3].tolist() == [255, 0, 51]
    same = TASK.prepare(example(), model(scale=255, mean=[0, 0, 0.1], std=0.5, channels="BGR"))["pixels"]
    assert same[0, :, 5, 12].tolist() == pytest.approx([0.4, 0, 1.8], abs=1e-6)
    last = TASK.prepare(example(), model(("n", 20, 40, 3), "uint8", layout="NHWC"))["pixels"]
    np.testing.assert_array_equal(last[0], PICTURE)
    free = TASK.prepare(example(), model(("n", 3, "h", "w")))["pixels"]
    assert free.shape == (1, 3, 20, 40), "a model of any size takes the picture's"


def test_letterboxed() -> None:
    feed = TASK.prepare(example(), model(("n", 3, 20, 20), resize="letterbox", fill=7))["pixels"][0]
    assert (feed[:, :5] == 7).all()
    assert (feed[:, 15:] == 7).all()
    assert feed[0, 9, 7] == 255
    corner = TASK.prepare(example(), model(("n", 3, 30, 30), resize="letterbox", align="start"))["pixels"][0]
    assert (corner[:, 15:] == 114).all()
    assert (corner[:, :15] != 114).any(axis=0).all()


@pytest.mark.parametrize(
    ("keys", "decode", "box"),
    [
        # The block lies at x 10..20, y 4..12 of 40 x 20: at 2.5..5, 2..6 of 10 x 10.
        ({}, {}, [2.5, 2, 5, 6]),
        ({}, {"format": "xywh"}, [2.5, 2, 2.5, 4]),
        ({}, {"format": "cxcywh"}, [3.75, 4, 2.5, 4]),
        ({}, {"coordinates": "normalised"}, [0.25, 0.2, 0.5, 0.6]),
        ({}, {"coordinates": "image"}, [10, 4, 20, 12]),
        # Letterboxed: 10 x 5 pixels, two rows of padding above them.
        ({"resize": "letterbox"}, {}, [2.5, 2 + 1, 5, 2 + 3]),
        ({"resize": "letterbox", "align": "start"}, {}, [2.5, 1, 5, 3]),
        (
            {"resize": "letterbox"},
            {"coordinates": "normalised", "format": "cxcywh"},
            [0.375, 0.4, 0.25, 0.2],
        ),
    ],
)
def test_boxes_come_back_in_the_pictures_pixels(keys: dict, decode: dict, box: list[float]) -> None:
    io = model(("n", 3, 10, 10), **keys, decode=decode)
    assert found({"boxes": [[box]], "scores": [[[0.1, 0.9, 0.2]]]}, io) == [[7, 0.9, 10, 4, 10, 8]]


BOXES = [[0, 0, 8, 8], [1, 0, 9, 8], [20, 0, 30, 10]]
SCORES = [[0.5, 0.2, 0.1], [0.1, 0.3, 0.6], [0.7, 0.65, 0.0]]


def test_best_class_or_all_of_them() -> None:
    got = found({"boxes": [BOXES], "scores": [SCORES]}, model())
    assert [row[:2] for row in got] == [[3, 0.7], [90, 0.6], [3, 0.5]], "best first"
    io = model(decode={"multi_label": True, "min_score": 0.5, "max_detections": 3})
    got = found({"boxes": [BOXES], "scores": [SCORES]}, io)
    assert [row[:2] for row in got] == [[3, 0.7], [7, 0.65], [90, 0.6]]


def test_suppression_is_within_a_class() -> None:
    same = [[0.5, 0, 0], [0.6, 0, 0], [0.7, 0, 0]]
    got = found({"boxes": [BOXES], "scores": [same]}, model(decode={"nms_iou": 0.5}))
    assert [row[1:3] for row in got] == [[0.7, 20], [0.6, 1]]
    got = found({"boxes": [BOXES], "scores": [SCORES]}, model(decode={"nms_iou": 0.5}))
    assert len(got) == 3, "boxes of other classes stay"
    got = found({"boxes": [BOXES], "scores": [same]}, model(decode={"nms_iou": 0.9}))
    assert len(got) == 3, "7 of 9 pixels are shared: 0.78"


def test_scores_with_classes_of_their_own() -> None:
    decode = {"boxes": "dets", "scores": "conf", "classes": "labels"}
    got = found({"dets": BOXES, "conf": [0.5, 0.9, 0.7], "labels": [2, 0, 1]}, model(decode=decode))
    assert [row[:2] for row in got] == [[3, 0.9], [7, 0.7], [90, 0.5]]


def test_packed_outputs() -> None:
    last = np.concatenate([BOXES, SCORES], axis=1)
    wanted = found({"boxes": [BOXES], "scores": [SCORES]}, model())
    assert found({"out": [last]}, model(decode={"packed": "out"})) == wanted
    assert found({"out": [last.T]}, model(decode={"packed": "out", "transposed": True})) == wanted
    sure = np.concatenate([BOXES, [[0.5]] * 3, SCORES], axis=1)
    got = found({"out": [sure]}, model(decode={"packed": "out", "columns": ["box", "objectness", "scores"]}))
    assert [row[:2] for row in got] == [[3, 0.35], [90, 0.3], [3, 0.25]]
    chosen = np.concatenate([BOXES, [[0.5, 0], [0.6, 2], [0.7, 0]]], axis=1)
    assert (
        found({"out": [chosen]}, model(decode={"packed": "out", "columns": ["box", "score", "class"]}))
        == wanted
    )


def test_activations() -> None:
    got = found(
        {"boxes": [BOXES], "scores": [[[0.0], [2.0], [-900.0]]]}, model(decode={"activation": "sigmoid"})
    )
    assert [row[1] for row in got] == [0.880797, 0.5], "and one that is all but nought is left out"
    decode = {"activation": "softmax", "category_ids": [None, 3, 90]}
    got = found({"boxes": [BOXES], "scores": [np.log(np.asarray(SCORES) + 0.01)]}, model(decode=decode))
    assert [row[0] for row in got] == [90], "the class None is a background"
    raw = {"boxes": [BOXES], "scores": [[[0.0]] * 3], "obj": [[0.0, 0.0, -50.0]]}
    got = found(raw, model(decode={"activation": "sigmoid", "objectness": "obj"}))
    assert [row[1] for row in got] == [0.25, 0.25]


def test_a_background_takes_no_place() -> None:
    decode = {"category_ids": [None, 3, 90], "max_detections": 1}
    got = found({"boxes": [BOXES], "scores": [SCORES]}, model(decode=decode))
    assert got == [[90, 0.6, 1, 0, 8, 8]], "though the two backgrounds are surer or as sure"


def test_categories() -> None:
    outputs = {"boxes": [BOXES[:1]], "scores": [[[0.1, 0.2, 0.9]]]}
    assert found(outputs, model(), example(ids=(3, 7, 90)))[0][0] == 90, "the third category"
    assert found(outputs, model(decode={"category_ids": "id"}))[0][0] == 2
    bare = Example(id="a", inputs={"image": PICTURE}, label="{}")
    assert found(outputs, model(), bare)[0][0] == 2, "data without categories counts as the model does"
    with pytest.raises(DataError, match="the student answers class 2, there are 2 categories"):
        found(outputs, model(), example(ids=(3, 7)))


def test_boxes_beyond_the_edge_are_cut_and_those_outside_dropped() -> None:
    boxes = [[-5, -5, 5, 5], [30, 10, 80, 80], [50, 0, 60, 5], [9, 9, 3, 3]]
    got = found({"boxes": [boxes], "scores": [[[0.9], [0.8], [0.7], [0.6]]]}, model())
    assert [row[2:] for row in got] == [[0, 0, 5, 5], [30, 10, 10, 10]]


def test_nothing_found() -> None:
    for outputs, decode in (
        ({"boxes": np.zeros((1, 0, 4)), "scores": np.zeros((1, 0, 3))}, {}),
        ({"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "c": np.zeros(0)}, {"classes": "c"}),
        ({"boxes": [BOXES], "scores": [SCORES]}, {"min_score": 0.99, "nms_iou": 0.5}),
    ):
        assert found(outputs, model(decode=decode)) == []


@pytest.mark.parametrize(
    ("outputs", "decode", "message"),
    [
        ({"b": BOXES}, {}, "the student has no output 'boxes'; its outputs are b"),
        ({"boxes": BOXES, "scores": SCORES[:2]}, {}, r"gave boxes \(3, 4\), scores \(2, 3\)"),
        ({"boxes": [[1, 2, 3]], "scores": [[1]]}, {}, r"gave boxes \(1, 3\)"),
        ({"boxes": [[np.nan] * 4], "scores": [[1]]}, {}, "hold NaN or infinite"),
        ({"boxes": [BOXES[0]], "scores": [[np.inf]]}, {}, "hold NaN or infinite"),
        ({"boxes": BOXES, "scores": SCORES, "c": [1, 2]}, {"classes": "c"}, "and classes"),
        (
            {"o": np.zeros((1, 7, 3))},
            {"packed": "o"},
            r"has shape \(1, 7, 3\), which does not hold the columns",
        ),
        ({"o": np.zeros((1, 7, 7))}, {"packed": "o", "columns": ["box", "score", "class"]}, "does not hold"),
    ],
)
def test_outputs_that_do_not_fit(outputs: dict, decode: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        found(outputs, model(decode=decode))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ({"sise": 3}, "prepare key 'sise' is not known; choose from size"),
        ({"size": [3]}, r"prepare.size \[3\] is not a size"),
        ({"resize": "crop"}, "prepare.resize 'crop' is not known; choose stretch or letterbox"),
        ({"resize": "letterbox", "align": "left"}, "prepare.align 'left'"),
        ({"layout": "NCT"}, "prepare.layout 'NCT' is not known"),
        ({"channels": "GRAY"}, "prepare.channels 'GRAY'"),
        ({"fill": 300}, "prepare.fill is 300; expected a number from 0 to 255"),
        ({"mean": [1, 2]}, "do not fit a picture of shape"),
        ({"std": [1, 1, 0]}, r"prepare.std is \[1, 1, 0\]; expected numbers above 0"),
        ({"decode": {"nms": 0.5}}, "prepare.decode key 'nms' is not known"),
        ({"decode": "yolo"}, "prepare.decode is 'yolo'; it holds the keys boxes"),
        ({"decode": {"format": "yxyx"}}, "prepare.decode.format 'yxyx' is not known"),
        ({"decode": {"coordinates": "cells"}}, "prepare.decode.coordinates 'cells'"),
        ({"decode": {"activation": "relu"}}, "prepare.decode.activation 'relu'"),
        ({"decode": {"nms_iou": 2}}, "prepare.decode.nms_iou is 2; expected a number from 0 to 1"),
        ({"decode": {"max_detections": 0}}, "prepare.decode.max_detections is 0"),
        ({"decode": {"category_ids": "names"}}, "prepare.decode.category_ids is 'names'"),
        ({"decode": {"packed": "boxes", "columns": ["box"]}}, "prepare.decode.columns"),
    ],
)
def test_keys_that_do_not_fit(prepare: dict, message: str) -> None:
    io = model(("n", 3, 10, 10), **prepare)
    with pytest.raises(UsageError, match=message):
        TASK.prepare(example(), io)
        found({"boxes": [BOXES], "scores": [SCORES]}, io)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"pixels": np.zeros((3, 4, 4), np.float32)},
            r"is float32 \(3, 4, 4\); detection takes pictures as uint8",
        ),
        ({"image": np.zeros((4, 4), np.uint8)}, "detection takes pictures"),
        ({"photo": PICTURE}, r"no array for the student's input 'pixels' \(arrays: photo\)"),
    ],
)
def test_data_without_a_picture(inputs: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TASK.prepare(Example(id="a", inputs=inputs), model())


def truth(*boxes: list[float], category: int = 3, crowd: bool = False) -> str:
    notes = [{"category_id": category, "bbox": b, **({"iscrowd": 1} if crowd else {})} for b in boxes]
    return json.dumps({"annotations": notes})


def answer(*rows: list[float]) -> Prediction:
    return Prediction(value=json.dumps(rows))


def test_scores_per_picture() -> None:
    box = [0, 0, 10, 10]
    labels = [truth(box), truth(box, [20, 20, 5, 5]), truth(), truth(), truth(box, crowd=True), truth(box)]
    answers = [
        answer([3, 0.9, *box]),
        answer([3, 0.9, *box], [7, 0.8, 20, 20, 5, 5]),
        answer(),
        answer([3, 0.25, *box]),
        answer([3, 0.9, *box]),
        answer(),
    ]
    scores = check_scores(Detection(data={}, metric="map50").score(answers, labels), 6)
    assert scores.per_example[[0, 2, 3, 5]].tolist() == pytest.approx([1, 1, 0.75, 0])
    assert scores.per_example[1] == pytest.approx(51 / 101), "one of two found: 51 of 101 levels of recall"
    assert scores.per_example[4] == 1, "a detection in a crowd is neither right nor wrong"
    assert (scores.aggregate, scores.error, scores.unit) == ("average_precision", False, "fraction")
    # Objects: 4 of class 3, 2 of them found, with one false in an empty picture after them.
    assert scores.value == pytest.approx(51 / 101)


@pytest.mark.parametrize(
    ("answers", "labels", "message"),
    [
        ([answer()], [truth()], "none of the 1 examples has an object"),
        ([answer()], [truth([0, 0, 1, 1], crowd=True)], "none of the 1 examples has an object"),
        ([answer()], [3], "row 0 has the label '3', which is no ground truth"),
        ([answer()], ['{"annotations": [{"bbox": [1, 2], "category_id": 1}]}'], "row 0 has the label"),
        ([Prediction(value=3)], [truth([0, 0, 1, 1])], "row 0 has the answer '3', which holds no detections"),
        ([answer([3, 0.9, 1, 1])], [truth([0, 0, 1, 1])], "row 0 has the answer"),
        ([answer([3, float("nan"), 0, 0, 1, 1])], [truth([0, 0, 1, 1])], "row 0 has the answer"),
    ],
)
def test_what_cannot_be_scored(answers: list[Prediction], labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TASK.score(answers, labels)


def test_unknown_metric_and_a_lone_decode() -> None:
    with pytest.raises(UsageError, match="metric 'top1' is not known for detection; choose map or map50"):
        Detection(data={}, metric="top1")
    with pytest.raises(UsageError, match="without their picture"):
        TASK.decode({}, model())


class Faces(Detection):
    """YuNet's raw outputs: an anchor per cell of three strides (Wu et al. 2023, YuNet; its priors have no sizes)."""

    def candidates(self, outputs: Any, model: ModelIO) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores = [], []
        for stride in (8, 16, 32):
            cells = 320 // stride
            rows, columns = np.divmod(np.arange(cells * cells), cells)
            box = outputs[f"bbox_{stride}"][0].astype(np.float64)
            centre = (np.stack([columns, rows], axis=1) + box[:, :2]) * stride
            size = np.exp(box[:, 2:]) * stride
            boxes.append(np.concatenate([centre - size / 2, centre + size / 2], axis=1))
            clipped = np.clip([outputs[f"{k}_{stride}"][0, :, 0] for k in ("cls", "obj")], 0, 1)
            scores.append(np.sqrt(clipped.prod(axis=0)))
        flat = np.concatenate(scores)
        return np.concatenate(boxes), flat, np.zeros(len(flat), np.int64)


@pytest.mark.data
def test_a_task_of_ones_own_serves_raw_outputs(data_root: Path) -> None:
    path = data_root / "onnx" / "yunet_n_320_320_golden.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path) as golden:
        arrays = {k: golden[k] for k in golden.files}
    images = arrays.pop("images_uint8_nhwc_bgr")
    io = model(
        ("n", 3, 320, 320), channels="BGR", decode={"min_score": 0.003, "nms_iou": 0.3, "max_detections": 50}
    )
    task = Faces(data={})
    for i, image in enumerate(images):
        # Twice as wide as the model's input: boxes come back twice as wide.
        wide = Example(id=str(i), inputs={"image": np.repeat(image[:, :, ::-1], 2, axis=1)})
        outputs = {k: v[i : i + 1] for k, v in arrays.items()}
        rows = json.loads(task.decode_for(wide, outputs, io).value)
        scores = {
            s: np.sqrt(
                np.clip(arrays[f"cls_{s}"][i, :, 0], 0, 1) * np.clip(arrays[f"obj_{s}"][i, :, 0], 0, 1)
            )
            for s in (8, 16, 32)
        }
        stride = max(scores, key=lambda s: scores[s].max())
        cell = int(scores[stride].argmax())
        dx, dy, dw, dh = arrays[f"bbox_{stride}"][i, cell].astype(float)
        y, x = divmod(cell, 320 // stride)
        width, height = np.exp(dw) * stride, np.exp(dh) * stride
        left, top = (x + dx) * stride - width / 2, (y + dy) * stride - height / 2
        right, bottom = min(left + width, 320), min(top + height, 320)
        left, top = max(left, 0), max(top, 0)
        assert rows[0][1] == pytest.approx(scores[stride][cell], abs=1e-5)
        assert rows[0][2:] == pytest.approx([2 * left, top, 2 * (right - left), bottom - top], abs=0.02)
