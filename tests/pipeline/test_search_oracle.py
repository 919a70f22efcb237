"""What answers the search: rows seen early are not evaluated twice, and what cannot be made is made once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_search_net import CLASSES, WIDTH, small_net

from edgekd.errors import ModelError
from edgekd.pipeline import search_oracle
from edgekd.pipeline.search_oracle import StoreOracle
from edgekd.pipeline.search_times import Plan
from edgekd.pipeline.targets import present_target
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.mixture import Mixture
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec

_ROWS = 200
FLOAT = Mixture(target="cpu:onnxruntime")
INT8 = replace(FLOAT, config=QuantConfig(examples=8))


@pytest.fixture
def oracle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreOracle]:
    """Looks after 24 and 48 of 200 rows of noise, whose labels are drawn too."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (_ROWS, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, label=rng.integers(0, CLASSES, _ROWS))
    monkeypatch.setattr(search_oracle, "_EARLY", (24, 48))
    data = str(tmp_path / "d.npz")
    task = TaskSpec(data={"select": data, "test": data, "calibration": data}, base=str(tmp_path))
    plan = Plan(
        model=small_net(tmp_path / "net"), task=task, targets={"cpu:onnxruntime": present_target("cpu:onnxruntime")},
        max_drop=0.2, digests={s: task.split_digest(s) for s in ("select", "test")}, threads=1, batch=1, options={},
        output={}, rename={}, remeasure=False, search=(),
    )  # fmt: skip
    with StoreOracle(plan, StageStore(tmp_path / "cache")) as made:
        yield made


def test_rows_of_early_looks_are_part_of_the_whole(
    oracle: StoreOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    original = search_oracle.evaluate_artifact

    def noted(*args: Any) -> Any:
        found = original(*args)
        counted.append(found.n)
        return found

    monkeypatch.setattr(search_oracle, "evaluate_artifact", noted)
    monkeypatch.setattr(search_oracle, "early_answer", lambda gate, rows: None)
    trial = oracle.judge(INT8)
    assert trial.n == _ROWS
    assert counted == [_ROWS, 24, 24, _ROWS - 48]  # float32, and the mixture once
    joined, early = oracle._look(INT8, oracle.evaluate(FLOAT, "select"))
    whole = oracle.evaluate(INT8, "select")
    assert early is None
    for name in ("ids", "scores", "predictions", "labels"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    np.testing.assert_allclose(joined.logits, whole.logits, atol=1e-5)
    assert joined.data == whole.data


def test_a_mixture_that_is_clearly_worse_sees_no_more_rows(
    oracle: StoreOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = search_oracle.evaluate_artifact

    def ruined(request: Any, *args: Any) -> Any:
        found = original(request, *args)
        scores = np.full(found.n, 0.0 if request.label == INT8.label else 1.0)
        return replace(found, scores=scores, statistics={})

    monkeypatch.setattr(search_oracle, "evaluate_artifact", ruined)
    trial = oracle.judge(INT8)
    assert (trial.decision, trial.n, trial.assured) == ("reject", 24, False)


def test_a_mixture_that_is_clearly_as_good_sees_no_more_rows(oracle: StoreOracle) -> None:
    trial = oracle.judge(INT8)
    assert (trial.decision, trial.n, trial.assured) == ("pass", 24, True)
    assert trial.reason == "assured on the first 24 examples"
    assert trial.size_bytes > 0


def test_a_child_outlives_the_request_that_was_beside_another(oracle: StoreOracle) -> None:
    """A child ends with the thread that started it."""
    first = oracle.judge(FLOAT)
    assert first.n == _ROWS
    assert oracle.evaluate_pair(FLOAT, INT8, "test")[1].n == _ROWS
    assert set(oracle.race([INT8], final=False)) == {FLOAT, INT8}


def test_a_glance_is_kept_and_leaves_out_what_cannot_be_made(
    oracle: StoreOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = replace(FLOAT, config=QuantConfig(examples=8, granularity="tensor"))
    made: list[str] = []
    original = search_oracle.quantize_artifact

    def refusing(artifact: Any, config: QuantConfig, *args: Any) -> Any:
        made.append(config.granularity)
        if config.granularity == "tensor":
            raise ModelError("no such operator", "leave it in float32")
        return original(artifact, config, *args)

    monkeypatch.setattr(search_oracle, "quantize_artifact", refusing)
    found = oracle.race([INT8, bad], final=False)
    assert set(found) == {FLOAT, INT8}
    assert oracle.judge(bad).decision == "error"
    assert made.count("tensor") == 1
    monkeypatch.setattr("edgekd.pipeline.search_times.glance", None)
    assert oracle.race([INT8, bad], final=False) == found
