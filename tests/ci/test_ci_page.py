"""docs/ci.md: what readers copy passes the linters, and names inputs and variables that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fixtures_action import load_action

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))
from pages import REPOSITORY, Block, blocks

BIN = Path(sys.executable).parent
BLOCKS = [b for b in blocks(REPOSITORY / "docs/ci.md") if b.language == "yaml"]


def lint(*command: str, place: Path) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.info == "workflow"], ids=lambda b: b.where)
def test_a_workflow_is_clean_and_its_inputs_exist(block: Block, tmp_path: Path) -> None:
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / "gate.yml").write_text(
        block.text.replace("OWNER/edgekd@COMMIT", f"team/edgekd@{'0' * 40} # v1")
    )
    lint(
        "check-jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(folder / "gate.yml"),
        place=tmp_path,
    )
    lint("zizmor", "--offline", "--no-progress", str(folder / "gate.yml"), place=tmp_path)
    action = load_action(REPOSITORY / "action.yml")
    steps = yaml.safe_load(block.text)["jobs"]["gate"]["steps"]
    (ours,) = (s for s in steps if s.get("uses", "").startswith("OWNER/"))
    assert set(ours["with"]) <= set(action["inputs"])


def test_the_gitlab_job_is_valid_and_its_variables_exist(tmp_path: Path) -> None:
    (block,) = (b for b in BLOCKS if b.info == "gitlab")
    (tmp_path / "ci.yml").write_text(block.text)
    lint("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "ci.yml", place=tmp_path)
    template = yaml.safe_load((REPOSITORY / "examples/ci/edgekd.gitlab-ci.yml").read_text())[".edgekd-gate"]
    job = yaml.safe_load(block.text)["student"]
    assert job["extends"] == ".edgekd-gate"
    assert set(job["variables"]) <= set(template["variables"])


def test_the_hook_of_the_page_is_the_one_there_is() -> None:
    (block,) = (b for b in BLOCKS if b.info == "pre-commit")
    (shipped,) = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    assert yaml.safe_load(block.text)["repos"][0]["hooks"] == [{"id": shipped["id"]}]
    lint("pre-commit", "validate-manifest", str(REPOSITORY / ".pre-commit-hooks.yaml"), place=REPOSITORY)


def test_every_output_of_the_action_is_on_the_page() -> None:
    text = re.sub(r"\s+", " ", (REPOSITORY / "docs/ci.md").read_text(encoding="utf-8"))
    for name in load_action(REPOSITORY / "action.yml")["outputs"]:
        assert f"`{name}`" in text, name
