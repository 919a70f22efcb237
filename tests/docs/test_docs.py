"""The documentation does what it says: every command in it runs, every link leads somewhere, every option exists."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import edgekd.cli
from edgekd.recipe import GatesBlock, Recipe, load_policy, load_recipe
from edgekd.recipe_provenance import load_provenance

sys.path.insert(0, str(Path(__file__).parent))
from fixtures_models import classifier, examples
from pages import PAGES, REPOSITORY, Block, blocks, name_of, prose, run_block, shape_of

ALL = [block for page in PAGES for block in blocks(page)]

#: Blocks that are not run here, by page and first command, each with the reason.
NOT_RUN = {
    (
        "docs/outside_files.md",
        "edgekd eval python:net:build --weights net.pt --data test.npz",
    ): "shows a refusal and needs a network of the reader",
    ("docs/suites.md", "python bench/suites/table.py --out docs/results"): "half an hour of exports",
    ("docs/suites.md", "pytest bench/suites --edgekd-target cpu:openvino --benchmark-json timings.json"): (
        "minutes of timing; a part of it runs in tests/bench"
    ),
    (
        "docs/executorch.md",
        "pip install 'edgekd[executorch]'",
    ): "installs into this environment; the commands run in tests",
    (
        "docs/devices.md",
        "EDGEKD_BOARD_PROFILE=jetson-orin-nx-16gb edgekd bench student.onnx --target ssh/orin:onnxruntime",
    ): "needs a Jetson that ssh reaches",
    (
        "docs/boards.md",
        "edgekd gate --teacher teacher.onnx --student student.onnx --data test.npz    --max-accuracy-drop 0.01 "
        "--max-latency-ratio 0.9 --target ssh/pi5:onnxruntime",
    ): "needs a board that ssh reaches",
    (
        "docs/boards.md",
        "python3 -m venv ~/edgekd && ~/edgekd/bin/pip install numpy onnxruntime",
    ): "is run on the board, which the tests have not",
    (
        "docs/boards.md",
        "EDGEKD_RAILS=VDD_GPU_SOC,VDD_CPU_CV,VIN_SYS_5V0 edgekd bench student.onnx --target ssh/agx:onnxruntime",
    ): "needs a Jetson that ssh reaches",
    (
        "docs/results/release.md",
        "python bench/release/mutants.py --each 24 --markdown mutants.md",
    ): "minutes of mutants; a few of each kind run in tests/bench",
    ("docs/results/release.md", "python bench/release/verify_speed.py"): "times a bundle of 1 GB for minutes",
    (
        "docs/results/bundle.md",
        "python bench/release/bundle.py --out docs/results",
    ): "installs a validator from npm",
    ("docs/gpu.md", "make gpu"): "needs a GPU, which the tests have not",
    (
        "docs/gpu.md",
        "python bench/gpu/run.py --models resnet50 --batches 32 --restarts 2 --minutes 20",
    ): "needs a GPU, which the tests have not",
    (
        "docs/gpu.md",
        "python bench/gpu/run.py --device cpu --tiny --out runs/rehearsal",
    ): "compiles for minutes; tests/bench runs a part",
    ("README.md", "make demo"): "sets up an environment and runs this test suite again",
    ("README.md", "apt install make git python3-venv time"): "installs packages of the system, as root",
    (
        "README.md",
        "pip install '.[ort]'",
    ): "changes the environment; tests/packaging installs the wheel in its own",
    (
        "README.md",
        "edgekd release runs/gate -o student-1.0 --provenance provenance.yaml --key key.pem",
    ): "wants a key and a declaration; docs/bundle.md and docs/verify.md run both commands",
    ("README.md", "make cifar"): "trains for hours on data that may be absent; tests run it shortened",
    ("docs/quickstart.md", "pip install 'edgekd[ort]'"): "changes the environment that runs the tests",
    (
        "docs/quickstart.md",
        "edgekd init",
    ): "trains for a minute or more; the block after it runs it shortened",
    ("docs/gate_power.md", "make gate-power"): "measures for five minutes",
    (
        "docs/hostile.md",
        "python tests/hostile/hostile_table.py --only external-hard-link zip-bomb",
    ): "is run in the checkout; tests/hostile runs the corpus",
    (
        "docs/hostile.md",
        "make fuzz",
    ): "fuzzes for half an hour; tests/fuzz runs 200 executions of each target",
    (
        "docs/results/faults.md",
        "python bench/faults/kill_study.py --out work/kill",
    ): "studies of hours; tests/faults takes a seeded sample of their points",
    (
        "docs/results/fuzz.md",
        "make fuzz",
    ): "fuzzes for half an hour; tests/fuzz runs 200 executions of each target",
    (
        "docs/results/hostile.md",
        "python tests/hostile/hostile_table.py --page docs/results/hostile.md",
    ): "writes into the checkout; tests/hostile runs the corpus",
    ("docs/results/why_not_faster.md", "cd bench/suites"): "exports and times a large network for minutes",
    (
        "docs/results/why_not_faster.md",
        "edgekd export f32 --format openvino -o ov-f32",
    ): "needs the files of the block before",
    (
        "docs/results/accuracy.md",
        "python bench/judge_million.py",
    ): "judges a million rows, for its time and memory",
    (
        "docs/gate_power.md",
        "python bench/gate_power run --mode full --condition quiet --together --out runs/gate-power/quiet",
    ): "measures for hours on a quiet machine",
    (
        "docs/gate_power.md",
        "python bench/gate_power report runs/gate-power/{quiet,loaded,quiet-alone,burst,long-quiet} --out docs/results",
    ): "needs the studies of the block before",
    (
        "docs/gate_power.md",
        "python bench/gate_power scatter student.onnx --restarts 20",
    ): "measures for minutes on a quiet machine; tests/bench checks its arithmetic",
    (
        "docs/gate_power.md",
        "python bench/gate_power/load.py --condition loaded --seconds 60",
    ): "loads every CPU of the machine",
    ("docs/cifar10.md", "make cifar"): "trains for hours on data that may be absent",
    (
        "docs/tasks.md",
        "edgekd gate --teacher bert/model.onnx --student small/model.onnx --task text-classification --data 'dev.tsv?columns=sentence,label'",
    ): "needs two text models; tests/tasks/test_text_gate.py runs it on made ones",
    ("docs/cifar10.md", "edgekd run examples/cifar10/recipe.yaml --only distill"): "trains for hours too",
    ("docs/cifar10.md", "edgekd run examples/cifar10/fast.yaml"): "trains for an hour, needs the data",
    (
        "docs/cifar10.md",
        "edgekd run examples/cifar10/fast.yaml --out runs/plain18",
    ): "trains for hours, in tests/examples",
    (
        "docs/distillation.md",
        "accelerate launch --multi_gpu --num_processes 2 -m edgekd distill edgekd.yaml -o student",
    ): "starts processes for minutes; tests/distill/test_together.py does on few digits",
    ("docs/litert.md", "pip install 'edgekd[torch,litert]'"): "changes the environment that runs the tests",
    (
        "docs/litert.md",
        "edgekd export zoo:cifar-resnet8 --format litert --shape image=4x3x32x32 -o resnet8",
    ): "may install a converter of 0.9 GB; tests/exporters/test_litert_exporter.py exports where it is there",
    ("docs/litert.md", "python -m edgekd_litert.environment"): "installs a converter of 0.9 GB",
    (
        "docs/verbs/demo.md",
        "edgekd demo",
    ): "trains for a minute or more; tests/pipeline runs the line shortened",
    (
        "docs/search.md",
        "edgekd quantize student.onnx --data labelled.npz --max-accuracy-drop 0.01 --for cpu:onnxruntime --for cpu:openvino -o best",
    ): "takes minutes; tests/cli/test_searching.py searches made models",
    ("docs/verbs/doctor.md", "edgekd doctor --need cuda:onnxruntime"): "its exit code depends on the machine",
    (
        "docs/tensorrt.md",
        "pip install 'edgekd[tensorrt]'",
    ): "changes the environment, and brings NVIDIA's library",
    (
        "docs/tensorrt.md",
        "edgekd export model.onnx --format tensorrt --shape image=1x3x224x224:8x3x224x224:32x3x224x224 -o engine",
    ): "needs TensorRT and a GPU",
    ("docs/tensorrt.md", "edgekd bench engine --target cuda:tensorrt"): "needs TensorRT and a GPU",
}

#: YAML of other tools; tests/ci checks it against their schemas.
OTHER_YAML = ("workflow", "gitlab", "pre-commit")

_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")


@pytest.fixture(scope="session")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages assume: a team's two ONNX files, last release's, and labelled data."""
    folder = tmp_path_factory.mktemp("docs-fixtures")
    classifier(folder / "teacher.onnx", layers=12)
    classifier(folder / "student.onnx", layers=4)
    classifier(folder / "previous.onnx", layers=6)
    classifier(folder / "damaged.onnx", layers=4, wrong_classes=(3,))
    rows = examples(3000)
    for name, part in (
        ("test", slice(0, 2000)),
        ("select", slice(2000, 2600)),
        ("calibration", slice(2600, 3000)),
    ):
        np.savez(folder / f"{name}.npz", **{k: v[part] for k, v in rows.items()})
    return folder


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_a_page_run(page: Path, fixtures: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(fixtures, place)
    output = ""
    for block in blocks(page):
        if block.language in ("bash", "python") and "no-run" not in block.info:
            done = run_block(block, place)
            output = done.stdout + done.stderr
            assert done.returncode == block.exit_code, f"{block.where}: exit {done.returncode}\n{output}"
            assert "Traceback" not in done.stderr, f"{block.where}\n{done.stderr}"
        elif block.language in ("yaml", "toml") and block.file:
            (place / block.file).write_text(block.text, encoding="utf-8")
        elif block.info == "output":
            seen = shape_of(output)
            for line in shape_of(block.text):
                assert line in seen or line == "…", f"{block.where}: not printed: {line}\n{output}"


def test_blocks_that_are_not_run_are_listed_with_their_reason() -> None:
    found = {(b.page, b.commands[0]) for b in ALL if "no-run" in b.info}
    assert found == set(NOT_RUN)
    assert all(len(reason.split()) > 3 for reason in NOT_RUN.values())


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    kinds = {
        "bash": ("", "no-run"), "python": ("",), "yaml": ("recipe", "policy", "provenance", "", *OTHER_YAML), "text": ("output", ""),
        "json": ("",), "toml": ("",),
    }  # fmt: skip
    wrong = [f"{b.where} ({b.language} {b.info})" for b in ALL if b.info not in kinds.get(b.language, ())]
    assert wrong == []
    assert [b.where for b in ALL if b.language == "json" and not json.loads(b.text)] == []


def test_a_block_that_fails_is_one_command() -> None:
    """Otherwise an earlier command that fails for another reason would pass for the one that should."""
    assert [b.where for b in ALL if b.exit_code and len(b.commands) != 1] == []


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.language == "yaml" and b.info not in OTHER_YAML], ids=lambda b: b.where
)
def test_yaml_is_a_recipe_or_a_policy(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(block.text, encoding="utf-8")
    if block.info == "policy":
        load_policy(path, {})
    elif block.info == "provenance":
        load_provenance(path, {})
    else:
        load_recipe(path, {})


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _anchors(page: Path) -> set[str]:
    return {_slug(h) for h in re.findall(r"^#+ (.+)$", prose(page), flags=re.M)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name_of(page)} links to {target}"
        assert found.is_relative_to(REPOSITORY), f"{name_of(page)} links out of the repository: {target}"
        assert not anchor or anchor in _anchors(found), f"{name_of(page)}: {target} has no such heading"


def test_every_page_can_be_reached_from_the_index() -> None:
    linked, waiting = set(), [REPOSITORY / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        linked.add(page)
        targets = (t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+\.md[^)\s]*)\)", prose(page)))
        waiting += [p for t in targets if (p := (page.parent / t).resolve()) not in linked and p.exists()]
    assert [name_of(p) for p in PAGES if p not in linked and p.name != "README.md"] == []


def _options(verb: str) -> set[str]:
    module = importlib.import_module(f"edgekd.cli.{edgekd.cli._VERBS[verb][0]}")
    parser = argparse.ArgumentParser(prog=verb)
    module.configure(parser)
    return {o for action in parser._actions for o in action.option_strings}


def test_every_verb_has_a_page_and_every_page_a_verb() -> None:
    pages = {p.stem for p in (REPOSITORY / "docs" / "verbs").glob("*.md")}
    assert pages == set(edgekd.cli.VERBS)


@pytest.mark.parametrize("verb", edgekd.cli.VERBS)
def test_a_verbs_page_has_its_options_and_no_others(verb: str) -> None:
    text = (REPOSITORY / "docs" / "verbs" / f"{verb}.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `-")]
    documented = {o for row in rows for o in _OPTION.findall(row)}
    assert documented == _options(verb) - {"-h", "--help"}


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "bash"], ids=lambda b: b.where)
def test_options_in_commands_exist(block: Block) -> None:
    for command in block.commands:
        for call in re.findall(r"(?:^|/|[ ;|])edgekd ([a-z]+)([^|;&>]*)", command):
            verb, rest = call
            assert verb in edgekd.cli.VERBS, f"{block.where}: no verb '{verb}'"
            unknown = set(_OPTION.findall(rest)) - _options(verb)
            assert not unknown, f"{block.where}: `edgekd {verb}` has no {sorted(unknown)}"


def _block_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_block_in, getattr(annotation, "__args__", ()))), None)


def _keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> default, of a block and the blocks in it."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        inner = _block_in(info.annotation)
        default = info.default
        found[prefix + name] = "required" if default is PydanticUndefined else default
        if inner is not None:
            found.update(_keys(inner, f"{prefix}{name}."))
    return found


def _shown(default: Any) -> str:
    """A default as docs/recipe.md writes it."""
    if default == "required":
        return "required"
    if default is None or default in ("", {}):
        return "none"
    if isinstance(default, BaseModel):
        return "see below"
    text = f"{default:g}" if isinstance(default, float) else default if isinstance(default, str) else ""
    return f"`{text or json.dumps(default).replace(chr(34), '')}`"


def test_every_key_of_the_recipe_is_documented_with_its_default() -> None:
    text = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    rows = [
        [c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")
    ]
    documented = {row[0].strip("`"): row[2] for row in rows}
    wanted = {key: _shown(default) for key, default in _keys(Recipe).items()}
    assert documented == wanted


def test_messages_in_the_error_page_are_those_of_the_code() -> None:
    """The words of each message, between what varies, stand in the source."""
    files = [p for folder in ("edgekd", "exporters") for p in (REPOSITORY / folder).rglob("*.py")]
    source = "".join(p.read_text(encoding="utf-8") for p in files)
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    table = (
        (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8").partition("## Commonest messages")[2]
    )
    messages = re.findall(r"^\| `([^`]+)`", table, flags=re.M)
    assert len(messages) > 15
    for message in messages:
        for words in re.split(r"\bX\b|(?<!\w)'[^']*'|\bfloat\d+|\d[\d,]*|…|teacher|student", message):
            assert words.strip(" :;,?") in source, f"docs/errors.md: {words!r} of {message!r}"


def test_the_policy_page_names_every_gate() -> None:
    text = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert all(f"`gates.{name}`" in text for name in GatesBlock.model_fields)


def test_nothing_names_a_machine_or_a_package_index() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"/(?:root|home|work|tmp)/\S*|https?://[^\s)]*(?:pypi|whl)[^\s)]*", text)
        assert found == [], f"{name_of(page)} names {found}"
