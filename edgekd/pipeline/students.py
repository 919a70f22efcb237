"""The student in every precision and format that a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.errors import ModelError, UsageError
from edgekd.model import Model
from edgekd.pipeline.artifacts import export_to, quantize_to
from edgekd.pipeline.real_feeds import real_feeds
from edgekd.pipeline.search import SearchRequest, find_student
from edgekd.pipeline.sizes import export_options, measured_sizes
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.pipeline.training import Made
from edgekd.quantize.config import usual_for
from edgekd.quantize.precision import FLOATS, Precision
from edgekd.recipe import Recipe, shapes_of
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec


def float_artifact(
    model: Model | Artifact,
    format_name: str,
    recipe: Recipe,
    store: StageStore,
    label: str,
    task: TaskSpec | None = None,
) -> Artifact:
    """The model in a format, in float32.

    Args:
        label: ``teacher``, whose arrays of the data may be its own, or any other.
        task: its first examples are what the format's answers are compared on with the source's; None: drawn feeds only.

    Raises:
        UsageError: a file that cannot become that format; ModelError: it answers otherwise.
    """
    options = _options(model, format_name, recipe, task, role="teacher" if label == "teacher" else "student")
    return export_to(model, format_name, options, store, f"export {label}")


def _options(
    model: Model | Artifact, format_name: str, recipe: Recipe, task: TaskSpec | None, role: str = "student"
) -> dict[str, Any]:
    measure = recipe.measure
    sizes = measured_sizes(shapes_of(recipe.shapes), measure.batch, measure.as_scenario)
    options = export_options(model, format_name, sizes)
    return {**options, **(real_feeds(task, role) if task else {})}


def make_candidates(
    recipe: Recipe,
    made: Made,
    task: TaskSpec,
    store: StageStore,
    formats: Sequence[str] = (),
    notes: list[str] | None = None,
    target: ResolvedTarget | None = None,
) -> list[tuple[str, Artifact]]:
    """Precision x format of the student, as (label, artifact).

    A format that does not write a precision, or cannot write this model in it, is left without it, and ``notes`` says so.

    Args:
        formats: of those that the recipe names; empty for all of them.
        notes: sentences for the report are added here.
        target: where a search measures; None leaves searches out.

    Raises:
        UsageError: a format that writes none of the precisions; ModelError: none of them of this model, or not even one
        that is no quantization.
    """
    found: list[tuple[str, Artifact]] = []
    for format_name in formats or recipe.export:
        name = "student" if len(recipe.export) == 1 else f"student {format_name}"
        own: list[tuple[str, Artifact]] = []
        searched: list[tuple[str, Artifact]] = []
        why: UsageError | ModelError | None = None
        for precision in recipe.precisions:
            label = f"{name} {precision.name}"
            try:
                if precision.search is None:
                    own.append((label, _make(precision, format_name, name, recipe, made, task, store)))
                elif target is not None:
                    sentence, winner = _search(
                        precision, format_name, label, recipe, made, task, store, target
                    )
                    searched.append((label, winner))
                    if notes is not None:
                        notes.append(f"{label}: {sentence}")
                elif notes is not None:
                    notes.append(f"{label} was left out: it is searched where a run measures.")
            except (UsageError, ModelError) as e:
                if isinstance(e, ModelError) and precision.cast:
                    raise
                why = why or e
                if notes is not None:
                    notes.append(f"There is no {name} in {precision.name}: {e.what}.")
        # A search may end at what another entry writes: one candidate, not two.
        own += [
            s
            for k, s in enumerate(searched)
            if s[1].digest not in {a.digest for _, a in [*own, *searched[:k]]}
        ]
        if not own and why is not None:
            raise why
        found += own
    return found


def check_all_written(recipe: Recipe, made: Sequence[tuple[str, Artifact]], notes: Sequence[str]) -> None:
    """Refuse a precision that no format wrote: it was asked for, and nothing in the run would be of it.

    Raises:
        UsageError: names it, with the first reason that was noted.
    """
    for precision in recipe.precisions if made else ():
        if precision.search is not None:
            continue  # it may end at a precision that another entry wrote
        if not any(label.endswith(f" {precision.name}") for label, _ in made):
            why = next((n for n in notes if f" in {precision.name}: " in n), "")
            raise UsageError(
                f"none of the formats {', '.join(recipe.export)} was written in {precision.name} ({why.rstrip('.')})",
                "take it out of `quantize`, or add a format that has it",
            )


def _make(
    precision: Precision,
    format_name: str,
    name: str,
    recipe: Recipe,
    made: Made,
    task: TaskSpec,
    store: StageStore,
) -> Artifact:
    if precision.cast == FLOATS[0]:
        return float_artifact(made.student, format_name, recipe, store, name, task)
    options = _options(made.student, format_name, recipe, task)
    if precision.config is None:
        cast = {**options, "dtype": precision.cast}
        return export_to(made.student, format_name, cast, store, f"export {name} {precision.cast}")
    label = f"quantize {name} {precision.name}"
    config = usual_for(precision.config, format_name) if precision.usual else precision.config
    return quantize_to(made.student, format_name, config, task, options, store, label)


def _search(
    precision: Precision,
    format_name: str,
    label: str,
    recipe: Recipe,
    made: Made,
    task: TaskSpec,
    store: StageStore,
    target: ResolvedTarget,
) -> tuple[str, Artifact]:
    """What a search on the target found, as a sentence, and its winner; the test split is not touched."""
    asked = precision.search or {}
    request = SearchRequest(
        reference=recipe.student.model,
        model=made.student,
        task=task,
        targets=(target,),
        max_drop=asked["max_drop"],
        budget_s=60 * asked["budget_minutes"],
        threads=recipe.measure.threads,
        batch=recipe.measure.batch,
        options={format_name: _options(made.student, format_name, recipe, None)},
        base=Path(task.base),
    )
    found, winner = find_student(request, store)
    return (
        f"{found.winner.mixture.label} of {found.evaluations} evaluated mixtures on {target.target}.",
        winner,
    )
