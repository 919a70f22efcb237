"""``edgekd inspect``, and what holds for every format: which file it is, and that it is one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekd.cli import main
from edgekd.errors import DamagedFileError, ModelError, PolicyError
from edgekd.inspect import RULES, Limits, inspect_file, refuse
from edgekd.inspect.formats import ENDINGS, FORMATS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one operator, with its weights beside it."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy")
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    w.external_data.add(key="location", value="w.data")
    (tmp_path / "w.data").write_bytes(bytes(16))
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [w])
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    return path


def test_it_prints_what_is_in_a_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{model}\n")
    for line in (
        r"format +onnx", r"operator sets +ai\.onnx 17", r"inputs +x: float32\[batch,4\]", r"operators +Add 1",
        r"sha256 +[0-9a-f]{64}", r"weight bytes +16", rf"reaches +{re.escape(str(model.parent / 'w.data'))} \(16 bytes\)",
    ):  # fmt: skip
        assert re.search(rf"^  {line}$", text, re.M), line


def test_json_is_the_inspection(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == inspect_file(model).to_json()
    assert printed["files"] == [{"path": str(model.parent / "w.data"), "size_bytes": 16}]


def test_a_folder_is_all_its_files(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(model.parent / "x.npy", np.zeros(3))
    (model.parent / "notes.md").write_text("not a model")
    assert main(["inspect", str(model.parent), "--json"]) == 0
    assert [f["format"] for f in json.loads(capsys.readouterr().out)] == ["onnx", "npy"]
    assert main(["inspect", str(model.parent)]) == 0
    assert capsys.readouterr().out.count("\n\n") == 1
    (model.parent / "w.data").unlink()
    (model.parent / "w.data").symlink_to(model)
    assert main(["inspect", str(model.parent)]) == 5


def test_an_empty_folder_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "holds no model or data file" in capsys.readouterr().err


def test_a_refusal_is_one_line_with_its_rule(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.write_bytes(model.read_bytes()[:-3])
    assert main(["inspect", str(model)]) == 2  # cut off: an accident, not an attack
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(model) in err
    assert "(rule truncated)" in err


def test_text_of_a_file_does_not_reach_the_terminal(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = helper.make_model(helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", 1, [])]))
    made.metadata_props.add(key="k\x1b[2J", value="v\x1b[2J\u202e")
    model.write_bytes(made.SerializeToString())
    assert main(["inspect", str(model)]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (
            lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
            "Git LFS",
        ),
        (lambda p: p.symlink_to(p), "cannot read"),
    ],
)
def test_ordinary_mistakes_are_no_refusals(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    with pytest.raises(ModelError, match=words):
        inspect_file(path)


def test_a_link_that_the_user_names_is_followed(model: Path) -> None:
    link = model.parent / "link.onnx"
    link.symlink_to(model)
    os.link(model, model.parent / "hard.onnx")
    assert inspect_file(link).sha256 == inspect_file(model.parent / "hard.onnx").sha256


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("ending", [".onnx", ".npz", ".safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    os.mkfifo(path)
    with pytest.raises((PolicyError, DamagedFileError)) as caught:
        inspect_file(path)
    assert caught.value.rule == "irregular-file"


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("model.h5", b"\x89HDF", "unknown-format"),
        ("model", b"text", "unknown-format"),
        ("model.onnx", b"\x80\x05\x95abc", "content-mismatch"),
        ("model.onnx", b"PK\x03\x04", "content-mismatch"),
        ("w.safetensors", b"\x93NUMPY", "content-mismatch"),
        ("x.npz", b"\x93NUMPY", "content-mismatch"),
        ("m.tflite", b"\x08\x08", "content-mismatch"),
        ("m.ort", b"\x08\x08", "content-mismatch"),
    ],
)
def test_ending_and_content_agree(tmp_path: Path, name: str, data: bytes, rule: str) -> None:
    path = tmp_path / name
    path.write_bytes(data + bytes(64))
    with pytest.raises((PolicyError, DamagedFileError)) as caught:
        inspect_file(path)
    assert caught.value.rule == rule


def test_content_says_what_a_name_without_an_ending_is(tmp_path: Path) -> None:
    path = tmp_path / "0a1b2c"
    with path.open("wb") as file:
        np.save(file, np.zeros(4))
    assert inspect_file(path).format == "npy"


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises((PolicyError, DamagedFileError)) as caught:
        inspect_file(path)
    assert caught.value.rule == "file-size"


def test_every_format_has_an_inspector() -> None:
    for known in FORMATS:
        assert callable(known.inspector())
    assert len(ENDINGS) == sum(len(f.endings) for f in FORMATS)


def test_rules_are_those_of_the_docs(repository: Path) -> None:
    text = (repository / "docs" / "inspect.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|$", text, re.M))
    assert table == dict(RULES)


def test_limits_are_those_of_the_docs(repository: Path) -> None:
    text = (repository / "docs" / "inspect.md").read_text(encoding="utf-8")
    table = {
        k: int(v.replace(",", "")) for k, v in re.findall(r"^\| `([a-z_]+)` \| ([0-9,]+) \|", text, re.M)
    }
    limits = Limits()
    assert table == {name: getattr(limits, name) for name in Limits.__slots__}


def test_a_refusal_names_a_known_rule() -> None:
    with pytest.raises(KeyError):
        refuse("no-such-rule", Path("m.onnx"), "anything")
    assert "\x1b" not in str(refuse("nesting", Path("m\x1b[2J.onnx"), "a\x1bb"))


def test_nothing_but_the_standard_library_is_needed(model: Path) -> None:
    """Boards and doors of other rooms have no onnx; and --help waits for no import."""
    code = (
        "import sys; from edgekd.inspect import inspect_file; from pathlib import Path\n"
        "inspect_file(Path(sys.argv[1])); print([m for m in ('onnx', 'google.protobuf', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
