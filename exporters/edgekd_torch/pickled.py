"""Pickled weights to safetensors: once, in a child without network and with limited memory.

``torch.load(weights_only=True)`` could be made to run code before torch 2.10 (CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import MissingDependencyError, ModelError, PolicyError
from edgekd.files import sha256_file, write_bytes
from edgekd.inspect import inspect_file, refuse
from edgekd.lazy import require
from edgekd.stages import StageStore, tool_versions

ENDINGS = (".pt", ".pth", ".bin", ".ckpt")
_CONVERTED = "weights.safetensors"
_LEAST_TORCH = (2, 10)
_TIMEOUT_S = 600.0
#: What importing torch reserves of address space, most of which it never touches.
_TORCH_BYTES = 16 << 30
#: Where training scripts keep the weights among other things.
_INSIDE = ("state_dict", "model_state_dict", "model")

Reply = tuple[dict[str, Any], list[Array]]


def convert_weights(path: Path, store: StageStore) -> Path:
    """The weights of a pickle as safetensors in the store, under the pickle's SHA-256.

    What it would import is listed first, so that torch never opens one that asks for more than tensors.

    Args:
        path: a state dict as ``torch.save`` writes it, alone or as ``state_dict`` of a checkpoint.

    Raises:
        PolicyError: it would import something else, or torch is older than 2.10; ModelError: no state dict;
        ChildError: torch crashed or ran out of memory over it.
    """
    inspect_file(path, digest=False)
    _check_torch(path)
    sha256 = sha256_file(path)
    key = {"pickle": sha256, "tools": tool_versions("torch", "safetensors")}

    def build(out: Path, resume: Path) -> None:
        limits = Limits(timeout_s=_TIMEOUT_S, memory_bytes=_TORCH_BYTES + 4 * path.stat().st_size)
        with ChildProcess(f"converting {path.name}", limits) as child:
            child.request(
                "edgekd_torch.pickled:convert_in_child",
                {"path": str(path.resolve()), "sha256": sha256, "out": str(out.resolve() / _CONVERTED)},
            )

    return store.run("weights", path.name, key, build).folder / _CONVERTED


def _check_torch(path: Path) -> None:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError as e:
        raise MissingDependencyError(
            "converting pickled weights needs torch", "pip install 'edgekd[torch]'"
        ) from e
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _LEAST_TORCH:
        raise refuse(
            "pickle",
            path,
            f"torch {version} can be made to run code by a pickle (CVE-2025-32434, CVE-2026-24747)",
            "install torch 2.10 or later, or save the weights as .safetensors",
        )


def convert_in_child(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """In the child: load ``path`` with ``weights_only`` and write its tensors to ``out``.

    Raises:
        ModelError: no state dict of tensors; PolicyError: torch refuses what it holds.
    """
    import pickle

    torch = require("torch", extra="torch", purpose="converting pickled weights")
    safetensors = require("safetensors.torch", extra="torch", purpose="converting pickled weights")
    path = Path(args["path"])
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        text = " ".join(str(e).split())[:200]
        raise PolicyError(
            f"{path}: torch refuses to unpickle it ({text}) (rule pickle)",
            "save the weights as .safetensors",
            "pickle",
        ) from e
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, OSError) as e:
        text = " ".join(str(e).split())[:200]
        raise ModelError(
            f"cannot read {path} as torch weights ({text})", "save it again with torch.save"
        ) from e
    tensors = _tensors(torch, loaded, path)
    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(Path(args["out"]), safetensors.save(own, {"converted_from_sha256": args["sha256"]}))
    return {"tensors": len(own)}, []


def _tensors(torch: Any, loaded: Any, path: Path) -> Mapping[str, Any]:
    inside = [k for k in _INSIDE if isinstance(loaded, Mapping) and isinstance(loaded.get(k), Mapping)]
    found = loaded[inside[0]] if len(inside) == 1 else loaded
    if not isinstance(found, Mapping) or not found:
        raise ModelError(
            f"{path} holds a {type(found).__name__}, no state dict", "save model.state_dict() with torch.save"
        )
    other = [str(k) for k, v in found.items() if not isinstance(k, str) or not isinstance(v, torch.Tensor)]
    if other:
        raise ModelError(
            f"{path} holds {', '.join(other[:3])}{' …' if len(other) > 3 else ''} beside tensors",
            "save model.state_dict() alone with torch.save",
        )
    return found
