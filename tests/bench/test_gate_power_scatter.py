"""The components of the scatter, from synthetic rounds."""

from __future__ import annotations

import numpy as np
import pytest
from gate_power.scatter import scatter_of, table


def logs(between: float, noise: float, restarts: int = 4000, rounds: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, between, (restarts, 1)) + rng.normal(0, noise, (restarts, rounds))


def test_noise_alone_is_no_scatter_of_restarts_and_falls_with_rounds() -> None:
    found = scatter_of(logs(0.0, 0.01))
    assert found.between < 0.0005
    # The median of n normal values scatters by sqrt(pi / 2 / n).
    assert found.by_rounds[10] == pytest.approx(0.01 * np.sqrt(np.pi / 2 / 10), rel=0.1)
    assert found.by_rounds[30] < 0.7 * found.by_rounds[10]
    assert found.round_noise == pytest.approx(0.01, rel=0.05)


def test_what_belongs_to_the_restart_is_found_and_rounds_do_not_help() -> None:
    found = scatter_of(logs(0.02, 0.01))
    assert found.between == pytest.approx(0.02, rel=0.05)
    assert found.by_rounds[30] > 0.9 * found.by_rounds[10]


def test_few_rounds_show_what_there_is() -> None:
    assert set(scatter_of(logs(0.0, 0.01, restarts=3, rounds=12)).by_rounds) == {5, 10}
    assert table({"as shipped": scatter_of(logs(0.0, 0.01))})[2].startswith("| as shipped | 4000 | ")
