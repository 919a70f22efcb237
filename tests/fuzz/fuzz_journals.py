"""What a killed run is continued from: a study's trials, a teacher's logits, a checkpoint's history, a stage's folder."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fuzz_target import Reader, Target, as_json, document_or_bytes
from gate_power.journal import SCHEMA, JournalError, open_journal, read_journal

from edgekd.distill.teacher_logits import load_teacher_logits
from edgekd.stages import StageStore, is_whole, stage_key

_SEEDS = [bytes((13 * i + j * j) % 256 for j in range(24)) for i in range(20)]


def _trials(folder: Path) -> tuple[Sequence[bytes], Reader]:
    path = folder / "trials.jsonl"
    key = {"protocol": {"rounds": 10}, "models": ["a", "b"]}
    header = {"kind": "header", "schema": SCHEMA, "key": key, "info": {"commit": "c"}}
    trial = {"kind": "trial", "condition": "quiet", "ratio": 1.01, "decision": "pass"}
    whole = b"".join(as_json(line) + b"\n" for line in (header, trial, trial))

    def read(data: bytes) -> object:
        kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
        if kind == 0:
            path.write_bytes(rest)
        elif kind == 1:
            path.write_bytes(document_or_bytes(header, rest) + b"\n" + as_json(trial) + b"\n")
        else:
            path.write_bytes(as_json(header) + b"\n" + document_or_bytes(trial, rest))
        read_journal(folder)
        # A restart writes behind what is there, and what is there must still be read then.
        opened = open_journal(folder, key, {"commit": "d"})
        opened.append({"condition": "quiet", "ratio": 1.0})
        return read_journal(folder).trials

    return [b"\0" + whole, b"\0" + whole[:-9], *(bytes([k, 1]) + c for k in (1, 2) for c in _SEEDS)], read


def _npy(array: object) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _teacher_logits(folder: Path) -> tuple[Sequence[bytes], Reader]:
    index = {"views": 1, "n": 6, "classes": 4, "top_k": 2, "image": [8, 8]}
    logits, classes = _npy(np.zeros((6, 3), np.float16)), _npy(np.zeros((6, 2), np.int32))

    def read(data: bytes) -> object:
        kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
        (folder / "teacher_logits.json").write_bytes(
            document_or_bytes(index, rest) if kind == 0 else as_json(index)
        )
        # Another file in its place: what was mapped before keeps its own.
        for name, whole, own in (("view0.npy", logits, 1), ("view0.classes.npy", classes, 2)):
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_bytes(rest if kind == own else whole)
        found = load_teacher_logits(folder)
        return found.rows(0, np.arange(6)).shape

    return [b"\0\0" + as_json(index), b"\1" + logits, b"\2" + classes, *(b"\0\1" + c for c in _SEEDS)], read


def _stage(folder: Path) -> tuple[Sequence[bytes], Reader]:
    """A finished stage whose ``stage.json`` is no longer what was written: made again, never taken for whole."""
    store = StageStore(folder / "store")

    def build(out: Path, resume: Path) -> None:
        (out / "made").write_bytes(b"x")

    made = store.run("kind", "name", {"a": 1}, build).folder
    path = made / "stage.json"
    text = path.read_bytes()
    whole = json.loads(text)

    def read(data: bytes) -> object:
        path.write_bytes(document_or_bytes(whole, data))
        if not is_whole(made):
            store.run("kind", "name", {"a": 1}, build)
        return stage_key(made) if is_whole(made) else None

    return [b"\0" + text, *(b"\1" + c for c in _SEEDS)], read


TARGETS = (
    Target(
        name="trials",
        reads="the trials of a study (bench/gate_power), read, continued and read again",
        prepare=_trials,
        refusals=(JournalError,),
    ),
    Target(name="teacher-logits", reads="a teacher's kept logits and their index", prepare=_teacher_logits),
    Target(name="stage", reads="stage.json of the cache", prepare=_stage),
)
