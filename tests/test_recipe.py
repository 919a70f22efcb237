"""Recipes and policies: what is read, and that every mistake is named by file, line and key."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.errors import RecipeError
from edgekd.recipe import GatesBlock, Recipe, TargetBlock, load_policy, load_recipe

FULL = """\
edgekd: 1
name: full
task:
  kind: image-classification
  metric: top1
  data:
    train: t.npz
    select: s.npz
    test: e.npz
  output: logits
teacher:
  model: zoo:cifar-resnet44
  weights: w.safetensors
  prepare:
    scale: 255
  train:
    epochs: 5
    augment: [crop4, flip]
student:
  model: zoo:cifar-resnet20
  naive: 3
distill:
  method: logits
  temperature: 4
  lr: 1e-1
quantize: [float32, int8]
export: [onnx]
targets:
  - cpu:onnxruntime
  - target: cuda:onnxruntime
    required: false
shapes:
  image: [1x3x32x32]
measure:
  threads: 2
gates:
  accuracy:
    max_drop: 0.03
  latency:
    max_ratio: 0.5
  regression:
    baseline: old/model.onnx
  size:
    max_mib: 4
provenance:
  waivers:
    - {rule: no-record, by: Ada, reason: read by counsel, expires: 2027-12-31}
release:
  formats: [onnx]
"""

MINIMAL = """\
edgekd: 1
name: small
task: {data: {test: e.npz, calibration: c.npz, select: s.npz}}
teacher: {model: t.onnx}
student: {model: s.onnx}
gates: {accuracy: {}}
"""

Read = Callable[..., Recipe]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def load(text: str | bytes, **environ: str) -> Recipe:
        path = tmp_path / "r.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_recipe(path, environ)

    return load


def refused(read: Read, text: str | bytes, **environ: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text, **environ)
    message = str(caught.value)
    assert "r.yaml" in message
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_full(read: Read) -> None:
    recipe = read(FULL)
    assert recipe.teacher.train is not None
    assert recipe.teacher.train.epochs == 5
    assert recipe.teacher.train.momentum == 0.9
    assert recipe.distill is not None
    assert (recipe.distill.lr, recipe.distill.alpha) == (0.1, 0.9)
    assert recipe.targets == ["cpu:onnxruntime", TargetBlock(target="cuda:onnxruntime", required=False)]
    assert recipe.gates.asked == ("accuracy", "latency", "regression", "size")
    assert recipe.provenance is not None
    assert recipe.provenance.waivers[0].expires == "2027-12-31"
    with pytest.raises(ValidationError):
        recipe.name = "other"  # type: ignore[misc]


def test_minimal_takes_the_defaults(read: Read) -> None:
    recipe = read(MINIMAL)
    assert recipe.quantize == ["float32", "int8"]
    assert recipe.targets == ["cpu:onnxruntime"]
    assert recipe.measure.threads == 1
    (rule,) = recipe.gates.accuracy_rules
    assert (rule.against, rule.margin) == ("teacher", 0.01)


def test_reading_writes_nothing(read: Read, tmp_path: Path) -> None:
    read(MINIMAL)
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("known", "typo", "key", "near"),
    [
        ("name: full", "nmae: full", "nmae", "name"),
        ("  metric: top1", "  metrics: top1", "task.metrics", "metric"),
        ("  weights: w", "  wieghts: w", "teacher.wieghts", "weights"),
        ("    epochs: 5", "    epoch: 5", "teacher.train.epoch", "epochs"),
        ("  naive: 3", "  naiv: 3", "student.naiv", "naive"),
        ("  temperature: 4", "  temprature: 4", "distill.temprature", "temperature"),
        ("    required: false", "    requird: false", "targets.1.requird", "required"),
        ("  threads: 2", "  thread: 2", "measure.thread", "threads"),
        ("    max_drop: 0.03", "    max_dorp: 0.03", "gates.accuracy.max_dorp", "max_drop"),
        (
            "    max_ratio: 0.5",
            "    max_ratoi: 0.5\n    max_ratio: 0.5",
            "gates.latency.max_ratoi",
            "max_ratio",
        ),
        (
            "    baseline: old",
            "    max_regresion: 1\n    baseline: old",
            "gates.regression.max_regresion",
            "max_regression",
        ),
        ("    max_mib: 4", "    max_mb: 4\n    max_mib: 4", "gates.size.max_mb", "max_mib"),
        ("  formats: [onnx]", "  format: [onnx]", "release.format", "formats"),
        ("  size:\n", "  sise: {max_mib: 3}\n  size:\n", "gates.sise", "size"),
    ],
)
def test_unknown_key_in_every_block(read: Read, known: str, typo: str, key: str, near: str) -> None:
    assert FULL.count(known) == 1
    message = refused(read, FULL.replace(known, typo))
    line = FULL[: FULL.index(known)].count("\n") + 1
    assert f"r.yaml:{line}: unknown key '{key}'" in message
    assert f"did you mean '{near}'?" in message


def test_unknown_key_without_a_near_miss_lists_the_known_ones(read: Read) -> None:
    assert "known keys: target, required" in refused(
        read, FULL.replace("    required: false", "    xyzzy: false")
    )
    assert "known keys: scenario, batch, threads" in refused(read, FULL.replace("  threads: 2", "  xyzzy: 2"))


def test_unknown_split(read: Read) -> None:
    message = refused(read, FULL.replace("    select: s", "    slect: s"))
    assert (
        "r.yaml:8: 'task.data.slect': Input should be 'train', 'calibration', 'select' or 'test'" in message
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (FULL.replace("  naive: 3", "  naive: 3\n  naive: 4"), 22),
        (FULL + "name: again\n", 50),
        (FULL.replace("    scale: 255", "    scale: 255\n    scale: 255"), 16),
    ],
)
def test_duplicate_key(read: Read, text: str, line: int) -> None:
    assert f"r.yaml:{line}: key '" in (message := refused(read, text))
    assert "is given twice" in message


@pytest.mark.parametrize(
    ("known", "wrong", "message"),
    [
        ("    epochs: 5", "    epochs: many", ":17: 'teacher.train.epochs': "),
        ("    epochs: 5", "    epochs: 0", "greater than or equal to 1, got 0"),
        ("    epochs: 5", "    epochs: 2.5", "got 2.5"),
        ("  lr: 1e-1", "  lr: 0", ":25: 'distill.lr': Input should be greater than 0, got 0"),
        ("  lr: 1e-1", "  lr: .inf", ":25: .inf is not a finite number"),
        ("  lr: 1e-1", "  lr: .nan", ":25: .nan is not a finite number"),
        ("  lr: 1e-1", "  lr: inf", ":25: 'distill.lr': "),
        ("  lr: 1e-1", "  lr: 1e999", ":25: 'distill.lr': "),
        ("    scale: 255", "    scale: .inf", ":15: .inf is not a finite number"),
        ("    scale: 255", "    scale: !!set {1}", ":15: "),
        ("    scale: 255", "    scale: !!binary aGk=", ":15: 'teacher.prepare.scale"),
        ("    scale: 255", "    scale: !!python/name:os.system", ":15: could not determine a constructor"),
        ("name: full", "name: a/b", ":2: 'name': "),
        ("name: full", "name: on", ":2: 'name': Input should be a valid string, got True"),
        ("edgekd: 1", "edgekd: 2", ":1: 'edgekd': Input should be 1, got 2"),
        ("  naive: 3", "  naive: -1", ":21: 'student.naive': "),
        ("quantize: [float32, int8]", "quantize: [int3]", ":26: 'quantize': 'int3' is not a precision"),
        (
            "quantize: [float32, int8]",
            "quantize: [int8, int8]",
            ":26: 'quantize': names the precision int8 twice",
        ),
        ("quantize: [float32, int8]", "quantize: []", ":26: 'quantize': "),
        ("export: [onnx]", "export: [onnx, onnx]", ":27: 'export': names the format onnx twice"),
        (
            "  - cpu:onnxruntime",
            "  - cpu:onnxruntime\n  - cpu:onnxruntime",
            ":28: 'targets': names the target cpu:onnxruntime twice",
        ),
        (
            "  - cpu:onnxruntime",
            "  - cpu:onnxruntime\n  - {target: cpu:onnxruntime, required: false}",
            ":28: 'targets': names the target cpu:onnxruntime twice",
        ),
        ("  - cpu:onnxruntime", "  - 3", ":29: 'targets.0': Input should be a valid string"),
        ("    required: false", "    required: perhaps", ":31: 'targets.1.required': "),
        ("    augment: [crop4, flip]", "    augment: [crop4, spin]", ":18: 'teacher.train.augment.1': "),
        (
            "    max_drop: 0.03",
            "    max_drop: 1.5",
            ":38: 'gates.accuracy.max_drop': gates.accuracy.max_drop is 1.5",
        ),
        ("    max_mib: 4", "    max_mib: 4\n    max_ratio: 1", ":43: 'gates.size': give one of `max_mib`"),
        ("  method: logits", "  method: hints", ":23: 'distill.method': "),
        ("measure:\n  threads: 2", "measure: fast", ":34: 'measure': "),
        ("    test: e.npz\n", "", ":6: 'task.data': needs a `test` split"),
    ],
)
def test_wrong_value(read: Read, known: str, wrong: str, message: str) -> None:
    assert FULL.count(known) == 1
    assert message in refused(read, FULL.replace(known, wrong))


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ("name: full\n", ":1: 'name' is missing"),
        ("  model: zoo:cifar-resnet20\n", ":19: 'student.model' is missing"),
        ("    max_ratio: 0.5\n", ":39: key 'latency' has no value"),
        ("    baseline: old/model.onnx\n", ":41: key 'regression' has no value"),
        ("  - target: cuda:onnxruntime\n    required", ":30: 'targets.1.target' is missing"),
    ],
)
def test_missing_key(read: Read, known: str, message: str) -> None:
    assert FULL.count(known) == 1
    assert message in refused(read, FULL.replace(known, "  - required" if "- target" in known else ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FULL.replace("    train: t.npz\n", ""), "`distill` needs task.data.train"),
        (FULL.replace("    select: s.npz\n", ""), "several candidates need task.data.select"),
        (MINIMAL.replace("calibration: c.npz, ", ""), "int8 needs task.data.calibration"),
        (MINIMAL.replace("s.onnx}", "s.onnx, naive: 1}"), "student.naive needs `distill`"),
        (
            MINIMAL.replace("s.onnx}", "zoo:digits-cnn-student}"),
            "a zoo student needs `distill` or student.weights",
        ),
        (MINIMAL.replace("t.onnx}", "zoo:digits-cnn-teacher}"), "a zoo teacher needs teacher.weights"),
        (MINIMAL.replace("{accuracy: {}}", "{}"), ":6: 'gates': asks no gate"),
    ],
)
def test_parts_that_do_not_fit_each_other(read: Read, text: str, message: str) -> None:
    assert message in refused(read, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: expected keys and values, got NoneType"),
        ("# only a comment\n", "got NoneType"),
        ("- a\n- b\n", "got list"),
        ("just text", "got str"),
        (b"\x00\x01\x02", "is not YAML"),
        (b"\x89PNG\r\n\xff", "is not UTF-8 text"),
        ("name: full\n\ttask: 3\n", "r.yaml:2: "),
        ("name: [1, 2\n", "r.yaml:2: "),
        ("name: 'open\n", "r.yaml:"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: but found another document"),
        ("? [a, b]\n: 1\n", "r.yaml:1: keys must be plain text"),
        ("~: 1\n", "r.yaml:1: keys must be plain text"),
        ("name: *nothing\n", "undefined alias"),
        ("[" * 20_000, "is not YAML"),
        ("name: " + "9" * 5000, "a whole number of more than 70 digits"),
    ],
    ids=lambda v: repr(v[:20]),
)
def test_not_a_recipe(read: Read, text: str | bytes, message: str) -> None:
    assert message in refused(read, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read .*absent\.yaml: No such file.*edgekd init"):
        load_recipe(tmp_path / "absent.yaml", {})
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(tmp_path, {})


def test_variables(read: Read) -> None:
    text = MINIMAL.replace("t.onnx", "${ROOT}/t.onnx").replace("s.onnx", "${NAME:-s}.onnx")
    recipe = read(text, ROOT="/models")
    assert (recipe.teacher.model, recipe.student.model) == ("/models/t.onnx", "s.onnx")
    assert read(text, ROOT="r", NAME="n").student.model == "n.onnx"
    assert read(text, ROOT="r", NAME="").student.model == "s.onnx", "empty takes the default, as in a shell"
    assert (
        read(MINIMAL.replace("accuracy: {}", "accuracy: {max_drop: ${D:-0.02}}")).gates.accuracy.max_drop
        == 0.02
    )  # type: ignore[union-attr]
    assert read(MINIMAL.replace("t.onnx", "a${X:-}b")).teacher.model == "ab"


def test_variables_that_are_not_set(read: Read) -> None:
    assert "r.yaml:4: ${ROOT} is not set; set the environment variable ROOT" in refused(
        read, MINIMAL.replace("t.onnx", "${ROOT}/t.onnx")
    )


def test_variables_in_comments_are_left_alone(read: Read) -> None:
    assert read("# weights lie below ${NOWHERE}\n" + MINIMAL + "  # or ${NOWHERE}\n").name == "small"


@pytest.mark.parametrize("value", ["a\nname: other", "a\rb", "a # b", "a: b"])
def test_a_variable_cannot_bring_structure(read: Read, value: str) -> None:
    text = MINIMAL.replace("{model: t.onnx}", "\n  model: ${ROOT}")
    assert "r.yaml:5: ${ROOT} holds" in refused(read, text, ROOT=value)


def test_environment_of_the_process_is_not_read(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT", "/models")
    refused(read, MINIMAL.replace("t.onnx", "${ROOT}/t.onnx"))


def test_aliases_work(read: Read) -> None:
    text = FULL.replace("    scale: 255", "    scale: &s 255").replace(
        "  naive: 3", "  prepare: {scale: *s}\n  naive: 3"
    )
    assert read(text).student.prepare == {"scale": 255}


@pytest.mark.parametrize("where", ["provenance", "name"])
def test_billion_laughs(tmp_path: Path, where: str) -> None:
    """Refused before anything is written out; in a child of 2 GiB, should that ever fail."""
    lines = ["provenance:", "  a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "r.yaml"
    text = "\n".join(lines) + "\n" + MINIMAL
    path.write_text(text if where == "provenance" else text.replace("name: small", "name: *a11"))
    code = "import sys; from pathlib import Path; from edgekd.recipe import load_recipe; load_recipe(Path(sys.argv[1]), {})"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )  # fmt: skip
    assert "RecipeError" in done.stderr.splitlines()[-1]
    assert "more than 10000 values" in done.stderr.splitlines()[-1]


def test_an_alias_that_contains_itself(read: Read) -> None:
    assert "r.yaml:1: an alias contains itself" in refused(read, "provenance: &a [*a]\n" + MINIMAL)


@pytest.mark.parametrize(
    "text",
    ["gates:\n  accuracy: {max_drop: 0.02}\n", "accuracy: {max_drop: 0.02}\n"],
    ids=["with", "without"],
)
def test_policy_with_and_without_the_word_gates(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    policy = load_policy(tmp_path / "p.yaml", {})
    assert isinstance(policy, GatesBlock)
    assert policy.accuracy is not None
    assert policy.accuracy.max_drop == 0.02


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates:\n  acuracy: {}\n", r"p.yaml:2: unknown key 'acuracy'; did you mean 'accuracy'\?"),
        ("acuracy: {}\n", r"p.yaml:1: unknown key 'acuracy'; did you mean 'accuracy'\?"),
        (
            "gates:\n  accuracy:\n    max_dorp: 1\n",
            r"p.yaml:3: unknown key 'accuracy.max_dorp'; did you mean 'max_drop'\?",
        ),
        ("latency: {}\n", "p.yaml:1: 'latency.max_ratio' is missing"),
        ("gates: {}\n", "asks no gate"),
        ("{}\n", "asks no gate"),
        ("gates:\n", "p.yaml:1: key 'gates' has no value"),
        ("size: {max_mib: 1}\naccuracy:\n  # max_drop: 0.02\n", "p.yaml:2: key 'accuracy' has no value"),
        ("accuracy: null\n", "asks no gate"),
        ("", "expected keys and values"),
        (FULL, "unknown key"),
    ],
)
def test_policy_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_policy(tmp_path / "p.yaml", {})


@pytest.mark.parametrize(
    ("select", "test", "refused_"),
    [
        ("a.npz#0:60", "a.npz#40:100", True),
        ("a.npz#0:50", "a.npz#50:", False),
        ("a.npz#0:100:2", "a.npz#1:100:2", False),
        ("a.npz#0:100:2", "a.npz#0:100:3", True),
        ("a.npz", "a.npz#5:6", True),
        ("a.npz", "b.npz", False),
    ],
)
def test_rows_that_are_chosen_by_are_not_judged_on(
    read: Read, select: str, test: str, refused_: bool
) -> None:
    text = MINIMAL.replace("select: s.npz", f"select: '{select}'").replace("test: e.npz", f"test: '{test}'")
    assert select in text
    assert test in text
    if refused_:
        assert "share rows" in refused(read, text)
    else:
        read(text)


def test_declared_slices_are_gated_at_the_usual_margin(read: Read) -> None:
    recipe = read(MINIMAL.replace("task: {", "task: {slices: [site], "))
    assert recipe.gates.slices is not None
    assert (recipe.gates.slices.names, recipe.gates.slices.margin) == (["site"], 0.03)


def test_several_questions_about_accuracy(read: Read) -> None:
    rules = "accuracy: [{max_drop: 0.02}, {against: float32}, {against: baseline, baseline: last.onnx, min_ratio: 0.99}]"
    recipe = read(MINIMAL.replace("accuracy: {}", rules))
    assert [(r.against, r.margin) for r in recipe.gates.accuracy_rules[:2]] == [
        ("teacher", 0.02),
        ("float32", 0.005),
    ]
    assert recipe.gates.baseline == "last.onnx"
    for wrong, says in (
        ("accuracy: [{}, {}]", "twice"),
        ("accuracy: {max_drop: 0.1, min_ratio: 0.9}", "one of `max_drop` and `min_ratio`"),
        ("accuracy: {against: baseline}", "needs its path"),
        ("accuracy: {against: naive}", "student.naive"),
        ("accuracy: {baseline: x.onnx}", "against: baseline"),
        ("fidelity: {}", "asks nothing"),
        ("slices: {names: [a, a]}", "twice"),
        (
            "accuracy: {against: baseline, baseline: a.onnx}, regression: {baseline: b.onnx}",
            "several baselines",
        ),
    ):
        assert says in refused(read, MINIMAL.replace("accuracy: {}", wrong)), wrong


def test_a_variable_within_a_default_is_refused(read: Read) -> None:
    text = MINIMAL.replace("model: t.onnx", 'model: "${TEACHER:-${HOME_OF_MODELS}/t.onnx}"')
    assert ":4: the default of ${TEACHER} holds another variable" in refused(read, text)
