"""Between torch modules and ``model.json`` folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, UsageError
from edgekd.files import write_bytes
from edgekd.lazy import require
from edgekd.model import WEIGHTS_FILE, Model
from edgekd.pythonpath import python_source_digest, resolve_python
from edgekd.spec import TensorSpec
from edgekd_torch.zoo import ZooEntry, zoo_entry


def describe(factory: str, search: Path | None) -> ZooEntry:
    """Boundary and builder of ``zoo:NAME`` or ``python:module:function``.

    A ``python:`` factory returns a ``torch.nn.Module`` with an attribute ``edgekd_inputs``: input name ->
    ``(dtype, shape)``, where a string in the shape is a dynamic dimension.

    Raises:
        UsageError: not such a reference, or a factory without ``edgekd_inputs``.
    """
    if factory.startswith("zoo:"):
        return zoo_entry(factory.removeprefix("zoo:"))
    if not factory.startswith("python:"):
        raise UsageError(f"{factory!r} names no torch module", "write zoo:NAME or python:module:factory")
    build = resolve_python(factory, search)
    declared = getattr(build(), "edgekd_inputs", None)
    if not isinstance(declared, Mapping) or not declared:
        raise UsageError(
            f"the module of {factory} has no `edgekd_inputs`",
            'set it to {"image": ("float32", ("batch", 3, 32, 32))}',
        )
    inputs = tuple(TensorSpec(name=n, dtype=d, shape=tuple(s)) for n, (d, s) in declared.items())
    return ZooEntry(build=build, inputs=inputs, outputs=())


def factory_digest(factory: str, search: Path | None) -> str:
    """What a factory's code is: the reference itself for the zoo, plus the source's SHA-256 for ``python:``."""
    return factory if factory.startswith("zoo:") else f"{factory}@{python_source_digest(factory, search)}"


@dataclass(frozen=True, slots=True)
class Seeded:
    """Builds a module with weights drawn from a seed."""

    seed: int

    def build(self, entry: ZooEntry) -> Any:
        torch = require("torch", extra="torch", purpose="building a network")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return entry.build()


def load_weights(module: Any, path: Path) -> None:
    """Load safetensors weights into a module, all of them and no others.

    Raises:
        ModelError: unreadable, or other names or shapes than the module's.
    """
    if path.suffix != ".safetensors":
        raise ModelError(
            f"weights {path} are not .safetensors",
            "convert them: pickled weights can run code when they are loaded",
        )
    if not path.is_file():
        raise ModelError(
            f"weights {path} do not exist", "check the path (relative paths start at the recipe, else here)"
        )
    safetensors = require("safetensors.torch", extra="torch", purpose="reading weights")
    errors = require("safetensors", extra="torch", purpose="reading weights")
    try:
        state = safetensors.load_file(str(path))
    except (errors.SafetensorError, OSError, ValueError) as e:
        raise ModelError(f"cannot read weights {path} ({e})", "the file is damaged or not safetensors") from e
    own = module.state_dict()
    # num_batches_tracked counts training steps only; published weights often leave it out.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    wrong = [k for k in state if k in own and state[k].shape != own[k].shape]
    if missing or extra or wrong:
        detail = "; ".join(
            f"{what}: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}"
            for what, keys in (("missing", missing), ("unknown", extra), ("other shape", wrong))
            if keys
        )
        raise ModelError(
            f"weights {path} do not fit the network ({detail})", "name the network they were made for"
        )
    module.load_state_dict(state, strict=False)


def save_weights(module: Any, path: Path) -> None:
    """Write a module's parameters and buffers as safetensors.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    safetensors = require("safetensors.torch", extra="torch", purpose="writing weights")
    state = {k: v.detach().contiguous().clone() for k, v in module.state_dict().items()}
    # Not save_file: on a full disk it raises an error of its own, which nobody upstream takes for one.
    write_bytes(path, safetensors.save(state))


def output_specs(module: Any, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Outputs of a module by running it once on zeros of batch 2.

    Raises:
        ModelError: it does not run on its declared inputs, or gives something else than tensors.
    """
    torch = require("torch", extra="torch", purpose="running a torch module")
    feeds = [
        torch.zeros([d if isinstance(d, int) else 2 for d in s.shape], dtype=getattr(torch, s.dtype))
        for s in inputs
    ]
    module.eval()
    try:
        with torch.inference_mode():
            made = module(*feeds)
    except RuntimeError as e:
        raise ModelError(
            f"the module does not run on its declared inputs ({e})", "check edgekd_inputs"
        ) from e
    if isinstance(made, Mapping):
        named = list(made.items())
    elif isinstance(made, (list, tuple)):
        named = [(f"output_{i}", t) for i, t in enumerate(made)]
    else:
        named = [("logits", made)]
    if not all(isinstance(t, torch.Tensor) for _, t in named):
        raise ModelError(
            "the module returns something else than tensors", "return a tensor, a tuple or a dict of them"
        )
    dynamic = inputs[0].dynamic_batch
    batch = str(inputs[0].shape[0]) if dynamic else ""
    return tuple(
        TensorSpec(
            name=n,
            dtype=str(t.dtype).removeprefix("torch."),
            shape=(batch, *t.shape[1:]) if dynamic and t.ndim and t.shape[0] == 2 else tuple(t.shape),
        )
        for n, t in named
    )


def write_model(
    module: Any,
    entry: ZooEntry,
    *,
    folder: Path,
    name: str,
    factory: str,
    search: Path | None,
    prepare: Mapping[str, Any],
    lineage: Mapping[str, Any],
) -> Model:
    """Write a module as a ``model.json`` folder (``folder`` exists)."""
    save_weights(module, folder / WEIGHTS_FILE)
    model = Model(
        folder=folder,
        name=name,
        factory=factory,
        factory_source=str(search or "") if factory.startswith("python:") else "",
        inputs=entry.inputs,
        outputs=entry.outputs or output_specs(module, entry.inputs),
        parameters=sum(p.numel() for p in module.parameters()),
        prepare=dict(prepare) or dict(entry.prepare),
        lineage=lineage,
    )
    model.save()
    return model


def load_module(model: Model) -> Any:
    """The torch module of a ``model.json`` folder, in eval mode, weights loaded.

    Raises:
        ModelError: the weights do not fit.
    """
    search = Path(model.factory_source) if model.factory_source else None
    module = describe(model.factory, search).build()
    load_weights(module, model.folder / model.weights)
    module.eval()
    return module
