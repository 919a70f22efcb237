"""`verify` against mutants: each is caught, and the file is named."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from fixtures_bundle import make_bundle
from fixtures_run import make_run

from edgekd.errors import EvidenceError, PolicyError
from edgekd.release.manifest import manifest_bytes, manifest_digest
from edgekd.release.verify import find_problems, verify
from edgekd.release.verify_problem import RULES


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("released"))


@pytest.fixture
def bundle(released, tmp_path):
    return Path(shutil.copytree(released, tmp_path / "bundle"))


MODEL = "artifacts/student-int8/model.onnx"
EVIDENCE = "evidence/test/student-int8.json"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit_manifest(bundle: Path, change, *, sealed: bool = False) -> None:
    """Change the manifest; ``sealed`` also recomputes its digest, as an attacker would."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if sealed:
        manifest["digest"] = manifest_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))


def entry(manifest, path):
    return next(f for f in manifest["files"] if f["path"] == path)


def add_entry(path, **more):
    def change(manifest):
        manifest["files"].append({"path": path, "size_bytes": 1, "sha256": "0" * 64, **more})
        manifest["files"].sort(key=lambda f: f["path"])

    return change


def replace_story(bundle: Path, name: str, change) -> None:
    """Rewrite a JSON file and enter its new hash into a resealed manifest."""
    import hashlib

    path = bundle / name
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    data = path.read_bytes()
    edit_manifest(
        bundle,
        lambda m: entry(m, name).update(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
        sealed=True,
    )


def hard_link(bundle: Path) -> None:
    os.link(bundle / MODEL, bundle.parent / "outside.onnx")


def symlinked(bundle: Path) -> None:
    shutil.move(bundle / MODEL, bundle.parent / "outside.onnx")
    (bundle / MODEL).symlink_to(bundle.parent / "outside.onnx")


def linked_folder(bundle: Path) -> None:
    shutil.move(bundle / "artifacts", bundle.parent / "artifacts")
    (bundle / "artifacts").symlink_to(bundle.parent / "artifacts")


MUTANTS = {
    "first byte": (lambda b: flip(b / MODEL, 0), MODEL),
    "last byte": (lambda b: flip(b / MODEL, -1), MODEL),
    "middle byte": (lambda b: flip(b / MODEL, 300), MODEL),
    "byte added": (lambda b: (b / MODEL).write_bytes((b / MODEL).read_bytes() + b"x"), MODEL),
    "byte removed": (lambda b: (b / MODEL).write_bytes((b / MODEL).read_bytes()[:-1]), MODEL),
    "emptied": (lambda b: (b / MODEL).write_bytes(b""), MODEL),
    "removed": (lambda b: (b / MODEL).unlink(), MODEL),
    "renamed": (lambda b: (b / MODEL).rename(b / "artifacts/student-int8/other.onnx"), MODEL),
    "artifact index": (lambda b: flip(b / "artifacts/student-int8/artifact.json", 40), "artifact.json"),
    "folder removed": (lambda b: shutil.rmtree(b / "artifacts"), "artifacts/student-int8/artifact.json"),
    "folder renamed": (
        lambda b: (b / "artifacts").rename(b / "artefacts"),
        "artifacts/student-int8/artifact.json",
    ),
    "extra file": (lambda b: (b / "extra.txt").write_text("x"), "extra.txt"),
    "extra hidden file": (lambda b: (b / ".hidden").write_text("x"), ".hidden"),
    "extra empty file": (lambda b: (b / "empty").write_bytes(b""), "empty"),
    "extra deep file": (lambda b: (b / "evidence/test/x.so").write_bytes(b"x"), "evidence/test/x.so"),
    "extra folder": (lambda b: (b / "plugins").mkdir(), "plugins"),
    "extra name with newline": (lambda b: (b / "a\nb").write_text("x"), "a\\nb"),
    "evidence json": (lambda b: flip(b / EVIDENCE, 20), EVIDENCE),
    "evidence rows": (lambda b: flip(b / "evidence/test/student-int8.npz", 9999), "student-int8.npz"),
    "verdict": (lambda b: flip(b / "verdict.json", 100), "verdict.json"),
    "verdict removed": (lambda b: (b / "verdict.json").unlink(), "verdict.json"),
    "run index": (lambda b: flip(b / "run.json", 100), "run.json"),
    "report": (lambda b: flip(b / "report.html", 100), "report.html"),
    "two files swapped": (
        lambda b: [
            (b / "report.md").rename(b / "t"),
            (b / "report.html").rename(b / "report.md"),
            (b / "t").rename(b / "report.html"),
        ],
        "report.html",
    ),
    "file becomes folder": (lambda b: [(b / "report.md").unlink(), (b / "report.md").mkdir()], "report.md"),
    "symlink": (symlinked, MODEL),
    "symlink to itself": (lambda b: [(b / MODEL).unlink(), (b / MODEL).symlink_to("model.onnx")], MODEL),
    "linked folder": (linked_folder, "artifacts"),
    "hard link": (hard_link, MODEL),
    "fifo": (lambda b: os.mkfifo(b / "pipe"), "pipe"),
    "manifest removed": (lambda b: (b / "manifest.json").unlink(), "manifest.json"),
    "manifest not json": (lambda b: (b / "manifest.json").write_text("{"), "manifest.json"),
    "manifest a list": (lambda b: (b / "manifest.json").write_text("[]"), "manifest.json"),
    "manifest emptied": (lambda b: (b / "manifest.json").write_text("{}"), "manifest.json"),
    "manifest spaced": (
        lambda b: (b / "manifest.json").write_bytes((b / "manifest.json").read_bytes() + b" "),
        "manifest.json",
    ),
    "manifest key twice": (
        lambda b: (b / "manifest.json").write_bytes(
            (b / "manifest.json").read_bytes().replace(b'{\n "att', b'{\n "bom": 1,\n "att', 1)
        ),
        "manifest.json",
    ),
    "manifest hash": (
        lambda b: edit_manifest(b, lambda m: entry(m, MODEL).update(sha256="0" * 64)),
        "manifest.json",
    ),
    "manifest name": (lambda b: edit_manifest(b, lambda m: m.update(name="other")), "manifest.json"),
    "manifest bom": (lambda b: edit_manifest(b, lambda m: m.update(bom="x")), "manifest.json"),
    "manifest signature": (lambda b: edit_manifest(b, lambda m: m.update(signature="x")), "manifest.json"),
    "manifest without digest": (lambda b: edit_manifest(b, lambda m: m.pop("digest")), "manifest.json"),
    "other schema": (
        lambda b: edit_manifest(b, lambda m: m.update(schema="other/1"), sealed=True),
        "manifest.json",
    ),
    "entry dropped, resealed": (
        lambda b: edit_manifest(b, lambda m: m["files"].remove(entry(m, MODEL)), sealed=True),
        MODEL,
    ),
    "entry twice, resealed": (
        lambda b: edit_manifest(b, lambda m: m["files"].insert(0, m["files"][0]), sealed=True),
        "manifest.json",
    ),
    "entry out of order, resealed": (
        lambda b: edit_manifest(b, lambda m: m["files"].reverse(), sealed=True),
        "manifest.json",
    ),
    "parent path, resealed": (lambda b: edit_manifest(b, add_entry("../x"), sealed=True), "../x"),
    "absolute path, resealed": (
        lambda b: edit_manifest(b, add_entry("/etc/passwd"), sealed=True),
        "/etc/passwd",
    ),
    "windows path, resealed": (lambda b: edit_manifest(b, add_entry("c:\\x"), sealed=True), "c:"),
    "unplain path, resealed": (lambda b: edit_manifest(b, add_entry("a/./b"), sealed=True), "a/./b"),
    "lists itself, resealed": (
        lambda b: edit_manifest(b, add_entry("manifest.json"), sealed=True),
        "manifest.json",
    ),
    "no path, resealed": (
        lambda b: edit_manifest(b, lambda m: m["files"].append({}), sealed=True),
        "manifest.json",
    ),
    "verdict swapped, resealed": (
        lambda b: replace_story(b, "verdict.json", lambda d: d.update(decision="reject")),
        "verdict.json",
    ),
    "evidence swapped, resealed": (
        lambda b: replace_story(b, EVIDENCE, lambda d: d.update(mean=1.0)),
        EVIDENCE,
    ),
}


def test_the_bundle_itself_is_sound(bundle):
    assert find_problems(bundle) == []
    assert verify(bundle).decision == "pass"


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_folder(bundle, name):
    spoil, named = MUTANTS[name]
    spoil(bundle)
    with pytest.raises(PolicyError) as caught:
        verify(bundle)
    assert named in caught.value.what
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_newer_manifest_is_not_called_a_forgery(bundle):
    edit_manifest(bundle, lambda m: m.update(schema="edgekd.manifest/2"), sealed=True)
    with pytest.raises(EvidenceError, match="manifest/2"):
        verify(bundle)


def test_no_such_bundle(tmp_path):
    with pytest.raises(EvidenceError, match="does not exist"):
        verify(tmp_path / "nothing")


def test_something_else_is_no_bundle(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no archive")
    with pytest.raises(PolicyError, match=r"x\.tar"):
        verify(tmp_path / "x.tar")
    (tmp_path / "folder").mkdir()
    (tmp_path / "own.yaml").write_text("teacher: {name: ours, licence: own}\n")
    make_run(tmp_path / "run")
    for name in ("folder", "own.yaml", "run"):
        with pytest.raises(EvidenceError, match=r"is no bundle: it holds no manifest\.json") as caught:
            verify(tmp_path / name)
        assert caught.value.exit_code == 2


def rewrite(source: Path, target: Path, change) -> None:
    """Repack a tar; ``change(members)`` gets and returns a list of (TarInfo, bytes)."""
    with tarfile.open(source) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in change(members):
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def new(
    name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, data if kind == tarfile.REGTYPE else b""


def with_time(members):
    members[3][0].mtime = 5
    return members


def with_content(members):
    return [(m, d.replace(b"I", b"J") if m.name.endswith("model.onnx") else d) for m, d in members]


TAR_MUTANTS = {
    "content": (with_content, MODEL),
    "removed": (lambda ms: [x for x in ms if not x[0].name.endswith("model.onnx")], MODEL),
    "extra": (lambda ms: [*ms, new("synthetic/extra")], "extra"),
    "twice": (lambda ms: [*ms, ms[1]], "twice"),
    "outside the folder": (lambda ms: [*ms, new("other/extra")], "other/extra"),
    "parent": (lambda ms: [*ms, new("../extra")], "../extra"),
    "absolute": (lambda ms: [*ms, new("/tmp/extra")], "/tmp/extra"),
    "symlink": (
        lambda ms: [*ms, new("synthetic/l", kind=tarfile.SYMTYPE, link="/etc/passwd")],
        "l is a link",
    ),
    "hard link": (
        lambda ms: [*ms, new("synthetic/l", kind=tarfile.LNKTYPE, link="synthetic/run.json")],
        "l is a link",
    ),
    "device": (lambda ms: [*ms, new("synthetic/d", kind=tarfile.CHRTYPE)], "d is not a plain file"),
    "folder entry": (lambda ms: [*ms, new("synthetic/d", kind=tarfile.DIRTYPE)], "d is not a plain file"),
    "other order": (lambda ms: [*ms[1:], ms[0]], "out of order"),
    "time stamp": (with_time, "header"),
}


def test_a_repacked_archive_is_the_same_archive(released, tmp_path):
    rewrite(released.parent / "bundle.tar", tmp_path / "b.tar", lambda ms: ms)
    assert (tmp_path / "b.tar").read_bytes() == (released.parent / "bundle.tar").read_bytes()


@pytest.mark.parametrize("name", TAR_MUTANTS)
def test_mutants_of_the_archive(released, tmp_path, name):
    change, named = TAR_MUTANTS[name]
    rewrite(released.parent / "bundle.tar", tmp_path / "b.tar", change)
    with pytest.raises(PolicyError) as caught:
        verify(tmp_path / "b.tar")
    assert named in caught.value.what
    assert [p.name for p in tmp_path.iterdir()] == ["b.tar"]  # nothing was extracted


def test_no_byte_of_the_archive_is_free(released, tmp_path):
    whole = (released.parent / "bundle.tar").read_bytes()
    with tarfile.open(released.parent / "bundle.tar") as tar:
        members = list(tar)
    places = {0, 100, 148, 257, 511, len(whole) - 1, len(whole) - 700}
    for member in (members[1], members[2], members[-1]):
        places |= {
            member.offset,
            member.offset + 130,
            member.offset + 300,
            member.offset_data,
            member.offset_data + member.size,
        }
    for place in sorted(places):
        data = bytearray(whole)
        data[place] ^= 1
        (tmp_path / "b.tar").write_bytes(data)
        with pytest.raises(PolicyError):
            verify(tmp_path / "b.tar")
    for data in (whole[:-1], whole + b"\0", whole + b"x" * 512, whole[: len(whole) // 2], whole[:100]):
        (tmp_path / "b.tar").write_bytes(data)
        with pytest.raises(PolicyError):
            verify(tmp_path / "b.tar")


def test_needs_the_standard_library_only(bundle):
    script = (
        "import sys, pathlib; from edgekd.release.verify import verify; verify(pathlib.Path(sys.argv[1])); "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'numpy', 'pydantic', 'yaml', 'onnx'}))"
    )
    done = subprocess.run([sys.executable, "-c", script, bundle], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_says_nothing_to_the_terminal(bundle):
    edit_manifest(
        bundle, lambda m: m.update(name="x, all as released\n\x1b[2Ksigned by ada.pub"), sealed=True
    )
    with pytest.raises(PolicyError, match="control characters") as caught:
        verify(bundle)
    assert caught.value.rule == "bundle-manifest"
    assert "\x1b" not in str(caught.value)


def test_the_folder_in_the_archive_is_named_after_the_bundle(released, tmp_path):
    def elsewhere(members):
        for info, _ in members:
            info.name = "something-else/" + info.name.partition("/")[2]
        return members

    rewrite(released.parent / "bundle.tar", tmp_path / "b.tar", elsewhere)
    with pytest.raises(PolicyError, match="called synthetic where it is released") as caught:
        verify(tmp_path / "b.tar")
    assert caught.value.rule == "bundle-archive"


def test_the_docs_say_what_the_rules_ask():
    page = (Path(__file__).parents[2] / "docs/verify.md").read_text("utf-8")
    for rule, text in RULES.items():
        assert f"| `{rule}` | {text} |" in page
