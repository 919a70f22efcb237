"""Fixtures of the tests that need a GPU: each skips with what the doctor would say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.stages import StageStore
from edgekd_torch.runtime import TorchRuntime


@pytest.fixture(scope="session")
def cuda_torch() -> Any:
    """torch, on a machine whose GPU it sees."""
    why = TorchRuntime().unavailable("cuda", "")
    if why:
        pytest.skip(f"cuda:torch is missing: {why}")
    import torch

    return torch


@pytest.fixture(scope="session")
def gpu_net(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The small network of tests/exporters, with random weights."""
    source = Path(__file__).resolve().parent.parent / "exporters"
    made = open_reference(
        "python:small_torch_net:small_net", weights=None, base=source,
        store=StageStore(tmp_path_factory.mktemp("gpu-net")),
    )  # fmt: skip
    assert isinstance(made, Model)
    return made


@pytest.fixture(scope="session")
def gpu_feeds() -> dict[str, Any]:
    return {"x": np.random.default_rng(0).standard_normal((8, 16, 8, 8)).astype(np.float32)}
