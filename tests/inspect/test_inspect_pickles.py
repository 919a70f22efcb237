"""Pickles: what they would import is listed, and nothing of them runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import DamagedFileError, PolicyError
from edgekd.inspect import inspect_file


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def _refusal(tmp_path: Path, data: bytes, name: str = "w.pt") -> PolicyError | DamagedFileError:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises((PolicyError, DamagedFileError)) as caught:
        inspect_file(path)
    assert caught.value.rule == "pickle"
    return caught.value


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_is_named_and_not_run(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"w": Evil(f"touch {tmp_path}/ran")}, protocol)
    error = _refusal(tmp_path, data)
    assert "would import posix.system" in error.what or "would import nt.system" in error.what
    assert not (tmp_path / "ran").exists()


def test_inside_torch_s_zip(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([Evil("true")], 2))
        archive.writestr("archive/data/0", bytes(16))
    assert "system" in _refusal(tmp_path, out.getvalue()).what


def test_torchscript_is_a_program(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({}))
        archive.writestr("m/code/__torch__.py", "def forward(self): ...")
    assert "TorchScript" in _refusal(tmp_path, out.getvalue()).what


def test_a_name_hidden_from_those_who_look_at_the_last_two_texts(tmp_path: Path) -> None:
    # os.system is pushed, then collections.OrderedDict, which POP takes away again.
    data = b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x0bcollections\x8c\x0bOrderedDict00\x93\x8c\x04true\x85R."
    assert "os.system" in _refusal(tmp_path, data).what


def test_a_name_out_of_the_memo_and_one_that_is_computed(tmp_path: Path) -> None:
    memo = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c\x04true\x85R."
    assert "os.system" in _refusal(tmp_path, memo).what
    computed = b"\x80\x04ccollections\nOrderedDict\n)R\x8c\x06system\x93."
    assert "computes itself" in _refusal(tmp_path, computed).what


def test_what_torch_saves_is_taken(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pt"
    state = OrderedDict(a=torch.ones(3), b=torch.zeros(2, dtype=torch.bfloat16))
    for form in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=form)
        facts = inspect_file(path).facts
        assert "collections.OrderedDict" in facts["globals"]
        assert "torch._utils._rebuild_tensor_v2" in facts["globals"]
        assert facts["container"] == ("zip" if form else "torch (before 1.6)")
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(
        (PolicyError, DamagedFileError), match=r"torch\.nn\.modules\.linear\.Linear.*rule pickle"
    ):
        inspect_file(path)


@pytest.mark.parametrize(
    "data",
    [
        b"no pickle",
        b"\x80\x04",
        b"\x80\x04R.",
        b"\x80\x04\x8e" + b"\xff" * 8,
        b"\x80\x04h\x07.",
        b"c" + b"a" * 70_000,
    ],
)
def test_damaged_pickles(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.pkl").write_bytes(data)
    with pytest.raises((PolicyError, DamagedFileError), match="rule malformed"):
        inspect_file(tmp_path / "w.pkl")


def test_a_pickle_of_very_many_instructions(tmp_path: Path) -> None:
    assert "instructions" in _refusal(tmp_path, b"\x80\x04" + b"N0" * 400_000 + b"N.").what
