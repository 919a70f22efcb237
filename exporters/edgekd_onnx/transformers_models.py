"""Networks of Hugging Face folders in torch, as transformers builds them: offline, without code of the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.lazy import require
from edgekd.spec import TensorSpec, check_feeds
from edgekd.target import Placement
from edgekd_onnx.writing import one_line, quiet

_PURPOSE = "reading Hugging Face folders"


def offline(module: str) -> Any:
    """Import a module of the Hugging Face packages, which are told to stay off the network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Imported before, the packages have already read the variable.
    with quiet():
        constants = require("huggingface_hub.constants", extra="hf", purpose=_PURPOSE)
        constants.HF_HUB_OFFLINE = True
        return require(module, extra="hf", purpose=_PURPOSE)


def load_config(path: Path) -> Any:
    """``transformers.PretrainedConfig`` of a folder.

    Raises:
        ModelError: an architecture that the installed transformers does not have, or a damaged configuration.
    """
    transformers = offline("transformers")
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
    except (ValueError, KeyError, OSError, TypeError) as e:
        raise ModelError(
            f"transformers {transformers.__version__} cannot read {path / 'config.json'} ({one_line(e, 160)})",
            "the architecture is newer than this version, or the file is damaged",
        ) from e


def model_class(config: Any, path: Path) -> Any:
    """The class that ``architectures`` names.

    Raises:
        ModelError: none is named, or transformers does not have it.
    """
    transformers = offline("transformers")
    name = next(iter(config.architectures or ()), "")
    with quiet():
        found = getattr(transformers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ModelError(
            f"{path / 'config.json'} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have",
            "save the model again with save_pretrained, or use another version",
        )
    return found


def load_network(path: Path, cls: Any) -> Any:
    """The network with its weights, in float32 and eval mode.

    Raises:
        ModelError: weights that do not fit it: what is missing would be drawn at random.
    """
    torch = require("torch", extra="torch", purpose=_PURPOSE)
    errors = require("safetensors", extra="hf", purpose=_PURPOSE)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model, info = cls.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False, use_safetensors=True,
                dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, errors.SafetensorError) as e:
        raise ModelError(
            f"transformers cannot load {path} ({one_line(e, 200)})", "copy the folder again"
        ) from e
    wrong = [*info["missing_keys"], *(k[0] for k in info["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"{path} has no weights for {len(wrong)} parameters of {cls.__name__}, the first is '{sorted(wrong)[0]}'",
            "they would be random: name the task that it was trained for",
        )
    return model.eval()


class Part:
    """One callable of a network: the whole, or the encoder or decoder of two.

    Attributes:
        forward: tensors by the names of ``inputs`` -> mapping of all outputs.
    """

    def __init__(self, model: Any, part: str, inputs: Sequence[str]) -> None:
        self.model = model
        self.inputs = tuple(inputs)
        self.forward: Callable[[Mapping[str, Any]], Mapping[str, Any]] = {
            "": self._whole,
            "encoder": self._encoder,
            "decoder": self._decoder,
        }[part]

    def _whole(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        more = {"use_cache": False} if "use_cache" in signature(self.model.forward).parameters else {}
        made: Mapping[str, Any] = self.model(**tensors, **more, return_dict=True)
        return made

    def _encoder(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        made: Mapping[str, Any] = self.model.get_encoder()(**tensors, return_dict=True)
        return made

    def _decoder(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = offline("transformers.modeling_outputs")
        ours = {
            "input_ids": "decoder_input_ids", "attention_mask": "decoder_attention_mask",
            "encoder_attention_mask": "attention_mask",
        }  # fmt: skip
        given = {ours[k]: v for k, v in tensors.items() if k in ours}
        hidden = outputs.BaseModelOutput(last_hidden_state=tensors["encoder_hidden_states"])
        made: Mapping[str, Any] = self.model(
            encoder_outputs=hidden, **given, use_cache=False, return_dict=True
        )
        return made


class Answered:
    """A part that remembers what it answered: finding its outputs and checking parity ask the same of it.

    Attributes:
        part: what is asked.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self._known: list[tuple[Mapping[str, Array], dict[str, Array]]] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every tensor that the part answers; see :func:`run_part`."""
        for asked, made in self._known:
            if asked.keys() == feeds.keys() and all(np.array_equal(asked[k], feeds[k]) for k in feeds):
                return made
        made = run_part(self.part, feeds)
        self._known.append((feeds, made))
        return made


class TransformersSession:
    """A network in torch, as the reference that a file of it is compared with."""

    def __init__(
        self, answered: Answered, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        torch = require("torch", extra="torch", purpose=_PURPOSE)
        transformers = offline("transformers")
        self.inputs, self.outputs = inputs, outputs
        self._answered: Answered | None = answered
        self._torch = torch
        self.placement = Placement(
            device="cpu", provider="cpu", threads=int(torch.get_num_threads()), detail={},
            runtime=f"torch {torch.__version__} (transformers {transformers.__version__})",
        )  # fmt: skip

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array.

        Raises:
            DataError: feeds that do not fit; ModelError: the network failed on them.
        """
        if self._answered is None:
            raise ModelError("the session of this network is closed", "open it again")
        check_feeds(self.inputs, feeds, type(self._answered.part.model).__name__)
        made = self._answered.run(feeds)
        return {s.name: made[s.name] for s in self.outputs}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        return lambda: self.run(feeds)

    def close(self) -> None:
        self._answered = None


def run_part(part: Part, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor that a part answers, by transformers' names.

    Raises:
        ModelError: it failed; DataError: an id beyond a table.
    """
    torch = require("torch", extra="torch", purpose=_PURPOSE)
    name = type(part.model).__name__
    try:
        with quiet(), torch.inference_mode():
            made = part.forward({k: torch.from_numpy(np.array(v, order="C")) for k, v in feeds.items()})
    except IndexError as e:
        raise DataError(f"{name} refused its inputs ({one_line(e)})", "an id lies beyond its table") from e
    except (RuntimeError, ValueError, TypeError, AttributeError) as e:
        sizes = ", ".join(f"{k} {v.shape}" for k, v in feeds.items())
        raise ModelError(
            f"{name} does not run on {sizes} ({one_line(e, 160)})", "give sizes that it takes with --shape"
        ) from e
    return {k: v.numpy() for k, v in made.items() if isinstance(v, torch.Tensor)}


def traceable(part: Part, outputs: Sequence[str]) -> Any:
    """A part as a ``torch.nn.Module`` whose ``forward(*tensors)`` answers the tensors of ``outputs``."""
    torch = require("torch", extra="torch", purpose=_PURPOSE)

    class Traceable(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = part.model

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            made = part.forward(dict(zip(part.inputs, tensors, strict=True)))
            return tuple(made[name] for name in outputs)

    return Traceable().eval()


def part_name(text: str, *, needed: bool, path: Path) -> str:
    """``encoder`` or ``decoder`` where a network is two, else empty.

    Raises:
        UsageError: none named where one is needed, or one where there is none.
    """
    if needed and text not in ("encoder", "decoder"):
        what = (
            f"part {text!r} is not known" if text else f"{path} is an encoder and a decoder, a file holds one"
        )
        raise UsageError(what, "name one: --option part=encoder or --option part=decoder")
    if text and not needed:
        raise UsageError(
            f"{path} is not an encoder-decoder in this task, but part {text!r} is asked", "leave part out"
        )
    return text
