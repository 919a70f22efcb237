"""An engine opened in a child: CUDA errors are sticky, so none may happen in the process that judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edgekd.child import ChildProcess
from edgekd.data.example import Array
from edgekd.spec import TensorSpec
from edgekd.target import Placement

_RUNTIME = "edgekd_tensorrt.runtime:TensorRtRuntime"


class RemoteSession:
    """A :class:`edgekd.target.Session` of a plan in a process of its own; ends it when closed.

    Raises:
        ModelError, TargetUnavailableError, ChildError: as opening it.
    """

    def __init__(self, plan: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._child = ChildProcess(f"running {plan.name}")
        try:
            opened, _ = self._child.request(
                "edgekd.child.sessions:open_for_runs",
                {"runtime": _RUNTIME, "path": str(plan.resolve()), "device": "cuda", "provider": "", "threads": 1,
                 "settings": {}},
            )  # fmt: skip
        except BaseException:
            self._child.close()
            raise
        self.placement = Placement(**opened["placement"])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array.

        Raises:
            DataError, ModelError, ChildError: as running it there.
        """
        reply, arrays = self._child.request(
            "edgekd.child.sessions:run_once", {"feeds": list(feeds)}, list(feeds.values())
        )
        return dict(zip(reply["names"], arrays, strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Each call runs once, with everything that this costs between processes: not to be timed."""
        return lambda: self.run(feeds)

    def close(self) -> None:
        """End the child; a second call does nothing."""
        self._child.close()

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
