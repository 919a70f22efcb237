"""--sweep and --setting, as a user gives them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures_models import classifier

from edgekd.artifact import Artifact
from edgekd.cli import sweeping
from edgekd.errors import UsageError
from edgekd.measure import ledger
from edgekd.models import open_reference
from edgekd.stages import StageStore
from edgekd.tuned import Tuned, keep_tuned, machine_key


def parsed(*args: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    sweeping.configure(parser)
    return parser.parse_args(args)


def test_values_are_true_false_numbers_and_words() -> None:
    given = [
        f"--setting={s}"
        for s in (
            "arena=false",
            "spinning=true",
            "inter_op_threads=3",
            "layout=plain",
            "x=-1",
            "y=--1",
            "z=²",
        )
    ]
    assert sweeping.settings(parsed(*given)) == {
        "arena": False, "spinning": True, "inter_op_threads": 3, "layout": "plain", "x": -1, "y": "--1", "z": "²",
    }  # fmt: skip
    assert sweeping.settings(parsed()) == {}


@pytest.mark.parametrize("text", ["arena", "arena=", "=true"])
def test_a_setting_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not of the form NAME=VALUE; e\.g\. --setting arena=false"):
        sweeping.settings(parsed(f"--setting={text}"))


def test_threads_have_an_option_of_their_own() -> None:
    with pytest.raises(UsageError, match="--setting threads has an option of its own; give --threads 2"):
        sweeping.settings(parsed("--setting=threads=2"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeping")
    for name in ("model", "other"):
        classifier(folder / f"{name}.onnx", layers=4 if name == "model" else 5)
    opened = open_reference(
        str(folder / "model.onnx"), weights=None, base=None, store=StageStore(folder / "cache")
    )
    assert isinstance(opened, Artifact)
    best = Tuned(
        objective="latency", batch=1, threads=1, settings={"graph_level": "basic"}, machine=machine_key(ledger.machine()),
        evidence={"collected_at": "2026-01-31T12:00:00Z"},
    )  # fmt: skip
    keep_tuned(opened, "cpu:onnxruntime", best)
    return folder


def edgekd(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *args], cwd=place, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip


def arms(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())["arms"])


QUICK = ("--restarts", "1", "--no-resources", "--min-duration", "0.1", "-o", "m.json")


def test_bench_uses_what_the_model_brings_and_says_so(place: Path) -> None:
    done = edgekd(place, "bench", "model.onnx", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "settings from the models' metadata: model.onnx: threads=1 graph_level=basic" in done.stdout
    (arm,) = arms(place / "m.json").values()
    assert (arm["settings"], arm["settings_from"]) == ({"graph_level": "basic"}, "metadata")
    restart = json.loads((place / "m.json").read_text())["restarts"][0]
    assert restart["children"]["baseline"]["placement"]["detail"]["graph_level"] == "ORT_ENABLE_BASIC"


def test_bench_beside_a_model_that_was_not_swept_uses_the_default_and_says_so(place: Path) -> None:
    done = edgekd(place, "bench", "model.onnx", "other.onnx", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "Swept settings are not used (other.onnx: it was not swept for this target)" in done.stdout
    assert [a["settings"] for a in arms(place / "m.json").values()] == [{}, {}, {}]


def test_what_is_asked_for_goes_first(place: Path) -> None:
    for asked in (("--threads", "1"), ("--setting", "arena=false")):
        done = edgekd(place, "bench", "model.onnx", *asked, *QUICK)
        assert done.returncode == 0, done.stderr
        (arm,) = arms(place / "m.json").values()
        assert arm["settings_from"] == "asked"
        assert arm["settings"] == ({"arena": False} if "--setting" in asked else {})


def test_a_setting_that_the_runtime_does_not_know_is_one_line(place: Path) -> None:
    done = edgekd(place, "bench", "model.onnx", "--setting", "areno=false", *QUICK)
    assert done.returncode == 2
    assert done.stderr == "edgekd: error: onnxruntime has no setting 'areno'; did you mean 'arena'?\n"
