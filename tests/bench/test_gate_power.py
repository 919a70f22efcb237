"""The power study's bookkeeping: what is tried in which order, what is kept, and the rates that come out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from gate_power import study
from gate_power.aims import targets
from gate_power.calibrate import Models, Planted
from gate_power.figures import measurement_figures, own_figures, was_hit
from gate_power.journal import FILE, JournalError, open_journal, read_journal
from gate_power.models import EFFECTS
from gate_power.page import write_report
from gate_power.plan import parse_trials, schedule, schedule_together
from gate_power.rates import rejections, wilson
from gate_power.study import Request, run_study
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgekd.gates.statistic import CPU_MINIMUM, WALL_MINIMUM


@pytest.mark.parametrize("n", [1, 3, 67, 200, 4001])
def test_wilson_is_scipys(n: int) -> None:
    for hits in {0, 1, n // 3, n - 1, n}:
        wanted = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson(hits, n) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)


COUNTS = st.fixed_dictionaries({e: st.integers(0, 30) for e in EFFECTS}).filter(lambda c: any(c.values()))


@given(COUNTS, st.integers(0, 5))
def test_any_part_of_a_schedule_is_balanced(counts: dict[str, int], seed: int) -> None:
    order = schedule(counts, seed)
    assert Counter(order) == Counter({e: n for e, n in counts.items() if n})
    half = Counter(order[: len(order) // 2])
    assert all(abs(half[e] - n / 2) <= 3 for e, n in counts.items())
    assert order == schedule(counts, seed)


@given(COUNTS, st.integers(0, 5))
def test_candidates_of_one_measurement_are_different_effects(counts: dict[str, int], seed: int) -> None:
    groups = schedule_together(counts, seed)
    assert Counter(e for g in groups for e in g) == Counter({e: n for e, n in counts.items() if n})
    assert all(len(set(g)) == len(g) for g in groups)
    assert len(groups) == max(counts.values())


def test_trials_are_parsed() -> None:
    assert parse_trials("null=2,10=1") == {"null": 2, "3": 0, "4": 0, "5": 0, "10": 1}
    with pytest.raises(ValueError, match=r"'7=1' is not EFFECT=TRIALS"):
        parse_trials("7=1")


def test_a_torn_last_line_is_cut_off_and_one_in_the_middle_refused(tmp_path: Path) -> None:
    open_journal(tmp_path, {"limit": 1.02}, {}).append({"index": 0})
    path = tmp_path / FILE
    with path.open("ab") as f:
        f.write(b'{"kind": "trial", "ind')
    assert [t["index"] for t in read_journal(tmp_path).trials] == [0]
    journal = open_journal(tmp_path, {"limit": 1.02}, {})
    journal.append({"index": 1})
    assert [t["index"] for t in read_journal(tmp_path).trials] == [0, 1]
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], lines[1][:9], *lines[2:]]) + b"\n")
    with pytest.raises(JournalError, match=r"trials\.jsonl:2 is not JSON"):
        read_journal(tmp_path)


def test_a_kill_within_the_header_starts_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"kind": "hea')
    assert open_journal(tmp_path, {"limit": 1.02}, {}).trials == []
    assert read_journal(tmp_path).key == {"limit": 1.02}


def test_another_key_is_refused_and_named(tmp_path: Path) -> None:
    open_journal(tmp_path, {"limit": 1.02, "machine": {"cpu": "a"}, "looks": (4, 6)}, {})
    open_journal(tmp_path, {"limit": 1.02, "machine": {"cpu": "a"}, "looks": (4, 6)}, {})
    with pytest.raises(JournalError, match=r"begun under another limit, machine and cannot be mixed"):
        open_journal(tmp_path, {"limit": 1.03, "machine": {"cpu": "b"}, "looks": (4, 6)}, {})


def test_something_else_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"a": 1}\n')
    with pytest.raises(JournalError, match=r"does not begin with a edgekd\.gate_power/1 header"):
        read_journal(tmp_path)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replaces what measures; the effects of each measurement that the study asked for."""

    class File:
        path, digest = tmp_path / "x.onnx", "sha256:0"

    known = {e: Planted(built=1 + n / 100, ratio=None, error=None) for e, n in EFFECTS.items()}
    models = Models(
        calls="short", side=4, call_ms=0.8, restarts=0, artifacts={"base": File(), **{e: File() for e in EFFECTS}},
        planted=known,
    )  # fmt: skip
    found: list[tuple[str, ...]] = []

    def run_trials(base: object, students: Mapping[str, object], **_: Any) -> dict[str, dict[str, Any]]:
        found.append(tuple(students))
        return {e: {**_trial(e)["edgekd"], "candidates": len(students)} for e in students}

    monkeypatch.setattr(study, "prepare", lambda *a, **k: models)
    monkeypatch.setattr(study, "run_trials", run_trials)
    monkeypatch.setattr(study, "run_peers", lambda *a: {"ran": True})
    return found


def _request(out: Path, **more: Any) -> Request:
    return Request(
        out=out, models=out, calls="short", condition="quiet", trials={"null": 4, "4": 4, "10": 2}, together=True, **more
    )  # fmt: skip


def test_a_study_goes_on_in_the_middle_of_a_measurement(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    said: list[str] = []
    whole = run_study(_request(tmp_path / "whole"), say=said.append)
    order = [t["effect"] for t in whole.trials]
    assert Counter(order) == {"null": 4, "4": 4, "10": 2}
    assert len(asked) == 4
    assert [t["index"] for t in whole.trials if "peers" in t] == [0, 2, 4, 6, 8]

    run_study(_request(tmp_path / "cut"), say=said.append)
    path = tmp_path / "cut" / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    first = len(asked[0])
    assert first > 1
    path.write_bytes(b"".join(lines[: 1 + first - 1]) + lines[first][:20])  # header, all but the group's last
    del asked[:]
    again = run_study(_request(tmp_path / "cut"), say=said.append)
    assert asked[0] == (order[first - 1],)
    assert [t["effect"] for t in again.trials] == order
    assert [t["index"] for t in read_journal(tmp_path / "cut").trials] == list(range(10))
    assert again.trials[first - 1]["group"] == first - 1
    kept = read_journal(tmp_path / "cut").trials
    assert run_study(_request(tmp_path / "cut"), say=said.append).trials == kept


def test_a_study_keeps_to_its_plan(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    assert run_study(_request(tmp_path, minutes=0.0), say=lambda _: None).trials == []
    run_study(_request(tmp_path), say=lambda _: None)
    more = Request(
        out=tmp_path, models=tmp_path, calls="short", condition="quiet", trials={"null": 90}, together=True
    )
    with pytest.raises(ValueError, match="was made with other --trials"):
        run_study(more, say=lambda _: None)
    with pytest.raises(JournalError, match="another condition"):
        run_study(Request(**{**_slots(_request(tmp_path)), "condition": "loaded"}), say=lambda _: None)


def _slots(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__slots__}


def test_code_that_changes_meanwhile_ends_the_study(
    tmp_path: Path, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter(["a", "a", "b"])
    monkeypatch.setattr(study, "source_digest", lambda: next(digests))
    with pytest.raises(JournalError, match="code was changed while the study ran"):
        run_study(_request(tmp_path), say=lambda _: None)
    assert len(asked) == 2
    assert len(read_journal(tmp_path).trials) == len(asked[0])


#: Means of pytest-benchmark: seconds.
def _peers(base: float, student: float) -> dict[str, Any]:
    def stat(x: float) -> dict[str, float]:
        return {"min": x, "max": 2 * x, "mean": x, "median": x, "stddev": x / 10, "rounds": 100.0}

    return {
        "pytest_benchmark": {"base": stat(base), "student": stat(student), "order": ["base", "student"]},
        "repetitions_ns": {
            "base": [1e9 * base * (1 + k / 1000) for k in range(10)],
            "student": [1e9 * student * (1 + k / 1000) for k in range(10)],
        },
    }


def _trial(effect: str, index: int = 0, **more: Any) -> dict[str, Any]:
    true = 1 + EFFECTS[effect] / 100
    own = {
        "decision": more.pop("decision", "reject" if effect != "null" else "pass"),
        "estimate": true + more.pop("off", 0.001), "interval": [true - 0.002, true + 0.002], "reason": "", "method": "",
        "detail": {"restarts": 4, "widened": False, "statistic": WALL_MINIMUM, "a_a_ratio": 1.0, **more.pop("detail", {})},
        "arm": "candidate", "wall_s": more.pop("wall_s", 10.0), "candidates": more.pop("candidates", 1), "restarts": 6,
        "redrawn": more.pop("redrawn", []), "disturbed_calls": 0.25,
        "block_minima_ns": {
            "baseline": [[1000, 1010, 1000]] * 4, "baseline_twin": [[1000, 1010, 1000]] * 4,
            "candidate": [[round(1000 * true), round(1010 * true), round(1000 * true)]] * 4,
        },
    }  # fmt: skip
    return {"index": index, "group": index, "effect": effect, "edgekd": own, **more}


def _header(
    condition: str = "quiet", calls: str = "short", **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    key = {
        "calls": calls, "condition": condition, "limit": 1.02, "looks": [4, 6], "alpha": 0.016, "sources_sha256": "s",
        "protocol": {}, "models": {}, "machine": {"cpu": "a CPU", "cpus": 2, "system": "Linux", "kernel": "6", "python": "3.11", "boot_id": "b"},
        "affinity": [0], "tools": {"edgekd": "0.1.0"}, **more,
    }  # fmt: skip
    planted = {e: {"built": 1 + n / 100, "ratio": None, "error": None} for e, n in EFFECTS.items()}
    info = {
        "command": ["/somewhere/bench/gate_power", "run", "--out", "/somewhere/quiet"], "commit": "0123456789abcdef+",
        "side": 16, "call_ms": 0.8, "calibration_restarts": 0, "planted": planted,
    }  # fmt: skip
    return key, info


@pytest.fixture
def planted_study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of given trials."""

    def write(name: str, trials: list[dict[str, Any]], **header: Any) -> Path:
        journal = open_journal(tmp_path / name, *_header(**header))
        for trial in trials:
            journal.append(trial)
        return tmp_path / name

    return write


def test_planted_rates_come_out(planted_study: Callable[..., Path], tmp_path: Path) -> None:
    trials = [_trial("null", i, decision="reject" if i == 3 else "pass") for i in range(40)]
    trials += [_trial("4", 40 + i, decision="reject" if i < 9 else "inconclusive") for i in range(10)]
    alone = [_trial("null", i, wall_s=12.0 + i / 10, detail={"widened": i == 0}) for i in range(20)]
    for t in trials:
        t["edgekd"].update(candidates=2, wall_s=99.0)
    folders = [planted_study("together", trials), planted_study("alone", alone, seed=2)]
    page, summary, png, svg = write_report(folders, tmp_path / "out")
    (section,) = json.loads(summary.read_text())["sections"]
    own = section["rejections"]["EdgeKD"]
    assert (own["null"]["hits"], own["null"]["n"], own["4"]["hits"], own["4"]["n"]) == (1, 60, 9, 10)
    figures = section["edgekd"]
    assert figures["null"]["alone"] == {
        "trials": 20,
        "wall_s_median": pytest.approx(12.95),
        "wall_s_p95": pytest.approx(13.805),
    }
    assert figures["4"]["alone"]["trials"] == 0
    assert figures["null"]["ratio_error_median"] == pytest.approx(0.1)
    assert figures["null"]["restarts_mean"] == 4  # until it decided, not as many as were made
    assert figures["null"]["widened"] == {"trials": 1, "inconclusive": 0}
    assert figures["4"]["decisions"]["inconclusive"]["hits"] == 1
    assert section["measured"]["by_candidates"]["2"]["wall_s_median"] == 99
    met = {t["name"]: t["verdict"] for t in section["targets"]}
    assert met["false rejections"] == "so far met"
    assert met["found at +4 %"] == "so far missed"
    assert met["wall time of a comparison, 95th percentile"] == "met"
    text = page.read_text()
    assert "| **EdgeKD** | **2 % [0.3, 9] (1/60)** | **90 % [60, 98] (9/10)** |" in text
    assert "Trials of one measurement share the samples of the baseline" in text
    assert "python bench/gate_power run --out quiet" in text
    assert "/somewhere" not in text + summary.read_text()
    assert "boot_id" not in summary.read_text()
    assert "(../gate_power.md)" in text
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in svg.read_bytes()


def test_a_previous_session_is_of_another_measurement() -> None:
    """One measurement's base run, were it the previous one, would hide the drift that the rule suffers from."""
    trials = [
        {**_trial("null", 0), "group": 0, "peers": _peers(1.0, 1.0)},
        {**_trial("4", 1), "group": 0, "peers": _peers(2.0, 1.3)},
        {**_trial("null", 2), "group": 2},
        {**_trial("null", 3), "group": 3, "peers": _peers(1.2, 1.2)},
        {**_trial("null", 4), "group": 4, "peers": _peers(1.2, 1.2)},
    ]
    table = rejections(trials, 1.02)

    def counts(rule: str) -> dict[str, tuple[int, int]]:
        return {e: (r.hits, r.n) for e, r in table[rule].items()}

    # 3 against 1 (2.0 s) passes, 4 against 3 passes; 1 may not be held against 0.
    assert counts("pytest-benchmark min:5% against the previous session") == {"null": (0, 2)}
    assert counts("pytest-benchmark min:5% against one stored baseline") == {"null": (2, 2)}
    assert counts("pytest-benchmark min:5% against the session beside it") == {"null": (0, 3), "4": (0, 1)}
    assert counts("Mann-Whitney over repetitions in one process") == {"null": (0, 3), "4": (0, 1)}
    assert counts("EdgeKD") == {"null": (0, 4), "4": (1, 1)}
    assert counts("interleaved block minima, rounds pooled: any slow-down") == {"null": (0, 4), "4": (1, 1)}


def test_measurements_are_counted_once() -> None:
    shared = [{**_trial("null", 0), "group": 0}, {**_trial("4", 1), "group": 0}]
    for t in shared:
        t["edgekd"].update(candidates=2, wall_s=20.0, redrawn=["steal"])
        t["machine"] = {"seconds": 20.0, "load_cpu_s": 10.0}
    found = measurement_figures([shared, shared, [_trial("null", 0)]])
    assert found["measurements"] == 3
    assert found["redrawn"] == 2
    assert found["load_cpus"] == 0.5
    assert {k: v["measurements"] for k, v in found["by_candidates"].items()} == {1: 1, 2: 2}


def test_only_trials_that_were_hit_count_for_an_injection(
    planted_study: Callable[..., Path], tmp_path: Path
) -> None:
    quiet, busy, stopped = ({"bursts": b, "seconds": 1.0, "stops": s} for b, s in ((0, 0), (2, 0), (2, 7)))
    trials = [_trial("null", 0, decision="reject", injected=quiet)]
    trials += [_trial("null", 1 + i, injected=busy) for i in range(3)]
    trials += [_trial("null", 4 + i, injected=stopped, decision="inconclusive") for i in range(2)]
    assert [was_hit(t, "burst") for t in trials] == [False, *[True] * 5]
    assert [was_hit(t, "throttle") for t in trials] == [*[False] * 4, True, True]
    assert was_hit(_trial("null"), "burst") is None
    planted = _header()[1]["planted"]
    figures = own_figures([trials], planted, "burst")
    (aim,) = targets(figures, measurement_figures([trials]), "short", "burst")
    assert (aim.met, aim.enough, aim.verdict) == (True, False, "so far met")
    assert aim.found.startswith("0 in 5 hit, of 6 trials")
    trials.append(_trial("null", 6, decision="reject", injected=busy))
    (aim,) = targets(own_figures([trials], planted, "burst"), measurement_figures([trials]), "short", "burst")
    assert aim.verdict == "**missed**"
    page = write_report([planted_study("burst", trials, condition="burst")], tmp_path / "out")[0].read_text()
    assert "| hit by the injection / rejected of these | 6 / 1 |" in page
    assert "17 % [3, 56] (1/6), of those hit" in page


def test_long_calls_say_how_they_were_judged(planted_study: Callable[..., Path], tmp_path: Path) -> None:
    trials = [
        _trial("null", i, detail={"statistic": CPU_MINIMUM if i < 3 else WALL_MINIMUM}) for i in range(5)
    ]
    page = write_report([planted_study("long", trials, calls="long")], tmp_path / "out")[0].read_text()
    assert "| judged by: block minimum, CPU clock | 3 of 5 |" in page
    assert "| judged by: block minimum, wall clock | 2 of 5 |" in page
    plain = [_trial("null", i) for i in range(5)]
    page = write_report([planted_study("plain", plain, calls="long")], tmp_path / "plain-out")[0].read_text()
    assert "| judged by: block minimum, wall clock | 5 of 5 |" in page
    short = write_report([planted_study("short", [_trial("null")])], tmp_path / "other")[0].read_text()
    assert "judged by" not in short
    assert "every measurement had several candidates" not in short


def test_an_error_is_undecided_and_never_a_pass(planted_study: Callable[..., Path], tmp_path: Path) -> None:
    failed = _trial("null", 0)
    failed["edgekd"] = {
        "decision": "error", "reason": "a child died", "wall_s": 3.0, "restarts": 0, "arm": "candidate", "candidates": 1
    }  # fmt: skip
    summary = write_report([planted_study("e", [failed, _trial("null", 1)])], tmp_path / "out")[1]
    (section,) = json.loads(summary.read_text())["sections"]
    assert section["edgekd"]["null"]["decisions"]["error"]["hits"] == 1
    assert {t["name"]: t["found"] for t in section["targets"]}["inconclusive nulls"] == "1 in 2 (50.0%)"


def test_studies_of_other_code_are_not_mixed(planted_study: Callable[..., Path], tmp_path: Path) -> None:
    one = planted_study("one", [_trial("null")])
    other = planted_study("other", [_trial("null")], sources_sha256="t")
    with pytest.raises(JournalError, match="differ in sources_sha256"):
        write_report([one, other], tmp_path / "out")
    with pytest.raises(JournalError, match="differ in limit"):
        write_report(
            [one, planted_study("limit", [_trial("null")], condition="loaded", limit=1.05)], tmp_path / "out"
        )
    with pytest.raises(JournalError, match="no trial has been made yet"):
        write_report([planted_study("empty", [])], tmp_path / "out")
