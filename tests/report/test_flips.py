"""Flips: which examples, in which order, and on which hop they flipped first."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fixtures_run import make_evaluation, make_run

from edgekd.evidence.run import Hop, load_run
from edgekd.evidence.thumbnails import save_thumbnails
from edgekd.gates import judge_run
from edgekd.metrics import SUMS
from edgekd.recipe import GatesBlock
from edgekd.release import release
from edgekd.release.verify import verify
from edgekd.report import load_view, render
from edgekd.report.chain import link_hops
from edgekd.report.flips import CROSS_ENTROPY, ERROR, MISSING, NEGATIVE, cross_entropy, flip_tables
from edgekd.report.words import flip_header, flip_rows, flip_sentence, flip_title


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("flips"))


def flips(run, evaluations, **options):
    """Flips of a chain of evaluations, by hop."""
    hops = tuple(Hop(hop=h.split()[0], label=h, evaluation=h) for h in evaluations)
    return flip_tables(link_hops(hops, evaluations), replace(run, selected={}), **options)


def scored(scores, *, name="x", logits=None, **changes):
    scores = np.asarray(scores, np.float64)
    labels = np.arange(len(scores))
    changes = {"labels": labels, "predictions": labels + (scores < 1), **changes}
    return make_evaluation(n=len(scores), scores=scores, logits=logits, name=name, **changes)


def test_right_to_wrong_with_ids_answers_and_the_first_hop(run):
    (found,) = flips(
        run,
        {
            "teacher": scored([1, 1, 1, 1, 0, 0]),
            "naive": scored([0, 0, 0, 0, 0, 0]),
            "distilled": scored([1, 1, 0, 1, 1, 0]),
            "exported": scored([1, 0, 0, 1, 1, 0]),
            "quantized": scored([1, 1, 0, 0, 1, 0]),
            "as_run": scored([1, 0, 0, 0, 1, 0], slices={"hand": np.array(list("aabbab"))}),
        },
    )
    assert (found.label, found.n, found.lost, found.gained, found.graded) == ("as_run", 6, 3, 1, False)
    # The one that recovered in between flipped first on export; the naive student is on no way to what ships.
    assert {f.id: f.hop for f in found.rows} == {
        "test-1": "exported",
        "test-2": "distilled",
        "test-3": "quantized",
    }
    assert found.lost_on == {"distilled": 1, "exported": 1, "quantized": 1, "as_run": 0}
    first = found.rows[0]
    assert (first.id, first.label, first.teacher, first.student) == ("test-1", 1, 1, 2)
    assert first.slices == {"hand": "a"}
    assert (found.loss, first.teacher_loss, first.student_loss, first.excess) == (MISSING, 0, 1, 1)
    assert type(first.label) is int
    said = flip_sentence(found)
    assert said == (
        "'as_run' against the teacher, of 6 examples: 3 lost, 1 gained; flipped first: 1 on 'distilled', 1 on "
        "'exported', 1 on 'quantized'."
    )
    assert flip_rows(found)[0] == ("test-1", "1", "1", "2", "0.000", "1.000", "exported", "hand a")


def test_logits_rank_by_cross_entropy_at_the_true_label(run):
    teacher = make_evaluation(n=30, right=1.0)
    student = make_evaluation(n=30, right=1.0, lost=30)
    logits = student.logits.copy()
    wrong = student.predictions
    logits[np.arange(30), wrong] = 4 + np.arange(30) % 7  # how sure it is of what is wrong
    student = replace(student, logits=logits)
    (found,) = flips(run, {"teacher": teacher, "distilled": student})
    assert found.loss == CROSS_ENTROPY
    assert (found.lost, len(found.rows)) == (30, 20)
    own = cross_entropy(student)
    row = 6  # labels are the row modulo 10
    values = [float(x) for x in logits[row]]
    by_hand = math.log(sum(math.exp(x) for x in values)) - values[6]
    assert own[row] == pytest.approx(by_hand, rel=1e-12)
    excess = {f"test-{i}": own[i] - cross_entropy(teacher)[i] for i in range(30)}
    expected = sorted(excess, key=lambda i: (-excess[i], i))[:20]
    assert [f.id for f in found.rows] == expected
    assert found.rows[0].excess == pytest.approx(excess[expected[0]])


def test_ties_are_broken_by_id_whatever_the_order_of_the_rows(run):
    ids = np.array(["b", "a", "d", "c"])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        one = {"ids": ids[order]}
        (found,) = flips(
            run, {"teacher": scored([1] * 4, **one), "distilled": scored([0] * 4, **one)}, shown=3
        )
        assert [f.id for f in found.rows] == ["a", "b", "c"]
        assert found.lost == 4


def test_regression_shows_what_got_worse_most(run):
    error = {"error": True, "aggregate": "root_mean", "unit": "mm", "statistics": {SUMS: np.ones((4, 2))}}
    answers = {"labels": np.array([1.0, 2.0, 3.0, 4.0]), "predictions": np.array([1.5, 2.0, 3.0, 4.0])}
    (found,) = flips(
        run,
        {
            "teacher": scored([-1, -1, -1, -1], **error, **answers),
            "distilled": scored([-1.1, -1, -2, -3], **error, **answers),
            "quantized": scored([-4, -0.5, -2.1, -3], **error, **answers),
        },
    )
    assert (found.graded, found.loss, found.lost, found.gained) == (True, ERROR, 3, 1)
    # By worsening; the hop is the one that cost most, for rounding alone changes every example on every hop.
    assert [(f.id, f.hop, f.excess) for f in found.rows] == [
        ("test-0", "quantized", 3), ("test-3", "distilled", 2), ("test-2", "distilled", pytest.approx(1.1))
    ]  # fmt: skip
    assert (found.rows[0].label, found.rows[0].teacher) == (1.0, 1.5)
    assert flip_sentence(found).endswith(
        "of 4 examples: 3 worse, 1 better; lost most: 2 on 'distilled', 1 on 'quantized'."
    )
    # The loss has a name and the unit of the labels, and nothing "flipped".
    assert flip_title(found) == "Largest worsenings (3 worse, 1 better)"
    assert flip_header(found)[4:7] == ("teacher's error, mm", "student's error, mm", "lost most on")
    assert flip_rows(found)[0][4:7] == ("1", "4", "quantized")


def test_scores_without_an_upper_end_have_a_loss_and_no_unit(run):
    (found,) = flips(run, {"teacher": scored([3, -1]), "distilled": scored([2, -1])})
    assert (found.loss, found.unit, found.rows[0].student_loss) == (NEGATIVE, "", -2)
    assert flip_header(found)[5] == "student's loss, minus the score"


def test_answers_may_be_text(run):
    tags = np.array(["O B-PER O", "O O O", '[{"box": [1, 2, 3, 4]}]'])
    (found,) = flips(
        run,
        {
            "teacher": scored([1, 1, 0.5], labels=tags, predictions=tags),
            "distilled": scored([0.5, 1, 0.25], labels=tags, predictions=tags[::-1]),
        },
    )
    assert [(f.id, f.label, f.student) for f in found.rows] == [
        ("test-0", "O B-PER O", '[{"box": [1, 2, 3, 4]}]'),
        ("test-2", '[{"box": [1, 2, 3, 4]}]', "O B-PER O"),
    ]
    assert found.loss == MISSING


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": np.full((3, 10), np.inf, np.float32)},
        {"labels": np.array([0, 1, 99])},
        {"labels": np.array(["a", "b", "c"])},
    ],
)
def test_where_there_is_no_cross_entropy_the_scores_rank(run, changes):
    student = make_evaluation(n=3, right=1.0, lost=3, **changes)
    assert cross_entropy(student) is None
    (found,) = flips(run, {"teacher": make_evaluation(n=3, right=1.0, **changes), "distilled": student})
    assert (found.loss, [f.id for f in found.rows]) == (MISSING, ["test-0", "test-1", "test-2"])


def test_nothing_flipped_and_nothing_to_compare(run):
    one = make_evaluation(n=5)
    (found,) = flips(run, {"teacher": one, "distilled": one})
    assert (found.lost, found.gained, found.rows) == (0, 0, ())
    assert flip_sentence(found).endswith("0 lost, 0 gained.")
    assert flips(run, {"distilled": one}) == ()
    assert flips(run, {"teacher": one}) == ()
    assert flips(run, {"teacher": one, "distilled": make_evaluation(n=6)}) == ()
    # Ids may be row numbers: other data or labels under the same ids are other examples.
    assert flips(run, {"teacher": one, "distilled": make_evaluation(n=5, data="sha256:0")}) == ()
    assert flips(run, {"teacher": one, "distilled": make_evaluation(n=5, labels=one.labels[::-1])}) == ()


def test_every_target_has_its_own(run):
    found = flips(run, {"teacher": scored([1, 1]), "as_run A": scored([0, 1]), "as_run B": scored([1, 0])})
    assert [(t.label, [f.id for f in t.rows]) for t in found] == [
        ("as_run A", ["test-0"]),
        ("as_run B", ["test-1"]),
    ]


PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


def judged(folder):
    made = load_run(folder)
    judge_run(folder, made, GatesBlock.model_validate(made.policy)).save(folder / "verdict.json")
    return folder


def test_stored_images_are_shown_years_later_and_stay_out_of_the_bundle(tmp_path):
    folder = tmp_path / "run"
    make_run(folder)
    (table,) = load_view(judged(folder)).flips
    assert [f.png for f in table.rows] == [b""] * 20
    worst = [f.id for f in table.rows]
    data = make_evaluation().data
    save_thumbnails(folder / "evidence/flips", {worst[0]: PNG, worst[2]: PNG}, split="test", data=data)
    view = load_view(folder)
    assert [bool(f.png) for f in view.flips[0].rows][:4] == [True, False, True, False]
    assert view.flips[0].rows[0].png == PNG
    assert "<summary>Flipped examples (30 lost, 20 gained)</summary>" in render(folder, "md")
    bundle = release(folder, tmp_path / "bundle")
    assert verify(bundle).decision == "pass"
    assert not list(bundle.rglob("*.png"))
    assert load_view(bundle).flips[0].rows[0] == table.rows[0]


@pytest.mark.parametrize("damage", ["altered", "missing", "other data", "index"])
def test_damaged_images_are_left_out_with_a_note(tmp_path, damage):
    make_run(tmp_path)
    data = "sha256:0" if damage == "other data" else make_evaluation().data
    save_thumbnails(tmp_path / "evidence/flips", {"test-0": PNG}, split="test", data=data)
    image = tmp_path / "evidence/flips/001.png"
    if damage == "altered":
        image.write_bytes(PNG + b"!")
    elif damage == "missing":
        image.unlink()
    elif damage == "index":
        (tmp_path / "evidence/flips/thumbnails.json").write_text("{}")
    view = load_view(judged(tmp_path))
    assert len(view.flips[0].rows) == 20
    assert not any(f.png for f in view.flips[0].rows)
    assert any(n.startswith("Flipped examples are shown without their images: ") for n in view.notes)
