"""One released bundle for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_release import make_rich_run

from edgekd.release import release


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``run``, ``bundle`` and ``bundle.tar``: nothing in it may be changed."""
    folder = tmp_path_factory.mktemp("rich")
    make_rich_run(folder / "run")
    release(folder / "run", folder / "bundle")
    return folder
