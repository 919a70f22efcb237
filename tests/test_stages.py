"""Stages: built once, whole or absent, resumed after kill -9."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import DataError, StorageError
from edgekd.stages import (
    STAGE_FILE,
    StageResult,
    StageStore,
    collect_garbage,
    default_cache_root,
    is_whole,
    stage_key,
    tool_versions,
)

KEY = {"a": 1, "b": [2, 3]}


class Build:
    """Counts its calls and writes one file."""

    def __init__(self, content: str = "made") -> None:
        self.content = content
        self.calls = 0

    def __call__(self, out: Path, resume: Path) -> None:
        self.calls += 1
        (out / "sub").mkdir()
        (out / "sub" / "f").write_text(self.content)


def leaves(root: Path) -> list[str]:
    """Files below ``root`` other than locks."""
    return sorted(
        str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.parent.name != "locks"
    )


def test_default_cache_root() -> None:
    assert default_cache_root({"EDGEKD_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert default_cache_root({"XDG_CACHE_HOME": "/x", "EDGEKD_CACHE": ""}) == Path("/x/edgekd")
    assert default_cache_root({}) == Path.home() / ".cache" / "edgekd"


def test_tool_versions() -> None:
    versions = tool_versions("numpy", "no-such-package")
    assert versions["no-such-package"] == "absent"
    assert versions["numpy"][0].isdigit()
    assert versions["stage"].isdigit()


def test_second_time_is_cached(tmp_path: Path) -> None:
    build, events = Build(), []
    store = StageStore(tmp_path, report=lambda event, name, result: events.append((event, name, result)))
    first = store.run("train", "teacher", KEY, build)
    second = store.run("train", "teacher", dict(reversed(KEY.items())), build)
    assert build.calls == 1
    assert (first.cached, second.cached) == (False, True)
    assert (first.folder, first.digest) == (second.folder, second.digest)
    assert (first.folder / "sub" / "f").read_text() == "made"
    assert events == [("start", "teacher", None), ("done", "teacher", first), ("done", "teacher", second)]
    assert leaves(tmp_path) == [
        f"train/{first.digest.removeprefix('sha256:')}/{f}" for f in (STAGE_FILE, "sub/f")
    ]


def test_key_kind_and_content_are_recorded(tmp_path: Path) -> None:
    result = StageStore(tmp_path).run("train", "t", KEY, Build())
    stage = json.loads((result.folder / STAGE_FILE).read_text())
    assert (stage["schema"], stage["kind"], stage["key"]) == ("edgekd.stage/1", "train", KEY)
    assert [(f["path"], f["size_bytes"]) for f in stage["files"]] == [("sub/f", 4)]
    assert stage_key(result.folder) == KEY
    assert result.folder == StageStore(tmp_path).folder("train", KEY)


@pytest.mark.parametrize(
    ("kind", "key"), [("train", {"a": 2, "b": [2, 3]}), ("export", KEY), ("train", {**KEY, "c": None})]
)
def test_another_key_or_kind_is_another_stage(tmp_path: Path, kind: str, key: dict[str, Any]) -> None:
    store, build = StageStore(tmp_path), Build()
    first = store.run("train", "t", KEY, build)
    other = store.run(kind, "t", key, build)
    assert build.calls == 2
    assert other.folder != first.folder
    assert is_whole(first.folder)


def test_a_failing_build_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    kept = store.run("train", "t", KEY, Build())
    before = leaves(tmp_path)

    def fail(out: Path, resume: Path) -> None:
        (out / "half").write_text("x")
        raise DataError("bad row")

    for reuse in (True, False):
        with pytest.raises(DataError, match="bad row"):
            store.run("train", "t", KEY if not reuse else {"a": 2}, fail, reuse=reuse)
    assert leaves(tmp_path) == before
    assert is_whole(kept.folder)


def test_a_key_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        StageStore(tmp_path).run("train", "t", {"lr": float("nan")}, Build())
    assert list(tmp_path.iterdir()) == []


def damage_content(folder: Path) -> None:
    (folder / "sub" / "f").write_text("mAde")


def damage_size(folder: Path) -> None:
    (folder / "sub" / "f").write_text("mad")


def remove_file(folder: Path) -> None:
    (folder / "sub" / "f").unlink()


def remove_index(folder: Path) -> None:
    (folder / STAGE_FILE).unlink()


def break_index(folder: Path) -> None:
    (folder / STAGE_FILE).write_text('{"schema": "edgekd.stage/1", "files": 3}')


@pytest.mark.parametrize("damage", [damage_content, damage_size, remove_file, remove_index, break_index])
def test_a_damaged_stage_is_built_again(tmp_path: Path, damage: Any) -> None:
    store, build = StageStore(tmp_path), Build()
    first = store.run("train", "t", KEY, build)
    damage(first.folder)
    assert not is_whole(first.folder)
    again = store.run("train", "t", KEY, build)
    assert (build.calls, again.cached) == (2, False)
    assert is_whole(again.folder)
    assert (again.folder / "sub" / "f").read_text() == "made"


def test_fresh_builds_each_stage_once_more(tmp_path: Path) -> None:
    StageStore(tmp_path).run("train", "t", KEY, Build("old"))
    build = Build("new")
    store = StageStore(tmp_path, fresh=True)
    assert [store.run("train", "t", KEY, build).cached for _ in range(2)] == [False, True]
    assert build.calls == 1
    assert (store.folder("train", KEY) / "sub" / "f").read_text() == "new"


def test_reuse_false_builds_every_time(tmp_path: Path) -> None:
    store, build = StageStore(tmp_path), Build()
    for _ in range(3):
        assert not store.run("measure", "m", KEY, build, reuse=False).cached
    assert build.calls == 3


@pytest.mark.parametrize(("fresh", "seen"), [(False, ["half"]), (True, [])])
def test_resume_outlives_an_error_unless_fresh(tmp_path: Path, fresh: bool, seen: list[str]) -> None:
    def fail(out: Path, resume: Path) -> None:
        (resume / "half").write_text("x")
        raise DataError("stop")

    found: list[str] = []

    def succeed(out: Path, resume: Path) -> None:
        found.extend(p.name for p in resume.iterdir())

    with pytest.raises(DataError):
        StageStore(tmp_path).run("train", "t", KEY, fail)
    StageStore(tmp_path, fresh=fresh).run("train", "t", KEY, succeed)
    assert found == seen
    assert list((tmp_path / "work").iterdir()) == [], "a finished stage needs no checkpoints"


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        StageStore(tmp_path / "file").run("train", "t", KEY, Build())


_KILLED = """
import sys, time
from pathlib import Path
from edgekd.stages import StageStore

def build(out, resume):
    done = sorted(p.name for p in resume.iterdir())
    if not done:
        (out / "half").write_text("x")
    for step in range(len(done), 3):
        (resume / str(step)).write_text("x")
        if step == 1 and not done:
            print("half way", flush=True)
            time.sleep(600)
    (out / "f").write_text(" ".join(done))

result = StageStore(Path(sys.argv[1])).run("train", "t", {"a": 1}, build)
print((result.folder / "f").read_text(), result.cached)
"""


def _start(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True)


def _kill_half_way(root: Path) -> None:
    with _start(_KILLED, str(root)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_kill_9_then_resume(tmp_path: Path) -> None:
    _kill_half_way(tmp_path)
    final = StageStore(tmp_path).folder("train", {"a": 1})
    assert not final.exists()
    with _start(_KILLED, str(tmp_path)) as process:
        out, _ = process.communicate(timeout=60)
    assert out == "0 1 False\n", "the second run found both checkpoints of the first"
    assert is_whole(final)
    assert sorted(p.name for p in final.iterdir()) == ["f", STAGE_FILE]
    with _start(_KILLED, str(tmp_path)) as process:
        assert process.communicate(timeout=60)[0] == "0 1 True\n"


def _build_slowly(root: str, started: Any, go: Any, results: Any) -> None:
    def build(out: Path, resume: Path) -> None:
        started.put(os.getpid())
        go.wait(60)
        (out / "f").write_text(str(os.getpid()))

    result: StageResult = StageStore(Path(root)).run("train", "t", {"a": 1}, build)
    results.put((result.cached, (result.folder / "f").read_text()))


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "fork")
    started, results, go = context.Queue(), context.Queue(), context.Event()
    processes = [
        context.Process(target=_build_slowly, args=(str(tmp_path), started, go, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    builder = started.get(timeout=60)
    go.set()
    got = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert got == [(False, str(builder)), (True, str(builder))]
    assert started.empty(), "the second one waited and built nothing"


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_garbage_collection_removes_old_stages_only(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    old = store.run("train", "t", {"a": 1}, Build("x" * 1000)).folder
    fresh = store.run("train", "t", {"a": 2}, Build()).folder
    age(old, 31)
    age(fresh, 29)
    use = collect_garbage(tmp_path, older_than_days=30)
    assert (use.stages, use.removed) == (1, 1)
    assert use.freed_bytes > 1000
    assert not old.exists()
    assert is_whole(fresh)
    again = collect_garbage(tmp_path, older_than_days=30)
    assert (again.stages, again.removed, again.freed_bytes) == (1, 0, 0)


def test_garbage_collection_of_nothing(tmp_path: Path) -> None:
    assert collect_garbage(tmp_path / "absent", older_than_days=0).removed == 0


def test_garbage_collection_removes_what_a_kill_left(tmp_path: Path) -> None:
    _kill_half_way(tmp_path)
    (leftover,) = (p for p in (tmp_path / "train").iterdir())
    (work,) = (tmp_path / "work").iterdir()
    assert collect_garbage(tmp_path, older_than_days=1).removed == 0, "it may be resumed yet"
    age(leftover, 2)
    age(work, 2)
    assert collect_garbage(tmp_path, older_than_days=1).removed == 2
    assert leaves(tmp_path) == []


def test_garbage_collection_leaves_a_running_build_alone(tmp_path: Path) -> None:
    """However long it has been running: only its inner folders are written to."""

    def build(out: Path, resume: Path) -> None:
        (resume / "checkpoint").write_text("x")
        age(out, 99)
        age(resume.parent, 99)
        code = "import sys; from pathlib import Path; from edgekd.stages import collect_garbage; print(collect_garbage(Path(sys.argv[1]), older_than_days=1).removed)"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert done.stdout == "0\n"
        (out / "f").write_text((resume / "checkpoint").read_text())

    assert is_whole(StageStore(tmp_path).run("train", "t", KEY, build).folder)
