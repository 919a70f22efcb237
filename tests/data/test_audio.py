"""Folders of recordings by class, and recordings of different lengths in one .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.data import open_source
from edgekd.data.audio import AudioFolder
from edgekd.data.images import ImageFolder
from edgekd.errors import DataError

wavfile = pytest.importorskip("scipy.io.wavfile")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, samples in (
        ("yes/b.wav", np.arange(4, dtype=np.int16)),
        ("no/z.WAV", np.zeros((3, 2), np.float32)),
        ("no/a.wav", np.arange(5, dtype=np.uint8)),
        (".hidden/c.wav", np.arange(4, dtype=np.int16)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        wavfile.write(tmp_path / name, 8000, samples)
    (tmp_path / "no" / "notes.txt").write_text("spoken by n")
    return tmp_path


def test_rows_are_sorted_and_classes_numbered(folder: Path) -> None:
    source = open_source(str(folder))
    assert isinstance(source, AudioFolder)
    rows = list(source)
    assert [(r.id, r.label) for r in rows] == [("no/a.wav", 0), ("no/z.WAV", 0), ("yes/b.wav", 1)]
    assert rows[2].inputs["audio"].tolist() == [0, 1, 2, 3]
    assert [r.inputs["audio"].dtype for r in rows] == [np.uint8, np.float32, np.int16]
    assert {int(r.inputs["sample_rate"]) for r in rows} == {8000}
    digest = source.digest
    wavfile.write(folder / "yes" / "b.wav", 8001, np.arange(4, dtype=np.int16))
    assert open_source(str(folder)).digest != digest


def test_a_folder_without_recordings_is_one_of_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    assert isinstance(open_source(str(tmp_path)), ImageFolder)


def test_a_damaged_recording_is_one_line(folder: Path) -> None:
    (folder / "no" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"cannot read .*a\.wav"):
        list(open_source(str(folder)))


def test_a_recording_that_is_cut_short_is_refused_and_one_with_notes_read(folder: Path) -> None:
    whole = (folder / "yes" / "b.wav").read_bytes()
    notes = b"note" + (4).to_bytes(4, "little") + b"abcd"
    size = (len(whole) + len(notes) - 8).to_bytes(4, "little")
    (folder / "yes" / "b.wav").write_bytes(whole[:4] + size + whole[8:] + notes)
    assert [len(e.inputs["audio"]) for e in open_source(str(folder))] == [5, 3, 4]
    (folder / "yes" / "b.wav").write_bytes(whole[:-4])
    with pytest.raises(
        DataError, match=r"cannot read .*b\.wav \(Reached EOF prematurely.*; remove or replace"
    ):
        list(open_source(str(folder)))
    (folder / "yes" / "b.wav").write_bytes(whole[:4] + bytes(4) + whole[8:])
    with pytest.raises(DataError, match=r"cannot read .*b\.wav \("):
        list(open_source(str(folder)))


def test_rows_of_different_lengths(tmp_path: Path) -> None:
    audio = np.arange(10, dtype=np.int16)
    np.savez(
        tmp_path / "r.npz",
        audio=audio,
        audio_offsets=[0, 3, 3, 10],
        label=[1, 0, 2],
        slice_who=["a", "b", "a"],
    )
    rows = list(open_source("r.npz", tmp_path))
    assert [r.inputs["audio"].tolist() for r in rows] == [[0, 1, 2], [], [3, 4, 5, 6, 7, 8, 9]]
    assert [set(r.inputs) for r in rows] == [{"audio"}] * 3
    assert [(r.label, r.slices["who"]) for r in rows] == [(1, "a"), (0, "b"), (2, "a")]


def test_an_input_called_offsets_stays_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", x=np.zeros((3, 2)), x_offsets=np.arange(3), label=np.arange(3))
    assert set(next(iter(open_source("r.npz", tmp_path))).inputs) == {"x", "x_offsets"}


@pytest.mark.parametrize("offsets", [[0, 3, 9], [1, 3, 10], [0, 6, 4, 10], [0.0, 3.0, 10.0], []])
def test_offsets_that_cut_otherwise_are_refused(tmp_path: Path, offsets: list[float]) -> None:
    np.savez(tmp_path / "r.npz", audio=np.arange(10), audio_offsets=np.asarray(offsets), label=[1, 0])
    with pytest.raises(DataError, match=r"'audio_offsets' does not cut 'audio' \(10,\) into rows"):
        list(open_source("r.npz", tmp_path))


def test_labels_and_offsets_must_agree(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", audio=np.arange(10), audio_offsets=[0, 3, 10], label=[1, 0, 2])
    with pytest.raises(DataError, match=r"differ in their number of rows \(audio: 2, label: 3\)"):
        list(open_source("r.npz", tmp_path))
