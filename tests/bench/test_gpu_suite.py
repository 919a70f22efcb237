"""The GPU suite without a GPU: its page from made-up figures, its figures from made-up samples, and a rehearsal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.errors import TargetUnavailableError
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN, Measurement, Restart
from edgekd.measure import Protocol

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench" / "gpu"))
import gpu_cells
import gpu_energy
import gpu_figures
import gpu_page
import gpu_races
import gpu_steps
import run as gpu_run

DEVICE = {
    "events": "torch.cuda.Event", "replays": 1, "flush_bytes": 256 << 20, "cache_bytes": 60 << 20, "input_sets": 4,
    "input_sets_exceed_cache": False,
}  # fmt: skip


def made_up(*, half: float = 0.5, twin: float = 1.0, restarts: int = 4, device: bool = True) -> Measurement:
    """Samples of 1 ms by events; cold calls take 1.2 ms, the candidate ``half`` of everything."""
    rng = np.random.default_rng(0)

    def blocks(ns: float) -> tuple[Any, ...]:
        return tuple((ns * (1 + 0.001 * rng.random(100))).astype(np.int64) for _ in range(5))

    scale = {BASELINE: 1e6, TWIN: twin * 1e6, CANDIDATE: half * 1e6}
    child = {"placement": {"runtime": "torch 2", "detail": {"low_precision": {"macs_share": 0.75}}}}
    made = Restart(
        blocks={}, order=tuple(scale), cpus=(), ledger={"gpu": None},
        warmup={a: {"steady": True, **({"device": DEVICE} if device else {})} for a in scale},
        children=dict.fromkeys(scale, child),
    )  # fmt: skip
    kinds = {"blocks": 1.0, **({"cold_blocks": 1.2, "wall_blocks": 1.1} if device else {})}
    return Measurement(
        arms={a: {"name": a, "batch": 1} for a in scale}, target="cuda:torch", scenario="single-stream", batch=1,
        threads=1, inputs={}, protocol={}, redrawn=(), environment={"clock": "torch.cuda.Event"}, parent_cpu=0.0,
        collected_at="",
        restarts=tuple(
            replace(made, **{k: {a: blocks(by * ns) for a, ns in scale.items()} for k, by in kinds.items()})
            for _ in range(restarts)
        ),
    )  # fmt: skip


LABELS = {BASELINE: "torch eager float32", TWIN: "torch eager float32 (twin)", CANDIDATE: "torch eager int8"}


def test_figures_of_warm_cold_and_wall() -> None:
    found = gpu_figures.figures_of(made_up(), LABELS)
    row = found["rows"][2]
    assert row["label"] == "torch eager int8"
    assert row["warm_ms"] == pytest.approx(0.5, rel=0.01)
    assert row["cold_ms"] == pytest.approx(0.6, rel=0.01)
    assert row["wall_p50_ms"] == pytest.approx(0.55, rel=0.01)
    assert row["ratio"] == pytest.approx([0.5] * 3, rel=0.01)
    assert row["ratio"][1] < row["ratio"][0] < row["ratio"][2]
    assert row["cold_ratio"][0] == pytest.approx(0.5, rel=0.01)
    assert row["calls"] == 4 * 5 * 100
    assert row["wall_p99_ms"] is not None
    assert row["macs_share"] == 0.75
    assert found["a_a"][0] == pytest.approx(1, rel=0.01)
    assert gpu_figures.beyond_noise(row, found["a_a"])


def test_a_difference_no_larger_than_a_a_is_none() -> None:
    found = gpu_figures.figures_of(made_up(half=0.97, twin=1.05), LABELS)
    row = found["rows"][2]
    assert row["ratio"][2] < 1
    assert not gpu_figures.beyond_noise(row, found["a_a"])


def test_one_restart_has_no_interval_and_the_host_s_clock_no_cold_calls() -> None:
    found = gpu_figures.figures_of(made_up(restarts=1, device=False), LABELS)
    row = found["rows"][2]
    assert row["ratio"][1:] == [None, None]
    assert row["cold_ms"] is row["cold_ratio"] is found["a_a_cold"] is None
    assert row["wall_p99_ms"] is None, "500 calls hold no 99th percentile worth naming"
    assert not gpu_figures.beyond_noise(row, found["a_a"])


def test_numerics_are_relative() -> None:
    found = gpu_figures.numerics({"y": np.array([3.0, 4.1])}, {"y": np.array([3.0, 4.0])})
    assert found == pytest.approx({"relative": 0.1 / 5, "greatest": 0.1})


def synthetic_run(**changed: Any) -> dict[str, Any]:
    race = gpu_figures.figures_of(made_up(), LABELS)
    race["protocol"] = {"max_restarts": 4, "rounds": 15, "block_ms": 20.0, "warm_s": 0.2}
    race["collected_at"] = "2026-01-01T00:00:00Z"
    race["gpu"] = [
        {"sm_mhz_min": 1900.0, "sm_mhz_max": 1980.0, "memory_mhz_min": 3201.0, "memory_mhz_max": 3201.0}
        | {"temperature_c_min": 40.0, "temperature_c_max": 55.0, "power_w_min": 300.0, "power_w_max": 690.0}
        | {"reasons": {"SW power cap": 0.2}, "other_processes": 0}
    ]
    part = {
        "model": "resnet50", "batch": 8, "parameters": 25_557_032, "races": {"torch eager": race},
        "numerics": {"torch eager int8": {"relative": 0.0123, "greatest": 1.0}},
        "not_run": {"tensorrt float16": "no libnvinfer.so"},
        "energy": {
            "torch eager float32": {"nvml": {
                "joules": 0.0125, "above_idle": 0.01, "watts": 650.0, "idle_watts": 110.0, "window_s": 10.2,
            }},
            "torch eager int8": {"unavailable": "nvml: its counter did not move"},
        },
    }  # fmt: skip
    run = {
        "synthetic": True, "rehearsal": False, "device": {"name": "A Made-Up GPU", "driver": "000.00", "ecc": None},
        "collected_at": "2026-01-01T00:00:00Z", "command": "python bench/gpu/run.py", "versions": {"torch": "2"},
        "tests": {"ok": True, "words": "50 passed, 0 failed, 10 skipped"},
        "parts": [part], "missing": {"vit_b16, batch 8": "time"},
    }  # fmt: skip
    return {**run, **changed}


def test_the_page_says_what_was_measured_and_what_was_not() -> None:
    page = gpu_page.page_of(synthetic_run())
    assert page.startswith("# A Made-Up GPU\n\n**Synthetic figures")
    for words in (
        "| driver | 000.00 |", "50 passed, 0 failed, 10 skipped", "256 MiB zeroed before every call",
        "torch eager int8 | 0.500 | 0.600 | 0.550 | 0.500 [", "| 1.2e-02 | 75 % | – |", "A/A warm 1.000 [",
        "Protocol: restarts 4, rounds 15, blocks 20 ms, warm-up 0.2 s; collected 2026-01-01T00:00:00Z.",
        "SM clock 1900 to 1980 MHz", "300 to 690 W", "clock event reasons: SW power cap", "other processes: 0",
        "| 12.5 mJ | 10 mJ | 650 W | 110 W | nvml, windows of 10 s |", "its counter did not move",
        "- tensorrt float16: no libnvinfer.so", "- vit_b16, batch 8: time", "Clocks were recorded, never changed",
    ):  # fmt: skip
        assert words in page, words
    assert "twin" not in page.replace("hidden second", "")
    assert "ecc" not in page, "what was not told is left out"
    assert gpu_page.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_the_page_marks_noise_instability_and_redraws() -> None:
    run = synthetic_run()
    race = run["parts"][0]["races"]["torch eager"]
    race["rows"][2].update(
        ratio=[0.999, 0.99, 1.01], variation=0.03, compiled={"graphs": 2, "graph_breaks": 1}
    )
    race["redrawn"] = ["the GPU was throttled (HW slowdown)"]
    page = gpu_page.page_of(run)
    assert "0.999 [0.990, 1.010] =" in page
    assert "| unstable, 1 graph breaks |" in page
    assert "1 redrawn (the GPU was throttled (HW slowdown))" in page
    race["rows"] = []
    assert "No restart counted: the GPU was throttled" in gpu_page.page_of(run)


def test_a_rehearsal_is_never_taken_for_a_result() -> None:
    assert "these are not GPU results" in gpu_page.page_of(synthetic_run(rehearsal=True))


def test_cells_are_named_once_and_read_by_the_runtime() -> None:
    from edgekd_torch.settings import read_settings

    for device in ("cuda", "cpu"):
        cells = [c for group in gpu_cells.groups_for(device).values() for c in group]
        assert len({c.label for c in cells}) == len(cells)
        assert gpu_cells.BASELINE.label not in {c.label for c in cells}
        for cell in cells:
            if cell.format == "torch":
                read_settings(device, cell.settings)
    known = {c.label for g in gpu_cells.groups_for("cuda").values() for c in g} | {gpu_cells.BASELINE.label}
    assert set(gpu_cells.ENERGY) <= known


def test_without_a_gpu_it_ends_in_4_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_run.main(["--out", str(tmp_path)]) == 4
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "sees no CUDA device; install a CUDA build and its driver" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "code", "ok", "words"),
    [
        ('tests="9" failures="0" errors="0" skipped="2"', 0, True, "7 passed, 0 failed, 2 skipped (no FP8)"),
        ('tests="9" failures="1" errors="1" skipped="0"', 1, False, "7 passed, 2 failed"),
        ('tests="0" failures="0" errors="0" skipped="0"', 5, True, "0 passed, 0 failed"),
        ('tests="3" failures="0" errors="0" skipped="0"', 3, False, "3 passed"),
    ],
)
def test_what_came_of_the_tests(tmp_path: Path, text: str, code: int, ok: bool, words: str) -> None:
    skipped = '<testcase><skipped message="no FP8"/></testcase>' if 'skipped="2"' in text else ""
    report = tmp_path / "tests.xml"
    report.write_text(f"<testsuites><testsuite {text}>{skipped}</testsuite></testsuites>")
    found = gpu_run.read_tests(report, code)
    assert found["ok"] is ok
    assert found["words"].startswith(words)


def test_a_page_names_no_folder() -> None:
    shown = gpu_run._shown(["--out", "/a/b", "--work=/c", "--restarts", "2"])
    assert shown == ["--restarts", "2"]


class Machine:
    """Stands in for the machine: what was run on it, and how its steps answer."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.folder = tmp_path
        self.device = {"name": "A Made-Up GPU", "driver": "1", "uuid": "GPU-1"}
        self.versions = {"torch": "2"}
        self.sources = "aa"
        self.pages: list[str] = []
        self.now = 0.0
        monkeypatch.setattr(gpu_run, "device_of", lambda device: dict(self.device))
        monkeypatch.setattr(gpu_run, "versions", lambda: dict(self.versions))
        monkeypatch.setattr(gpu_run, "sources_digest", lambda: self.sources)
        monkeypatch.setattr(gpu_run.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(gpu_races.Network, "parameters", 1000)
        monkeypatch.setattr(gpu_races, "race_group", self.race)
        monkeypatch.setattr(gpu_energy, "measure_energy", self.energy)
        monkeypatch.setattr(gpu_energy, "_meters", lambda device: ([SimpleNamespace(name="nvml")], {}))

    def _step(self, network: Any, step: str) -> None:
        page = self.folder / "out" / "a-made-up-gpu.md"
        self.pages.append(page.read_text() if page.is_file() else "")
        self.ran.append(f"{network.name} {step}")
        self.now += 60.0
        if network.name == "tiny_vit":
            raise TargetUnavailableError("out of device memory: A GPU has too little", "use a smaller batch")

    def race(self, network: Any, group: str, cells: Any) -> dict[str, Any]:
        self._step(network, group)
        race = synthetic_run()["parts"][0]["races"]["torch eager"]
        last = {**race["rows"][2], "label": cells[-1].label}
        return {
            "race": {**race, "rows": [*race["rows"][:2], last]},
            "not_run": {c.label: "no such kernel" for c in cells[:-1]}, "numerics": {},
        }  # fmt: skip

    def energy(self, network: Any, cell: Any) -> dict[str, Any]:
        self._step(network, f"energy {cell.label}")
        return {"unavailable": "its counter did not move"}

    def run(
        self, *argv: str, models: str = "tiny_bert", groups: str = "torch eager,onnxruntime"
    ) -> list[str]:
        """Steps that one command ran."""
        self.ran, self.pages = [], []
        folders = ["--out", str(self.folder / "out"), "--work", str(self.folder / "work")]
        chosen = ["--models", models, "--groups", groups]
        # On the CPU the suite has no tests of its own to run.
        assert gpu_run.main(["--device", "cpu", "--tiny", *chosen, *folders, *argv]) == 0
        return self.ran

    @property
    def page(self) -> str:
        return (self.folder / "out" / "a-made-up-gpu.md").read_text()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


ALL = ["tiny_bert torch eager", "tiny_bert onnxruntime", "tiny_bert energy torch eager float32"]


def test_every_step_is_kept_alone_and_on_the_page_at_once(machine: Machine) -> None:
    assert machine.run() == ALL
    assert [p.count("### ") for p in machine.pages] == [0, 1, 2], (
        "each step finds the ones before it on the page"
    )
    assert "tiny_bert, batch 2: onnxruntime: not run yet" in machine.pages[1]
    assert "## Not run" not in machine.page
    assert machine.run() == [], "what is done is read back"
    assert "Protocol: restarts 1, rounds 2, blocks 1 ms" in machine.page
    assert "on GPU-1." in machine.page


def test_time_ends_the_run_between_steps(machine: Machine) -> None:
    assert machine.run("--minutes", "0.5") == ALL[:1]
    assert "onnxruntime: no step begins after 0.5 minutes; run the command again" in machine.page
    assert machine.run("--minutes", "0.5") == ALL[1:2]
    assert machine.run("--minutes", "0.5") == ALL[2:]
    assert machine.run("--minutes", "0.5") == []
    assert "## Not run" not in machine.page


def test_a_step_of_other_conditions_is_run_again(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.run()
    races = ALL[:2]
    assert machine.run("--rounds", "3") == races, "energy has a protocol of its own"
    assert "rounds 3, " in machine.page and "rounds 2, " not in machine.page
    assert "is run again: the one kept has other protocol" in capsys.readouterr().out
    assert machine.run("--rounds", "3", "--restarts", "2") == races
    machine.device["driver"] = "2"
    assert machine.run("--rounds", "3", "--restarts", "2") == ALL
    machine.versions["torch"] = "3"
    assert machine.run("--rounds", "3", "--restarts", "2") == ALL
    machine.sources = "bb"
    assert machine.run("--rounds", "3", "--restarts", "2") == ALL
    machine.device["uuid"] = "GPU-2"
    assert machine.run("--rounds", "3", "--restarts", "2") == [], "another GPU of the same kind"
    assert "on GPU-1." in machine.page
    machine.versions["torch"] = "4"
    assert machine.run("--rounds", "3", "--restarts", "2", "--minutes", "0.5") == ALL[:1]
    assert "run the command again (the one kept has other versions)" in machine.page


def test_groups_and_energy_that_were_not_asked_for_are_not_on_the_page(machine: Machine) -> None:
    machine.run("--energy", "all")
    assert "### onnxruntime" in machine.page
    assert machine.run("--energy", "all", groups="torch eager") == []
    assert "### onnxruntime" not in machine.page
    assert "- onnxruntime float32: not asked for" in machine.page
    assert (
        "| onnxruntime float32 | unavailable | unavailable | – | – | not measured: its group was not asked"
        in (machine.page)
    )
    assert machine.run("--energy", "none") == []
    assert "### Energy" not in machine.page


def test_energy_of_every_runtime_is_measured_or_said_not_to_be(machine: Machine) -> None:
    ran = machine.run("--energy", "all")
    assert "tiny_bert energy onnxruntime float32" in ran
    assert "tiny_bert energy torch eager int8" in ran
    assert "tiny_bert energy torch eager bfloat16" not in ran
    assert "| torch eager bfloat16 | unavailable | unavailable | – | – | not measured: it did not race |" in (
        machine.page
    )


def test_a_network_whose_baseline_does_not_run_costs_only_itself(machine: Machine) -> None:
    assert machine.run(models="tiny_vit,tiny_bert") == ["tiny_vit torch eager", *ALL]
    assert (
        machine.page.count("tiny_vit") == machine.page.count("- tiny_vit, batch 2: out of device memory") + 1
    )
    assert "## tiny_bert, batch 2" in machine.page


def test_energy_is_of_the_cell_s_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []

    def inspect(arms: Any, setting: Any, **options: Any) -> dict[str, Any]:
        looked.extend(arms)
        entry = {
            "joules_per_call": 4.0,
            "joules_per_call_above_idle": 2.0,
            "busy_watts": 9.0,
            "idle_watts": 1.0,
        }
        return {arms[0].name: {"energy": {"nvml": {**entry, "block_seconds": [10.0, 11.0]}}}}

    monkeypatch.setattr(gpu_energy, "_meters", lambda device: ([SimpleNamespace(name="nvml")], {}))
    monkeypatch.setattr(gpu_energy, "inspect_resources", inspect)
    plan = gpu_races.Plan(
        device="cpu", work=tmp_path, protocol=Protocol(), energy=(), groups=("onnxruntime",), timeout_s=60.0
    )
    network = gpu_races.Network("tiny_bert", 2, plan, gpu_steps.StepStore(tmp_path, {}), lambda text: None)
    (cell,) = gpu_cells.groups_for("cpu")["onnxruntime"]
    found = gpu_energy.measure_energy(network, cell)
    assert found["nvml"] == {
        "joules": 2.0,
        "above_idle": 1.0,
        "watts": 9.0,
        "idle_watts": 1.0,
        "window_s": 10.0,
    }
    assert looked[0].artifact.format == "onnx"
    assert network.artifact(cell) == looked[0].artifact, "an exported file is used again"


def test_sources_are_those_that_measure() -> None:
    assert gpu_steps.sources_digest() == gpu_steps.sources_digest()
    assert gpu_steps.device_conditions({"name": "G", "uuid": "u", "driver": "1"}) == {
        "name": "G",
        "driver": "1",
    }


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_runs_from_end_to_end(tmp_path: Path) -> None:
    """One group, whose cell is exported, tried and raced against torch; a group left out says so."""
    argv = [
        "--device",
        "cpu",
        "--tiny",
        "--models",
        "tiny_bert",
        "--groups",
        "onnxruntime",
        "--energy",
        "none",
    ]
    assert gpu_run.main([*argv, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 0
    page = (tmp_path / "out" / "cpu-rehearsal.md").read_text()
    for label in ("torch eager float32", "onnxruntime float32"):
        assert f"| {label} |" in page, label
    assert "- torch eager int8: not asked for" in page
