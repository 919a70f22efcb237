"""Runs a composite action's steps as a GitHub runner would: expressions, files for outputs, exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<call>(?:cancelled|always|success|format)(?=\())"
    r"|(?P<path>[A-Za-z_][\w-]*(?:\.[\w-]+)+)|(?P<op>&&|\|\||==|!=|!|[(),]))"
)
_OPERATORS = {"&&": " and ", "||": " or ", "!": " not "}


@dataclass
class Job:
    """What is left of a run.

    Attributes:
        failed: exit code of the first step that failed; None where none did.
        steps: id (or name) -> outputs of every step that ran.
        used: (action, its inputs) of every ``uses:`` step that ran.
        log: stdout and stderr of all steps; summary: what they wrote to GITHUB_STEP_SUMMARY.
        outputs: of the action.
    """

    failed: int | None = None
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    log: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def ran(self) -> list[str]:
        return list(self.steps)


@dataclass
class Runner:
    """One action on one machine.

    Attributes:
        action: the parsed action.yml; place: the workspace; temp: RUNNER_TEMP.
        environ: of every step. answers: action -> outputs that its ``uses:`` step gives.
    """

    action: Mapping[str, Any]
    place: Path
    temp: Path
    environ: Mapping[str, str]
    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def run(self, **inputs: str) -> Job:
        """Run all steps with these inputs (underscores for hyphens)."""
        given = {k.replace("_", "-"): v for k, v in inputs.items()}
        unknown = set(given) - set(self.action["inputs"])
        assert not unknown, f"the action has no inputs {unknown}"
        known = {k: str(v.get("default", "")) for k, v in self.action["inputs"].items()}
        job = Job()
        context = {"inputs": known, "github": {"token": "job-token", "action_path": "/action"}, "job": job}
        known.update({k: self.fill(v, context) for k, v in known.items()})
        known.update(given)
        for i, step in enumerate(self.action["runs"]["steps"]):
            self._step(i, step, context, job)
        job.outputs = {k: self.fill(v["value"], context) for k, v in self.action["outputs"].items()}
        return job

    def fill(self, text: str, context: Mapping[str, Any]) -> str:
        return re.sub(r"\$\{\{(.*?)\}\}", lambda m: str(self.value(m.group(1), context) or ""), str(text))

    def value(self, expression: str, context: Mapping[str, Any]) -> Any:
        """GitHub's expressions, as far as action.yml uses them."""
        job, code, at = context["job"], "", 0
        while at < len(expression.rstrip()):
            token = _TOKEN.match(expression, at)
            assert token, f"not understood: {expression[at:]!r}"
            at = token.end()
            if token["text"]:
                code += repr(token["text"][1:-1].replace("''", "'"))
            elif token["call"]:
                code += token["call"]
            elif token["path"]:
                code += repr(self._lookup(token["path"].split("."), context))
            else:
                code += _OPERATORS.get(token["op"], token["op"])
        names = {
            "cancelled": lambda: False,
            "always": lambda: True,
            "success": lambda: job.failed is None,
            "format": lambda text, *a: text.format(*a),
            "__builtins__": {},
        }
        return eval(code.strip(), names)

    @staticmethod
    def _lookup(path: list[str], context: Mapping[str, Any]) -> str:
        if path[0] == "steps":
            assert path[2] == "outputs", path
            return str(context["job"].steps.get(path[1], {}).get(path[3], ""))
        return str(context[path[0]][path[1]])

    def _step(self, i: int, step: Mapping[str, Any], context: Mapping[str, Any], job: Job) -> None:
        condition = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", str(step.get("if", "success()")).strip())
        if not re.search(r"\b(cancelled|always|success)\(", condition):
            condition = f"success() && ({condition})"
        if not self.value(condition, context):
            return
        key = step.get("id") or step["name"]
        if "uses" in step:
            name = step["uses"].partition("@")[0]
            job.used.append((name, {k: self.fill(str(v), context) for k, v in step["with"].items()}))
            job.steps[key] = dict(self.answers.get(name, {}))
            return
        assert step["shell"] == "bash", step
        files = {n: self.temp / f"{n}_{i}" for n in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")}
        for file in files.values():
            file.write_text("")
        script = self.temp / f"step_{i}.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.place,
            env={
                **self.environ,
                **{k: str(v) for k, v in files.items()},
                **{k: self.fill(v, context) for k, v in step.get("env", {}).items()},
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert files["GITHUB_ENV"].read_text() == "", "a step changed the job's environment"
        job.log += f"--- {step['name']}\n{done.stdout}{done.stderr}"
        job.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        lines = files["GITHUB_OUTPUT"].read_text().splitlines()
        job.steps[key] = dict(line.split("=", 1) for line in lines)
        if done.returncode and job.failed is None and not step.get("continue-on-error"):
            job.failed = done.returncode


def load_action(path: Path) -> dict[str, Any]:
    """An action.yml, parsed."""
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def job_environ(**more: str) -> dict[str, str]:
    """The test's own environment without what names a forge, with this Python's edgekd on the PATH."""
    left_out = ("GITHUB_", "CI_", "GITLAB_", "RUNNER_", "GH_", "EDGEKD_TOKEN", "EDGEKD_GITLAB", "PYTHONPATH")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
        **more,
    }
