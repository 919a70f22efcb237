"""Sessions on a board for whoever evaluates here: inputs go over the link, outputs come back, the task stays.

A runtime plugin ``onnxruntime`` of a board is loaded as ``edgekd_devices.remote:onnxruntime``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import ARTIFACT_FILE, Artifact, load_artifact
from edgekd.board.session import Board, open_board
from edgekd.data.example import Array
from edgekd.errors import EdgeKDError, ModelError, TargetUnavailableError
from edgekd.placement import PlacedOp, PlacingRuntime
from edgekd.plugins import list_plugins, load_plugin
from edgekd.spec import TensorSpec, check_feeds
from edgekd.target import Placement, SessionOptions, Target

_OPEN_S = 600.0


class RemoteSession:
    """A model opened on a board, in a child of the runner there."""

    def __init__(self, board: Board, path: Path, opened: Mapping[str, Any]) -> None:
        self.path = path
        self.inputs = tuple(TensorSpec.from_json(s) for s in opened["inputs"])
        self.outputs = tuple(TensorSpec.from_json(s) for s in opened["outputs"])
        placed = opened["placement"]
        self.placement = Placement(
            device=board.where,
            provider=placed["provider"],
            runtime=placed["runtime"],
            threads=placed["threads"],
            detail={
                **placed["detail"],
                "device_there": placed["device"],
                "machine": board.machine,
                **board.describe(),
            },
        )
        self._board, self._number, self._open = board, opened["session"], True

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once, over there.

        Raises:
            DataError: feeds that do not fit; ModelError: the model failed on them; TargetUnavailableError: the board
            vanished.
        """
        if not self._open:
            raise ModelError(f"the session of {self.path} is closed", "open it again")
        check_feeds(self.inputs, feeds, str(self.path))
        reply, arrays = self._board.request(
            "run", {"session": self._number, "feeds": list(feeds)}, list(feeds.values())
        )
        return dict(zip(reply["names"], arrays, strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """One call per call; its time is mostly the link's, so measure with :mod:`edgekd.board.measuring` instead."""
        check_feeds(self.inputs, feeds, str(self.path))
        return lambda: self.run(feeds)

    def close(self) -> None:
        """End the child over there; a second call does nothing."""
        if self._open and not self._board.lost:
            self._board.request("close", {"session": self._number})
        self._open = False


class RemoteRuntime:
    """A runtime plugin, as it is on a board.

    Args:
        name: of the plugin.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.formats: tuple[str, ...] = load_plugin("edgekd.runtimes", name)().formats

    def _target(self, device: str, provider: str) -> Target:
        return Target(device=device, runtime=self.name, provider=provider)

    def unavailable(self, device: str, provider: str) -> str:
        """Why the board cannot run it, with the fix; empty when it can."""
        try:
            open_board(self._target(device, provider))
        except EdgeKDError as e:
            return str(e)
        return ""

    def reference_settings(self, device: str, provider: str) -> Mapping[str, Any]:
        """See :class:`edgekd.pipeline.execution.ReferenceRuntime`; empty where the plugin has none."""
        asked = getattr(load_plugin("edgekd.runtimes", self.name)(), "reference_settings", None)
        there = open_board(self._target(device, provider)).device
        found: Mapping[str, Any] = asked(there, provider) if asked else {}
        return found

    def open(self, path: Path, options: SessionOptions) -> RemoteSession:
        """Send a model file, with what belongs to it, and open it there.

        Raises:
            ModelError: it cannot be opened; TargetUnavailableError: the board vanished, or another device, provider or
            thread count was used over there.
        """
        board = open_board(self._target(options.device, options.provider))
        artifact = self._artifact(path)
        opened, _ = board.request(
            "open",
            {
                "artifact": board.send(artifact),
                "label": path.name,
                "threads": options.threads,
                "settings": dict(options.settings or {}),
                "timeout_s": _OPEN_S,
            },
        )
        placed = opened["placement"]
        if (placed["device"], placed["threads"]) != (board.device, options.threads):
            raise TargetUnavailableError(
                f"{path.name} was opened on {board.where} on {placed['device']} with {placed['threads']} threads, "
                f"{board.device} with {options.threads} was asked for",
                "the runtime overrides the setting: look for an environment variable there",
            )
        return RemoteSession(board, path, opened)

    def _artifact(self, path: Path) -> Artifact:
        """A file with all that belongs to it: its folder's record, else what the format's exporter reads.

        Raises:
            ModelError: missing, damaged, or of a format that no exporter reads.
        """
        if (path.parent / ARTIFACT_FILE).is_file():
            found = load_artifact(path.parent, check=False)
            if found.entry == path.name:
                return found
        readers = [f for f in self.formats if f in list_plugins("edgekd.exporters")]
        refused: ModelError | None = None
        for name in readers:
            try:
                read: Artifact = load_plugin("edgekd.exporters", name)().read(path)
                return read
            except ModelError as e:
                refused = refused or e
        raise refused or ModelError(f"{path} is of no format that {self.name} opens", "export it first")


class PlacingRemoteRuntime(RemoteRuntime):
    """A runtime plugin that can tell where its operators ran, as it is on a board."""

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> Sequence[PlacedOp]:
        """See :class:`edgekd.placement.PlacingRuntime`; it runs over there.

        Raises:
            DataError, ModelError: as opening and running; TargetUnavailableError: the board vanished.
        """
        board = open_board(self._target(options.device, options.provider))
        reply, _ = board.request(
            "place",
            {
                "artifact": board.send(self._artifact(path)),
                "label": path.name,
                "threads": options.threads,
                "settings": dict(options.settings or {}),
                "timeout_s": _OPEN_S,
                "feeds": list(feeds),
            },
            list(feeds.values()),
        )
        return tuple(PlacedOp(**{**op, "sources": tuple(op["sources"])}) for op in reply["ops"])


def __getattr__(name: str) -> Callable[[], RemoteRuntime]:
    """Runtime plugins by name, for :func:`edgekd.plugins.load_path`.

    Raises:
        AttributeError: no such plugin.
    """
    if name not in list_plugins("edgekd.runtimes"):
        raise AttributeError(name)
    placing = isinstance(load_plugin("edgekd.runtimes", name)(), PlacingRuntime)
    return lambda: (PlacingRemoteRuntime if placing else RemoteRuntime)(name)
