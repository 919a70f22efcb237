"""``edgekd run RECIPE``: the whole line, from a recipe to a run folder with a verdict."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import edgekd
from edgekd.artifact import Artifact
from edgekd.errors import InfrastructureError, ModelError, UsageError
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import load_evaluation
from edgekd.evidence.run import AbsentTarget, Candidate, Hop, Run
from edgekd.files import building, write_bytes, write_json
from edgekd.gates.judge import judge_run, select_candidates
from edgekd.gates.verdict import Verdict
from edgekd.measure import ledger
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.pipeline.artifacts import export_model, exporter_for, quantize_artifact
from edgekd.pipeline.candidates import Job, collect_select, collect_test
from edgekd.pipeline.collect import Feeds, evaluate_artifact
from edgekd.pipeline.folder import RunFolder, check_out
from edgekd.pipeline.opening import check_inputs, is_missing
from edgekd.pipeline.targets import ResolvedTarget, resolve_target, torch_target
from edgekd.pipeline.training import Made, TrainProgress, make_models, task_spec
from edgekd.quantize import QuantConfig
from edgekd.recipe import Recipe, TargetBlock, shapes_of
from edgekd.report import render
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec, parse_output


def float_artifact(
    model: Model | Artifact, format_name: str, recipe: Recipe, store: StageStore, label: str
) -> Artifact:
    """The model in a format, in float32; a given artifact must have that format already."""
    if isinstance(model, Model):
        shapes = {n: s for n, s in shapes_of(recipe.shapes).items() if n in {i.name for i in model.inputs}}
        return export_model(
            model, format_name, {"shapes": shapes} if shapes else {}, store, f"export {label}"
        )
    if model.format != format_name:
        raise UsageError(
            f"{label} has the format {model.format}, {format_name} was asked for", "change `export`"
        )
    return model


def make_candidates(
    recipe: Recipe, made: Made, task: TaskSpec, store: StageStore
) -> list[tuple[str, Artifact]]:
    """Precision x format of the student, as (label, artifact)."""
    found: list[tuple[str, Artifact]] = []
    for format_name in recipe.export:
        base = float_artifact(made.student, format_name, recipe, store, "student")
        for dtype in recipe.quantize:
            if dtype == "float32":
                found.append(("student float32", base))
            else:
                quantized = quantize_artifact(
                    base, QuantConfig(dtype=dtype), task, store, f"quantize student {dtype}"
                )
                found.append((f"student {dtype}", quantized))
    return found


def _chain(
    made: Made, candidates: Sequence[tuple[str, Artifact]], job: Job, teacher: tuple[str, Artifact]
) -> tuple[Hop, ...]:
    """Evaluations of every hop on the test split: torch modules in torch, artifacts as they ship."""
    hops = [
        Hop(
            hop="teacher",
            label="teacher",
            evaluation=job.folder.add_evaluation(job.evaluate(*teacher, "test", "teacher")),
        )
    ]
    if job.task is None:
        raise AssertionError("a recipe always has a task")
    torch_models: list[tuple[str, str, Model]] = [
        ("naive", f"naive student {k + 1}", m) for k, m in enumerate(made.naive)
    ]
    if isinstance(made.student, Model):
        torch_models.append(("distilled", "distilled student (torch)", made.student))
    if torch_models:
        torch = torch_target()
        for hop, label, model in torch_models:
            request = EvaluationRequest(
                label=label, artifact=model.as_artifact(), target=torch.target, runtime_paths=torch.runtime_paths,
                task=job.task, split="test", data_digest=job.digests["test"], search=job.search,
                output=(job.output or {}).get("student", {}),
                threads=job.measure.threads,
            )  # fmt: skip
            hops.append(
                Hop(
                    hop=hop,
                    label=label,
                    evaluation=job.folder.add_evaluation(evaluate_artifact(request, job.store)),
                )
            )
    for label, artifact in candidates:
        hop = "exported" if artifact.dtype == "float32" else "quantized"
        evaluation = job.evaluate(label, artifact, "test", "student")
        hops.append(
            Hop(
                hop=hop,
                label=f"{label} ({artifact.format})",
                evaluation=job.folder.add_evaluation(evaluation),
            )
        )
    return tuple(hops)


def teacher_note(folder: Path, chain: Sequence[Hop]) -> tuple[str, ...]:
    """A warning where the teacher is worse than a student trained without it: beating it proves nothing."""
    means = {
        h.label: load_evaluation(folder / h.evaluation).mean for h in chain if h.hop in ("teacher", "naive")
    }
    teacher, naive = means.get("teacher"), [m for label, m in means.items() if label != "teacher"]
    if teacher is None or not naive or teacher >= max(naive):
        return ()
    return (
        f"The teacher ({teacher:.2%}) is below a student of this size trained without it ({max(naive):.2%}): train the "
        "teacher further, for beating a handicapped teacher proves nothing.",
    )


def finish(folder: RunFolder, run: Run, policy: Any) -> Verdict:
    """Write index, verdict and reports into a run folder in the making."""
    run.save(folder.root)
    verdict = judge_run(folder.root, run, policy)
    verdict.save(folder.root / "verdict.json")
    for kind in ("md", "html"):
        write_bytes(folder.root / f"report.{kind}", render(folder.root, kind).encode())
    return verdict


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def default_out(name: str, digest: str) -> Path:
    """``runs/<utc>-<digest8>``."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return Path("runs") / f"{stamp}-{digest.removeprefix('sha256:')[:8]}"


def targets_of(recipe: Recipe) -> list[ResolvedTarget | AbsentTarget]:
    """The recipe's targets, resolved on this machine.

    Raises:
        UsageError: an unknown one that is required.
    """
    found = []
    for entry in recipe.targets:
        block = entry if isinstance(entry, TargetBlock) else TargetBlock(target=entry)
        found.append(resolve_target(block.target, required=block.required))
    return found


def check_names(recipe: Recipe) -> list[ResolvedTarget | AbsentTarget]:
    """Look up every format and target before any work is done.

    Raises:
        UsageError: an unknown one.
    """
    for format_name in recipe.export:
        exporter_for(format_name)
    return targets_of(recipe)


def run_recipe(
    recipe: Recipe,
    *,
    base: Path,
    out: Path,
    store: StageStore,
    remeasure: bool = False,
    first_run: bool = False,
    notes: Sequence[str] = (),
    progress: TrainProgress | None = None,
) -> Verdict:
    """Run a recipe and leave a run folder at ``out``.

    Args:
        base: folder of the recipe; relative paths start there.
        first_run: accept that the regression baseline does not exist yet.

    Raises:
        EdgeKDError: as the stages say; ``out`` is then as it was.
    """
    check_out(out)
    targets = check_names(recipe)
    task = task_spec(recipe, base)
    digests = {s: task.split_digest(s) for s in ("select", "test") if s in task.data}
    made = make_models(recipe, base, store, progress)
    students = make_candidates(recipe, made, task, store)
    teacher = ("teacher", float_artifact(made.teacher, recipe.export[0], recipe, store, "teacher"))
    regression = None
    state = ""
    if recipe.gates.regression is not None:
        if first_run and is_missing(recipe.gates.regression.baseline, base):
            state = "first-run"
        else:
            opened = open_reference(recipe.gates.regression.baseline, weights=None, base=base, store=store)
            regression = ("baseline", float_artifact(opened, recipe.export[0], recipe, store, "baseline"))
            state = "present"
    check_inputs({"teacher": teacher[1], **dict(students)}, shapes=recipe.shapes, rename={})
    answer = parse_output(recipe.task.output) if recipe.task.output else {}
    output = {"teacher": answer, "student": answer}
    with building(out) as root:
        folder = RunFolder(root)
        for label, model in [("teacher", made.teacher), ("student", made.student)]:
            if isinstance(model, Model):
                folder.add_model(label, model)
        folder.add_artifact("teacher", teacher[1])
        candidates: list[Candidate] = []
        selected: dict[str, str] = {}
        optional: list[str] = []
        said: list[str] = []
        chain: tuple[Hop, ...] = ()
        absent: list[AbsentTarget] = []
        for target in targets:
            if isinstance(target, AbsentTarget):
                absent.append(target)
                continue
            job = Job(
                target=target, policy=recipe.gates, task=task, digests=digests, feeds=Feeds(task=task, split="test"),
                measure=recipe.measure, store=store, folder=folder, teacher=teacher, regression=regression,
                search=(base,), remeasure=remeasure, output=output,
            )  # fmt: skip
            try:
                digest, judged = judge_target(job, students)
            except (InfrastructureError, ModelError) as e:
                if target.target.required:
                    raise
                absent.append(AbsentTarget(target=str(target.target), required=False, reason=f"failed: {e}"))
                continue
            selected[str(target.target)] = digest
            candidates += judged
            said += [n for n in job.notes if n not in said]
            if not target.target.required:
                optional.append(str(target.target))
            if not chain:
                chain = _chain(made, students, job, teacher)
        write_json(root / "recipe.json", recipe.model_dump(mode="json"))
        run = Run(
            name=recipe.name, policy=recipe.gates.model_dump(mode="json", exclude_none=True),
            artifacts=folder.artifacts, candidates=tuple(candidates), selected=selected, absent=tuple(absent), optional=tuple(optional),
            chain=chain, notes=(*notes, *said, *teacher_note(root, chain)), regression_baseline=state, environment=ledger.machine(),
            provenance=recipe.provenance, collected_at=utc_now(), edgekd=edgekd.__version__,
        )  # fmt: skip
        return finish(folder, run, recipe.gates)


def judge_target(job: Job, students: Sequence[tuple[str, Artifact]]) -> tuple[str, list[Candidate]]:
    """Select where there is a choice, then collect what is judged; the digest selected and all candidates."""
    candidates = collect_select(job, students)
    target = str(job.target.target)
    digest = candidates[0].artifact
    if len(candidates) > 1:
        draft = Run(
            name="selection",
            policy={},
            artifacts=job.folder.artifacts,
            candidates=tuple(candidates),
            selected={},
        )
        digest = select_candidates(job.folder.root, draft, job.policy)[target]
    test = collect_test(job, next(s for s in students if s[1].digest == digest))
    return digest, [replace(c, test=test) if c.artifact == digest else c for c in candidates]


def copy_model(model: Model, out: Path) -> Model:
    """A model folder of its own, whole or absent."""
    with building(out) as root:
        shutil.copytree(model.folder, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("stage.json"))
    return model
