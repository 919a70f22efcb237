"""Calibration examples on disk: how many there are, and which are of no use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import DataError
from edgekd.quantize.spool import CalibrationSpool
from edgekd.spec import TensorSpec


def _spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def test_examples_of_fixed_batches_are_counted(tmp_path: Path) -> None:
    spool = CalibrationSpool(folder=tmp_path, inputs=(_spec("x", 4, 3),))
    rng = np.random.default_rng(0)
    spool.fill(({"x": rng.normal(size=(4, 3)).astype(np.float32)} for _ in range(9)), 10)
    assert (spool.examples, spool.batches) == (10, 3)


def test_only_constant_inputs_all_of_them_are_refused(tmp_path: Path) -> None:
    inputs = (_spec("x", "n", 5), _spec("h0", "n", 8))
    zeros = np.zeros((2, 8), np.float32)
    spool = CalibrationSpool(folder=tmp_path, inputs=inputs)
    spool.fill([{"x": np.arange(10, dtype=np.float32).reshape(2, 5), "h0": zeros}], 2)
    assert spool.constant == ["h0"]
    spool = CalibrationSpool(folder=tmp_path, inputs=inputs)
    with pytest.raises(DataError, match="calibration data is constant: every value of input 'x' is 1"):
        spool.fill([{"x": np.ones((2, 5), np.float32), "h0": zeros}], 2)
