"""The sizes that an export is made with: those given for its inputs, and the examples that it will be fed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekd.artifact import Artifact
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE
from edgekd.measure.offline import MAX_BATCH
from edgekd.measure.scenario import Scenario
from edgekd.model import Model
from edgekd.parity import Shapes
from edgekd.pipeline.execution import PLAIN_BATCH
from edgekd.pipeline.routes import exporter_for
from edgekd.spec import TensorSpec
from edgekd.target import Exporter, FixedSizeExporter

#: The option of an exporter that plans memory for a greatest batch.
_GREATEST = "max_batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is known of the sizes when a model is exported.

    Attributes:
        shapes: least, usual and greatest by input name, of all models that are exported.
        batch: examples per call; None where the shapes alone say it.
        most: the most examples that are fed at once.
    """

    shapes: Shapes = field(default_factory=dict)
    batch: int | None = None
    most: int = PLAIN_BATCH


def measured_sizes(shapes: Shapes, batch: int, scenario: Scenario) -> Sizes:
    """The sizes of models that are timed under a scenario, and whose answers are evaluated."""
    own = scenario.samples if scenario.name == MULTI_STREAM else 1
    if scenario.name == OFFLINE:
        own = scenario.max_batch or MAX_BATCH
    return Sizes(shapes=shapes, batch=batch, most=max(PLAIN_BATCH, batch, own))


def export_options(source: Model | Artifact, format_name: str, sizes: Sizes) -> dict[str, Any]:
    """The options that give an export its sizes: ``shapes`` of the inputs that ``source`` has.

    A format that fixes every size (:class:`edgekd.target.FixedSizeExporter`) is given one per input, at the batch. One
    that plans memory for a greatest batch (option ``max_batch``) is given the most examples that it will be fed.
    """
    exporter = exporter_for(format_name)
    shapes = {spec.name: sizes.shapes[spec.name] for spec in source.inputs if spec.name in sizes.shapes}
    options: dict[str, Any] = {}
    if isinstance(exporter, FixedSizeExporter) and exporter.fixed_sizes:
        shapes = _fixed(source.inputs, shapes, sizes.batch)
    elif isinstance(source, Model) and _plans_batches(exporter):
        given = [shapes[s.name] for s in source.inputs if s.dynamic_batch and s.name in shapes]
        most = max([sizes.most, *(high[0] for _, _, high in given)])
        # One size leaves the batch open. A range would end it, and the last rows of a split are few.
        shapes = {
            spec.name: _widened(shapes[spec.name], most) if spec.dynamic_batch else shapes[spec.name]
            for spec in source.inputs
            if spec.name in shapes
        }
        if most > PLAIN_BATCH:
            options[_GREATEST] = most
    return {"shapes": shapes, **options} if shapes else options


def _plans_batches(exporter: Exporter) -> bool:
    return _GREATEST in getattr(exporter, "OPTIONS", {})


def _widened(ends: tuple[tuple[int, ...], ...], most: int) -> tuple[tuple[int, ...], ...]:
    low, usual, high = ends
    return ends if low == high else ((1, *low[1:]), usual, (max(high[0], most), *high[1:]))


def _fixed(inputs: Sequence[TensorSpec], shapes: Shapes, batch: int | None) -> dict[str, Any]:
    """One size of each input: the usual one, at the batch; an input that nothing is said of is the exporter's."""
    found: dict[str, Any] = {}
    for spec in inputs:
        if spec.name in shapes:
            usual = shapes[spec.name][1]
            again = spec.dynamic_batch and batch is not None
            found[spec.name] = ((batch, *usual[1:]) if again else usual,) * 3
        elif spec.dynamic_batch and (batch or 1) > 1 and all(isinstance(d, int) for d in spec.shape[1:]):
            found[spec.name] = ((batch, *spec.shape[1:]),) * 3
    return found
