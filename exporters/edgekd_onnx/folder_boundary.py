"""What a Hugging Face network takes and answers, by optimum's description of its architecture."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, UsageError
from edgekd.lazy import require
from edgekd.parity import PARITY_BATCHES, Shapes
from edgekd.spec import Dim, TensorSpec
from edgekd_onnx.transformers_models import load_config, model_class, offline, part_name
from edgekd_onnx.writing import one_line, quiet

_DEFAULT_IMAGE = 224
_USUAL_LENGTH = 16
#: Names under which configurations state how many positions a network has.
_LIMITS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_sequence_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """A network's inputs, and what optimum needs to export it.

    Attributes:
        task, part: what it is exported for; ``part`` is empty for a network that is one.
        inputs: sizes that vary have optimum's names.
        outputs: names in order; as many of them as the network answers.
        config: ``optimum.exporters.onnx.OnnxConfig``, with only those axes dynamic that vary in ``inputs``.
        usual: symbol -> its size in the example inputs.
        submodel: the part of the network that optimum traces, of a network given to :func:`describe`.
    """

    task: str
    part: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    config: Any
    usual: Mapping[str, int]
    submodel: Any = None


def known_inputs(path: Path, image: Sequence[int] | None) -> tuple[TensorSpec, ...]:
    """The inputs of a folder whose weights are not loaded; empty where they cannot be known.

    Args:
        image: (height, width) that its preprocessor makes.
    """
    if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("transformers") is None:
        return ()
    try:
        config = load_config(path)
        cls = model_class(config, path)
        size = (image[0], image[1]) if image else None
        return describe(config, path, cls=cls, task="", part="", shapes={}, image=size).inputs
    except (ModelError, UsageError):
        return ()  # converting it says why


def describe(
    config: Any,
    path: Path,
    *,
    cls: Any,
    task: str,
    part: str,
    shapes: Shapes,
    image: tuple[int, int] | None,
    model: Any = None,
) -> Boundary:
    """Describe a network, or one part of it.

    Args:
        config: of :func:`edgekd_onnx.transformers_models.load_config`.
        cls: its class; task: empty infers it from there.
        shapes: sizes that the user gave; an axis that varies in them stays dynamic.
        image: (height, width) that the folder's preprocessor makes.
        model: the network, for ``submodel``.

    Raises:
        ModelError: optimum does not know the architecture; UsageError: not for this task, or no such part.
    """
    tasks = offline("optimum.exporters.tasks").TasksManager
    offline("optimum.exporters.onnx.model_configs")
    task = infer_task(cls, path) if not task else str(tasks.map_from_synonym(task))
    supported = supported_tasks(config.model_type)
    if not supported:
        raise ModelError(
            f"optimum cannot export the architecture '{config.model_type}' of {path}",
            "--option exporter=dynamo traces it with torch",
        )
    if task not in supported:
        raise UsageError(
            f"optimum cannot export '{config.model_type}' for the task '{task}'",
            f"it knows {', '.join(t for t in supported if not t.endswith('-with-past'))}",
        )
    two = bool(config.is_encoder_decoder) and task.startswith(tasks._ENCODER_DECODER_TASKS)
    part = part_name(part, needed=two, path=path)
    with quiet():
        made = tasks.get_exporter_config_constructor(
            "onnx", model_type=config.model_type, task=task, library_name="transformers"
        )(config)
    submodel = model
    if part:
        made = made.with_behavior(part)
        submodel = model.get_encoder() if part == "encoder" and model is not None else model
    return _boundary(made, config, task, part, shapes, image, submodel)


def supported_tasks(model_type: str) -> tuple[str, ...]:
    """Tasks that optimum exports an architecture for; none where it does not know it."""
    tasks = offline("optimum.exporters.tasks").TasksManager
    offline("optimum.exporters.onnx.model_configs")
    try:
        return tuple(
            sorted(tasks.get_supported_tasks_for_model_type(model_type, "onnx", library_name="transformers"))
        )
    except KeyError:
        return ()


def infer_task(cls: Any, path: Path) -> str:
    """optimum's name of what a class is for.

    Raises:
        UsageError: it has none.
    """
    tasks = offline("optimum.exporters.tasks").TasksManager
    try:
        with quiet():
            return str(tasks._infer_task_from_model_or_model_class(model_class=cls))
    except (ValueError, KeyError) as e:
        raise UsageError(
            f"no task is known for {cls.__name__} of {path} ({one_line(e, 120)})",
            "name one: --option task=text-classification",
        ) from e


def _boundary(
    made: Any, config: Any, task: str, part: str, shapes: Shapes, image: tuple[int, int] | None, submodel: Any
) -> Boundary:
    names: Mapping[str, str] = made.torch_to_onnx_input_map
    axes = {names.get(k, k): v for k, v in made.inputs.items()}
    with quiet():
        examples = made.generate_dummy_inputs(framework="pt", **_sizes(config, axes, shapes))
    for name, example in examples.items():
        if axes[names.get(name, name)].get(2) == "height":
            examples[name] = _resized(example, shapes.get(name), image)
    specs = []
    for name, example in examples.items():
        ours = names.get(name, name)
        tensor = _tensor(example)
        specs.append(
            TensorSpec(
                name=ours,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(
                    symbol if _varies(symbol := axes[ours].get(i, ""), shapes.get(ours), i) else int(size)
                    for i, size in enumerate(tensor.shape)
                ),
            )
        )
    usual = {
        d: int(_tensor(example).shape[i])
        for example, s in zip(examples.values(), specs, strict=True)
        for i, d in enumerate(s.shape)
        if isinstance(d, str)
    }
    back = {v: k for k, v in names.items()}
    kept = {
        back.get(s.name, s.name): {i: d for i, d in enumerate(s.shape) if isinstance(d, str)} for s in specs
    }
    _pin(made, kept, examples)
    return Boundary(
        task=task, part=part, inputs=tuple(specs), outputs=tuple(made.outputs), config=made, usual=usual,
        submodel=submodel,
    )  # fmt: skip


def _tensor(example: Any) -> Any:
    """An encoder's outputs come as a tuple of one."""
    return example if hasattr(example, "shape") else example[0]


def _resized(example: Any, given: tuple[tuple[int, ...], ...] | None, image: tuple[int, int] | None) -> Any:
    """An example image in the user's size, else the preprocessor's; optimum knows that of the configuration only."""
    height, width = given[1][2:4] if given else image or example.shape[2:4]
    if tuple(example.shape[2:4]) == (height, width):
        return example
    torch = require("torch", extra="torch", purpose="exporting to ONNX")
    return torch.rand((*example.shape[:2], height, width), generator=torch.Generator().manual_seed(0))


def _varies(symbol: str, given: tuple[tuple[int, ...], ...] | None, axis: int) -> bool:
    """Batch and lengths vary; channels, pixels and bands only where the user gave a range for them."""
    if not symbol:
        return False
    if "batch" in symbol or "sequence_length" in symbol:
        return True
    return given is not None and axis < len(given[0]) and given[0][axis] != given[2][axis]


def _sizes(config: Any, axes: Mapping[str, Mapping[int, str]], shapes: Shapes) -> dict[str, int]:
    """Sizes of the example inputs that differ from optimum's own."""
    sizes = {"height": _DEFAULT_IMAGE, "width": _DEFAULT_IMAGE}
    frames = getattr(config, "max_source_positions", None)
    if isinstance(frames, int):
        sizes["nb_max_frames"] = 2 * frames  # Whisper's second convolution halves them
    for name, given in shapes.items():
        for axis, symbol in axes.get(name, {}).items():
            if symbol in ("num_channels", "sequence_length") and axis < len(given[1]):
                sizes[symbol] = int(given[1][axis])
    return sizes


def _pin(made: Any, inputs: Mapping[str, Mapping[int, str]], examples: Mapping[str, Any]) -> None:
    """Let an ``OnnxConfig`` describe only these axes as dynamic, and be traced with these examples."""
    plain = type(made)

    class Pinned(plain):  # type: ignore[misc, valid-type]
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: dict(axes) for name, axes in inputs.items()}

        def generate_dummy_inputs(self, framework: str = "pt", **sizes: Any) -> dict[str, Any]:
            return dict(examples)

    made.__class__ = Pinned


def fill_shapes(
    inputs: tuple[TensorSpec, ...], config: Any, shapes: Shapes, examples: Mapping[str, int]
) -> Shapes:
    """(least, usual, greatest) sizes of every input: the user's, else batches of parity and three lengths.

    Args:
        examples: symbol -> its size in the example inputs, which lengths are taken around.
    """
    limit = min(
        (v for n in _LIMITS if isinstance(v := getattr(config, n, None), int) and v > 1), default=10**9
    )
    known: dict[str, tuple[int, int, int]] = {}
    for spec in inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and spec.name in shapes:
                low, usual, high = (s[axis] for s in shapes[spec.name])
                known.setdefault(dim, (low, usual, high))

    def ends(dim: Dim) -> tuple[int, int, int]:
        if isinstance(dim, int):
            return dim, dim, dim
        if dim not in known:
            if "batch" in dim:
                known[dim] = PARITY_BATCHES
            else:
                # Two lengths of the same sizes could not be told apart in what the network answers.
                apart = sum("batch" not in d for d in known)
                usual = examples.get(dim, _USUAL_LENGTH) - apart
                top = 2 * usual if usual > limit else min(limit, 2 * usual)
                known[dim] = (max(1, usual // 2), usual, top - apart)
        return known[dim]

    full: dict[str, tuple[tuple[int, ...], ...]] = {}
    for spec in inputs:
        sizes = [ends(d) for d in spec.shape]
        full[spec.name] = tuple(tuple(s[end] for s in sizes) for end in range(3))
    return full
