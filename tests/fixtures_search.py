"""A small search document."""

from __future__ import annotations

import math

from edgekd.files import digest_of
from edgekd.gates.verdict import Gate
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError
from edgekd.quantize.mixture import Latency, Mixture, Trial
from edgekd.quantize.searched import Search

FLOAT = Mixture(target="cpu:onnxruntime")
WHOLE = Mixture(target="cpu:onnxruntime", config=QuantConfig())
MIXED = WHOLE.keeping(["conv2", "conv1"])
BF16 = Mixture(target="cpu:openvino", settings=(("precision", "bf16"),))
BROKEN = Mixture(target="cpu:openvino", config=QuantConfig(mode="dynamic"))


def make_search() -> Search:
    """A search that kept two layers in float."""
    trials = (
        Trial(
            mixture=FLOAT,
            decision="pass",
            difference=0.0,
            interval=(0.0, 0.0),
            n=2000,
            assured=True,
            size_bytes=4 << 20,
            latency=Latency(ratio=1.0, lower=1.0, upper=1.0),
        ),
        Trial(
            mixture=WHOLE,
            decision="reject",
            difference=-0.12,
            interval=(-0.14, -0.1),
            n=500,
            size_bytes=1 << 20,
            reason="clearly below",
            latency=Latency(ratio=0.3, lower=0.0, upper=math.inf),
        ),
        Trial(
            mixture=MIXED,
            decision="pass",
            difference=-0.001,
            interval=(-0.004, 0.002),
            n=2000,
            assured=True,
            size_bytes=2 << 20,
            latency=Latency(ratio=0.5, lower=0.48, upper=0.52),
        ),
        Trial(
            mixture=BF16,
            decision="inconclusive",
            difference=-0.005,
            interval=(-0.012, 0.001),
            n=2000,
            size_bytes=4 << 20,
            wanted=9000,
        ),
        Trial(mixture=BROKEN, decision="error", reason="no operator | of that kind"),
    )
    gate = Gate(
        gate="accuracy",
        decision="pass",
        metric="top1",
        against="float32",
        artifact=digest_of(3),
        target="cpu:onnxruntime",
        estimate=-0.002,
        interval=(-0.005, 0.001),
        confidence=0.95,
        limit=-0.0075,
        unit="fraction",
        n=2000,
        method="tango",
        split="test",
        reason="student is at most 0.50 points below its own float32 (limit 0.75) on 2,000 examples",
    )
    layer = LayerError(name="conv1", op_type="Conv", sqnr_db=9.0, own_sqnr_db=8.5, macs=1000)
    return Search(
        model={"reference": "student.onnx", "artifact": digest_of(1)},
        targets=("cpu:onnxruntime", "cpu:openvino"),
        metric="top1",
        unit="fraction",
        max_drop=0.0075,
        splits={
            "select": {"reference": "d.npz#0::2", "data": digest_of(4)},
            "test": {"reference": "d.npz#1::2", "data": digest_of(5)},
        },
        budget_s=600.0,
        seconds=12.5,
        evaluations=4,
        races=2,
        out_of_time=False,
        trials=trials,
        artifacts={FLOAT.label: digest_of(1), WHOLE.label: digest_of(2), MIXED.label: digest_of(3)},
        winner=MIXED.label,
        layers={WHOLE.label: (layer, LayerError(name="fc", op_type="Gemm", sqnr_db=None))},
        gate=gate,
        decision="pass",
        note=f"{MIXED.label}, 0.500x of float32's time",
        environment={"cpu": "x"},
        measurement={"threads": 1},
        collected_at="2026-11-22T00:00:00Z",
        edgekd="0",
    )
