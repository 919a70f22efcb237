"""Fidelity is told of every run with answers, asked or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_run import make_evaluation, make_run

from edgekd.evidence.run import Hop, load_run
from edgekd.gates import judge_run
from edgekd.recipe import GatesBlock
from edgekd.report import render
from edgekd.report.chain import link_hops
from edgekd.report.fidelity import TITLES, fidelity_tables, figure_words
from edgekd.report.view import load_view

FLOAT = "sha256:" + "c" * 64


def chain(**student):
    evaluations = {
        "t": make_evaluation(name="teacher", artifact="sha256:" + "a" * 64),
        "f": make_evaluation(lost=10, gained=10, artifact=FLOAT),
        "q": make_evaluation(lost=30, gained=10),
        "r": make_evaluation(**{"lost": 40, "gained": 20, **student}),
    }
    hops = (
        Hop(hop="teacher", label="teacher", evaluation="t"),
        Hop(hop="exported", label="student float32", evaluation="f"),
        Hop(hop="quantized", label="student int8", evaluation="q"),
        Hop(hop="as_run", label="as run", evaluation="r"),
    )
    return link_hops(hops, evaluations)


@pytest.fixture
def run(tmp_path: Path):
    make_run(tmp_path)
    return load_run(tmp_path)


def test_what_ships_beside_the_teacher_and_its_float32(run) -> None:
    tables = fidelity_tables(chain(), run)
    assert [t.against for t in tables] == ["teacher", "student float32"]
    flips = {t.against: {f.name: f for f in t.figures}["flips"] for t in tables}
    assert flips["teacher"].estimate == pytest.approx(60 / 2000)
    assert flips["student float32"].estimate == pytest.approx(40 / 2000)
    assert set(TITLES) == {f.name for f in tables[0].figures}


def test_without_logits_flips_and_agreement_are_left(run) -> None:
    tables = fidelity_tables(chain(logits=None), run)
    assert [f.name for f in tables[0].figures] == ["flips", "agreement"]


def test_graded_answers_have_none(run) -> None:
    assert fidelity_tables(chain(logits=None, predictions=np.linspace(0, 1, 2000)), run) == ()


def test_figures_are_written_in_their_units(run) -> None:
    words = {f.name: figure_words(f) for f in fidelity_tables(chain(), run)[0].figures}
    assert words["flips"][0] == "3.00 %"
    assert words["kl_mean"][0].endswith(" nats")
    assert words["kl_max"][1] == "–"
    assert words["ece_change"][0].endswith(" points")


def test_the_page_and_the_markdown_tell_it(tmp_path: Path) -> None:
    make_run(tmp_path)
    policy = GatesBlock.model_validate({"accuracy": {"max_drop": 0.03}})
    judge_run(tmp_path, load_run(tmp_path), policy).save(tmp_path / "verdict.json")
    view = load_view(tmp_path)
    assert view.fidelity
    assert "KL divergence, 99th percentile" in render(tmp_path, "md")
    page = render(tmp_path, "html")
    assert 'id="fidelity"' in page
    assert "growth of the calibration error, equal mass" in page
