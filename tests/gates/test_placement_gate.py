"""How much of a model ran where it should: shares, what is named, and what cannot be judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.errors import EvidenceError
from edgekd.evidence.placement import OpPlacement, load_placement, save_placement
from edgekd.gates.placement import judge_placement
from edgekd.placement import PlacedOp

A = "sha256:" + "a" * 64


def op(kind: str, place: str, dtype: str = "float32", time_ns: float | None = 10.0) -> PlacedOp:
    macs = {"Conv": 45, "Gemm": 10}.get(kind, 0)
    return PlacedOp(name=f"{kind}_0", op_type=kind, place=place, dtype=dtype, time_ns=time_ns, macs=macs)


MIXED = OpPlacement(
    artifact=A, target="cpu:onnxruntime+xnnpack", provider="XnnpackExecutionProvider",
    ops=(
        op("Conv", "XnnpackExecutionProvider", "int8", 80.0), op("Conv", "XnnpackExecutionProvider", "int8", 80.0),
        op("Gemm", "XnnpackExecutionProvider"), op("Softmax", "CPUExecutionProvider", time_ns=30.0),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "share"),
    [
        ({}, 0.75),
        ({"by": "time"}, 170 / 200),
        ({"on": "cpu"}, 0.25),
        ({"precision": "int8"}, 0.5),
        ({"precision": "int8", "by": "time"}, 160 / 200),
        ({"precision": "float32", "on": "xnnpack"}, 0.25),
        ({"precision": "int8", "by": "macs"}, 0.9),
    ],
)
def test_the_share_is_of_what_was_asked(asked: dict[str, str], share: float) -> None:
    at = judge_placement(MIXED, min_share=share, **asked)  # type: ignore[arg-type]
    assert at.estimate == pytest.approx(share)
    assert at.decision == "pass"
    assert judge_placement(MIXED, min_share=share + 1e-6, **asked).decision == "reject"  # type: ignore[arg-type]


def test_the_reason_names_what_ran_elsewhere() -> None:
    gate = judge_placement(MIXED, min_share=0.95)
    assert gate.reason == (
        "75.0% of 4 operators ran on XnnpackExecutionProvider (least 95.0%); not so: Softmax "
        "(CPUExecutionProvider, float32)"
    )
    assert (gate.gate, gate.metric, gate.limit, gate.interval) == (
        "placement", "share by ops: XnnpackExecutionProvider", 0.95, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("placement", "asked", "reason"),
    [
        (
            replace(MIXED, ops=(), problem="torch 2 does not tell where operators ran"),
            {},
            "torch 2 does not tell",
        ),
        (replace(MIXED, ops=()), {}, "reported no operator at all"),
        (
            replace(MIXED, ops=(op("A", "CPU", ""),)),
            {"precision": "int8"},
            "does not tell in which precision",
        ),
        (replace(MIXED, ops=(op("A", "CPU", time_ns=None),)), {"by": "time"}, "gives no time for A_0"),
    ],
)
def test_what_the_runtime_does_not_tell_is_inconclusive(
    placement: OpPlacement, asked: dict[str, str], reason: str
) -> None:
    gate = judge_placement(placement, min_share=0.5, **asked)  # type: ignore[arg-type]
    assert gate.decision == "inconclusive"
    assert reason in gate.reason


def test_no_time_at_all_is_an_error() -> None:
    still = replace(MIXED, ops=(op("A", "CPU", time_ns=0.0),))
    assert judge_placement(still, min_share=0.5, by="time").decision == "error"


def test_the_document_is_read_back_whole(tmp_path: Path) -> None:
    save_placement(MIXED, tmp_path / "p.json")
    assert load_placement(tmp_path / "p.json") == MIXED


@pytest.mark.parametrize(
    "spoil", [{"time_ns": -1}, {"time_ns": "nan"}, {"macs": -2}, {"place": None, "sources": 3}]
)
def test_damaged_documents_are_refused(tmp_path: Path, spoil: dict[str, object]) -> None:
    save_placement(MIXED, tmp_path / "p.json")
    value = json.loads((tmp_path / "p.json").read_text())
    value["ops"][0].update(spoil)
    (tmp_path / "p.json").write_text(json.dumps(value))
    with pytest.raises(EvidenceError):
        load_placement(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("place", "on", "there"),
    [
        ("CUDAExecutionProvider", "cuda", True),
        ("CUDAExecutionProvider", "CUDAExecutionProvider", True),
        ("GPU.0", "gpu", True),
        ("XNNPACK", "xnnpack", True),
        ("CPUExecutionProvider", "e", False),
        ("CPUExecutionProvider", "cp", False),
        ("CPU", "cpu-and-more", False),
        ("", "cpu", False),
    ],
)
def test_a_place_is_called_by_its_whole_name(place: str, on: str, there: bool) -> None:
    placed = replace(MIXED, ops=(op("Conv", place),))
    assert judge_placement(placed, min_share=1, on=on).decision == ("pass" if there else "reject")


def test_what_computes_nothing_has_no_part_in_a_share_of_a_precision() -> None:
    copies = tuple(op("Reshape", "CPUExecutionProvider", "") for _ in range(5))
    placed = replace(MIXED, ops=(op("Conv", "CPUExecutionProvider", "int8"), *copies))
    gate = judge_placement(placed, min_share=1, precision="int8")
    assert (gate.decision, gate.reason) == ("pass", "100.0% of 1 operators ran in int8 (least 100.0%)")
    assert judge_placement(placed, min_share=1, on="cpu").estimate == 1
