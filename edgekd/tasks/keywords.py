"""Speech keyword spotting: recordings in, a word out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.tasks.classification import Classification, bind_inputs
from edgekd.tasks.features import FEATURE_KEYS, FEATURES, log_mel, mfcc
from edgekd.tasks.keys import check_keys
from edgekd.tasks.series import fit, lay_out, resample
from edgekd.tasks.task import ModelIO

KEYWORD_KEYS = ("sample_rate", "duration_s", "features", *FEATURE_KEYS, "mean", "std", "layout")
FEATURE_LAYOUTS = ("NFT", "NTF", "NCFT", "NCTF", "NTFC")
#: The data's array of its rate; no model is fed with it.
RATE = "sample_rate"


class KeywordSpotting(Classification):
    """Recordings in, a class index out.

    A recording (time,), int16 or float, is brought to the model's ``sample_rate`` and ``duration_s`` (its centre is
    kept, or padded with silence), turned into ``features``, normalised and laid out, by the model's own ``prepare``
    keys. A model without any is fed the array as it is. The data's rate is its array ``sample_rate``.
    """

    prepare_keys: ClassVar[tuple[str, ...]] = KEYWORD_KEYS

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", "keyword-spotting")
        super().__post_init__()

    def prepare(self, example: Example, model: ModelIO) -> dict[str, Array]:
        keys = model.prepare
        check_keys(keys, KEYWORD_KEYS)
        arrays = {n: a for n, a in example.inputs.items() if n != RATE}
        bare = replace(example, inputs=arrays)
        if not keys:
            return super().prepare(bare, model)
        rate = _rate(example)
        dtypes = {s.name: s.dtype for s in model.inputs}
        ready = {
            name: prepare_recording(array, rate, keys).astype(
                dtypes[name] if dtypes[name].startswith("float") else np.float32
            )
            for name, array in bind_inputs(bare, model).items()
        }
        return super().prepare(replace(example, inputs=ready), replace(model, rename={}))


def _rate(example: Example) -> int | None:
    value = example.inputs.get(RATE)
    if value is None:
        return None
    if np.size(value) != 1 or value.dtype.kind not in "iuf" or not float(np.ravel(value)[0]) > 0:
        raise DataError(f"example {example.id}: {RATE} is {value!r}", "give one number per example, in Hz")
    return round(float(np.ravel(value)[0]))


def prepare_recording(samples: Array, rate: int | None, keys: Mapping[str, Any]) -> Array:
    """A recording as a model wants it, without a batch dimension, float32.

    Args:
        samples: (time,); whole numbers are divided by their type's range, to [-1, 1].
        rate: of the recording, Hz; None where the data does not say.
        keys: see docs/tasks.md.

    Raises:
        DataError: no recording, or no rate where one is needed; UsageError: a key of no known value.
    """
    sound = _to_float(samples)[None]
    wanted = _whole(keys, "sample_rate", rate)
    if wanted is None:
        if "duration_s" in keys or keys.get("features", FEATURES[0]) != FEATURES[0]:
            raise DataError(
                "the data does not say its sample rate", f"add an array `{RATE}`, in Hz, one per example"
            )
    elif rate is None:
        raise DataError(
            f"the model wants {wanted} Hz and the data does not say its sample rate",
            f"add an array `{RATE}`, in Hz, one per example",
        )
    elif rate != wanted:
        sound = resample(sound, Fraction(wanted, rate))
    if "duration_s" in keys and wanted is not None:
        seconds = keys["duration_s"]
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds * wanted >= 1:
            raise UsageError(f"prepare.duration_s is {seconds!r}", "give seconds, for example 1.0")
        sound = fit(sound, round(seconds * wanted), "centre")
    kind = keys.get("features", FEATURES[0])
    if kind not in FEATURES:
        raise UsageError(f"prepare.features {kind!r} is not known", f"choose {', '.join(FEATURES)}")
    if kind == FEATURES[0] or wanted is None:
        if given := [k for k in FEATURE_KEYS if k in keys]:
            raise UsageError(f"prepare.{given[0]} has no meaning without features", "set prepare.features")
        return lay_out(_normalise(sound, keys), keys.get("layout", "NT"))
    table = (log_mel if kind == "log-mel" else mfcc)(sound[0], wanted, keys)
    return _lay_out_features(_normalise(table, keys), keys.get("layout", FEATURE_LAYOUTS[0]))


def _to_float(samples: Array) -> Array:
    if samples.ndim == 1 and not len(samples):
        raise DataError("the recording is empty", "mend or drop it")
    if samples.ndim != 1 or samples.dtype.kind not in "fiu":
        raise DataError(
            f"a recording of shape {tuple(samples.shape)} and dtype {samples.dtype} cannot be prepared",
            "recordings are (time,), one channel: mix others down",
        )
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    info = np.iinfo(samples.dtype)
    middle, span = (0.0, info.max + 1.0) if info.min else ((info.max + 1) / 2, (info.max + 1) / 2)
    return ((samples.astype(np.float64) - middle) / span).astype(np.float32)


def _whole(keys: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = keys.get(name, default)
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"prepare.{name} is {value!r}", "give a whole number of Hz")
    return value


def _normalise(table: Array, keys: Mapping[str, Any]) -> Array:
    """Subtract ``mean`` and divide by ``std``: a number, or one per row (channel, mel band or coefficient)."""
    try:
        mean, std = (np.asarray(keys.get(k, d), np.float32) for k, d in (("mean", 0.0), ("std", 1.0)))
        mean, std = (v[:, None] if v.ndim else v for v in (mean, std))
        return np.asarray((table - mean) / std, np.float32).reshape(table.shape)
    except (TypeError, ValueError) as e:
        raise UsageError(
            f"prepare's mean and std do not fit {table.shape[0]} rows of features ({e})",
            "give one number, or one per mel band or coefficient",
        ) from e


def _lay_out_features(table: Array, layout: Any) -> Array:
    """(features, time) as one of :data:`FEATURE_LAYOUTS`, without the batch dimension."""
    if layout not in FEATURE_LAYOUTS:
        raise UsageError(f"prepare.layout {layout!r} is not known", f"choose {', '.join(FEATURE_LAYOUTS)}")
    turned = table.T if layout in ("NCTF", "NTFC", "NTF") else table
    if layout == "NTFC":
        return turned[..., None]
    return turned[None] if "C" in layout else turned
