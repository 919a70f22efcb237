"""From a model reference to an artifact that a target opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.pipeline.artifacts import export_model, export_to
from edgekd.pipeline.real_feeds import RealFeeds
from edgekd.pipeline.routes import find_route
from edgekd.pipeline.sizes import Sizes, export_options
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.stages import StageStore


def runnable(
    reference: str,
    role: str,
    weights: Mapping[str, Path],
    target: ResolvedTarget,
    store: StageStore,
    prepare: Mapping[str, Mapping[str, Any]] | None = None,
    sizes: Sizes | None = None,
    real: RealFeeds | None = None,
) -> Artifact:
    """A reference as an artifact that the target opens; torch models are exported where it cannot open them.

    Args:
        prepare: role -> how examples become its feeds, in place of what the model's own documents say.
        sizes: what an export is made with: the shapes and the batch that were asked for.
        real: what an export's answers are compared on with its source's; None: drawn feeds only.

    Raises:
        ModelError: missing or damaged; UsageError: no way to that runtime's format.
    """
    opened = open_reference(
        reference, weights=weights.get(role), base=Path.cwd(), store=store, formats=tuple(target.runtime_paths),
        target=str(target.target),
    )  # fmt: skip
    if own := (prepare or {}).get(role):
        opened = replace(opened, prepare=own) if isinstance(opened, Model) else opened.with_prepare(own)
    if isinstance(opened, Model):
        if "torch" in target.runtime_paths:
            return opened.as_artifact()
        format_name = next(iter(target.runtime_paths))
        options = {**export_options(opened, format_name, sizes or Sizes()), **_real(real)}
        return export_model(opened, format_name, options, store, f"export {role}")
    if opened.format not in target.runtime_paths:
        return _converted(opened, reference, role, target, store, sizes or Sizes(), real)
    return opened


def _real(real: RealFeeds | None) -> dict[str, Any]:
    return {} if real is None else {"feeds": real}


def _converted(
    artifact: Artifact,
    reference: str,
    role: str,
    target: ResolvedTarget,
    store: StageStore,
    sizes: Sizes,
    real: RealFeeds | None,
) -> Artifact:
    """A file in the first format that the target opens and that can be made of it."""
    for format_name in target.runtime_paths:
        try:
            find_route(artifact.format, format_name)
        except UsageError:
            continue
        options = {**export_options(artifact, format_name, sizes), **_real(real)}
        return export_to(artifact, format_name, options, store, f"convert {role}")
    raise UsageError(
        f"{target.target} opens {', '.join(target.runtime_paths)}, the {role} {reference} is {artifact.format}",
        "export the torch model for that runtime, or choose another --target",
    )


def is_missing(reference: str, base: Path) -> bool:
    """Whether a reference is a path that does not exist; ``zoo:`` and ``python:`` are no paths."""
    return not reference.startswith(("zoo:", "python:")) and not (base / reference).exists()


def check_inputs(
    models: Mapping[str, Artifact],
    *,
    shapes: Mapping[str, object],
    rename: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuse ``--shape`` and ``--map`` for an input that no model has.

    Args:
        models: role (or label) -> artifact.
        shapes: by input name; rename: role -> input name -> array.

    Raises:
        UsageError: names the input and those that there are.
    """
    known = {spec.name for artifact in models.values() for spec in artifact.inputs}
    for option, names in (("--shape", list(shapes)), ("--map", [n for m in rename.values() for n in m])):
        for name in names:
            if name not in known:
                have = ", ".join(sorted(known))
                raise UsageError(f"{option} names the input '{name}', which no model has", f"inputs: {have}")
