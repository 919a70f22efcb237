"""From a target's name to the runtimes that open artifacts on it, or the reason why it is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.evidence.run import AbsentTarget
from edgekd.plugins import list_plugins, load_plugin, plugin_path
from edgekd.target import Runtime, Target, parse_target

#: Devices that a runtime reaches by itself, without a device plugin.
_RUNTIME_DEVICES = ("cuda",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTarget:
    """A target that is here; ``runtime_paths``: artifact format -> ``module:class``."""

    target: Target
    runtime_paths: Mapping[str, str]


def resolve_target(text: str, *, required: bool = True) -> ResolvedTarget | AbsentTarget:
    """Find the runtime behind a target.

    Raises:
        UsageError: not of the form, or a required target whose device or runtime no plugin provides.
    """
    target = parse_target(text, required=required)
    runtimes, devices = list_plugins("edgekd.runtimes"), list_plugins("edgekd.devices")
    unknown = ""
    if target.runtime not in runtimes:
        unknown = f"runtime '{target.runtime}' is not provided by any plugin (known: {', '.join(runtimes)})"
    elif target.device not in devices and target.device not in _RUNTIME_DEVICES:
        unknown = f"device '{target.device}' is not known (known: {', '.join([*devices, *_RUNTIME_DEVICES])})"
    if unknown and required:
        raise UsageError(f"target {text}: {unknown}", "correct the name, or mark it `required: false`")
    if unknown:
        return AbsentTarget(target=text, required=False, reason=unknown)
    runtime: Runtime = load_plugin("edgekd.runtimes", target.runtime)()
    reason = runtime.unavailable(target.device, target.provider)
    if reason:
        return AbsentTarget(target=text, required=required, reason=reason)
    path = plugin_path("edgekd.runtimes", target.runtime)
    return ResolvedTarget(target=target, runtime_paths=dict.fromkeys(runtime.formats, path))


def present_target(text: str) -> ResolvedTarget:
    """A target that has to be here.

    Raises:
        UsageError: unknown; TargetUnavailableError: known but absent, with the reason.
    """
    found = resolve_target(text)
    if isinstance(found, AbsentTarget):
        raise TargetUnavailableError(f"target {text} is not available: {found.reason}", "see `edgekd doctor`")
    return found


def torch_target() -> ResolvedTarget:
    """Where torch modules are evaluated for the chain; not probed, so that a cached run never imports torch."""
    return ResolvedTarget(
        target=parse_target("cpu:torch"), runtime_paths={"torch": plugin_path("edgekd.runtimes", "torch")}
    )
