"""What works on this machine: each capability probed, with the evidence and the command that would mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edgekd.child import ChildProcess, Limits
from edgekd.errors import EdgeKDError
from edgekd.evidence.run import AbsentTarget
from edgekd.measure import ledger
from edgekd.measure.meters import GROUP as METERS
from edgekd.pipeline.doctor_gpu import gpu_rows
from edgekd.pipeline.doctor_session import needs_session, try_session
from edgekd.pipeline.targets import resolve_target
from edgekd.plugins import list_plugins, load_plugin
from edgekd.stages import default_cache_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One capability: ``state`` is ``ok``, ``missing``, ``broken`` or ``not applicable``."""

    name: str
    state: str
    evidence: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_EXPORTERS = "edgekd.exporters"

#: (name, distribution, extra, what it is for)
_PACKAGES = (
    ("torch", "torch", "torch", "training and export"),
    ("onnx", "onnx", "", "reading ONNX files"),
    ("onnxruntime", "onnxruntime", "ort", "running and quantizing ONNX models"),
    ("scikit-learn", "scikit-learn", "data", "sklearn:digits, F1 and other metrics"),
    ("scipy", "scipy", "data", "audio, time series"),
    ("pillow", "pillow", "data", "image folders"),
    ("pyarrow", "pyarrow", "data", ".parquet"),
    ("tokenizers", "tokenizers", "text", "text and token classification"),
    ("seqeval", "seqeval", "text", "entity F1"),
    ("pycocotools", "pycocotools", "detection", "mAP"),
    ("optimum", "optimum", "hf", "exporting Hugging Face models"),
    ("onnxslim", "onnxslim", "optimize", "simplifying ONNX graphs"),
    ("openvino", "openvino", "openvino", "OpenVINO models"),
    ("nncf", "nncf", "openvino", "quantizing OpenVINO models"),
    ("executorch", "executorch", "executorch", "ExecuTorch programs"),
    ("ai-edge-litert", "ai-edge-litert", "litert", "running LiteRT models"),
    ("ai-edge-quantizer", "ai-edge-quantizer", "litert", "quantizing LiteRT models"),
)
#: Findings that plugins and the GPU part make have these keys.
_KEYS = ("name", "state", "evidence", "fix")


@runtime_checkable
class ProbingPlugin(Protocol):
    """What an exporter plugin may offer: findings of its own, as ``{"name", "state", "evidence", "fix"}``."""

    def probe(self) -> list[dict[str, str]]:
        """Try what this machine can do with the format; states as in :class:`Finding`."""
        ...


def _packages() -> list[Finding]:
    found = []
    for name, distribution, extra, purpose in _PACKAGES:
        try:
            version = importlib.metadata.version(distribution)
            found.append(Finding(name=name, state="ok", evidence=f"{version}, for {purpose}"))
        except importlib.metadata.PackageNotFoundError:
            fix = f"pip install 'edgekd[{extra}]'" if extra else "pip install edgekd"
            found.append(
                Finding(name=name, state="missing", evidence=f"not installed; for {purpose}", fix=fix)
            )
    try:
        importlib.metadata.version("onnxruntime-gpu")
        importlib.metadata.version("onnxruntime")
        found.append(
            Finding(
                name="onnxruntime-gpu",
                state="broken",
                evidence="installed beside onnxruntime: they own one folder, and the CPU one hides the CUDA provider",
                fix="pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
            )
        )
    except importlib.metadata.PackageNotFoundError:
        pass
    return found


def _findings(rows: list[dict[str, str]]) -> list[Finding]:
    return [Finding(**{key: row.get(key, "") for key in _KEYS}) for row in rows]


def _probed() -> list[Finding]:
    """What exporter plugins find out themselves."""
    found: list[Finding] = []
    for name in list_plugins(_EXPORTERS):
        try:
            plugin = load_plugin(_EXPORTERS, name)()
            if isinstance(plugin, ProbingPlugin):
                found += _findings(plugin.probe())
        except EdgeKDError as e:
            found.append(Finding(name=f"exporter {name}", state="broken", evidence=e.what, fix=e.fix))
    return found


def _links() -> list[Finding]:
    """The programs that reach boards; a board of one's own is asked with ``--need ssh/HOST:RUNTIME``."""
    found = []
    for name, variable, package in (("ssh", "EDGEKD_SSH", "openssh-client"), ("adb", "EDGEKD_ADB", "adb")):
        said = os.environ.get(variable) or name
        place = shutil.which(said.split()[0])
        found.append(
            Finding(name=name, state="ok", evidence=f"{place}, for {name}/… targets")
            if place
            else Finding(
                name=name,
                state="not applicable",
                evidence=f"not on the path, for {name}/… targets",
                fix=f"install {package}, or name the program in {variable}",
            )
        )
    return found


def _isolation() -> Finding:
    """Whether children, in which models are opened, are without network here."""
    name = "children without network"
    try:
        with ChildProcess("looking for a network", Limits(timeout_s=60.0)) as child:
            found, _ = child.request("edgekd.child.sessions:network", {})
    except EdgeKDError as e:
        return Finding(name=name, state="broken", evidence=e.what, fix=e.fix)
    said = str(found["network"])
    if said == "none":
        return Finding(
            name=name, state="ok", evidence="models are opened in a network namespace of their own"
        )
    return Finding(
        name=name, state="missing", evidence=f"models are opened with this machine's network ({said})",
        fix="allow user namespaces (sysctl user.max_user_namespaces, seccomp profile of the container)",
    )  # fmt: skip


def examine_target(text: str) -> Finding:
    """Whether a target can be used: by asking its runtime and, off the CPU, by a session in a child.

    Raises:
        UsageError: unknown.
    """
    found = resolve_target(text)
    if isinstance(found, AbsentTarget):
        evidence, _, fix = found.reason.partition("; ")
        # A pair that no machine could have is nothing to mend.
        never = "does not run on device" in evidence
        return Finding(name=text, state="not applicable" if never else "missing", evidence=evidence, fix=fix)
    opens = f"opens {', '.join(found.runtime_paths)}"
    if not needs_session(found):
        return Finding(name=text, state="ok", evidence=opens)
    try:
        tried = try_session(found)
    except EdgeKDError as e:
        return Finding(name=text, state="broken", evidence=e.what, fix=e.fix)
    return Finding(name=text, state="ok", evidence=f"{opens}; {tried}")


def _meters() -> list[Finding]:
    entries = ledger.ledger_between(ledger.snapshot((0,)), ledger.snapshot((0,)))
    readings = {
        "steal": entries["steal"] is not None or bool(entries["idle"]),
        "pressure (PSI)": entries["pressure_some"] is not None,
        "cgroup throttling": entries["throttled_us"] is not None,
        "CPU frequency": entries["clock_mhz"] is not None,
        "temperature": entries["temperature_c"] is not None,
    }
    absent = "the system does not offer it: the ledger says so, nothing is guessed"
    found = [
        Finding(
            name=name,
            state="ok" if there else "not applicable",
            evidence="read while measuring" if there else absent,
        )
        for name, there in readings.items()
    ]
    return found + [_energy_meter(name) for name in list_plugins(METERS)]


def _energy_meter(name: str) -> Finding:
    """An energy meter; one that could be read if someone allowed it is missing, one that is not there is neither."""
    shown = f"meter {name}"
    try:
        meter = load_plugin(METERS, name)()
        why = meter.unavailable()
    except EdgeKDError as e:
        return Finding(name=shown, state="broken", evidence=e.what, fix=e.fix)
    if why:
        evidence, _, fix = why.partition("; ")
        return Finding(name=shown, state="missing" if fix else "not applicable", evidence=evidence, fix=fix)
    counts = ", ".join(f"{key} {value}" for key, value in meter.describe().items())
    return Finding(name=shown, state="ok", evidence=f"counts energy: {counts}")


def examine() -> list[Finding]:
    """Every probe, in the order it is printed."""
    machine = ledger.machine()
    findings = [
        Finding(
            name="machine",
            state="ok",
            evidence=f"{machine['cpu']}, {machine['cpus']} CPUs, Python {machine['python']}, {machine['system']}",
        )
    ]
    findings += _packages() + _probed() + _findings(gpu_rows())
    for runtime in list_plugins("edgekd.runtimes"):
        for device in ("cpu", "cuda"):
            try:
                findings.append(examine_target(f"{device}:{runtime}"))
            except EdgeKDError as e:
                findings.append(
                    Finding(name=f"{device}:{runtime}", state="broken", evidence=e.what, fix=e.fix)
                )
    findings += _links()
    findings += _meters()
    findings.append(_isolation())
    root = default_cache_root(os.environ)
    writable = os.access(
        root if root.exists() else root.parent if root.parent.exists() else Path.home(), os.W_OK
    )
    findings.append(
        Finding(
            name="cache",
            state="ok" if writable else "broken",
            evidence=str(root),
            fix="" if writable else "set EDGEKD_CACHE to a folder that can be written",
        )
    )
    return findings
