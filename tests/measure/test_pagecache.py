"""Dropping files from the page cache, and knowing whether that worked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fixtures_memory import skip_in_memory

from edgekd.measure.pagecache import drop_from_cache, read_into_cache, residency

_PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files: 40 pages, a part of one page, and nothing."""
    found = []
    for name, size in (("large", 40 * _PAGE), ("small", 10), ("empty", 0)):
        (tmp_path / name).write_bytes(b"x" * size)
        found.append(tmp_path / name)
    return found


def test_freshly_written_files_are_in_memory_and_dropped_files_are_not(files: list[Path]) -> None:
    before = residency(files)
    assert before.pages == 41
    assert before.resident is not None
    skip_in_memory(files[0])
    assert before.resident == 41
    after = drop_from_cache(files)
    assert after.cold
    assert (after.pages, after.resident, after.reason) == (41, 0, "")
    assert not read_into_cache(files).cold


def test_a_missing_file_is_a_reason_and_no_number(tmp_path: Path) -> None:
    for look in (drop_from_cache, residency):
        found = look([tmp_path / "nowhere"])
        assert found.resident is None
        assert not found.cold
        assert "nowhere" in found.reason


def test_a_system_without_fadvise_says_so(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    found = drop_from_cache(files)
    assert (found.resident, found.cold) == (None, False)
    assert "posix_fadvise" in found.reason
