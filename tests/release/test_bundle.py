"""What is released, and what is refused."""

import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
from fixtures_run import make_run

from edgekd.errors import EvidenceError, NotReleasableError, UsageError
from edgekd.evidence.run import load_run
from edgekd.gates import judge_run
from edgekd.recipe import GatesBlock
from edgekd.release import release
from edgekd.release.verify import verify


def judged(folder: Path, **options) -> Path:
    run = make_run(folder, **options)
    judge_run(folder, load_run(folder), GatesBlock.model_validate(run.policy)).save(folder / "verdict.json")
    return folder


@pytest.fixture(scope="module")
def passed(tmp_path_factory):
    return judged(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(passed, tmp_path):
    return Path(shutil.copytree(passed, tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_passed_run_is_bundled(run, tmp_path):
    out = release(run, tmp_path / "bundle")
    inside = files(out)
    assert {"manifest.json", "verdict.json", "run.json", "report.md", "report.html"} <= set(inside)
    assert "artifacts/student-int8/model.onnx" in inside
    assert not [f for f in inside if "teacher/" in f or "student-float32/" in f]  # only what was judged ships
    assert "evidence/test/student-int8.npz" in inside
    manifest = json.loads(inside["manifest.json"])
    assert manifest["schema"] == "edgekd.manifest/1"
    assert [f["path"] for f in manifest["files"]] == sorted(set(inside) - {"manifest.json"})
    assert manifest["attestations"] == [f for f in sorted(inside) if f.startswith("attestations/")]
    assert (manifest["bom"], manifest["signature"]) == ("bom.cdx.json", None)
    assert verify(out).decision == "pass"
    assert verify(tmp_path / "bundle.tar").files == len(inside)


def test_same_evidence_same_bytes(run, tmp_path):
    release(run, tmp_path / "one")
    again = Path(shutil.copytree(run, tmp_path / "elsewhere"))
    release(again, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_any_tar_reader_unpacks_it(run, tmp_path):
    release(run, tmp_path / "bundle")
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert files(tmp_path / "unpacked/synthetic") == files(tmp_path / "bundle")
    assert verify(tmp_path / "unpacked/synthetic").name == "synthetic"


def test_a_bundle_is_replaced_and_nothing_else(run, tmp_path):
    release(run, tmp_path / "bundle")
    assert release(run, tmp_path / "bundle") == tmp_path / "bundle"
    for spoil in ("file", "folder"):
        out = tmp_path / spoil
        if spoil == "file":
            out.write_text("mine")
        else:
            out.mkdir()
            (out / "mine").write_text("mine")
        with pytest.raises(UsageError, match="not a bundle"):
            release(run, out)
    for name, spoil in (("text", b"mine"), ("empty", b""), ("other", None)):
        archive = tmp_path / f"{name}.tar"
        if spoil is None:
            with tarfile.open(archive, "w") as tar:
                tar.add(run / "run.json", "x/run.json")
        else:
            archive.write_bytes(spoil)
        before = archive.read_bytes()
        with pytest.raises(UsageError, match="is not a bundle's"):
            release(run, tmp_path / name)
        assert archive.read_bytes() == before
        assert not (tmp_path / name).exists()
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"lost": 200}, 1, "reject: accuracy on cpu:onnxruntime: student is at least"),
        ({"ratio": 2.0}, 1, "latency"),
        ({"n": 200}, 3, "inconclusive"),
        ({"restarts": 3}, 3, "inconclusive"),
    ],
)
def test_what_did_not_pass_is_refused_by_its_own_exit_code(tmp_path, options, code, says):
    folder = judged(tmp_path / "run", **options)
    with pytest.raises(NotReleasableError, match=says) as caught:
        release(folder, tmp_path / "bundle")
    assert caught.value.exit_code == code
    assert pickle.loads(pickle.dumps(caught.value)).exit_code == code
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "bundle.tar").exists()


def test_a_run_in_error_is_refused_with_2(tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "run/evidence/test/student-int8.npz").unlink()
    judge_run(tmp_path / "run", run, GatesBlock.model_validate(run.policy)).save(
        tmp_path / "run/verdict.json"
    )
    with pytest.raises(NotReleasableError) as caught:
        release(tmp_path / "run", tmp_path / "bundle")
    assert caught.value.exit_code == 2


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "verdict.json").unlink(), "judge it first"),
        (lambda f: edit(f / "verdict.json", lambda d: d.update(decision="reject")), "'decision' differs"),
        (lambda f: edit(f / "verdict.json", lambda d: d["gates"][0].update(estimate=0.1)), "'gates' differs"),
        (
            lambda f: edit(f / "verdict.json", lambda d: d["policy"]["accuracy"].update(max_drop=0.5)),
            "differs",
        ),
        (
            lambda f: edit(f / "verdict.json", lambda d: d["policy"].update(accuracy={"max_drop": -7})),
            "no valid policy",
        ),
        (lambda f: edit(f / "verdict.json", lambda d: d.update(evidence={})), "'evidence' differs"),
        (lambda f: (f / "evidence/test/student-int8.npz").unlink(), "differs"),
        (
            lambda f: (f / "evidence/test/naive-1.npz").unlink(),
            "naive-1.npz, which run.json names, is missing",
        ),
        (
            lambda f: edit(f / "run.json", lambda d: d.update(collected_at="2020-01-01T00:00:00Z")),
            "collected_at",
        ),
        (
            lambda f: (f / "artifacts/student-int8/model.onnx").write_bytes(b"J" * 600),
            "student-int8.*altered",
        ),
        (lambda f: (f / "artifacts/teacher/model.onnx").unlink(), "teacher.*missing"),
        (lambda f: (f / "artifacts/student-int8/more.bin").write_bytes(b"x"), "does not belong"),
        (lambda f: (f / "artifacts/student-int8/l").symlink_to("/etc/passwd"), "does not belong"),
    ],
)
def test_a_verdict_that_is_not_of_this_run_is_refused(run, tmp_path, spoil, says):
    spoil(run)
    with pytest.raises(EvidenceError, match=says):
        release(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_another_version_of_edgekd_may_have_judged(run, tmp_path):
    edit(run / "verdict.json", lambda d: d.update(edgekd="0.0.9"))
    release(run, tmp_path / "bundle")


def test_formats(run, tmp_path):
    with pytest.raises(UsageError, match="tensorrt asked, onnx selected"):
        release(run, tmp_path / "a", formats=["tensorrt"])
    (run / "recipe.json").write_text(json.dumps({"release": {"formats": ["tensorrt"]}}))
    with pytest.raises(UsageError, match="tensorrt asked"):
        release(run, tmp_path / "b")
    release(run, tmp_path / "c", formats=["onnx"])
    assert (tmp_path / "c/recipe.json").is_file()


def test_a_bundle_is_judged_like_its_run(run, tmp_path):
    out = release(run, tmp_path / "bundle")
    index = load_run(out)
    again = judge_run(out, index, GatesBlock.model_validate(index.policy))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (out / "verdict.json").read_bytes()
