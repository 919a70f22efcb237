"""From a target's name to the runtimes that open artifacts on it, or the reason why it is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgekd.board.session import Board, open_board
from edgekd.errors import InfrastructureError, TargetUnavailableError, UsageError
from edgekd.evidence.run import AbsentTarget
from edgekd.plugins import list_plugins, load_plugin, plugin_path
from edgekd.target import Runtime, Target, parse_target

#: Devices that a runtime reaches by itself, without a device plugin.
_RUNTIME_DEVICES = ("cuda",)
#: Opens a board's runtime from here; the runtime's name follows.
_REMOTE = "edgekd_devices.remote"


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
    device = target.device.partition("/")[0]
    runtimes, devices = list_plugins("edgekd.runtimes"), list_plugins("edgekd.devices")
    unknown = ""
    if target.runtime not in runtimes:
        unknown = f"runtime '{target.runtime}' is not provided by any plugin (known: {', '.join(runtimes)})"
    elif device not in devices and device not in _RUNTIME_DEVICES:
        unknown = f"device '{device}' is not known (known: {', '.join([*devices, *_RUNTIME_DEVICES])})"
    if unknown and required:
        raise UsageError(f"target {text}: {unknown}", "correct the name, or mark it `required: false`")
    if unknown:
        return AbsentTarget(target=text, required=False, reason=unknown)
    runtime: Runtime = load_plugin("edgekd.runtimes", target.runtime)()
    if target.remote:
        return _on_board(target, runtime)
    reason = runtime.unavailable(target.device, target.provider)
    if reason:
        return AbsentTarget(target=text, required=required, reason=reason)
    path = plugin_path("edgekd.runtimes", target.runtime)
    return ResolvedTarget(target=target, runtime_paths=dict.fromkeys(runtime.formats, path))


def _on_board(target: Target, runtime: Runtime) -> ResolvedTarget | AbsentTarget:
    """Connect, and see that the runtime is there.

    Raises:
        UsageError: no link of that kind, no address, or torch modules, which are code and no files.
    """
    if tuple(runtime.formats) == ("torch",):
        raise UsageError(
            f"target {target}: torch modules are not sent to boards", "export the model first (edgekd export)"
        )
    try:
        open_board(target)
    except InfrastructureError as e:
        return AbsentTarget(target=str(target), required=target.required, reason=str(e))
    return ResolvedTarget(
        target=target, runtime_paths=dict.fromkeys(runtime.formats, f"{_REMOTE}:{target.runtime}")
    )


def board_of(target: Target) -> Board | None:
    """The board behind a target; None where it is this machine.

    Raises:
        TargetUnavailableError, MissingDependencyError: as :class:`edgekd.board.session.Board`.
    """
    return open_board(target) if target.remote else None


def present_target(text: str) -> ResolvedTarget:
    """A target that has to be here.

    Raises:
        UsageError: unknown; TargetUnavailableError: known but absent, with the reason.
    """
    found = resolve_target(text)
    if isinstance(found, AbsentTarget) and "/" in text:
        raise TargetUnavailableError(*found.reason.split("; ", 1))  # a board's reason brings its own fix
    if isinstance(found, AbsentTarget):
        raise TargetUnavailableError(f"target {text} is not available: {found.reason}", "see `edgekd doctor`")
    return found


def torch_target() -> ResolvedTarget:
    """Where torch modules are evaluated for the chain; not probed, so that a cached run never imports torch."""
    return ResolvedTarget(
        target=parse_target("cpu:torch"), runtime_paths={"torch": plugin_path("edgekd.runtimes", "torch")}
    )
