"""Several processes train one network: the same training as one, one folder written, a kill survived."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekd.cli import main
from edgekd.distill.group import Group, _Together, join, launched_processes
from edgekd.errors import UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("sklearn")

LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--main_process_port",
    "0",
]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "EDGEKD_DEBUG": "1"}

_SCRIPT = """
import json, os, sys, tempfile
from pathlib import Path
import numpy as np, torch
from edgekd.distill.config import TrainConfig
from edgekd.distill.group import join
from edgekd.distill.terms import loss_term
from edgekd.distill.train import TrainingSet, train
from edgekd_torch.modules import Seeded
from edgekd_torch.zoo import zoo_entry
torch.set_num_threads(1)
group = join(os.environ)
rng = np.random.default_rng(0)
x = rng.standard_normal((33, 1, 8, 8)).astype(np.float32)
data = TrainingSet(student={"image": x}, labels=rng.integers(0, 10, 33), teacher={"image": x})
pair = [("features", "features")]
every = (
    loss_term("labels"), loss_term("logits"), loss_term("dist"), loss_term("feature", pairs=pair),
    loss_term("attention", weight=100, pairs=pair), loss_term("relation", weight=0.1, pairs=[("pool", "pool")]),
)
found = {}
# Two batches of 16, and one of a single example, for which the second process has nothing left.
for name, more in {"logits": {"method": "logits"}, "losses": {"method": "losses", "losses": every}}.items():
    config = TrainConfig(epochs=1, batch=16, lr=0.01, augment=("shift1", "flip"), seed=3, **more)
    teacher, student = (Seeded(1).build(zoo_entry(f"digits-cnn-{r}")) for r in ("teacher", "student"))
    with tempfile.TemporaryDirectory() as folder:
        history = train(student, teacher, data, config, resume=Path(folder), group=group)
    weights = torch.cat([v.flatten().double() for v in student.state_dict().values()])
    found[name] = {"losses": history.losses, "terms": history.terms, "weights": weights.tolist()}
if group.leads:
    Path(sys.argv[1]).write_text(json.dumps(found))
group.leave()
"""


def start(command: list[str], **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**ENV, **changes}
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes_train_what_one_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, written = tmp_path / "script.py", [tmp_path / "one.json", tmp_path / "two.json"]
    script.write_text(_SCRIPT, encoding="utf-8")
    # The one is this process: every process that is started imports torch for seconds.
    monkeypatch.setattr(sys, "argv", [str(script), str(written[0])])
    runpy.run_path(str(script))
    done = start([*LAUNCH, str(script), str(written[1])])
    assert done.returncode == 0, done.stderr
    one, two = (json.loads(path.read_text()) for path in written)
    for name in ("logits", "losses"):
        assert two[name]["losses"] == pytest.approx(one[name]["losses"], rel=1e-5)
        assert two[name]["weights"] == pytest.approx(one[name]["weights"], abs=1e-5)
        assert {k: pytest.approx(v, rel=1e-4) for k, v in one[name]["terms"].items()} == two[name]["terms"]


RECIPE = """
edgekd: 1
name: two
task:
  kind: image-classification
  data: {train: "sklearn:digits#0:33", test: "sklearn:digits#test"}
teacher: {model: "zoo:digits-cnn-teacher", weights: teacher.safetensors}
student: {model: "zoo:digits-cnn-student"}
quantize: [float32]
distill: {epochs: 2, batch: 32, lr: 0.02, augment: [shift1], views: 2}
gates: {accuracy: {max_drop: 0.05}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    from edgekd_torch.modules import Seeded, save_weights
    from edgekd_torch.zoo import zoo_entry

    save_weights(Seeded(0).build(zoo_entry("digits-cnn-teacher")), tmp_path / "teacher.safetensors")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def weights(folder: Path) -> Any:
    safetensors = pytest.importorskip("safetensors.torch")
    return safetensors.load_file(str(folder / "student.safetensors"))


def test_the_command_is_the_same_under_accelerate(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One folder, one line; a launch that is killed after an epoch goes on from there."""
    distill = ["-m", "edgekd", "distill", str(place / "r.yaml"), "-o"]
    monkeypatch.setenv("EDGEKD_CACHE", str(place / "c1"))
    assert main([*distill[2:], str(place / "alone")]) == 0
    # The first process dies where it would write its second checkpoint.
    (place / "sitecustomize.py").write_text(
        "import os, signal\nfrom edgekd.distill import checkpoint\nsave = checkpoint.Checkpoint.save\n"
        "def kill(self, module, projectors, optimiser, history):\n"
        "    if len(history.losses) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    save(self, module, projectors, optimiser, history)\n"
        "if os.environ.get('RANK'): checkpoint.Checkpoint.save = kill\n"
    )
    cache = {"EDGEKD_CACHE": str(place / "c2")}
    killed = start([*LAUNCH, *distill, str(place / "two")], PYTHONPATH=str(place), **cache)
    assert killed.returncode != 0
    assert not (place / "two").exists()
    assert len(list((place / "c2" / "work").glob("train-*/resume/checkpoint.safetensors"))) == 1, (
        killed.stderr
    )
    # The second process is slow to read what the first one wrote, and renames next.
    (place / "sitecustomize.py").write_text(
        "import os, time\nfrom edgekd.distill import student\nload = student.load_model\n"
        "def slowly(folder):\n    time.sleep(1)\n    return load(folder)\n"
        "if os.environ.get('RANK') == '1': student.load_model = slowly\n"
    )
    done = start([*LAUNCH, *distill, str(place / "two")], PYTHONPATH=str(place), **cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    assert "last epoch's loss" in done.stdout
    assert sorted(p.name for p in (place / "two").iterdir()) == ["model.json", "student.safetensors"]
    lineage = json.loads((place / "two" / "model.json").read_text())["lineage"]
    assert lineage["processes"] == 2
    assert len(lineage["losses"]) == 2
    one, two = weights(place / "alone"), weights(place / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-4)


def test_what_accelerate_reads_of_the_environment_does_not_change_the_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accelerate.state import AcceleratorState, GradientState

    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    try:
        together = _Together()
        weight = torch.ones(1, requires_grad=True)
        together.backward(3 * weight.sum())
        assert weight.grad.tolist() == [3.0]
        together.size = 2
        together.backward(3 * weight.sum())
        assert weight.grad.tolist() == [9.0]
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_a_launcher_that_starts_one_process_of_several_is_named() -> None:
    assert launched_processes({}) == 1
    assert launched_processes({"WORLD_SIZE": "3", "MASTER_ADDR": "a"}) == 3
    assert launched_processes({"ACCELERATE_USE_CPU": "true"}) == 1
    with pytest.raises(UsageError, match=r"starts one process.*say --multi_gpu instead of --cpu"):
        launched_processes({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"})


def test_other_verbs_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.pipeline.launched import refuse_several

    refuse_several("run", {"WORLD_SIZE": "1"})
    with pytest.raises(UsageError, match="edgekd run was launched as 2 processes; it works in one"):
        refuse_several("run", {"WORLD_SIZE": "2"})


def test_one_process_answers_itself() -> None:
    group = join({})
    assert type(group) is Group
    assert group.take(7) == slice(0, 7)
    assert (group.share, group.leads, group.agree(5)) == (1.0, True, 5)
