"""Run by pytest-benchmark, in a process of its own: one benchmark of one model, as a team writes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate_power.sessions import feeds_of, open_session


def test_call(benchmark: Any) -> None:
    session = open_session(Path(os.environ["GATE_POWER_MODEL"]))
    feeds = feeds_of(session)
    benchmark(session.run, None, feeds)
