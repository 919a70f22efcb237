"""What every test gets: an own stage cache, the real data where it is, and properties without deadlines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports the standard library's distutils: torch.compile imports setuptools, which refuses to come second.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

REPOSITORY = Path(__file__).resolve().parent.parent

# Machines differ in speed; a slow example is not a wrong one.
settings.register_profile("edgekd", deadline=None)
settings.load_profile("edgekd")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stages of the test session go to a temporary folder, in subprocesses too; never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_CACHE", str(tmp_path_factory.mktemp("edgekd-cache")))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets; skips where there is none."""
    folder = Path(os.environ.get("EDGEKD_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set EDGEKD_DATA)")
    return folder
