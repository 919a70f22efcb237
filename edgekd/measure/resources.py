"""What a model needs besides time: loading, memory, processor time, energy, and where its time goes.

One more look at every arm after the race, in children of its own, so that nothing here disturbs the timings. A reading
that is not to be had is None, and ``unavailable`` says why.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import DataError, EdgeKDError
from edgekd.evidence.measurement import TWIN
from edgekd.measure.arm import Arm, Setting, cpus_for
from edgekd.measure.energy import measure_energy
from edgekd.measure.meters import Meter
from edgekd.measure.nvml import find_gpu
from edgekd.measure.pagecache import Residency, drop_from_cache, read_into_cache
from edgekd.workload import Profile

_HERE = "edgekd.measure.inspection"

#: Events that one profile may hold: they are read back as JSON of half a kilobyte each.
_PROFILE_EVENTS = 20_000
_PROFILE_CALLS = (5, 200)
_PROFILE_WARM_UP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """How thoroughly to look.

    Attributes:
        starts: cold and warm starts each; 0 leaves load times out.
        settle_s, run_s: seconds of calls before and while processor time is counted.
        energy_s: least seconds per block of an energy measurement.
        profile: whether to take the runtime's per-node profile; profile_s: about so many seconds of it.
    """

    starts: int = 3
    settle_s: float = 0.2
    run_s: float = 0.3
    energy_s: float = 1.0
    profile: bool = False
    profile_s: float = 0.5


@dataclass(slots=True)
class _Findings:
    """One arm's evidence in the making."""

    values: dict[str, Any] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def absent(self, name: str, why: str) -> None:
        """Record that a reading is not to be had; a name with a dot is part of the value before the dot."""
        if "." not in name:
            self.values[name] = None
        self.unavailable[name] = why

    @contextlib.contextmanager
    def part(self, *names: str) -> Iterator[None]:
        """A part of the inspection whose failure costs these readings only, not the race that was won before."""
        try:
            yield
        except EdgeKDError as e:
            for name in names:
                self.absent(name, str(e))

    def to_json(self) -> dict[str, Any]:
        return {**self.values, "unavailable": dict(self.unavailable)}


def inspect_resources(
    arms: Sequence[Arm],
    setting: Setting,
    *,
    inspection: Inspection | None = None,
    meters: Sequence[Meter] = (),
    meters_absent: dict[str, str] | None = None,
    nodes: Callable[[Arm], int | None] = lambda arm: None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Inspect every arm but the twin, one after another.

    Args:
        arms, setting: of the race.
        meters: energy meters that can be read here; ``meters_absent``: why others cannot.
        nodes: about how many nodes an arm's graph has, which bounds the length of a profile; None where unknown.
        progress: called with the label of the arm that is looked at now.

    Returns:
        Arm name -> evidence, as docs/resources.md describes it.
    """
    inspection = inspection or Inspection()
    found = {}
    for arm in arms:
        if arm.name == TWIN:
            continue
        if progress is not None:
            progress(arm.label)
        findings = _Findings()
        findings.values["size_bytes"] = arm.artifact.size_bytes
        look = _Look(arm=arm, setting=setting, inspection=inspection, findings=findings)
        with findings.part("memory", "cpu", "ns_per_call", "energy"):
            look.run(meters, meters_absent or {})
        with findings.part("start", "load", "first_call_ns"):
            look.starts()
        with findings.part("profile"):
            look.profile(nodes(arm))
        found[arm.name] = findings.to_json()
    return found


def feeds_of_one_call(arm: Arm) -> dict[str, Array]:
    """What one call of the session takes: of a query that is made of several calls, the first one's part."""
    if arm.calls_per_query == 1:
        return dict(arm.feeds)
    return {name: array[: len(array) // arm.calls_per_query] for name, array in arm.feeds.items()}


def summary_of(values: Sequence[float]) -> dict[str, Any]:
    """Median and all values."""
    return {"median": statistics.median(values), "values": list(values)}


@dataclass(slots=True)
class _Look:
    """One arm, opened again and again."""

    arm: Arm
    setting: Setting
    inspection: Inspection
    findings: _Findings

    @property
    def threads(self) -> int:
        return self.arm.threads or self.setting.threads

    def _child(self) -> ChildProcess:
        limits = Limits.on(
            self.setting.target.device, timeout_s=self.setting.timeout_s, memory_bytes=self.setting.memory_bytes,
            cpus=cpus_for(0, self.threads), threads=self.threads,
        )  # fmt: skip
        return ChildProcess(
            f"inspecting {self.arm.label} on {self.setting.target}", limits, self.setting.search
        )

    def _args(self) -> dict[str, Any]:
        arm, target = self.arm, self.setting.target
        if arm.artifact.format not in self.setting.runtime_paths:
            raise DataError(f"{target} cannot open {arm.label} (format {arm.artifact.format})")
        return {
            "runtime": self.setting.runtime_paths[arm.artifact.format],
            "path": str(arm.artifact.path.resolve()),
            "device": target.device,
            "provider": target.provider,
            "threads": self.threads,
            "settings": dict(arm.artifact.settings if arm.settings is None else arm.settings),
            "feeds": list(arm.feeds),
        }

    def _ask(self, child: ChildProcess, call: str, **more: Any) -> dict[str, Any]:
        arrays = list(feeds_of_one_call(self.arm).values()) if call in ("load", "profile") else []
        return child.request(f"{_HERE}:{call}", {**self._args(), **more}, arrays)[0]

    def run(self, meters: Sequence[Meter], meters_absent: dict[str, str]) -> None:
        """Memory after each step, device memory, processor time per call, energy."""
        device = _DeviceMemory(self.setting.target.device)
        with self._child() as child:
            imported = self._ask(child, "import_runtime")
            loaded = self._ask(child, "load")
            settled = self._ask(child, "settle", seconds=self.inspection.settle_s)
            calls = max(3, math.ceil(self.inspection.run_s * 1e9 / settled["ns_per_call"]))
            used = self._ask(child, "run_calls", count=calls)
            ran = self._ask(child, "report_memory")
            values = self.findings.values
            values["memory"] = {
                "after_import_bytes": imported["peak_bytes"],
                "after_load_bytes": loaded["peak_bytes"],
                "after_run_bytes": ran["peak_bytes"],
                "peak_bytes": ran["peak_bytes"],
                "peak_bytes_values": [ran["peak_bytes"]],
                "resident_bytes": ran["resident_bytes"],
                "feeds_bytes": sum(a.nbytes for a in feeds_of_one_call(self.arm).values()),
            }
            if ran["resident_bytes"] is None:
                self.findings.unavailable["memory.resident_bytes"] = "the system has no /proc/self/status"
            values["ns_per_call"] = used["midmean_ns"]
            values["cpu"] = {
                "calls": calls,
                "cpu_ns_per_call": used["cpu_ns"] / calls,
                "wall_ns_per_call": used["wall_ns"] / calls,
                "parallelism": used["cpu_ns"] / used["wall_ns"],
                "threads": self.threads,
                "voluntary_switches": used["voluntary_switches"],
                "involuntary_switches": used["involuntary_switches"],
            }
            with self.findings.part("device_memory"):
                device.record(self.findings, child.pid)
            self._energy(child, meters, meters_absent, used["wall_ns"] / calls)

    def _energy(
        self, child: ChildProcess, meters: Sequence[Meter], absent: dict[str, str], ns_per_call: float
    ) -> None:
        for name, why in absent.items():
            self.findings.unavailable[f"energy.{name}"] = why
        if not meters:
            why = "; ".join(f"{n}: {w.partition('; ')[0]}" for n, w in absent.items())
            self.findings.absent("energy", why or "no energy meter is installed, or none was asked for")
            return
        found, failed = measure_energy(
            meters, lambda count: self._ask(child, "run_calls", count=count), ns_per_call,
            block_s=self.inspection.energy_s,
        )  # fmt: skip
        for name, why in failed.items():
            self.findings.unavailable[f"energy.{name}"] = why
        if found:
            self.findings.values["energy"] = found
        else:
            self.findings.absent("energy", "; ".join(f"{n}: {w}" for n, w in failed.items()))

    def starts(self) -> None:
        """Cold and warm starts in turns, each in a fresh child."""
        if not self.inspection.starts:
            for name in ("start", "load", "first_call_ns"):
                self.findings.absent(name, "not asked for")
            return
        paths = [self.arm.artifact.file_path(f.path) for f in self.arm.artifact.files]
        begun: list[int] = []
        imports: list[int] = []
        loads: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
        pages: dict[str, list[Residency]] = {"cold": [], "warm": []}
        for _ in range(self.inspection.starts):
            for kind in ("cold", "warm"):
                before = time.perf_counter_ns()
                with self._child() as child:
                    imported = self._ask(child, "import_runtime")
                    begun.append(time.perf_counter_ns() - before - imported["import_ns"])
                    imports.append(imported["import_ns"])
                    # Now, right before the file is opened: nothing has time to bring it back.
                    there = drop_from_cache(paths) if kind == "cold" else read_into_cache(paths)
                    pages[kind].append(there)
                    loads[kind].append(self._ask(child, "load"))
        values = self.findings.values
        values["start"] = {"process_ns": summary_of(begun), "runtime_import_ns": summary_of(imports)}
        values["load"] = {k: _load_json(loads[k], pages[k]) for k in loads}
        values["first_call_ns"] = summary_of([x["first_call_ns"] for x in loads["warm"]])
        self._peaks([x["run_peak_bytes"] for x in (*loads["cold"], *loads["warm"])])
        kept = next((p for p in pages["cold"] if not p.cold), None)
        if kept is not None:
            values["load"]["cold"] = None
            self.findings.unavailable["load.cold"] = kept.reason or (
                f"{kept.resident} of {kept.pages} pages of its files stayed in memory "
                "(a file system in memory, a file of another owner, or another process has it open)"
            )

    def _peaks(self, seen: Sequence[int | None]) -> None:
        """The greatest peak of all children counts: an allocator's layout, and so a peak, differs from start to start."""
        memory = self.findings.values.get("memory")
        if memory is not None and memory["peak_bytes"] is not None:
            memory["peak_bytes_values"] += [b for b in seen if b is not None]
            memory["peak_bytes"] = max(memory["peak_bytes_values"])

    def profile(self, nodes: int | None) -> None:
        """The runtime's own profile, in a child of its own."""
        if not self.inspection.profile:
            self.findings.absent("profile", "not asked for (--profile)")
            return
        per_call = self.findings.values.get("ns_per_call") or 1e6
        low, high = _PROFILE_CALLS
        calls = int(min(high, self.inspection.profile_s * 1e9 / per_call, _PROFILE_EVENTS / (nodes or 100)))
        with self._child() as child:
            made = self._ask(child, "profile", calls=max(low, calls), warm_up=_PROFILE_WARM_UP)["profile"]
        if made is None:
            self.findings.absent("profile", f"the runtime {self.setting.target.runtime} has no profiler")
            return
        self.findings.values["profile"] = profile_json(Profile.from_json(made))


class _DeviceMemory:
    """Device memory before and after; only a device that has its own is asked."""

    def __init__(self, device: str) -> None:
        self._gpu = None
        self._why = "" if device == "cuda" else f"device '{device}' has no memory of its own"
        if not self._why:
            try:
                self._gpu = find_gpu()
                self._before, _ = self._gpu.used_bytes(os.getpid())
            except EdgeKDError as e:
                self._why = str(e)

    def record(self, findings: _Findings, pid: int) -> None:
        if self._gpu is None or self._why:
            findings.absent("device_memory", self._why)
            return
        used, how = self._gpu.used_bytes(pid)
        whole = how == "the whole device"
        findings.values["device_memory"] = {
            "used_bytes": used - self._before if whole else used,
            "counted": f"{how}, less what was used before" if whole else how,
            "device": self._gpu.name,
            "uuid": self._gpu.uuid,
        }


def _load_json(loads: Sequence[dict[str, Any]], pages: Sequence[Residency]) -> dict[str, Any]:
    return {
        "load_ns": summary_of([x["load_ns"] for x in loads]),
        "first_call_ns": summary_of([x["first_call_ns"] for x in loads]),
        "read_bytes": [x["read_bytes"] for x in loads],
        "pages": pages[0].pages,
        "resident_pages": [p.resident for p in pages],
        "verified_by": "mincore" if all(p.resident is not None for p in pages) else None,
    }


def profile_json(profile: Profile, top: int = 10) -> dict[str, Any]:
    """A profile per operator and its ``top`` most expensive nodes; shares are of the time in nodes."""
    total = sum(n.ns_per_call for n in profile.nodes) or 1.0
    by_op: dict[str, list[float]] = {}
    for node in profile.nodes:
        by_op.setdefault(node.op, []).append(node.ns_per_call)
    ordered = sorted(profile.nodes, key=lambda n: -n.ns_per_call)
    return {
        "source": profile.source,
        "calls": profile.calls,
        "warm_up_calls": _PROFILE_WARM_UP,
        "resolution_ns": profile.resolution_ns,
        "ns_per_call": profile.ns_per_call,
        "node_ns_per_call": total,
        "nodes": len(profile.nodes),
        "by_op": [
            {"op": op, "nodes": len(times), "share": sum(times) / total, "ns_per_call": sum(times)}
            for op, times in sorted(by_op.items(), key=lambda item: -sum(item[1]))
        ],
        "top": [
            {
                "name": n.name, "op": n.op, "share": n.ns_per_call / total, "ns_per_call": n.ns_per_call,
                "provider": n.provider, "output_shapes": list(n.output_shapes),
            }
            for n in ordered[:top]
        ],
    }  # fmt: skip
