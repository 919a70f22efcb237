"""What quantization-aware training wins over quantizing afterwards, on a network that int8 hurts.

    python bench/quantization/qat_against_ptq.py

A depthwise network on scikit-learn's digits, one scale per weight tensor, its channels made uneven without changing what
it computes (as rescale.py does it: MobileNets are so by nature). From one trained float network per seed:
int8 as it is (PTQ); fine-tuned in float and then quantized, for the same epochs (PTQ, fine-tuned), so that the epochs alone
win nothing; fine-tuned with fake quantization on the labels (QAT); and so by distillation from the float teacher (QAD).
Minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.data.example import Array
from edgekd.distill import TrainConfig, train_model
from edgekd.distill.fake_quant import FakeQuantConfig
from edgekd.model import Model
from edgekd.quantize import QuantConfig
from edgekd.quantize.trained import load_trained
from edgekd.target import SessionOptions
from edgekd.tasks import ModelIO, TaskSpec, build_task

TRAIN, TEST = "sklearn:digits#0:900", "sklearn:digits#900:1797"
BASE = TrainConfig(epochs=12, batch=50, lr=0.1)
TUNE = TrainConfig(epochs=6, batch=50, lr=0.001)
#: Channels are scaled by 2**u, u uniform in [-POWERS, POWERS].
POWERS = 1.5
FAKE = FakeQuantConfig(granularity="tensor", start=0.0, freeze=0.7)
ROWS = ("float32", "PTQ", "PTQ, fine-tuned", "QAT", "QAD")


class Depthwise(nn.Module):
    """Separable convolutions as in MobileNet (Howard et al. 2017), for (batch, 1, 8, 8) digits."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(1, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        for _ in range(blocks):
            layers += [
                nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            ]  # fmt: skip
        self.features = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d(4)
        self.head = nn.Linear(width * 4, 10)

    def forward(self, image: Any) -> Any:
        return self.head(torch.flatten(self.pool(self.features(image)), 1))


def student() -> Any:
    """Few channels, so that each counts."""
    module: Any = Depthwise(8, 4)
    module.edgekd_inputs = {"image": ("float32", ("batch", 1, 8, 8))}
    return module


@dataclass
class Bench:
    """Trains into folders below ``root``; everything is made once."""

    root: Path
    made: int = 0

    def folder(self) -> Path:
        self.made += 1
        made = self.root / str(self.made)
        made.mkdir()
        return made

    def train(
        self, factory: str, config: TrainConfig, *, start: Model | None = None, teacher: Model | None = None
    ) -> Model:
        return train_model(
            factory=factory, search=Path(__file__).parent, init=start.folder / start.weights if start else None,
            prepare={}, name="student", task=build_task(TaskSpec(data={"train": TRAIN})), config=config, teacher=teacher,
            out=self.folder(), resume=self.folder(), lineage={},
        )  # fmt: skip

    def uneven(self, model: Model, seed: int) -> Model:
        """The same function with channels of very different ranges (Nagel et al. 2019, section 4.1, backwards)."""
        from edgekd_torch.modules import describe, load_module, write_model

        module = load_module(model)
        generator = torch.Generator().manual_seed(seed)
        layers = list(module.features)
        convolutions = [i for i, m in enumerate(layers) if isinstance(m, nn.Conv2d)]
        with torch.no_grad():
            for this, after in itertools.pairwise(convolutions):
                norm, conv = layers[this + 1], layers[after]
                factor = 2 ** ((torch.rand(len(norm.weight), generator=generator) * 2 - 1) * POWERS)
                norm.weight.mul_(factor)
                norm.bias.mul_(factor)
                across = (-1, 1, 1, 1) if conv.groups > 1 else (1, -1, 1, 1)
                conv.weight.div_(factor.reshape(across))
        search = Path(__file__).parent
        return write_model(
            module, describe(model.factory, search), folder=self.folder(), name=model.name, factory=model.factory,
            search=search, prepare=model.prepare, lineage={},
        )  # fmt: skip

    def accuracy(self, model: Model, config: QuantConfig | None) -> float:
        """Share of the test digits that its ONNX export answers right, quantized with ``config`` where given."""
        from edgekd_onnx.exporter import OnnxExporter
        from edgekd_onnx.runtime import OnnxRuntime

        exporter = OnnxExporter()
        artifact = exporter.export(model, self.folder(), {})
        if config is not None:
            if model.quantization:
                config = load_trained(model.folder / model.quantization).applied(config, model.name)
            feeds = [x for x, _ in batches(model, TRAIN)][:8]
            artifact = exporter.quantize(artifact, config, feeds, self.folder())
        session = OnnxRuntime().open(artifact.path, SessionOptions(threads=1))
        right = rows = 0
        for x, y in batches(model, TEST):
            right += int((next(iter(session.run(x).values())).argmax(1) == y).sum())
            rows += len(y)
        session.close()
        return right / rows


def batches(model: Model, data: str) -> Iterator[tuple[dict[str, Array], Array]]:
    """Prepared feeds and labels, 32 examples each."""
    task = build_task(TaskSpec(data={"train": data}))
    io = ModelIO(role="student", inputs=model.inputs, outputs=model.outputs, prepare=model.prepare)
    rows = [(task.prepare(e, io), e.label) for e in task.examples("train")]
    for i in range(0, len(rows), 32):
        part = rows[i : i + 32]
        yield (
            {k: np.concatenate([f[k] for f, _ in part]) for k in part[0][0]},
            np.asarray([label for _, label in part]),
        )


def one_seed(bench: Bench, teacher: Model, seed: int) -> dict[str, float]:
    """Accuracy of every row of the table."""
    factory = "python:qat_against_ptq:student"
    config = FAKE.quantization()
    base = bench.uneven(bench.train(factory, replace(BASE, seed=seed)), seed)
    tune = replace(TUNE, seed=seed)
    models: Mapping[str, Model] = {
        "PTQ": base,
        "PTQ, fine-tuned": bench.train(factory, tune, start=base),
        "QAT": bench.train(factory, replace(tune, fake_quant=FAKE), start=base),
        "QAD": bench.train(
            factory, replace(tune, method="logits", fake_quant=FAKE), start=base, teacher=teacher
        ),
    }
    found = {"float32": bench.accuracy(base, None)}
    return found | {name: bench.accuracy(model, config) for name, model in models.items()}


def main(arguments: list[str]) -> int:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="networks, each with a seed of its own")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        teacher = bench.train("zoo:digits-cnn-teacher", replace(BASE, seed=100))
        found = []
        for seed in range(asked.seeds):
            found.append(one_seed(bench, teacher, seed))
            print(f"seed {seed}: {found[-1]}", file=sys.stderr, flush=True)
    print("| int8, one scale per tensor | mean accuracy | least | greatest | against float32, points |")
    print("|---|---|---|---|---|")
    for row in ROWS:
        values = [f[row] for f in found]
        against = statistics.mean(f[row] - f["float32"] for f in found)
        print(
            f"| {row} | {statistics.mean(values):.2%} | {min(values):.2%} | {max(values):.2%} | {100 * against:+.2f} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
