"""What every quantizer does after it has quantized: check the result on real examples, and write down how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.damage import BOUNDS, FIX, Answers, Bounds, Damage, data_sized
from edgekd.quantize.spool import CalibrationSpool
from edgekd.spec import TensorSpec
from edgekd.stages import tool_versions

#: Real examples that source and result are compared on, at most: enough for the binomial bound, seconds of work.
CHECKED_EXAMPLES = 64


class Answering(Protocol):
    """A session, as far as answers are compared."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]: ...

    def close(self) -> None: ...


def check_against(
    open_before: Callable[[], Answering],
    open_after: Callable[[], Answering],
    spool: CalibrationSpool | Iterable[Mapping[str, Array]],
    bounds: Bounds = BOUNDS,
    *,
    examples: int = CHECKED_EXAMPLES,
    fix: str = FIX,
) -> Damage:
    """Run a float model and what was made of it on the same real examples, and refuse what is broken.

    Both are open at once and answer batch by batch: memory holds one batch of answers, not ``examples``.

    Args:
        open_before, open_after: open the float source and the result; both are closed here.
        spool: the spooled examples, or their batches where a runtime wants other sizes than were spooled.
        examples: stop once so many are compared; whole batches.

    Raises:
        DataError: no examples; ModelError: the result does not run, or is beyond ``bounds``.
    """
    batches = map(spool.batch, range(spool.batches)) if isinstance(spool, CalibrationSpool) else spool
    before = open_before()
    try:
        after = open_after()
        try:
            seen = Answers(free=data_sized(before.inputs, before.outputs))
            for feeds in batches:
                if seen.examples >= examples:
                    break
                seen.add(before.run(feeds), after.run(feeds), fix=fix)
        finally:
            after.close()
    finally:
        before.close()
    return seen.damage(bounds, fix=fix)


def quantization_lineage(
    source: Artifact,
    config: QuantConfig,
    spool: CalibrationSpool,
    damage: Damage,
    *,
    nodes: int,
    tools: Iterable[str],
    choices: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The lineage of a quantized artifact: its source's, and how it was quantized, on what, and what that did.

    Args:
        source: the float artifact.
        nodes: how many nodes quantize, or operators compute in the precision.
        tools: packages whose versions decided.
        choices: what the quantizer chose beside ``config``.
    """
    # Parity says how the float file was compared with its own source, which tells nothing of this one.
    carried = {k: v for k, v in source.lineage.items() if k != "parity"}
    return {
        **carried,
        "quantized_from": source.digest,
        "quantization": {**config.to_json(), **(choices or {})},
        "calibration": {
            "examples": spool.examples,
            "batches": spool.batches,
            "digest": spool.digest,
            "constant_inputs": spool.constant,
        },
        "checked_on": spool.source,
        "quantized_nodes": nodes,
        **damage.to_lineage(),
        "tools": {**source.lineage.get("tools", {}), **tool_versions(*tools)},
    }
