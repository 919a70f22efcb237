"""``edgekd bench`` looks at the arms' resources, with a meter behind a command, and can leave them out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures_models import classifier

# A made-up meter: 20 W by the wall clock.
_METER = "import time; print(20 * time.time())"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench-resources")
    classifier(folder / "model.onnx")
    (folder / "meter.py").write_text(_METER)
    return folder


def bench(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekd", "bench", "model.onnx", "--restarts", "1", *args]
    return subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip


def _resources(place: Path, name: str) -> dict[str, Any]:
    return json.loads((place / name).read_text())["resources"]


def test_profile_roofline_and_a_command_for_a_meter(place: Path) -> None:
    meter = f"command:{sys.executable} meter.py"
    done = bench(place, "--profile", "--meter", meter, "-o", "full.json")
    assert (done.returncode, done.stderr) == (0, "")
    found = _resources(place, "full.json")["baseline"]
    assert found["energy"]["command"]["busy_watts"] == pytest.approx(20.0, rel=0.3)
    assert found["roofline"]["bound"] in ("compute", "memory")
    assert found["profile"]["calls"] > 0
    for words in (
        "load, cold",
        "peak memory",
        "(command)",
        "of this machine's float32 peak",
        "longest nodes",
    ):
        assert words in done.stdout, done.stdout


def test_resources_can_be_left_out(place: Path) -> None:
    done = bench(place, "--no-resources", "-o", "bare.json")
    assert done.returncode == 0, done.stderr
    assert _resources(place, "bare.json") == {}
    assert "peak memory" not in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--no-resources", "--profile"), 2, "--profile and --no-resources exclude each other"),
        (("--no-resources", "--meter", "rapl"), 2, "--meter and --no-resources exclude each other"),
        (("--meter", "command:echo watts"), 4, "said 'watts'; it has to print one number: joules so far"),
        (("--meter", "command:"), 2, "names no command"),
        (("--meter", "nobody"), 2, "no meter is called 'nobody'"),
    ],
)
def test_what_is_refused_is_refused_before_the_race(
    place: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    done = bench(place, *args, "-o", "never.json")
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place / "never.json").exists()
