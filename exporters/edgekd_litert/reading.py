"""``.tflite`` files through a child: a damaged or hostile one may crash the interpreter, and only that process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.child.process import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import ModelError, TargetUnavailableError
from edgekd.spec import TensorSpec
from edgekd.target import Placement, SessionOptions
from edgekd_litert.graph import file_dtype
from edgekd_litert.runtime import LiteRtRuntime, check_header

Reply = tuple[dict[str, Any], list[Array]]

#: Opening a file takes a fraction of a second.
_OPEN_S = 120.0


def open_file(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """In the child: open ``path`` in built-in kernels, keep the session for ``edgekd.child.sessions:run_once``."""
    options = SessionOptions(
        provider=args["provider"],
        threads=args["threads"],
        settings={"io": args["io"]} if args["io"] else None,
    )
    session = LiteRtRuntime().open(Path(args["path"]), options)
    state["session"] = session
    nodes = session.operators()
    placed = session.placement
    return {
        "inputs": [s.to_json() for s in session.inputs],
        "outputs": [s.to_json() for s in session.outputs],
        "dtype": file_dtype(nodes),
        "operators": [n.op_type for n in nodes],
        "stored_as": placed.detail["stored_as"],
        "placement": {"provider": placed.provider, "runtime": placed.runtime, "threads": placed.threads},
    }, []


class ChildSession:
    """A ``.tflite`` open in a child; a session as far as :func:`edgekd.parity.check_parity` asks.

    Attributes:
        dtype: precision of the file; operators: LiteRT's names, in execution order.
        stored_as: name -> dtype, scale and zero point of quantized inputs and outputs.
    """

    def __init__(self, path: Path, *, provider: str = "xnnpack", threads: int = 1, io: str = "") -> None:
        check_header(path)
        self._child = ChildProcess(f"opening {path}", Limits(timeout_s=_OPEN_S, threads=threads))
        args = {"path": str(path.resolve()), "provider": provider, "threads": threads, "io": io}
        try:
            found, _ = self._child.request("edgekd_litert.reading:open_file", args)
        except BaseException:
            self._child.close()
            raise
        self.inputs = tuple(TensorSpec.from_json(s) for s in found["inputs"])
        self.outputs = tuple(TensorSpec.from_json(s) for s in found["outputs"])
        self.dtype = str(found["dtype"])
        self.operators: tuple[str, ...] = tuple(found["operators"])
        self.stored_as: dict[str, Any] = found["stored_as"]
        self.placement = Placement(device="cpu", detail={}, **found["placement"])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array.

        Raises:
            DataError: feeds that do not fit; ModelError: it failed; ChildError: the child died of it.
        """
        reply, arrays = self._child.request(
            "edgekd.child.sessions:run_once", {"feeds": list(feeds)}, list(feeds.values())
        )
        return dict(zip(reply["names"], arrays, strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Any:
        """One run per call; nothing that could be timed."""
        return lambda: self.run(feeds)

    def close(self) -> None:
        """End the child."""
        self._child.close()


def open_to_compare(path: Path, *, threads: int = 1) -> ChildSession:
    """A session with XNNPACK, which most devices use; in built-in kernels where XNNPACK takes no operator of the file."""
    try:
        return ChildSession(path, threads=threads)
    except TargetUnavailableError:
        return ChildSession(path, provider="builtin", threads=threads)


def read_artifact(path: Path, outputs: Sequence[str]) -> Artifact:
    """See :meth:`edgekd_litert.exporter.LiteRtExporter.read`."""
    session = ChildSession(path, provider="builtin")
    session.close()
    found = {s.name: s for s in session.outputs}
    missing = [name for name in outputs if name not in found]
    if missing:
        raise ModelError(f"{path} has no output '{missing[0]}'", f"it has {', '.join(found)}")
    return Artifact(
        folder=path.parent,
        entry=path.name,
        format="litert",
        dtype=session.dtype,
        files=(record_file(path.parent, path.name),),
        inputs=session.inputs,
        outputs=tuple(found[name] for name in outputs) if outputs else session.outputs,
        lineage={"source": path.name, "operators": len(session.operators), "stored_as": session.stored_as},
    )
