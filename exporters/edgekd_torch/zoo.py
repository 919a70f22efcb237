"""``zoo:NAME``: small, well-known networks that are built without a download."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.errors import UsageError
from edgekd.spec import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooEntry:
    """A network's builder (a callable that imports torch when called) and its boundary."""

    build: Callable[[], Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    prepare: Mapping[str, Any] = field(default_factory=dict)


def _cifar_resnet(blocks: int) -> ZooEntry:
    def build() -> Any:
        from edgekd_torch._nets import CifarResNet

        return CifarResNet(blocks)

    return ZooEntry(
        build=build,
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, 32, 32)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 10)),),
        # ImageNet's channel statistics, as the published weights of these networks were trained with.
        prepare={"scale": 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "layout": "NCHW"},
    )


def _digits_cnn(width: int, depth: int) -> ZooEntry:
    def build() -> Any:
        from edgekd_torch._nets import DigitsCnn

        return DigitsCnn(width, depth)

    return ZooEntry(
        build=build,
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 1, 8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 10)),),
    )


ZOO: Mapping[str, ZooEntry] = {
    "cifar-resnet8": _cifar_resnet(1),
    "cifar-resnet20": _cifar_resnet(3),
    "cifar-resnet32": _cifar_resnet(5),
    "cifar-resnet44": _cifar_resnet(7),
    "cifar-resnet56": _cifar_resnet(9),
    "digits-cnn-teacher": _digits_cnn(96, 4),
    "digits-cnn-student": _digits_cnn(12, 2),
}


def zoo_entry(name: str) -> ZooEntry:
    """Look a network up.

    Raises:
        UsageError: no such network; the message names those there are.
    """
    if name not in ZOO:
        raise UsageError(f"the zoo has no '{name}'", f"it has {', '.join(ZOO)}")
    return ZOO[name]
