"""Before and after a training with fake quantization: where to round, and what the ranges are worth in the end."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.distill.config import TrainConfig
from edgekd.distill.fake_quant import FakeQuantConfig
from edgekd.distill.features import answer_of
from edgekd.distill.group import launched_processes
from edgekd.errors import UsageError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.model import Model
from edgekd.parity import batch_feeds
from edgekd.quantize.config import VARIANTS
from edgekd.quantize.damage import Bounds, compare_answers
from edgekd.quantize.trained import TRAINED_FILE, TrainedRanges
from edgekd.target import SessionOptions

#: Of the feeds that tensors are recognised on.
_SEED, _FEEDS = 1729, 8
#: Examples that the Q/DQ graph is compared on with the module that was trained, in batches.
CHECKED, _BATCH = 256, 64
#: Rounding at the edge of a step goes either way in the two; more than that is another graph.
PARITY = Bounds(min_sqnr_db=20.0, min_agreement=0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeQuantTraining:
    """A network ready to be trained with fake quantization.

    Attributes:
        module: to train in place of the network, with which it shares parameters and statistics.
        shared: tensor -> the one whose range it has.
    """

    config: FakeQuantConfig
    module: Any
    shared: Mapping[str, str]

    def finish(self, model: Model, inputs: Mapping[str, Array]) -> Model:
        """Write the trained ranges into the folder of ``model``, which holds the trained weights, and compare.

        Args:
            inputs: prepared training inputs, (n, ...) each; the first :data:`CHECKED` are compared.

        Raises:
            ModelError: the Q/DQ graph answers otherwise than the module that was trained.
        """
        torch = require("torch", extra="torch", purpose="training with fake quantization")
        from edgekd_onnx.exporter import OnnxExporter
        from edgekd_onnx.runtime import OnnxRuntime

        ranges = self.module.ranges()
        ranges |= {name: ranges[owner] for name, owner in self.shared.items()}
        trained = TrainedRanges(
            granularity=self.config.granularity, variant=self.config.variant, ranges=ranges
        )
        feeds = list(_batches(inputs, model))
        self.module.eval()
        with torch.inference_mode():
            answers = [
                {model.outputs[0].name: answer_of(self.module(*map(torch.from_numpy, b.values()))).numpy()}
                for b in feeds
            ]
        with _scratch(model.folder) as folder:
            for name in ("float", "quantized"):
                (folder / name).mkdir()
            exporter = OnnxExporter()
            exported = exporter.export(model, folder / "float", {})
            config = trained.applied(self.config.quantization(), model.name)
            made = exporter.quantize(exported, config, feeds, folder / "quantized")
            session = OnnxRuntime().open(made.path, SessionOptions(threads=1))
            try:
                found = [session.run(b) for b in feeds]
            finally:
                session.close()
        damage = compare_answers(
            answers, found, bounds=PARITY, fix="report it: fake quantization and the quantizer disagree"
        )
        replace(trained, parity=damage.to_json()).save(model.folder)
        done = replace(model, quantization=TRAINED_FILE)
        done.save()
        return done


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A folder for files that nobody keeps, on the same disk."""
    try:
        made = tempfile.TemporaryDirectory(prefix=".fake-quant-", dir=beside)
    except OSError as e:
        raise storage_error(e, beside) from e
    with made as name:
        yield Path(name)


def _batches(inputs: Mapping[str, Array], model: Model) -> Iterator[dict[str, Array]]:
    size = model.as_artifact().fixed_batch or _BATCH
    rows = min(CHECKED, min(len(v) for v in inputs.values()))
    for start in range(0, max(rows - size + 1, 1), size):
        yield {
            s.name: np.ascontiguousarray(inputs[s.name][start : start + size], dtype=s.dtype)
            for s in model.inputs
        }


def prepare_fake_quant(
    module: Any,
    *,
    config: TrainConfig,
    name: str,
    factory: str,
    search: Path | None,
    rows: int,
    scratch: Path,
) -> FakeQuantTraining:
    """Find where the quantizer rounds this network, and put fake quantization there.

    Args:
        module: with its initial weights; its structure alone decides the places.
        factory: ``zoo:NAME`` or ``python:module:function``, which builds the same network.
        config: of the training, with ``fake_quant``.
        rows: of the training data.
        scratch: an existing folder for files that are thrown away.

    Raises:
        UsageError: the configuration; ModelError: an operation that cannot be placed, or traced, named.
    """
    fake = config.fake_quant or FakeQuantConfig()
    fake.check()
    if config.needs_features:
        raise UsageError(
            "fake_quant trains a traced network, which has no layers inside for a loss to look at",
            "take losses on the answers (logits, dist, labels), or train without fake_quant",
        )
    if launched_processes(os.environ) > 1:
        raise UsageError(
            "fake_quant trains in one process: several would each follow ranges of their own",
            "start it without accelerate launch",
        )
    require("onnxruntime", extra="ort", purpose="training with fake quantization")
    from edgekd_onnx.quantized_sites import find_sites
    from edgekd_torch._fake_quant_graph import place, scattered, trace, wrap
    from edgekd_torch.fake_quant_types import ROUNDINGS
    from edgekd_torch.modules import describe, write_model

    entry = describe(factory, search)
    trace(module, name)  # what cannot be traced is said before anything is exported
    probe = scattered(module, _SEED)
    with _scratch(scratch) as folder:
        (folder / "model").mkdir()
        model = write_model(
            probe, entry, folder=folder / "model", name=name, factory=factory, search=search, prepare={}, lineage={},
        )  # fmt: skip
        batch = model.as_artifact().fixed_batch or _FEEDS
        feeds = batch_feeds(model.inputs, {}, _SEED, batch)
        sites = find_sites(model, fake.quantization(), [feeds], folder)
    placement = place(probe, name, sites, [feeds[s.name] for s in model.inputs])
    start, freeze = fake.steps(config.epochs * math.ceil(rows / config.batch))
    rounding = ROUNDINGS[VARIANTS[fake.variant][0]]
    wrapped = wrap(module, name, placement, rounding, start=start, freeze=freeze)
    return FakeQuantTraining(config=fake, module=wrapped, shared=sites.shared)
