"""``edgekd provenance explain`` and ``--provenance``: the whole story in plain words, and the exit code a CI job sees."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from fixtures_bundle import make_bundle
from fixtures_models import classifier
from fixtures_run import make_run

import edgekd.cli
from edgekd.provenance.declared import parse_declaration
from edgekd.provenance.explain import DISCLAIMER
from edgekd.provenance.storing import store_provenance
from edgekd.provenance.terms import load_terms

DAY = load_terms().captured
REPOSITORY = Path(__file__).parents[2]
LLAMA3 = "teacher: {name: 通义 Llama-3, licence: llama-3, access: weights, source: hf}\ndata: {name: d, licence: own}\n"


def explain(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    code = edgekd.cli.main(["provenance", "explain", str(path), *more])
    done = capsys.readouterr()
    return code, done.out + done.err


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "f.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_story_of_a_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = explain(written(tmp_path, LLAMA3), capsys, "--as-of", DAY)
    assert code == 5
    for words in (
        "teacher 通义 Llama-3", "from: hf", "reached: its weights were at hand", "Meta Llama 3 Community License: no other model may be trained",
        f"verified (read in the licensor's own text), {DAY}", "What needs a human (1)", "training-forbidden", "exit 5",
        "A waiver is written so:", "rule: training-forbidden", "begins with Llama 3",
    ):  # fmt: skip
        assert words in told, words
    assert told.count("no legal advice") == told.count(DISCLAIMER) == 1
    assert max(map(len, told.splitlines())) <= 120


def test_the_story_of_a_waived_pass_with_a_long_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "weil " * 300
    text = f"teacher: {{name: T, licence: own}}\ndata: {{name: D, licence: none-stated}}\nwaivers:\n- {{rule: data-licence-unknown, by: Łucja Ñ, reason: {reason}, expires: {DAY}}}\n"
    code, told = explain(written(tmp_path, text), capsys, "--as-of", DAY)
    assert code == 0
    assert f"Waived by Łucja Ñ until {DAY}: weil" in told
    assert "has to be signed" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 100
    later = (date.fromisoformat(DAY) + timedelta(days=1)).isoformat()
    code, told = explain(tmp_path / "f.yaml", capsys, "--as-of", later)
    assert code == 5
    assert "it was not counted" in " ".join(told.split())


def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = explain(written(tmp_path, LLAMA3), capsys, "--json", "--as-of", DAY)
    value = json.loads(told)
    assert (code, value["decision"], value["as_of"]) == (5, "reject", DAY)
    assert value["records"][0]["id"] == "llama3"
    assert [f["rule"] for f in value["findings"] if f["decision"] == "reject"] == ["training-forbidden"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("techer: {}\n", 2, "unknown key 'techer'; did you mean 'teacher'?"),
        ("teacher: {name: T, licence_file: absent.txt}\n", 2, "absent.txt"),
        ("edgekd: 1\nname: x\n", 2, "'task' is missing"),
        ("- a\n", 2, "expected keys and values"),
    ],
)
def test_what_is_no_declaration_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, words: str
) -> None:
    found, told = explain(written(tmp_path, text), capsys)
    assert (found, len(told.splitlines())) == (code, 1)
    assert words in told


def test_nothing_declared_shows_the_shortest_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = explain(REPOSITORY / "edgekd/pipeline/recipes/onnx.yaml", capsys)
    assert code == 5
    assert "The shortest block that says all:" in told
    assert explain(tmp_path / "absent.yaml", capsys)[0] == 2
    assert explain(written(tmp_path, "{}\n"), capsys, "--as-of", "soon")[0] == 2


def test_a_run_folder_tells_the_story_of_its_own_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block: dict[str, Any] = {
        "teacher": {"name": "T", "licence": "MIT", "access": "weights"},
        "data": {"name": "d", "licence": "own"},
    }
    make_run(tmp_path, provenance=store_provenance(parse_declaration(block)), collected_at=f"{DAY}T01:00:00Z")
    code, told = explain(tmp_path, capsys)
    assert code == 0
    assert f"Provenance of synthetic, as of {DAY}" in told


@pytest.mark.parametrize("form", ["bundle", "bundle.tar"])
def test_a_bundle_tells_what_was_declared_at_its_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    make_bundle(tmp_path)
    code, told = explain(tmp_path / form, capsys)
    assert code == 0, told
    assert "teacher A/Teacher" in told
    (tmp_path / "asks.yaml").write_text("provenance: {}\n")
    asked = [
        "gate",
        str(tmp_path / form),
        "--policy",
        str(tmp_path / "asks.yaml"),
        "--out",
        str(tmp_path / "again"),
    ]
    assert edgekd.cli.main(asked) == 0, capsys.readouterr()
    assert edgekd.cli.main(["gate", str(tmp_path / "again")]) in (0, 1)
    assert explain(tmp_path / "again", capsys)[0] == 0


def test_a_damaged_bundle_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path)
    (bundle / "provenance.json").write_bytes(
        (bundle / "provenance.json").read_bytes().replace(b"Ada", b"Eve")
    )
    code, told = explain(bundle, capsys)
    assert (code, len(told.splitlines())) == (5, 1)


@pytest.mark.parametrize("day", ["20271231", "2027-W01-1", "soon", "2027-02-30"])
def test_a_day_is_written_in_one_way(tmp_path: Path, capsys: pytest.CaptureFixture[str], day: str) -> None:
    code, told = explain(written(tmp_path, LLAMA3), capsys, "--as-of", day)
    assert (code, len(told.splitlines())) == (2, 1)
    assert f"--as-of is '{day}', which is no date" in told


@pytest.mark.parametrize(
    "recipe",
    sorted(p.relative_to(REPOSITORY).as_posix() for p in [*REPOSITORY.glob("examples/*/*.yaml"), *REPOSITORY.glob("edgekd/pipeline/recipes/*.yaml")] if "\nprovenance:" in p.read_text()),
)  # fmt: skip
def test_recipes_that_ship_declare_what_may_be_released(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = explain(REPOSITORY / recipe, capsys, "--as-of", DAY)
    assert code == 0, told


def test_the_demo_may_be_released_for_years(capsys: pytest.CaptureFixture[str]) -> None:
    """Its one record is of a text that does not change, and its recipe says so."""
    late = (date.fromisoformat(DAY) + timedelta(days=2000)).isoformat()
    assert explain(REPOSITORY / "edgekd/pipeline/recipes/demo.yaml", capsys, "--as-of", late)[0] == 0


@pytest.mark.parametrize(("licence", "code"), [("own", 0), ("llama3", 5)])
def test_gate_judges_a_declaration_beside_its_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], licence: str, code: int
) -> None:
    classifier(tmp_path / "student.onnx", layers=1)
    declared = written(
        tmp_path,
        f"teacher: {{name: T, licence: {licence}, access: weights}}\ndata: {{name: d, licence: own}}\n",
    )
    out = tmp_path / "run"
    asked = ["--max-size-mib", "9", "--provenance", str(declared), "--out", str(out)]
    assert edgekd.cli.main(["gate", "--student", str(tmp_path / "student.onnx"), *asked]) == code
    assert "provenance" in capsys.readouterr().out
    index = json.loads((out / "run.json").read_text())
    assert [s["licence"] for s in index["provenance"]["declared"]["teacher"]] == [licence]
    verdict = (out / "verdict.json").read_bytes()
    assert [g["gate"] for g in json.loads(verdict)["gates"]] == ["size", "provenance"]
    assert edgekd.cli.main(["gate", str(out)]) == code
    assert (out / "verdict.json").read_bytes() == verdict
    capsys.readouterr()
    assert edgekd.cli.main(["gate", str(out), "--provenance", str(declared)]) == 2
    assert "write it into the recipe's `provenance:` and run again" in capsys.readouterr().err
