"""What the planted slow-downs really cost here: all copies beside the base in one long EdgeKD measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.evidence.measurement import BASELINE, Restart
from edgekd.files import read_json, write_json
from edgekd.measure import Arm, Protocol, Setting, ledger, measure
from edgekd.models import open_reference
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.targets import present_target
from edgekd.stages import StageStore
from gate_power import models

SCHEMA = "edgekd.gate_power.models/1"
TARGET = "cpu:onnxruntime"
#: Calibration of long calls has fewer calls per block than the gate: only the mean ratio is asked here.
_PROTOCOLS = {"short": Protocol(), "long": Protocol(rounds=6, block_calls=3, warm_calls=5, block_ms=1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One copy of the base model.

    Attributes:
        built: its ratio to the base by construction, layers / layers.
        ratio, error: as measured by calibration, with its standard error over restarts; None where not calibrated.
    """

    built: float
    ratio: float | None
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The base model, its copies, and what is known of them.

    Attributes:
        artifacts: ``base`` and each effect.
        planted: effect -> what was planted.
        call_ms: the base model's fastest call when it was made; restarts: of the calibration.
    """

    calls: str
    side: int
    call_ms: float
    restarts: int
    artifacts: Mapping[str, Artifact]
    planted: Mapping[str, Planted]

    @property
    def digests(self) -> dict[str, str]:
        return {name: a.digest for name, a in self.artifacts.items()}


def setting() -> Setting:
    """As ``edgekd gate`` measures: one thread, batch 1."""
    target = present_target(TARGET)
    return Setting(target=target.target, runtime_paths=target.runtime_paths)


def machine() -> dict[str, Any]:
    """The machine without its boot: a calibration outlives a restart of the machine."""
    return {k: v for k, v in ledger.machine().items() if k != "boot_id"}


def _open(folder: Path, store: StageStore) -> dict[str, Artifact]:
    names = {"base": "base.onnx", **{e: f"effect-{e}.onnx" for e in models.EFFECTS}}
    found: dict[str, Artifact] = {}
    for name, file in names.items():
        opened = open_reference(str((folder / file).resolve()), weights=None, base=folder, store=store)
        if not isinstance(opened, Artifact):
            raise TypeError(f"{file} was opened as {type(opened).__name__}, expected an artifact")
        found[name] = opened
    return found


def _restart_log(restart: Restart, effect: str) -> float:
    """Median over rounds of the log ratio of block minima: the truth does not rest on the judge that is tried."""
    pairs = zip(restart.blocks[effect], restart.blocks[BASELINE], strict=True)
    return float(np.median([math.log(float(b.min()) / float(a.min())) for b, a in pairs]))


def _achieved(
    artifacts: Mapping[str, Artifact], effects: Sequence[str], calls: str, restarts: int
) -> dict[str, tuple[float, float]]:
    """Effect -> measured ratio and its standard error."""
    feeds = Feeds()
    arms = [
        Arm(
            name=BASELINE,
            label="base",
            artifact=artifacts["base"],
            feeds=feeds.of(artifacts["base"], "baseline", 1),
        )
    ]
    arms += [
        Arm(name=e, label=e, artifact=artifacts[e], feeds=feeds.of(artifacts[e], "student", 1))
        for e in effects
    ]
    protocol = replace(
        _PROTOCOLS[calls], min_restarts=restarts, max_restarts=restarts, max_redraws=4 * restarts, seed=20_000
    )
    made = measure(arms, setting(), inputs={"kind": "drawn"}, protocol=protocol)
    achieved = {}
    for effect in effects:
        logs = np.asarray([_restart_log(r, effect) for r in made.restarts])
        ratio = math.exp(float(logs.mean()))
        achieved[effect] = ratio, ratio * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return achieved


def prepare(
    folder: Path,
    calls: str,
    *,
    restarts: int,
    effects: Sequence[str],
    store: StageStore,
    say: Callable[[str], None],
) -> Models:
    """The models of ``folder``, made and calibrated first where they are not there yet.

    Args:
        calls: ``short`` or ``long``.
        restarts: of the calibration; 0 leaves it out and only the construction is known.
        effects: that are calibrated.

    Raises:
        EvidenceError: the folder's record is damaged; ValueError: it is of other calls or another machine.
    """
    record = folder / "models.json"
    if not record.exists():
        side, found = models.choose_side(calls)
        calibrating = f"; calibrating {', '.join(effects)} over {restarts} restarts" if restarts else ""
        say(f"models: side {side}, {found:.3g} ms a call{calibrating}")
        models.write_models(folder, side)
        artifacts = _open(folder, store)
        achieved = _achieved(artifacts, effects, calls, restarts) if restarts else {}
        write_json(
            record,
            {
                "schema": SCHEMA,
                "calls": calls,
                "side": side,
                "call_ms": found,
                "restarts": restarts,
                "machine": machine(),
                "files": {n: a.digest for n, a in artifacts.items()},
                "achieved": {e: list(v) for e, v in achieved.items()},
            },
        )
    value = read_json(record, SCHEMA)
    artifacts = _open(folder, store)
    if value["calls"] != calls or value["files"] != {n: a.digest for n, a in artifacts.items()}:
        raise ValueError(
            f"{record} is of {value['calls']} calls or of other files; give another --models folder"
        )
    if value["machine"] != machine():
        raise ValueError(
            f"{record} was calibrated on another machine or Python; give another --models folder"
        )
    planted = {}
    for effect, more in models.EFFECTS.items():
        ratio, error = value["achieved"].get(effect, (None, None))
        planted[effect] = Planted(built=(models.LAYERS + more) / models.LAYERS, ratio=ratio, error=error)
    return Models(
        calls=calls, side=int(value["side"]), call_ms=float(value["call_ms"]), restarts=int(value["restarts"]),
        artifacts=artifacts, planted=planted,
    )  # fmt: skip
