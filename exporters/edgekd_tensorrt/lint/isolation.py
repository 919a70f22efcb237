"""onnx's checker and shape inference in a child: on contradicting shapes they abort the process that they run in.

(onnx 1.21 reads beyond a vector, for example where a convolution's weights have the wrong rank, and its build stops
the program there.) One child answers all lints of this process; where it dies, the next question starts another.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

import numpy as np

from edgekd.child.process import ChildProcess
from edgekd.errors import ChildError
from edgekd.lazy import require

Faults = list[tuple[str, bool]]

_MODULE = "edgekd_tensorrt.lint.onnx_child"


class _Asking:
    """The child, started at the first question."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._owner = 0

    def ask(self, call: str, data: bytes) -> tuple[Faults, bytes] | None:
        """The answer; None where the child crashed over the question.

        Raises:
            ChildError: it could not start, hung, or ran out of memory.
        """
        with self._lock:
            # A forked process must not talk into its parent's pipes.
            if self._child is None or self._owner != os.getpid():
                self._child, self._owner = ChildProcess("checking the ONNX graph"), os.getpid()
            try:
                said, made = self._child.request(f"{_MODULE}:{call}", {}, [np.frombuffer(data, np.uint8)])
            except ChildError as e:
                self._close()
                if e.outcome.startswith("signal"):
                    return None
                raise
            return [(str(m), bool(e)) for m, e in said["faults"]], made[0].tobytes()

    def _close(self) -> None:
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            child.close()

    def close(self) -> None:
        with self._lock:
            self._close()


_asking = _Asking()
atexit.register(_asking.close)


def inline_functions(model: Any, faults: Faults) -> Any:
    """``model`` with its local functions inlined, as TensorRT's parser imports them; itself where that fails."""
    return _ask("inline", model, faults, "onnx crashes where it inlines this model's functions")


def check_and_infer(model: Any, faults: Faults) -> Any:
    """``model`` with inferred types; what the checker and inference say is added to ``faults``."""
    crashed = "onnx's shape inference crashes: shapes in this graph contradict each other"
    return _ask("check_and_infer", model, faults, crashed)


def _ask(call: str, model: Any, faults: Faults, crashed: str) -> Any:
    answer = _asking.ask(call, model.SerializeToString())
    if answer is None:
        faults.append((crashed, True))
        return model
    faults += answer[0]
    onnx = require("onnx", extra="ort", purpose="checking ONNX files")
    return onnx.ModelProto.FromString(answer[1])
