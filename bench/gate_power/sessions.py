"""Opening a model as the peers do: onnxruntime and numpy only, because their processes start in every trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def open_session(source: bytes | Path) -> Any:
    """A session on one thread, opened as EdgeKD opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds_of(session: Any) -> dict[str, Any]:
    """Seeded inputs."""
    node = session.get_inputs()[0]
    return {node.name: np.random.default_rng(0).standard_normal(node.shape).astype(np.float32)}
