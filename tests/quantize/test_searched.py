"""The search document is read back as it was written, and its page says what matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures_search import BF16, FLOAT, MIXED, WHOLE, make_search

from edgekd.errors import EvidenceError
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.mixture import Mixture
from edgekd.quantize.searched import load_search
from edgekd.report.search import pareto_front, search_page


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = make_search()
    made.save(tmp_path / "search.json")
    found = load_search(tmp_path / "search.json")
    assert found.to_json() == made.to_json()
    assert found == made
    assert found.chosen.mixture == MIXED


def test_trained_ranges_and_later_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    make_search().save(path)
    value = json.loads(path.read_text())
    value["trials"][1]["quantization"] |= {"ranges": [["x", 0.0, 1.0]], "from_the_future": 1}
    value["from_the_future"] = 1
    path.write_text(json.dumps(value))
    config = load_search(path).trials[1].mixture.config
    assert config is not None and config.ranges == (("x", 0.0, 1.0),)


@pytest.mark.parametrize("key", ["trials", "winner", "gate", "layers"])
def test_what_is_not_whole_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "search.json"
    make_search().save(path)
    value = json.loads(path.read_text())
    del value[key]
    path.write_text(json.dumps(value))
    with pytest.raises(EvidenceError, match="is not a whole search"):
        load_search(path)
    path.write_text(json.dumps({**json.loads(json.dumps(make_search().to_json())), "winner": "nobody"}))
    with pytest.raises(EvidenceError, match="a winner that was not tried"):
        load_search(path)


def test_labels_tell_mixtures_apart() -> None:
    two = [WHOLE.keeping(["a", "b"]), WHOLE.keeping(["a", "c"]), WHOLE.keeping(["b", "a"])]
    labels = [m.label for m in two]
    assert labels[0] == labels[2] != labels[1]
    assert BF16.label == "cpu:openvino float32 precision=bf16"
    assert Mixture(target="t", config=QuantConfig(mode="dynamic")).label == "t int8 channel dynamic"
    with pytest.raises(ValueError, match="no layers to keep"):
        FLOAT.keeping(["a"])


def test_the_front_is_what_nothing_beats_in_both() -> None:
    trials = make_search().trials
    assert [t.mixture for t in pareto_front(trials)] == [WHOLE, MIXED, FLOAT]
    slower = [t for t in trials if t.mixture != WHOLE]
    assert [t.mixture for t in pareto_front(slower)] == [MIXED, FLOAT]


def test_the_page() -> None:
    page = search_page(make_search())
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert "**PASS**" in page
    assert "- 4 accuracy evaluations and 2 timings in 12 s (budget 10 min)" in page
    mixed = next(r for r in rows if MIXED.label in r)
    assert mixed == (
        f"| **{MIXED.label}** * | -0.10 points [-0.40, +0.20] on 2,000 | 0.500x [0.480, 0.520] | 2.000 | 2 "
        "| holds, with room |"
    )
    # The fastest is first, what was not timed is last, and no reason breaks the table.
    assert WHOLE.label in rows[2]
    broken = next(r for r in rows if "no operator / of that kind" in r)
    assert broken.count("|") == rows[0].count("|")
    assert "| conv1 | Conv | 8.5 | 9.0 | 1,000 |" in rows
