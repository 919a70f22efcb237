"""Every verb, as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures_models import classifier, examples

from edgekd.cli import VERBS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    classifier(folder / "model.onnx")
    np.savez(folder / "data.npz", **examples(300))
    return folder


def edgekd(place: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *args],
        cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(place: Path, verb: str) -> None:
    done = edgekd(place, verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: edgekd {verb}")
    assert done.stderr == ""


def test_the_overview_names_every_verb_and_the_version_is_told(place: Path) -> None:
    overview = edgekd(place, "--help").stdout
    assert all(f"\n  {verb} " in overview for verb in VERBS)
    assert edgekd(place, "--version").stdout.startswith("edgekd 0.")
    assert edgekd(place).returncode == 2


def test_a_verb_that_does_not_exist_gets_a_near_miss(place: Path) -> None:
    done = edgekd(place, "quantise")
    assert done.returncode == 2
    assert done.stderr == "edgekd: error: no verb is called 'quantise'; did you mean 'quantize'?\n"


def test_an_unknown_option_is_one_line(place: Path) -> None:
    done = edgekd(place, "bench", "model.onnx", "--nonsense")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_eval_writes_rows_that_agree_with_its_summary(place: Path) -> None:
    done = edgekd(place, "eval", "model.onnx", "--data", "data.npz", "-o", "e.json")
    assert done.returncode == 0, done.stderr
    document = json.loads((place / "e.json").read_text())
    with np.load(place / "e.npz") as rows:
        assert rows["score"].mean() == document["mean"] == 1.0
        assert document["n"] == len(rows["id"]) == 300
        assert rows["logits"].shape == (300, 10)
    assert "top1 100.00% on 300 examples" in done.stdout


def test_eval_counts_top5(place: Path) -> None:
    edgekd(place, "eval", "model.onnx", "--data", "data.npz", "--metric", "top5", "-o", "e5.json")
    assert json.loads((place / "e5.json").read_text())["metric"] == "top5"


def test_bench_of_one_and_of_two_says_where_its_inputs_come_from(place: Path) -> None:
    alone = edgekd(place, "bench", "model.onnx", "--restarts", "2", "-o", "one.json")
    assert alone.returncode == 0, alone.stderr
    assert "inputs drawn from the model's own specs (no --data)" in alone.stdout
    assert list(json.loads((place / "one.json").read_text())["arms"]) == ["baseline"]
    classifier(place / "slow.onnx", layers=10)
    both = edgekd(
        place, "bench", "model.onnx", "slow.onnx", "--data", "data.npz", "--restarts", "3", "-o", "two.json"
    )
    assert both.returncode == 0, both.stderr
    assert "real inputs" in both.stdout
    assert "x of model.onnx" in both.stdout
    document = json.loads((place / "two.json").read_text())
    assert set(document["arms"]) == {"baseline", "baseline_twin", "candidate"}
    assert document["inputs"]["model.onnx"]["kind"] == "data"
    assert document["parent_cpu"] < 0.5


def test_compare_names_the_first_tensor_that_deviates(place: Path) -> None:
    classifier(place / "broken.onnx", wrong_classes=(3,))
    same = edgekd(place, "compare", "model.onnx", "model.onnx", "--data", "data.npz", "-o", "same.json")
    assert same.returncode == 0, same.stderr
    assert json.loads((place / "same.json").read_text())["first_deviation"] is None
    other = edgekd(place, "compare", "model.onnx", "broken.onnx", "--data", "data.npz", "-o", "other.json")
    assert other.returncode == 0
    document = json.loads((place / "other.json").read_text())
    assert document["first_deviation"] == "logits"
    assert document["outputs"][0]["max_abs"] > 1.0
    assert "first tensor beyond 0.001: logits" in other.stdout


def test_quantize_then_gate_against_the_float_model(place: Path) -> None:
    done = edgekd(
        place, "quantize", "model.onnx", "--dtype", "int8", "--calibration", "data.npz", "-o", "int8.onnx"
    )
    assert done.returncode == 0, done.stderr
    assert (place / "int8.onnx").stat().st_size < 0.5 * (place / "model.onnx").stat().st_size
    gated = edgekd(
        place, "gate", "--teacher", "model.onnx", "--student", "int8.onnx", "--data", "data.npz", "--out", "int8-gate",
        "--max-accuracy-drop", "0.02",
    )  # fmt: skip
    assert gated.returncode == 0, gated.stdout + gated.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ("quantize", "model.onnx", "--dtype", "int3", "--calibration", "data.npz", "-o", "x"),
            "precision 'int3'",
        ),
        (("quantize", "model.onnx", "--calibration", "absent.npz", "-o", "x"), "absent.npz does not exist"),
        (("quantize", "model.onnx", "--calibration", "data.npz#0:0", "-o", "x"), "calibration"),
        (
            ("export", "zoo:digits-cnn-student", "--format", "cuneiform", "-o", "x"),
            "exporter is called 'cuneiform'",
        ),
        (("export", "zoo:nothing", "-o", "x"), "zoo has no 'nothing'"),
        (("export", "model.onnx", "-o", "x"), "model.onnx is onnx already"),
        (("eval", "model.onnx", "--data", "sklearn:iris"), "sklearn:iris"),
        (("eval", "model.onnx"), "give --data"),
        (("bench", "nowhere.onnx"), "nowhere.onnx does not exist"),
        (("bench", "model.onnx", "--target", "cuda:onnxruntime+cuda"), ""),
        (("bench", "model.onnx", "--shape", "y=1x10"), "names the input 'y', which no model has; inputs: x"),
        (
            ("eval", "model.onnx", "--data", "data.npz", "--map", "y=x"),
            "names the input 'y', which no model has",
        ),
        (("compare", "model.onnx", "model.onnx", "--map", "student:y=x"), "names the input 'y'"),
        (("bench", "model.onnx", "--memory-limit-mib", "50"), "50 MiB"),
        (("bench", "model.onnx", "--threads", "9999"), "9999 threads were asked for, this machine has"),
        (("eval", "model.onnx", "--data", "data.npz", "--threads", "9999"), "9999 threads"),
        (("distill", "absent.yaml"), "absent.yaml"),
        (("run", "absent.yaml"), "absent.yaml"),
        (("release", "nowhere", "-o", "x"), "nowhere"),
        (("verify", "nowhere"), "nowhere"),
        (("report", "nowhere"), "nowhere"),
        (("gate", "nowhere"), "nowhere"),
        (("doctor", "--need", "magic"), "magic"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(place: Path, args: tuple[str, ...], words: str) -> None:
    done = edgekd(place, *args)
    assert done.returncode in (2, 4, 5), (done.returncode, done.stderr)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("  ✓")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("edgekd: error: ")
    assert words in errors[0]
    assert not (place / "x").exists()


def test_init_writes_a_recipe_that_validates_and_never_overwrites(place: Path, tmp_path: Path) -> None:
    from edgekd.recipe import load_recipe

    for kind in ("cnn", "onnx"):
        target = tmp_path / f"{kind}.yaml"
        assert edgekd(place, "init", "--from", kind, "-o", str(target)).returncode == 0
        assert load_recipe(target, {}).name == "my-student"
    before = target.read_bytes()
    done = edgekd(place, "init", "-o", str(target))
    assert done.returncode == 2
    assert target.read_bytes() == before


def test_doctor_tells_what_is_there_and_ends_in_4_when_a_need_is_not_met(place: Path) -> None:
    assert "cpu:onnxruntime" in edgekd(place, "doctor").stdout
    assert edgekd(place, "doctor", "--need", "cpu:onnxruntime").returncode == 0
    found = json.loads(edgekd(place, "doctor", "--json").stdout)
    assert {f["state"] for f in found} <= {"ok", "missing", "broken", "not applicable"}
    if next(f for f in found if f["name"] == "cuda:onnxruntime")["state"] != "ok":
        assert edgekd(place, "doctor", "--need", "cuda:onnxruntime").returncode == 4


def test_cache_gc_keeps_what_is_fresh(place: Path, tmp_path: Path) -> None:
    env = {**os.environ, "EDGEKD_CACHE": str(tmp_path / "cache")}
    edgekd(place, "eval", "model.onnx", "--data", "data.npz", "-o", str(tmp_path / "e.json"), env=env)
    assert "removed 0" in edgekd(place, "cache", "gc", env=env).stdout
    assert "removed 1" in edgekd(place, "cache", "gc", "--older-than-days", "0", env=env).stdout
    assert edgekd(place, "cache", "path", env=env).stdout.strip() == str(tmp_path / "cache")


def _can_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="a full disk needs root and unshare(1) to make one")
def test_a_full_disk_is_one_line_and_leaves_the_earlier_file(place: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=1200k tmpfs {small} && cd {place} && "
        f"cp model.onnx {small}/out.onnx && before=$(sha256sum < {small}/out.onnx) && "
        f"dd if=/dev/zero of={small}/filler bs=1k count=300 status=none; "
        f"{sys.executable} -m edgekd quantize model.onnx --calibration data.npz -o {small}/out.onnx; code=$?; "
        f"{sys.executable} -m edgekd gate --student model.onnx --max-size-mib 9 --out {small}/run; second=$?; "
        f'[ "$before" = "$(sha256sum < {small}/out.onnx)" ] && echo intact; ls -A {small}; echo codes $code $second'
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert "intact" in done.stdout, done.stdout + done.stderr
    assert "codes 4 4" in done.stdout, done.stdout + done.stderr
    assert done.stderr.count("edgekd: error: no space left while writing") == 2, done.stderr
    assert sorted(done.stdout.split("intact")[1].split("codes")[0].split()) == ["filler", "out.onnx"]


def test_streams_that_nobody_reads(place: Path) -> None:
    def shell(command: str) -> tuple[int, str]:
        line = command.replace("edgekd", f"{sys.executable} -m edgekd")
        done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    classifier(place / "wrong.onnx", wrong_classes=(1, 2, 3))
    gate = "edgekd gate --teacher model.onnx --student wrong.onnx --data data.npz --out streams"
    assert shell(f"{gate} | head -0; exit ${{PIPESTATUS[0]}}")[0] == 1, "the verdict survives its reader"
    assert shell("edgekd report streams >&-") == (0, "")
    assert shell("edgekd report streams 2>&- >/dev/null") == (0, "")
    code, err = shell("edgekd report streams > /dev/full")
    assert code == 4
    assert err.startswith("edgekd: error: ")
    assert "unexpected" not in err


def test_models_of_one_fixed_batch_are_not_compared_with_others(place: Path) -> None:
    model = onnx.load(place / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, place / "four.onnx")
    done = edgekd(place, "bench", "four.onnx", "--restarts", "1", "-o", "four.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "four.json").read_text())["batch"] == 4
    both = edgekd(place, "bench", "four.onnx", "model.onnx", "--restarts", "2", "-o", "both.json")
    assert both.returncode == 0, both.stderr
    assert {
        tuple(i["shapes"]["x"]) for i in json.loads((place / "both.json").read_text())["inputs"].values()
    } == {(4, 10)}
    refused = edgekd(place, "bench", "four.onnx", "model.onnx", "--batch", "2", "-o", "never.json")
    assert refused.returncode == 2
    assert "four.onnx takes 4" in refused.stderr
    shaped = edgekd(place, "bench", "model.onnx", "--shape", "x=3x10", "-o", "never.json")
    assert shaped.returncode == 2
    assert "--batch 3" in shaped.stderr
    # Evaluated all the same: the last batch is padded, and padding is not counted.
    evaluated = edgekd(place, "eval", "four.onnx", "--data", "data.npz#0:10", "-o", "four-eval.json")
    assert "on 10 examples" in evaluated.stdout, evaluated.stderr


def test_nan_in_the_data_is_not_blamed_on_the_model(place: Path) -> None:
    rows = examples(20)
    rows["x"][5, 0] = np.nan
    np.savez(place / "nan.npz", **rows)
    done = edgekd(place, "eval", "model.onnx", "--data", "nan.npz", "-o", "never.json")
    assert done.returncode == 2
    assert "example 5: the array 'x' holds NaN" in done.stderr


def test_a_task_that_raises_is_wrong_input(place: Path) -> None:
    (place / "raising.py").write_text(
        "from edgekd.tasks.classification import Classification\n"
        "class Raising(Classification):\n"
        "    def score(self, predictions, labels):\n"
        "        raise ValueError('no idea')\n"
        "def make(data, base):\n"
        "    return Raising(data=data, base=base)\n"
    )
    done = edgekd(
        place, "eval", "model.onnx", "--data", "data.npz", "--task", "python:raising:make", "-o", "n.json"
    )
    assert done.returncode == 2, done.stderr
    assert "the task raised while scoring (ValueError: no idea)" in done.stderr


def test_a_file_named_like_a_standard_module_disturbs_no_child(place: Path, tmp_path: Path) -> None:
    for name in ("select.py", "random.py"):
        (tmp_path / name).write_text("")
    # The installed command, as users call it: `python -m` would put the current folder first by itself.
    command = [str(Path(sys.executable).with_name("edgekd")), "eval", str(place / "model.onnx")]
    done = subprocess.run(
        [*command, "--data", str(place / "data.npz")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_python_data_without_a_digest_is_told_apart_by_its_rows(place: Path) -> None:
    (place / "live.py").write_text(
        "import numpy as np\nfrom edgekd.data import Example\n"
        "def rows():\n"
        "    with np.load('live.npz') as d:\n"
        "        x, y = d['x'], d['label']\n"
        "    return [Example(id=str(i), inputs={'x': x[i]}, label=int(y[i])) for i in range(len(y))]\n"
    )
    rows = examples(50)
    np.savez(place / "live.npz", **rows)
    first = edgekd(place, "eval", "model.onnx", "--data", "python:live:rows", "-o", "live.json")
    assert "100.00%" in first.stdout, first.stderr
    np.savez(place / "live.npz", x=rows["x"], label=(rows["label"] + 1) % 10)
    assert (
        "0.00%" in edgekd(place, "eval", "model.onnx", "--data", "python:live:rows", "-o", "live.json").stdout
    )


def test_a_zoo_baseline_is_never_taken_for_a_missing_one(place: Path) -> None:
    from edgekd.pipeline.opening import is_missing

    assert not is_missing("zoo:cifar-resnet20", place)
    assert not is_missing("model.onnx", place)
    assert is_missing("none.onnx", place)
