"""Small torch networks, trained in seconds and written as artifact folders that know how to prepare examples."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd_onnx.exporter import OnnxExporter

# Nets this small lose more than they gain by threads, and all of it on a busy machine.
torch.set_num_threads(1)


def fit(
    net: nn.Module,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    loss: Callable[[Any, Any], Any],
    steps: int,
    lr: float = 3e-3,
    batch: int = 256,
    seed: int = 0,
) -> nn.Module:
    """Adam with a one-cycle rate over random batches; deterministic on one machine."""
    torch.manual_seed(seed)
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps)
    draw = torch.Generator().manual_seed(seed)
    net.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (min(batch, len(x)),), generator=draw)
        optimiser.zero_grad()
        loss(net(x[rows]), y[rows]).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def write_model(
    net: nn.Module, folder: Path, shape: Sequence[int], *, outputs: Sequence[str], prepare: Mapping[str, Any]
) -> Path:
    """``folder`` with ``model.onnx`` of a free batch, and an ``artifact.json`` with the model's own ``prepare``."""
    folder.mkdir(parents=True)
    names = ["x", *outputs]
    with warnings.catch_warnings():
        # It warns that the other exporter is newer, which takes seconds for three layers.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(2, *shape),), str(folder / "model.onnx"), input_names=["x"], output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in names}, dynamo=False,
        )  # fmt: skip
    replace(OnnxExporter().read(folder / "model.onnx"), prepare=dict(prepare)).save()
    return folder


def edgekd(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """``edgekd`` in ``place``, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *args],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def gate(place: Path, *args: str, code: int) -> dict[str, Any]:
    """The verdict of ``edgekd gate``, which must end in ``code``."""
    done = edgekd(place, "gate", *args, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]
