"""The same evidence gives the same bytes, wherever, whenever and by whomever it is released; and names no machine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_release import HERE, contents, make_rich_run, read
from fixtures_run import POLICY
from hypothesis import given
from hypothesis import strategies as st

from edgekd.evidence.run import AbsentTarget
from edgekd.provenance.declared import parse_declaration, read_texts
from edgekd.provenance.storing import store_provenance
from edgekd.release import release
from edgekd.release.paths import portable, portable_prose
from edgekd.release.verify import verify

#: Lists folders backwards: the order of a file system is nobody's promise.
_BACKWARDS = """
import os
_scandir, _listdir = os.scandir, os.listdir

class _Entries(list):
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def close(self): pass
    def __next__(self): return self.pop(0)

def scandir(path="."):
    with _scandir(path) as found:
        return _Entries(sorted(found, key=lambda e: e.name, reverse=True))

os.scandir = scandir
os.listdir = lambda path=".": sorted(_listdir(path), reverse=True)
"""
_RELEASE = (
    "import os, sys; os.umask(int(sys.argv[1], 8)); from edgekd.cli import main; sys.exit(main(sys.argv[2:]))"
)


def test_two_users_release_the_same_bytes(rich: Path, tmp_path: Path) -> None:
    made = []
    for user, umask, environment in (
        ("ada", "022", {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}),
        ("grace", "077", {"TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "2", "PYTHONUTF8": "0", "COLUMNS": "40"}),
    ):  # fmt: skip
        home = tmp_path / "home" / user
        (home / "work").mkdir(parents=True)
        shutil.copytree(rich / "run", home / "work/run")
        if user == "grace":
            (home / "site").mkdir()
            (home / "site/sitecustomize.py").write_text(_BACKWARDS)
            for k, path in enumerate(sorted(home.rglob("*"))):
                os.utime(path, (1e9 + k, 1e9 + k))
        path = os.pathsep.join(filter(None, (str(home / "site"), os.environ.get("PYTHONPATH", ""))))
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON", "EDGEKD"))
        }
        cwd, run, out = (
            (home / "work", "run", "bundle")
            if user == "ada"
            else (Path("/"), f"{home}/work/run", f"{home}/work/elsewhere")
        )
        done = subprocess.run(
            [sys.executable, "-c", _RELEASE, umask, "release", run, "-o", out],
            cwd=cwd, env={**inherited, **environment, "HOME": str(home), "USER": user, "PYTHONPATH": path},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append(home / "work" / Path(out).name)
    one, two = made
    assert contents(one) == contents(two) == contents(rich / "bundle")
    assert Path(f"{one}.tar").read_bytes() == Path(f"{two}.tar").read_bytes()
    modes = [sorted((p.relative_to(b).as_posix(), p.stat().st_mode) for p in b.rglob("*")) for b in made]
    assert modes[0] == modes[1]


def test_no_path_of_a_machine_is_in_it(tmp_path: Path) -> None:
    absent = AbsentTarget(
        target="cuda:tensorrt", required=False, reason=f"failed: cannot open {HERE}/engine.plan: gone"
    )
    make_rich_run(tmp_path / "run", absent=[absent])
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    machine = [
        b"/home/",
        str(tmp_path).encode(),
        str(Path.home()).encode(),
        str(Path.cwd()).encode(),
        sys.prefix.encode(),
    ]
    for name, data in contents(bundle).items():
        assert [m for m in machine if m in data] == [], name
    recipe = read(bundle / "recipe.json")
    assert recipe["task"]["data"]["train"] == "train.npz#0:100"
    assert recipe["teacher"]["weights"] == "teacher.safetensors"
    assert read(bundle / "run.json")["absent"][0]["reason"] == "failed: cannot open engine.plan: gone"
    assert read(bundle / "verdict.json")["not_run"][0]["reason"] == "failed: cannot open engine.plan: gone"
    # The verdict is still that of the index beside it.
    assert verify(bundle).decision == "pass"
    from edgekd.evidence.run import load_run
    from edgekd.gates import judge_run
    from edgekd.recipe import GatesBlock

    index = load_run(bundle)
    judge_run(bundle, index, GatesBlock.model_validate(dict(index.policy))).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (bundle / "verdict.json").read_bytes()


def test_no_path_of_the_declaration_or_the_policy_is_in_it(tmp_path: Path) -> None:
    """And the declaration without paths is the one that is judged: findings, obligations, notices agree with it."""
    texts = "/* Copyright */ see /usr/share/common-licenses/MIT\n"
    (tmp_path / "LICENSE").write_text(texts)
    block = {
        "teacher": {
            "name": f"{HERE}/models/teacher", "version": f"{HERE}/v1", "licence": "mit", "access": "weights",
            "source": f"{HERE}/t", "licence_file": "LICENSE",
        },
        "data": {"name": "~ada/pics", "licence": "cc-by-4.0", "source": f"{HERE}/pics", "attribution": f"Ada {HERE}"},
    }  # fmt: skip
    provenance = store_provenance(read_texts(parse_declaration(block), tmp_path))
    policy = {
        **POLICY,
        "provenance": {},
        "regression": {"baseline": f"{HERE}/Model Store/last.onnx", "max_regression": 0.05},
    }
    make_rich_run(tmp_path / "run", provenance=provenance, policy=policy, regression_baseline="first-run")
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    for name, data in contents(bundle).items():
        if name.startswith("attestations/test-"):
            (configuration,) = json.loads(data)["predicate"]["configuration"]
            data += base64.b64decode(configuration["content"])
        for said in (b"/home/", b"~ada", b"Model Store"):
            assert said not in data, (name, said)
    assert (bundle / "notices/teacher/LICENSE").read_text() == texts
    assert read(bundle / "verdict.json")["policy"]["regression"]["baseline"] == "last.onnx"
    assert "pics" in (bundle / "NOTICES.md").read_text()
    assert verify(bundle).decision == "pass"


@given(st.text(alphabet="/\\~:#?. abhomeC", max_size=40))
def test_what_is_portable_stays_so(text: str) -> None:
    once = portable({"a": [text]})
    assert portable(once) == once


def test_a_text_with_its_hash_stays_as_it_is() -> None:
    text = {"name": "/home/ada/LICENSE", "text": "/* see /usr/share/x */", "sha256": "0"}
    assert portable(text) == {**text, "name": "LICENSE"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/data/x/train.npz", "train.npz"),
        ("/data/x/train.npz#0:10?label=y", "train.npz#0:10?label=y"),
        ("~/x/train.npz", "train.npz"),
        ("~ada/x/train.npz", "train.npz"),
        (r"C:\Users\ada\t.npz", "t.npz"),
        (r"\\server\share\t.npz", "t.npz"),
        ("file:///srv/t.npz", "t.npz"),
        ("/data/folder/", "folder"),
        ("data/t.npz", "data/t.npz"),
        ("../t.npz", "../t.npz"),
        ("python:nets.models:teacher", "python:nets.models:teacher"),
        ("python:/home/ada/nets:teacher", "python:nets:teacher"),
        ("https://example.org/home/ada/t.npz", "https://example.org/home/ada/t.npz"),
        ("sklearn:digits#train", "sklearn:digits#train"),
        ({"a": ["/x/y.npz", 3, None, True]}, {"a": ["y.npz", 3, None, True]}),
    ],
)
def test_paths_of_a_recipe(given: object, wanted: object) -> None:
    assert portable(given) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("cannot read /tmp/x/a.onnx: no such file", "cannot read a.onnx: no such file"),
        ("'/home/ada/a b.onnx' and (/var/tmp/b.npz)", "'a b.onnx' and (b.npz)"),
        ("node /layer1/conv/Conv runs in float32", "node /layer1/conv/Conv runs in float32"),
        ("1/2 of 3/4, see https://x.org/tmp/a/b", "1/2 of 3/4, see https://x.org/tmp/a/b"),
    ],
)
def test_paths_in_sentences(given: str, wanted: str) -> None:
    assert portable_prose(given) == wanted
