"""Source and result run on the same spooled examples, and both are closed whatever happens."""

from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import DataError, ModelError
from edgekd.quantize.record import CHECKED_EXAMPLES, check_against
from edgekd.quantize.spool import CalibrationSpool
from edgekd.spec import TensorSpec

INPUTS = (TensorSpec(name="x", dtype="float32", shape=("batch", 4)),)


class Answer:
    inputs, outputs = INPUTS, (TensorSpec(name="y", dtype="float32", shape=("batch", 4)),)

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.fed, self.closed = factor, 0, 0

    def run(self, feeds):
        self.fed += len(feeds["x"])
        return {"y": feeds["x"] * self.factor}

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def spool(tmp_path: Path) -> CalibrationSpool:
    made = CalibrationSpool(folder=tmp_path, inputs=INPUTS)
    rng = np.random.default_rng(0)
    made.fill(({"x": rng.standard_normal((10, 4)).astype(np.float32)} for _ in range(20)), 200)
    return made


def test_enough_examples_of_several_batches_are_compared(spool):
    before, after = Answer(), Answer(0.9)
    damage = check_against(lambda: before, lambda: after, spool)
    assert damage.examples == before.fed == after.fed == 70  # the first whole batches that hold 64
    assert damage.examples >= CHECKED_EXAMPLES
    assert damage.sqnr_db == {"y": 20.0}
    assert before.closed == after.closed == 1


def test_both_are_closed_when_the_result_is_refused(spool):
    before, after = Answer(), Answer(-1.0)
    with pytest.raises(ModelError, match="broken"):
        check_against(lambda: before, lambda: after, spool)
    assert before.closed == after.closed == 1


def test_the_source_is_closed_when_the_result_does_not_open(spool):
    before = Answer()

    def fail():
        raise ModelError("it does not open", "")

    with pytest.raises(ModelError, match="does not open"):
        check_against(lambda: before, fail, spool)
    assert before.closed == 1


def test_batches_may_be_given_instead_of_a_spool():
    batches = [{"x": np.ones((2, 4), np.float32)}] * 3
    assert check_against(Answer, Answer, batches).examples == 6
    with pytest.raises(DataError, match="no real examples"):
        check_against(Answer, Answer, [])
