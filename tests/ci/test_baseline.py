"""Where a baseline comes from: paths, git refs with Git LFS, release assets."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_forge import REPOSITORY, Forge, serving

from edgekd.ci.api import Api
from edgekd.ci.baseline import Baseline, fetch_baseline, parse_source
from edgekd.errors import EXIT_INFRASTRUCTURE, EdgeKDError, InfrastructureError, PolicyError, UsageError
from edgekd.lfs_pointer import is_pointer_file

MODEL = b"the model of the last release" * 100
HAS_LFS = subprocess.run(["git", "lfs", "version"], capture_output=True).returncode == 0


def git(folder: Path, *arguments: str) -> str:
    command = [
        "git",
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@b.c",
        "-c",
        "init.defaultBranch=main",
        *arguments,
    ]
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_LFS_SKIP_SMUDGE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with the model on main, another one on the branch `next`, none on `empty`, and a tag."""
    folder = tmp_path / "origin"
    (folder / "models/parts").mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "README").write_text("x")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "empty")
    git(folder, "branch", "empty")
    (folder / "models/student.onnx").write_bytes(MODEL)
    (folder / "models/parts/a.bin").write_bytes(b"part a")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "model")
    git(folder, "tag", "-a", "v1.4", "-m", "release")
    (folder / "models/student.onnx").write_bytes(MODEL + b" and more")
    git(folder, "commit", "--quiet", "-am", "newer")
    return folder


@pytest.fixture
def checkout(origin: Path, tmp_path: Path) -> Path:
    """What actions/checkout leaves: one commit deep, of one branch."""
    git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=empty", f"file://{origin}", "checkout")
    return tmp_path / "checkout"


def fetch(text: str, checkout: Path, into: Path, api: Api | None = None, **environ: str) -> Baseline:
    return fetch_baseline(
        parse_source(text), into, repository=checkout, environ={**os.environ, **environ}, api=api
    )


@pytest.mark.parametrize(
    "text",
    ["", "ref:main", "ref::x", "release:latest:", "release:v1:a/b.onnx", "x.onnx@sha256:12", "ref:main:"],
)
def test_a_baseline_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write it as|write the baseline as|no folder"):
        parse_source(text)


def test_a_path_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(MODEL)
    digest = hashlib.sha256(MODEL).hexdigest()
    assert fetch(f"a.onnx@sha256:{digest}", tmp_path, tmp_path / "b").reference == "a.onnx"
    assert not fetch("none.onnx", tmp_path, tmp_path / "b").found
    assert fetch("zoo:digits", tmp_path, tmp_path / "b") == Baseline(reference="zoo:digits", found=True)
    with pytest.raises(PolicyError, match="expected sha256:000"):
        fetch("a.onnx@sha256:" + "0" * 64, tmp_path, tmp_path / "b")


def test_a_branch_is_what_origin_has_now_even_in_a_shallow_checkout(checkout: Path, tmp_path: Path) -> None:
    found = fetch("ref:main:models/student.onnx", checkout, tmp_path / "b")
    assert found.found
    assert Path(found.reference).read_bytes() == MODEL + b" and more"
    assert Path(found.reference).name == "student.onnx"
    assert not (checkout / "models").exists()
    assert git(checkout, "rev-parse", "--is-shallow-repository") == "true"


def test_a_full_checkout_keeps_its_history(origin: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", f"file://{origin}", "full")
    before = git(tmp_path / "full", "rev-list", "--count", "main")
    fetch("ref:main:models/student.onnx", tmp_path / "full", tmp_path / "b")
    assert git(tmp_path / "full", "rev-list", "--count", "main") == before == "3"
    assert git(tmp_path / "full", "rev-parse", "--is-shallow-repository") == "false"


def test_a_tag_a_commit_and_a_local_revision(origin: Path, checkout: Path, tmp_path: Path) -> None:
    commit = git(origin, "rev-parse", "v1.4^{commit}")
    for ref, where in (
        ("v1.4", checkout),
        (commit, checkout),
        ("HEAD~1", origin),
        ("refs/tags/v1.4", origin),
    ):
        found = fetch(f"ref:{ref}:models/student.onnx", where, tmp_path / "b")
        assert Path(found.reference).read_bytes() == MODEL, ref


def test_a_folder_is_brought_whole(checkout: Path, tmp_path: Path) -> None:
    found = Path(fetch("ref:main:models", checkout, tmp_path / "b").reference)
    assert sorted(p.relative_to(found).as_posix() for p in found.rglob("*.*")) == [
        "parts/a.bin",
        "student.onnx",
    ]


def test_a_ref_without_the_file_is_missing_and_what_an_earlier_job_left_is_gone(
    origin: Path, checkout: Path, tmp_path: Path
) -> None:
    first = fetch("ref:main:models/student.onnx", checkout, tmp_path / "b")
    assert Path(first.reference).is_file()
    git(origin, "rm", "--quiet", "models/student.onnx")
    git(origin, "commit", "--quiet", "-m", "gone")
    found = fetch("ref:main:models/student.onnx", checkout, tmp_path / "b")
    assert (found.found, found.reference) == (False, first.reference)
    assert not Path(found.reference).exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ref:nowhere:models/student.onnx", "'nowhere' does not exist"),
        ("ref:" + "1" * 40 + ":models/student.onnx", "does not exist"),
        ("ref:--upload-pack=x:models/student.onnx", "not a git ref"),
        ("ref:main:../secret", "not a path inside"),
    ],
)
def test_a_wrong_ref_is_wrong_input(text: str, says: str, checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        fetch(text, checkout, tmp_path / "b")


def test_no_checkout_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a git checkout"):
        fetch("ref:main:x", tmp_path, tmp_path / "b", GIT_CEILING_DIRECTORIES=str(tmp_path.parent))


def test_a_remote_that_cannot_be_reached_is_not_a_missing_baseline(
    origin: Path, checkout: Path, tmp_path: Path
) -> None:
    shutil.move(origin, tmp_path / "moved")
    with pytest.raises(InfrastructureError, match="git cannot ask origin for main"):
        fetch("ref:main:models/student.onnx", checkout, tmp_path / "b")


def test_a_symbolic_link_is_refused(origin: Path, checkout: Path, tmp_path: Path) -> None:
    (origin / "link.onnx").symlink_to("models/student.onnx")
    git(origin, "add", "link.onnx")
    git(origin, "commit", "--quiet", "-m", "link")
    with pytest.raises(UsageError, match="symbolic link"):
        fetch("ref:main:link.onnx", checkout, tmp_path / "b")


def pointer(data: bytes) -> bytes:
    digest = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()


@pytest.fixture
def pointers(origin: Path, checkout: Path) -> Path:
    """The checkout of a repository whose model is a pointer, with the pointer in the working tree too."""
    (origin / "models/student.onnx").write_bytes(pointer(MODEL))
    git(origin, "commit", "--quiet", "-am", "in LFS")
    (checkout / "here.onnx").write_bytes(pointer(MODEL))
    assert is_pointer_file(checkout / "here.onnx")
    return checkout


@pytest.mark.parametrize("text", ["ref:main:models/student.onnx", "here.onnx"])
def test_a_pointer_is_never_taken_for_a_model(text: str, pointers: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "git").symlink_to(shutil.which("git") or "git")
    # No git-lfs on the PATH, and git does not look beside itself.
    with pytest.raises(EdgeKDError, match="kept in Git LFS, and git-lfs is not installed") as caught:
        fetch(text, pointers, tmp_path / "b", PATH=str(bare), GIT_EXEC_PATH=git(tmp_path, "--exec-path"))
    assert caught.value.exit_code == EXIT_INFRASTRUCTURE
    assert not list((tmp_path / "b").rglob("*.onnx"))


@pytest.mark.skipif(not HAS_LFS, reason="git-lfs is not installed")
@pytest.mark.parametrize("text", ["ref:main:models/student.onnx", "here.onnx"])
def test_a_pointer_becomes_its_model(text: str, origin: Path, pointers: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(MODEL).hexdigest()
    stored = origin / ".git/lfs/objects" / digest[:2] / digest[2:4] / digest
    stored.parent.mkdir(parents=True)
    stored.write_bytes(MODEL)
    # A job that checks out without LFS sets this; a pointer handed back would not be the model.
    found = fetch(text, pointers, tmp_path / "b", GIT_LFS_SKIP_SMUDGE="1")
    assert Path(found.reference).read_bytes() == MODEL


@pytest.mark.skipif(not HAS_LFS, reason="git-lfs is not installed")
def test_an_object_that_cannot_be_had_is_infrastructure(pointers: Path, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"git lfs cannot fetch models/student\.onnx at main"):
        fetch("ref:main:models/student.onnx", pointers, tmp_path / "b")


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as made:
        made.releases = {
            "v1.3": {"student.onnx": b"old"},
            "v1.4": {"notes.txt": b"n", "data.npz": b"d", "student.onnx": MODEL},
        }
        yield made


def release(text: str, forge: Forge, into: Path, waits: list[float] | None = None) -> Baseline:
    api = Api(
        base=forge.url,
        secret={"Authorization": "Bearer secret"},
        sleep=[].append if waits is None else waits.append,
    )
    return fetch(text, into, into / "b", api=api, GITHUB_REPOSITORY=REPOSITORY)


@pytest.mark.parametrize(("tag", "data"), [("latest", MODEL), ("v1.4", MODEL), ("v1.3", b"old")])
def test_a_release_asset(tag: str, data: bytes, forge: Forge, tmp_path: Path) -> None:
    found = release(f"release:{tag}:student.onnx@sha256:{hashlib.sha256(data).hexdigest()}", forge, tmp_path)
    assert Path(found.reference).read_bytes() == data


def test_the_token_goes_to_the_api_host_only(forge: Forge, tmp_path: Path) -> None:
    release("release:latest:student.onnx", forge, tmp_path)
    assert {token for _, _, token in forge.asked} == {"Bearer secret"}
    assert forge.stored == [("/v1.4/student.onnx", "")]


def test_nothing_released_yet_and_no_such_asset_are_missing(forge: Forge, tmp_path: Path) -> None:
    assert not release("release:latest:other.onnx", forge, tmp_path).found
    forge.releases.clear()
    assert not release("release:latest:student.onnx", forge, tmp_path).found


def test_a_tag_that_is_not_there_and_a_hidden_repository_are_wrong_input(
    forge: Forge, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has no release v9"):
        release("release:v9:student.onnx", forge, tmp_path)
    forge.visible = False
    with pytest.raises(UsageError, match="cannot be seen with this token"):
        release("release:latest:student.onnx", forge, tmp_path)


def test_a_download_that_was_cut_is_no_model(forge: Forge, tmp_path: Path) -> None:
    forge.cut = 5
    with pytest.raises(InfrastructureError, match="instead of"):
        release("release:latest:student.onnx", forge, tmp_path)
    assert not list((tmp_path / "b").rglob("*.onnx"))


def test_another_file_than_the_release_lists_is_refused(forge: Forge, tmp_path: Path) -> None:
    forge.wrong_digest = True
    with pytest.raises(PolicyError, match="not the file that the release lists"):
        release("release:latest:student.onnx", forge, tmp_path)


def test_an_api_that_is_down_is_not_a_missing_baseline(forge: Forge, tmp_path: Path) -> None:
    forge.faults += [("GET", "/releases", 503, {}, "down")] * 4
    with pytest.raises(InfrastructureError, match="503 down, 4 times"):
        release("release:latest:student.onnx", forge, tmp_path)
