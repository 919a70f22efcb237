"""What a killed training continues from: network, projectors, optimiser and history, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.files import write_bytes
from edgekd.lazy import require


@dataclass(frozen=True, slots=True)
class History:
    """How a training went.

    Attributes:
        losses: mean loss of each epoch.
        terms: the same of each term of ``TrainConfig.losses``, before its weight; empty for the other methods.
    """

    losses: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file, written after whole epochs.

    Attributes:
        path: the file; tag: of the very training that it belongs to.
    """

    path: Path
    tag: str

    def save(self, module: Any, projectors: Any, optimiser: Any, history: History) -> None:
        """Replace the file by the state after ``len(history.losses)`` epochs.

        Raises:
            StorageError: the write failed; the file is as it was.
        """
        safetensors = require("safetensors.torch", extra="torch", purpose="writing checkpoints")
        # Copies: tied weights share memory, which safetensors refuses.
        tensors = {f"model.{k}": v.contiguous().clone() for k, v in module.state_dict().items()}
        tensors.update({f"projectors:{k}": v.contiguous() for k, v in projectors.state_dict().items()})
        for name, parameter in _parameters(module, projectors):
            for key, value in optimiser.state.get(parameter, {}).items():
                if value is not None:
                    tensors[_state_key(key, name)] = value.contiguous()
        meta = {"tag": self.tag, "epoch": str(len(history.losses)), "losses": json.dumps(history.losses)}
        if history.terms:
            meta["terms"] = json.dumps(history.terms)
        write_bytes(self.path, safetensors.save(tensors, metadata=meta))

    def load(self, module: Any, projectors: Any, optimiser: Any) -> History:
        """What was done so far, put back in place; an empty history where there is no checkpoint of this training."""
        if not self.path.is_file():
            return History()
        safetensors = require("safetensors", extra="torch", purpose="reading checkpoints")
        try:
            with safetensors.safe_open(str(self.path), framework="pt") as f:
                meta = f.metadata() or {}
                if meta.get("tag") != self.tag:
                    return History()
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a mapping
        except safetensors.SafetensorError:
            return History()  # a checkpoint that the disk damaged: start over
        for prefix, part in (("model.", module), ("projectors:", projectors)):
            part.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        for name, parameter in _parameters(module, projectors):
            for key in ("momentum_buffer", "step", "exp_avg", "exp_avg_sq"):
                if _state_key(key, name) in tensors:
                    optimiser.state[parameter][key] = tensors[_state_key(key, name)].clone()
        return History(losses=json.loads(meta["losses"]), terms=json.loads(meta.get("terms", "{}")))


def _parameters(module: Any, projectors: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    for name, parameter in projectors.named_parameters():
        yield f"projectors:{name}", parameter


def _state_key(key: str, name: str) -> str:
    return f"momentum.{name}" if key == "momentum_buffer" else f"{key}:{name}"
