"""``edgekd gate`` on detectors: handwriting (UCI digits) pasted on noise, found by two small convolutional networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_nets import edgekd, fit, gate, write_model
from torch import nn

from edgekd.data.digits import open_sklearn

pytest.importorskip("pycocotools")
image_module = pytest.importorskip("PIL.Image")

HEIGHT, WIDTH, SIDE, SCENES = 64, 96, 16, 120
#: Category ids with gaps between them, as COCO's.
CATEGORY = [10 * digit + 3 for digit in range(10)]


def paste(rng: np.random.Generator, rows: list[Any]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """A noisy picture with up to four digits, and where: (digit, x, y); some reach over the edge."""
    canvas = rng.integers(0, 40, (HEIGHT + SIDE, WIDTH + SIDE)).astype(np.float64)
    found: list[tuple[int, int, int]] = []
    for _ in range(int(rng.integers(0, 5))):
        example = rows[int(rng.integers(len(rows)))]
        x, y = int(rng.integers(-4, WIDTH - SIDE + 5)), int(rng.integers(-4, HEIGHT - SIDE + 5))
        if any(abs(x - a) < SIDE and abs(y - b) < SIDE for _, a, b in found):
            continue
        ink = np.kron(example.inputs["image"][0], np.ones((2, 2))) * 215
        canvas[y + 8 : y + 8 + SIDE, x + 8 : x + 8 + SIDE] += ink
        found.append((int(example.label), x, y))
    return canvas[8:-8, 8:-8].astype(np.uint8), found


def windows(scenes: list[Any], side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut-outs (k, 3, side, side) and targets (k, 3): class (10: none), and how far off the digit is, in sides."""
    rng = np.random.default_rng(seed)
    cuts, targets = [], []
    scale = side / SIDE
    width, height = round(WIDTH * scale), round(HEIGHT * scale)
    for picture, found in scenes:
        small = np.asarray(
            image_module.fromarray(picture).resize((width, height), image_module.Resampling.BILINEAR)
        )
        whole = np.pad(small, side).astype(np.float32) / 255
        at = [(digit, x * scale, y * scale) for digit, x, y in found]
        places = [
            (digit, round(x) + i, round(y) + j, x, y)
            for digit, x, y in at
            for i, j in rng.integers(-1, 2, (4, 2)).tolist()
        ]
        # What is beside a digit is no digit, and neither is noise.
        spread = side - 2
        others = [
            (round(x) + i, round(y) + j)
            for _, x, y in at
            for i, j in rng.integers(-spread, spread + 1, (8, 2)).tolist()
        ]
        others += rng.integers([-side // 2] * 2, [width - side // 2, height - side // 2], (6, 2)).tolist()
        for x, y in others:
            inside = -side <= x < width and -side <= y < height
            if inside and all(max(abs(x - a), abs(y - b)) > side / 5 for _, a, b in at):
                places.append((10, x, y, x, y))
        for digit, x, y, wanted_x, wanted_y in places:
            cut = whole[y + side : y + 2 * side, x + side : x + 2 * side]
            cuts.append(np.broadcast_to(cut, (3, side, side)))
            targets.append((digit, (wanted_x - x) / side, (wanted_y - y) / side))
    return np.stack(cuts), np.asarray(targets, np.float32)


def loss(answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    classes = target[:, 0].long()
    flat = answer.flatten(1)
    off = (flat[:, 11:] - target[:, 1:]).abs().sum(1)
    return nn.functional.cross_entropy(flat[:, :11], classes) + 2 * (off * (classes < 10)).mean()


class Detector(nn.Module):
    """A network of windows moved over the whole input: boxes (n, cells, 4) and scores (n, cells, 10)."""

    def __init__(
        self, net: nn.Module, side: int, stride: int, height: int, width: int, normalised: bool
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.ZeroPad2d(side // 2), net)
        rows, columns = torch.meshgrid(
            torch.arange(height // stride + 1), torch.arange(width // stride + 1), indexing="ij"
        )
        self.register_buffer("cells", torch.stack([columns, rows], dim=-1).reshape(1, -1, 2) * float(stride))
        self.side = side
        size = [width, height, width, height] if normalised else [1.0] * 4
        self.register_buffer("size", torch.tensor(size, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        table = self.net(x).flatten(2).transpose(1, 2)
        centre = self.cells + table[:, :, 11:] * self.side
        sizes = torch.full_like(centre, self.side)
        return torch.cat([centre, sizes], dim=2) / self.size, table[:, :, :11].softmax(dim=2)[:, :, :10]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    learned = [paste(rng, list(open_sklearn("sklearn:digits", "train"))) for _ in range(400)]
    tested = [paste(rng, list(open_sklearn("sklearn:digits", "test"))) for _ in range(SCENES)]
    document: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for number, (picture, found) in enumerate(tested):
        name = f"scene-{number:03}.png"
        image_module.fromarray(picture).save(folder / "images" / name)
        document["images"].append({"id": 1000 + number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        document["annotations"] += [
            {
                "id": 0,
                "image_id": 1000 + number,
                "category_id": CATEGORY[d],
                "bbox": [x, y, SIDE, SIDE],
                "iscrowd": 0,
            }
            for d, x, y in found
        ]
    for k, note in enumerate(document["annotations"]):
        note["id"] = k
    document["categories"] = [{"id": c, "name": str(d)} for d, c in enumerate(CATEGORY)]
    (folder / "annotations.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    large = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 4), nn.ReLU(),
        nn.Conv2d(64, 13, 1),
    )  # fmt: skip
    fit(large, *windows(learned, 16, 0), loss=loss, steps=300, batch=128)
    small = nn.Sequential(
        nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 32, 3), nn.ReLU(), nn.Conv2d(32, 13, 1)
    )
    fit(small, *windows(learned, 8, 0), loss=loss, steps=300, batch=128)
    decode = {"format": "cxcywh", "nms_iou": 0.3, "min_score": 0.05, "max_detections": 20}
    # The teacher takes pictures as they are and answers in pixels; the student takes them letterboxed in a square of
    # half their width, and answers in fractions of it.
    for name, least in (("teacher", 0.05), ("twin", 0.1)):
        write_model(
            Detector(large, 16, 2, HEIGHT, WIDTH, False), folder / name, (3, HEIGHT, WIDTH),
            outputs=["boxes", "scores"], prepare={"scale": 255, "decode": {**decode, "min_score": least}},
        )  # fmt: skip
    write_model(
        Detector(small, 8, 2, 48, 48, True), folder / "student", (3, 48, 48), outputs=["boxes", "scores"],
        prepare={
            "resize": "letterbox", "fill": 20, "scale": 255, "decode": {**decode, "coordinates": "normalised"},
        },
    )  # fmt: skip
    return folder


COMMON = (
    "--teacher",
    "teacher",
    "--student",
    "student",
    "--data",
    "coco:annotations.json:images",
    "--task",
    "detection",
)


def stored(run: Path, who: str) -> dict[str, np.ndarray]:
    (path,) = run.rglob(f"eval-{who}-test.npz")
    with np.load(path) as rows:
        return {k: rows[k] for k in rows.files}


def by_coco(place: Path, rows: dict[str, np.ndarray], tmp_path: Path) -> Any:
    """COCOeval on the annotations as they were written, and on the answers that were stored."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    document = json.loads((place / "annotations.json").read_text())
    for note in document["annotations"]:
        # COCOeval takes a match with the annotation 0 for none.
        note.update(id=note["id"] + 1, area=note["bbox"][2] * note["bbox"][3])
    (tmp_path / "truth.json").write_text(json.dumps(document))
    truth = COCO(str(tmp_path / "truth.json"))
    found = [
        {"image_id": int(i), "category_id": int(c), "score": s, "bbox": box}
        for i, value in zip(rows["id"], rows["prediction"], strict=True)
        for c, s, *box in json.loads(str(value))
    ]
    judge = COCOeval(truth, truth.loadRes(found), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats


def test_a_detector_of_half_the_size_is_rejected_at_a_point(place: Path, tmp_path: Path) -> None:
    found = gate(place, *COMMON, "--max-accuracy-drop", "0.01", "--out", "run", code=1)
    (row,) = found["gates"]
    assert (row["metric"], row["n"], row["decision"]) == ("map", SCENES, "reject")
    teacher, student = (
        by_coco(place, stored(place / "run", who), tmp_path) for who in ("teacher", "student")
    )
    assert teacher[1] > 0.6, "the teacher reads handwriting"
    assert student[1] > 0.25, "and so does the student"
    assert row["estimate"] == pytest.approx(student[0] - teacher[0], abs=1e-9)
    assert row["interval"][0] < row["estimate"] < row["interval"][1] < -0.01
    rows = stored(place / "run", "teacher")
    assert rows["stat_detection_matched"].shape[1] == 10
    empty = [i for i, label in enumerate(rows["label"]) if not json.loads(str(label))["annotations"]]
    assert empty
    assert 0 <= rows["score"].min() <= rows["score"].max() <= 1
    # Stored evidence is judged again to the same bytes.
    before = (place / "run" / "verdict.json").read_bytes()
    assert edgekd(place, "gate", "run").returncode == 1
    assert (place / "run" / "verdict.json").read_bytes() == before


def test_nearly_the_same_detections_pass(place: Path) -> None:
    found = gate(
        place, *COMMON[:2], "--student", "twin", *COMMON[4:], "--metric", "map50", "--max-accuracy-drop", "0.02",
        "--out", "twin-run", code=0,
    )  # fmt: skip
    (row,) = found["gates"]
    assert (row["metric"], row["decision"]) == ("map50", "pass")
    assert row["interval"][0] > -0.02


def test_outputs_that_the_keys_misname(place: Path) -> None:
    shutil.copytree(place / "teacher", place / "misnamed")
    path = place / "misnamed" / "artifact.json"
    document = json.loads(path.read_text())
    document["prepare"]["decode"]["boxes"] = "bboxes"
    path.write_text(json.dumps(document))
    done = edgekd(
        place, "eval", "misnamed", "--data", "coco:annotations.json:images#0:3", "--task", "detection"
    )
    assert done.returncode == 2
    assert "has no output 'bboxes'; its outputs are boxes, scores: name them in prepare.decode" in done.stderr
    assert "Traceback" not in done.stderr
