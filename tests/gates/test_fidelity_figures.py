"""Displacement of answers: against scipy, on planted cases, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import rel_entr, softmax
from scipy.stats import beta

from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import Evaluation
from edgekd.gates import fidelity_figures as module
from edgekd.gates.fidelity_figures import FIGURES, divergences, fidelity_figures, top_confidences


def evaluation(logits, labels, name="student"):
    answers = logits.argmax(axis=1)
    return Evaluation(
        name=name, artifact="a", target="cpu", metric="top1", split="test", data="d",
        ids=np.array([f"e{i}" for i in range(len(labels))]), scores=(answers == labels).astype(np.float64),
        predictions=answers, labels=labels, logits=logits.astype(np.float32),
    )  # fmt: skip


def pair(n=1000, noise=0.5, seed=0, scale=3.0):
    random = np.random.RandomState(seed)
    z = scale * random.randn(n, 10)
    labels = (z + random.randn(n, 10)).argmax(axis=1)
    return evaluation(z + noise * random.randn(n, 10), labels), evaluation(z, labels, "float32")


def test_divergence_is_scipys(monkeypatch):
    candidate, reference = pair()
    p, q = (softmax(e.logits.astype(np.float64), axis=1) for e in (reference, candidate))
    wanted = rel_entr(p, q).sum(axis=1)
    assert divergences(reference, candidate) == pytest.approx(wanted, rel=1e-9, abs=1e-13)
    assert top_confidences(candidate) == pytest.approx(q.max(axis=1), rel=1e-12)
    whole = divergences(reference, candidate)
    monkeypatch.setattr(module, "_BLOCK", 70)
    assert (divergences(reference, candidate) == whole).all()


def test_huge_logits_and_equal_ones():
    labels = np.arange(30) % 3
    sure = np.where(np.arange(3) == labels[:, None], 2e4, -2e4)
    candidate, reference = evaluation(-sure, labels), evaluation(sure, labels)
    assert divergences(reference, candidate) == pytest.approx(np.full(30, 4e4 + np.log(2)), rel=1e-12)
    assert (divergences(reference, reference) == 0).all()


def test_figures_are_those_of_the_sample():
    candidate, reference = pair()
    found = fidelity_figures(candidate, reference)
    assert list(found) == list(FIGURES)
    flips = int((candidate.predictions != reference.predictions).sum())
    kl = np.sort(divergences(reference, candidate))
    assert found["flips"].estimate == pytest.approx(flips / 1000)
    assert found["flips"].upper == pytest.approx(beta.ppf(0.95, flips + 1, 1000 - flips), abs=1e-9)
    assert found["agreement"].lower == pytest.approx(1 - found["flips"].upper)
    assert found["kl_mean"].estimate == pytest.approx(kl.mean())
    assert (found["kl_median"].estimate, found["kl_p99"].estimate) == (kl[499], kl[989])
    assert (found["kl_max"].estimate, found["kl_max"].upper) == (kl[-1], None)
    for name in set(FIGURES) - {"kl_max"}:
        assert found[name].trouble == ""
        assert found[name].lower <= found[name].estimate <= found[name].upper


def test_only_what_is_wanted_is_made_and_flips_need_no_logits():
    candidate, reference = (replace(e, logits=None) for e in pair())
    assert list(fidelity_figures(candidate, reference, wanted=("flips",))) == ["flips"]
    with pytest.raises(EvidenceError, match="student has no logits"):
        fidelity_figures(candidate, reference, wanted=("kl_mean",))
    with pytest.raises(EvidenceError, match="no fidelity figure 'kl'"):
        fidelity_figures(candidate, reference, wanted=("kl",))


def test_equal_accuracy_with_many_flips_is_seen():
    """METHOD, section 5: as many answers gained as lost, 8 % of them others."""
    _, reference = pair(5000, scale=6.0)
    logits = reference.logits.copy()
    right, wrong = np.flatnonzero(reference.scores == 1)[:200], np.flatnonzero(reference.scores == 0)[:200]
    for rows in (right, wrong):
        logits[rows] = np.where(
            np.arange(10) == np.where(reference.scores[rows] == 1, (reference.labels[rows] + 1) % 10, reference.labels[rows])[:, None],
            20, 0,
        )  # fmt: skip
    candidate = evaluation(logits, reference.labels)
    assert candidate.mean == reference.mean
    found = fidelity_figures(candidate, reference, wanted=("flips",))["flips"]
    assert found.estimate == pytest.approx(0.08)
    assert found.lower > 0.05


def test_a_sharpened_model_flips_nothing_and_loses_its_calibration():
    _, reference = pair(4000)
    candidate = replace(reference, logits=3 * reference.logits, name="student")
    found = fidelity_figures(candidate, reference)
    assert found["flips"].estimate == 0
    assert found["kl_mean"].lower > 0.01
    for name in ("ece_change", "ece_change_equal_mass"):
        assert found[name].lower > 0


def test_clusters_are_worth_fewer_examples():
    candidate, reference = pair(40)
    many = [np.repeat(np.arange(40), 25)] * 2
    copies = [
        replace(
            e, ids=np.array([f"e{i}" for i in range(1000)]), scores=e.scores[k], predictions=e.predictions[k],
            labels=e.labels[k], logits=e.logits[k],
        )
        for e, k in zip((candidate, reference), many, strict=True)
    ]  # fmt: skip
    told = [replace(e, clusters=many[0].astype(str)) for e in copies]
    hidden, found = fidelity_figures(*copies), fidelity_figures(*told)
    for name in ("flips", "kl_mean", "kl_median"):
        assert found[name].upper - found[name].lower > 2 * (hidden[name].upper - hidden[name].lower)
    few = [replace(e, clusters=(many[0] % 5).astype(str)) for e in copies]
    for name, figure in fidelity_figures(*few).items():
        if name != "kl_max":
            assert (figure.lower, figure.upper) == (None, None)
            assert "5 clusters are too few" in figure.trouble


def test_a_percentile_of_few_examples_has_no_upper_bound():
    found = fidelity_figures(*pair(200))["kl_p99"]
    assert found.upper is None
    assert (
        "200 examples are too few for an upper bound of the 0.99 quantile; give at least 299" in found.trouble
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    candidate, reference = pair(50)
    candidate.logits[7, 2] = value
    with pytest.raises(
        EvidenceError, match=r"student are NaN or infinite in 1 of 50 examples, first at id 'e7'"
    ):
        fidelity_figures(candidate, reference)
    assert fidelity_figures(candidate, reference, wanted=("flips",))["flips"].upper is not None


@pytest.mark.parametrize("width", [1, 9])
def test_logits_of_another_width_are_refused(width):
    candidate, reference = pair(50)
    with pytest.raises(EvidenceError, match="compare models with the same classes"):
        fidelity_figures(replace(candidate, logits=candidate.logits[:, :width]), reference)
    if width == 1:
        one = [replace(e, logits=e.logits[:, :1]) for e in (candidate, reference)]
        with pytest.raises(EvidenceError, match="two or more classes"):
            fidelity_figures(*one)


def test_other_examples_and_other_kinds_of_answers_are_refused():
    candidate, reference = pair(50)
    with pytest.raises(EvidenceError, match="other examples"):
        fidelity_figures(candidate, replace(reference, ids=reference.ids[::-1]))
    words = replace(candidate, predictions=candidate.predictions.astype(str))
    with pytest.raises(EvidenceError, match="another kind"):
        fidelity_figures(words, reference, wanted=("flips",))
    with pytest.raises(EvidenceError, match="answers and labels"):
        fidelity_figures(words, reference, wanted=("ece_change",))
