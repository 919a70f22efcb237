"""The code-speed statistic: one effect per restart, and the choice of how it is taken where calls are long.

METHOD, section 1, steps 5 and 7. Short calls: per block the minimum, per round the log ratio to the baseline, per
restart the median. Long calls (a millisecond and more) seldom have an undisturbed minimum on a busy machine, so they
are also timed by the CPU clock, which stands still while another process has the CPU. Which of the statistics is
used is decided by the baseline against its hidden twin, in the restarts before the first look: never by the
candidate's times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.data.example import Array
from edgekd.evidence.measurement import BASELINE, TWIN, Measurement, Restart

#: The statistics in the order of preference: the one that answers the user's question best comes first.
WALL_MINIMUM = "block minimum, wall clock"
WALL_DECILE = "tenth percentile of the restart's calls, wall clock"
CPU_MINIMUM = "block minimum, CPU clock"
STATISTICS = (WALL_MINIMUM, WALL_DECILE, CPU_MINIMUM)

#: The choice is made on the restarts before the first look, and kept.
CHOSEN_ON = 4
#: Another statistic takes the first one's place only where A/A' scatters less than this share of the first one's.
BETTER = 0.5
#: Share of CPU time in wall time of the least disturbed calls (95th percentile) that makes the CPU clock a clock of
#: latency: below, the model waits for something (a device, a disk, a sleep); above, it has threads of its own.
CPU_SHARE = (0.97, 1.02)
_PARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which statistic is used, and what the choice was made from.

    Attributes:
        statistic: one of :data:`STATISTICS`.
        spread: statistic -> root mean square of log(twin / baseline), over thirds of the restarts before the first
            look; without the CPU clock where it is not a clock of latency here.
    """

    statistic: str
    spread: Mapping[str, float]


def _effect(a: Sequence[Array], b: Sequence[Array], statistic: str) -> float:
    """log(b / a) over rounds of blocks, by a statistic."""
    if statistic == WALL_DECILE:
        return math.log(
            float(np.quantile(np.concatenate(b), 0.1)) / float(np.quantile(np.concatenate(a), 0.1))
        )
    return float(np.median([math.log(float(y.min()) / float(x.min())) for x, y in zip(a, b, strict=True)]))


def _blocks(measurement: Measurement, restart: int, arm: str, statistic: str) -> tuple[Array, ...]:
    made = measurement.restarts[restart]
    return made.cpu_blocks.get(arm, ()) if statistic == CPU_MINIMUM else made.blocks[arm]


def _has_cpu_times(restart: Restart, arm: str) -> bool:
    """Whether every call of an arm was timed by the CPU clock, too, and that clock moved in each."""
    cpu, wall = restart.cpu_blocks.get(arm, ()), restart.blocks[arm]
    whole = bool(cpu) and [len(c) for c in cpu] == [len(w) for w in wall]
    return whole and all(int(c.min()) > 0 for c in cpu)


def _cpu_clock_serves(measurement: Measurement, arms: Sequence[str]) -> bool:
    """Whether CPU time is the latency but for the time that other processes took."""
    # An accelerator goes on while its host waits, so a host that loses its CPU would look fast.
    if measurement.target.partition(":")[0] != "cpu":
        return False
    least, most = CPU_SHARE
    for arm in arms:
        record = measurement.arms[arm]
        if record.get("threads", measurement.threads) * record.get("sessions", 1) != 1:
            return False
        shares = []
        for restart in measurement.restarts[:CHOSEN_ON]:
            if not _has_cpu_times(restart, arm):
                return False
            shares.append(np.concatenate(restart.cpu_blocks[arm]) / np.concatenate(restart.blocks[arm]))
        if not least <= float(np.quantile(np.concatenate(shares), 0.95)) <= most:
            return False
    return True


def choose_statistic(measurement: Measurement, arm: str) -> Choice:
    """Choose by the scatter of A/A' (METHOD 1, step 7).

    Args:
        measurement: with the arms baseline, twin and ``arm``. Only the restarts before the first look count, so the
            answer does not change when more are made.
        arm: only whether its CPU clock serves is looked at, not how long it takes.

    Returns:
        The block minimum by the wall clock for calls under a millisecond, and where there is no twin.
    """
    first = measurement.restarts[:CHOSEN_ON]
    # Whether calls are long is the baseline's to say, in every restart: a candidate's times do not open the choice.
    long = all(name in r.cpu_blocks for r in first for name in (BASELINE, TWIN))
    if len(first) < CHOSEN_ON or TWIN not in measurement.arms or not long:
        return Choice(statistic=WALL_MINIMUM, spread={})
    asked = [s for s in STATISTICS if s != CPU_MINIMUM]
    if _cpu_clock_serves(measurement, (BASELINE, TWIN, arm)):
        asked.append(CPU_MINIMUM)
    spread: dict[str, float] = {}
    for statistic in asked:
        found = []
        for i in range(len(first)):
            a = _blocks(measurement, i, BASELINE, statistic)
            b = _blocks(measurement, i, TWIN, statistic)
            for part in np.array_split(np.arange(len(a)), min(_PARTS, len(a))):
                found.append(_effect([a[k] for k in part], [b[k] for k in part], statistic))
        # Root mean square: what a t interval over restarts will see, bursts included.
        spread[statistic] = float(np.sqrt(np.mean(np.square(found))))
    best = min(asked, key=lambda s: spread[s])
    keep = spread[best] >= BETTER * spread[WALL_MINIMUM]
    return Choice(statistic=WALL_MINIMUM if keep else best, spread=spread)


def restart_effects(measurement: Measurement, arm: str, statistic: str = WALL_MINIMUM) -> Array:
    """Per restart, log(time per example of ``arm`` / time per example of the baseline).

    The clock is chosen on the first restarts. Calls of about a millisecond may have no CPU times in a later one (each
    child decides by its own warm-up): that restart's minima are then by the wall clock, for both arms.

    Args:
        statistic: one of :data:`STATISTICS`.

    Returns:
        float64 (restarts,).
    """
    batches = [measurement.arms[name].get("batch", measurement.batch) for name in (BASELINE, arm)]
    per_example = math.log(batches[1] / batches[0])
    effects = []
    for i, restart in enumerate(measurement.restarts):
        timed = statistic != CPU_MINIMUM or all(_has_cpu_times(restart, name) for name in (BASELINE, arm))
        own = statistic if timed else WALL_MINIMUM
        a, b = (_blocks(measurement, i, name, own) for name in (BASELINE, arm))
        effects.append(_effect(a, b, own) - per_example)
    return np.asarray(effects, np.float64)


def unusable(measurement: Measurement, arm: str, *, twin: bool = True) -> str:
    """Why the samples cannot be judged, as a sentence; empty when they can."""
    arms = measurement.arms
    needed = (BASELINE, TWIN, arm) if twin else (BASELINE, arm)
    for name in needed:
        if name not in arms:
            return f"the measurement has no arm '{name}' (it has {', '.join(arms)}); measure again"
        batch = arms[name].get("batch", measurement.batch)
        if not isinstance(batch, int) or batch < 1:
            return f"the measurement says that '{name}' has a batch of {batch!r}; measure again"
        if trouble := emulation(measurement, name):
            return trouble
    if twin and arms[TWIN].get("artifact") != arms[BASELINE].get("artifact"):
        return "the measurement's baseline twin is another artifact than its baseline; measure again"
    if trouble := _other_inputs(measurement, needed):
        return trouble
    for i, restart in enumerate(measurement.restarts):
        rounds = {name: len(restart.blocks.get(name, ())) for name in needed}
        if len(set(rounds.values())) != 1 or not rounds[arm]:
            shown = ", ".join(f"{k} {v}" for k, v in rounds.items())
            return f"restart {i} has unequal or missing blocks ({shown}); measure again"
        for name in rounds:
            for j, block in enumerate(restart.blocks[name]):
                times = np.asarray(block, np.float64)
                if not times.size:
                    return f"restart {i}, round {j} of '{name}' holds no call; measure again"
                if not np.isfinite(times).all() or times.min() <= 0:
                    return (
                        f"restart {i}, round {j} of '{name}' holds a call of {times.min():g} ns: "
                        "the clock stepped, or the evidence was altered; measure again"
                    )
    return ""


def emulation(measurement: Measurement, arm: str) -> str:
    """Why an arm's times are no latency, as a sentence, where its precision was emulated; empty where it was not."""
    if precision := measurement.emulated(arm):
        return (
            f"'{arm}' emulates {precision} on {measurement.target}, which is for accuracy only; time it on hardware that "
            "has it, and leave latency gates out here"
        )
    return ""


def _other_inputs(measurement: Measurement, arms: Sequence[str]) -> str:
    """Whether the arms were fed from one source; times on other inputs are not to be compared."""
    fed = {name: measurement.arms[name].get("inputs") for name in arms}
    first = fed[BASELINE]
    if first is None:
        return ""  # evidence from before inputs were recorded by arm
    for name, inputs in fed.items():
        if inputs is None:
            return f"the measurement does not say what '{name}' was fed; measure again"
        for key in ("kind", "seed", "examples"):
            if inputs.get(key) != first.get(key):
                return (
                    f"'{name}' was fed other inputs than the baseline ({key} {inputs.get(key)!r}, "
                    f"not {first.get(key)!r}); measure both on the same"
                )
    if TWIN in fed and (fed[TWIN] or {}).get("sha256") != first.get("sha256"):
        return "the baseline's twin was fed other bytes than the baseline; measure again"
    return ""
