"""``edgekd run RECIPE``: the whole line, from a recipe to a run folder with a verdict."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import edgekd
from edgekd.artifact import Artifact
from edgekd.errors import InfrastructureError, InputError, UsageError
from edgekd.evidence import Evidence
from edgekd.evidence.run import AbsentTarget, Candidate, Run
from edgekd.files import building, write_bytes, write_json
from edgekd.gates.judge import judge_run, select_candidates
from edgekd.gates.verdict import Verdict
from edgekd.measure import ledger
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.pipeline.candidates import Job, Reference, collect_select, collect_test
from edgekd.pipeline.chain import Shipped, collect_chain, teacher_note
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.coverage import coverage_note
from edgekd.pipeline.folder import RunFolder, check_out
from edgekd.pipeline.opening import check_inputs, is_missing
from edgekd.pipeline.routes import exporter_for
from edgekd.pipeline.students import check_all_written, float_artifact, make_candidates
from edgekd.pipeline.targets import ResolvedTarget, resolve_target, torch_target
from edgekd.pipeline.thumbnails import add_thumbnails
from edgekd.pipeline.training import Made, TrainProgress, make_models, task_spec
from edgekd.provenance.storing import store_provenance
from edgekd.recipe import Recipe, TargetBlock
from edgekd.report import render
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec, parse_output
from edgekd.temporary import sweep_folder


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
    """``runs/<utc>-<digest8>``; with a number where that is taken: a clock that was set back brings a second again."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    first = Path("runs") / f"{stamp}-{digest.removeprefix('sha256:')[:8]}"
    sweep_folder(first.parent)  # no later run has the name of one that was killed
    found, k = first, 2
    while found.exists():
        found, k = first.with_name(f"{first.name}-{k}"), k + 1
    return found


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
    found = []
    for target in targets_of(recipe):
        if isinstance(target, ResolvedTarget) and not format_of(target, recipe):
            opens = f"opens {', '.join(target.runtime_paths)}, and `export` names {', '.join(recipe.export)}"
            if target.target.required:
                raise UsageError(
                    f"target {target.target} {opens}",
                    f"add one of them to `export`, e.g. {next(iter(target.runtime_paths))}",
                )
            target = AbsentTarget(target=str(target.target), required=False, reason=f"it {opens}")
        found.append(target)
    return found


def format_of(target: ResolvedTarget, recipe: Recipe) -> str:
    """The format that a target is given: of those it opens the best that the recipe exports; empty where none is."""
    return next((f for f in target.runtime_paths if f in recipe.export), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entrants:
    """The models that run on one target: all in formats that it opens."""

    students: Sequence[tuple[str, Artifact]]
    teacher: tuple[str, Artifact]
    baseline: tuple[str, Artifact] | None
    references: Mapping[str, Reference]


def _all_entrants(
    targets: Sequence[ResolvedTarget | AbsentTarget],
    recipe: Recipe,
    made: Made,
    task: TaskSpec,
    baseline: Model | Artifact | None,
    store: StageStore,
    notes: list[str],
) -> tuple[list[ResolvedTarget | AbsentTarget], dict[str, _Entrants]]:
    """What runs on each target, by its name; an optional one that nothing can be made for is absent, with the reason.

    Raises:
        EdgeKDError: the models of a required target cannot be made.
    """
    left: list[ResolvedTarget | AbsentTarget] = []
    found: dict[str, _Entrants] = {}
    students: dict[str, list[tuple[str, Artifact]]] = {}
    for target in targets:
        if isinstance(target, ResolvedTarget):
            format_name = format_of(target, recipe)
            try:
                if format_name not in students:
                    students[format_name] = make_candidates(
                        recipe, made, task, store, (format_name,), notes, target
                    )
                own = students[format_name]
                entered = _entrants(target, recipe, made, task, own, baseline, store)
                found[str(target.target)] = entered
                floating = entered.references["float32"].artifact
                said = [coverage_note(floating, a, task, label, store) for label, a in own]
                notes += [note for note in said if note and note not in notes]
            except (InfrastructureError, InputError) as e:
                if target.target.required:
                    raise
                left.append(_failed(target, e))
                continue
        left.append(target)
    return left, found


def _failed(target: ResolvedTarget, error: Exception) -> AbsentTarget:
    return AbsentTarget(target=str(target.target), required=False, reason=f"failed: {error}")


def _entrants(
    target: ResolvedTarget,
    recipe: Recipe,
    made: Made,
    task: TaskSpec,
    own: Sequence[tuple[str, Artifact]],
    baseline: Model | Artifact | None,
    store: StageStore,
) -> _Entrants:
    format_name = format_of(target, recipe)
    teacher = ("teacher", float_artifact(made.teacher, format_name, recipe, store, "teacher", task))
    references = {"teacher": Reference(label=teacher[0], artifact=teacher[1], role="teacher")}
    references |= student_references(recipe, made, task, own, store, format_name)
    last = None
    if baseline is not None:
        if not (isinstance(baseline, Artifact) and baseline.format in target.runtime_paths):
            baseline = float_artifact(baseline, format_name, recipe, store, "baseline", task)
        last = ("baseline", baseline)
        references["baseline"] = Reference(label="baseline", artifact=baseline)
    check_inputs({"teacher": teacher[1], **dict(own)}, shapes=recipe.shapes, rename={})
    return _Entrants(students=own, teacher=teacher, baseline=last, references=references)


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
    # Now, for a licence text that cannot be read is told before hours of training.
    provenance = store_provenance(None if recipe.provenance is None else recipe.provenance.declaration(base))
    targets = check_names(recipe)
    task = task_spec(recipe, base)
    digests = {s: task.split_digest(s) for s in ("select", "test") if s in task.data}
    if len(digests) == 2 and len(set(digests.values())) == 1:
        raise UsageError(
            "task.data.select and task.data.test hold the same rows",
            "what is chosen by looking is judged on other rows: split them, e.g. data.npz#0:1000 and data.npz#1000:",
        )
    made = make_models(recipe, base, store, progress)
    here = [t for t in targets if isinstance(t, ResolvedTarget)]
    formats = [f for f in recipe.export if any(format_of(t, recipe) == f for t in here)]
    unused = [f for f in recipe.export if f not in formats]
    said = [f"No target that is here opens {f}: the student was not exported to it." for f in unused]
    baseline: Model | Artifact | None = None
    state = ""
    if recipe.gates.baseline:
        if first_run and is_missing(recipe.gates.baseline, base):
            state = "first-run"
        else:
            baseline = fed_like(
                made.student,
                open_reference(recipe.gates.baseline, weights=None, base=base, store=store),
            )
            state = "present"
    targets, entrants = _all_entrants(targets, recipe, made, task, baseline, store, said)
    check_all_written(recipe, [s for e in entrants.values() for s in e.students], said)
    by_format = {s[1].format: e.students for e in entrants.values() for s in e.students}
    students = [s for f in recipe.export for s in by_format.get(f, ())]
    answer = parse_output(recipe.task.output) if recipe.task.output else {}
    output = {"teacher": answer, "student": answer}
    with building(out) as root:
        folder = RunFolder(root)
        for label, model in [("teacher", made.teacher), ("student", made.student)]:
            if isinstance(model, Model):
                folder.add_model(label, model)
        for entered in entrants.values():
            folder.add_artifact(*entered.teacher)
        candidates: list[Candidate] = []
        selected: dict[str, str] = {}
        optional: list[str] = []
        shipped: list[Shipped] = []
        absent: list[AbsentTarget] = []
        for target in targets:
            if isinstance(target, AbsentTarget):
                absent.append(target)
                continue
            entered = entrants[str(target.target)]
            job = Job(
                target=target, policy=recipe.gates, task=task, digests=digests, feeds=Feeds(task=task, split="test"),
                measure=recipe.measure, store=store, folder=folder, teacher=entered.teacher,
                regression=entered.baseline, references=entered.references, search=(base,), remeasure=remeasure, output=output,
                required=target.target.required, explain=True,
            )  # fmt: skip
            try:
                digest, judged = judge_target(job, entered.students)
            except (InfrastructureError, InputError) as e:
                if target.target.required:
                    raise
                absent.append(_failed(target, e))
                continue
            selected[str(target.target)] = digest
            candidates += judged
            said += [n for n in job.notes if n not in said]
            if not target.target.required:
                optional.append(str(target.target))
            label, artifact = next(s for s in students if s[1].digest == digest)
            test = next(c.test for c in judged if c.artifact == digest) or Evidence()
            shipped.append(Shipped(job=job, label=label, artifact=artifact, test=test))
        chain, missing = collect_chain(
            shipped,
            students,
            naive=[(f"naive student {k + 1}", m) for k, m in enumerate(made.naive)],
            distilled=made.student if isinstance(made.student, Model) else None,
        )
        missing += add_thumbnails(shipped, chain, selected)
        write_json(root / "recipe.json", recipe.model_dump(mode="json"))
        run = Run(
            name=recipe.name, policy=recipe.gates.model_dump(mode="json", exclude_none=True),
            artifacts=folder.artifacts, candidates=tuple(candidates), selected=selected, absent=tuple(absent), optional=tuple(optional),
            chain=chain, notes=(*notes, *said, *missing, *teacher_note(root, chain)), regression_baseline=state,
            references=next((digests_of(e.references) for e in entrants.values()), {}), environment=ledger.machine(),
            provenance=provenance, collected_at=utc_now(), edgekd=edgekd.__version__,
        )  # fmt: skip
        return finish(folder, run, recipe.gates)


def fed_like(student: Model | Artifact, baseline: Model | Artifact) -> Model | Artifact:
    """Last release's model with the student's preprocessing, where its own documents have none: a bare .onnx, say."""
    if isinstance(baseline, Model) or baseline.prepare or not student.prepare:
        return baseline
    return baseline.with_prepare(student.prepare)


def digests_of(references: Mapping[str, Reference]) -> dict[str, str]:
    """Name -> digest, as ``run.json`` holds them."""
    return {name: r.artifact.digest for name, r in references.items()}


def student_references(
    recipe: Recipe,
    made: Made,
    task: TaskSpec,
    students: Sequence[tuple[str, Artifact]],
    store: StageStore,
    format_name: str,
) -> dict[str, Reference]:
    """The student's own float32 and, where there are naive controls, the first of them, as gates may name them."""
    base = next(
        (a for _, a in students if a.dtype == "float32" and not a.lineage.get("quantized_from")), None
    )
    base = base or float_artifact(made.student, format_name, recipe, store, "student", task)
    found = {"float32": Reference(label="student float32", artifact=base)}
    if made.naive:
        found["naive"] = Reference(
            label="naive student 1", artifact=made.naive[0].as_artifact(), target=torch_target()
        )
    return found


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
