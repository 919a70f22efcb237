"""Texts in the formats of TensorRT's tools, made by hand: SYNTHETIC, no engine and no trtexec ever wrote them."""

from __future__ import annotations

import json
from typing import Any

#: The layout of trtexec 10: defaults of 10, one of them overridden on the command line.
TRTEXEC_10 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101600] [b11] # trtexec --onnx=synthetic.onnx --useCudaGraph
[01/01/2000-00:00:00] [I] === Inference Options ===
[01/01/2000-00:00:00] [I] Iterations: 10
[01/01/2000-00:00:00] [I] Data transfers: Enabled
[01/01/2000-00:00:00] [I] Spin-wait: Disabled
[01/01/2000-00:00:00] [I] CUDA Graph: Enabled
[01/01/2000-00:00:00] [I] === Performance summary ===
[01/01/2000-00:00:00] [I] Throughput: 1000.5 qps
[01/01/2000-00:00:00] [I] Latency: min = 0.9 ms, max = 3 ms, mean = 1.1 ms, median = 1 ms, percentile(90%) = 1.2 ms, percentile(95%) = 1.3 ms, percentile(99%) = 2 ms
[01/01/2000-00:00:00] [I] Enqueue Time: min = 0.1 ms, max = 0.4 ms, mean = 0.2 ms, median = 0.2 ms, percentile(90%) = 0.3 ms
[01/01/2000-00:00:00] [I] H2D Latency: min = 0.1 ms, max = 0.1 ms, mean = 0.1 ms, median = 0.1 ms, percentile(90%) = 0.1 ms
[01/01/2000-00:00:00] [I] GPU Compute Time: min = 0.7 ms, max = 2.8 ms, mean = 0.9 ms, median = 0.8 ms, percentile(99%) = 1.8 ms
[01/01/2000-00:00:00] [I] D2H Latency: min = 0.1 ms, max = 0.1 ms, mean = 0.1 ms, median = 0.1 ms, percentile(90%) = 0.1 ms
[01/01/2000-00:00:00] [I] Total Host Walltime: 3.001 s
[01/01/2000-00:00:00] [I] Total GPU Compute Time: 2.7 s
[01/01/2000-00:00:00] [W] * GPU compute time is unstable, with coefficient of variance = 3.1%.
&&&& PASSED TensorRT.trtexec [TensorRT v101600] [b11] # trtexec --onnx=synthetic.onnx --useCudaGraph
"""

#: The layout of trtexec 11: nothing is printed of the settings, so they follow from version and command.
TRTEXEC_11 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v110400] # trtexec --loadEngine=synthetic.plan --noSpinWait
[I] === Performance summary ===
[I] Throughput: 2000 qps
[I] Latency: min = 0.4 ms, max = 0.9 ms, mean = 0.5 ms, median = 0.5 ms, percentile(90%) = 0.6 ms
[I] GPU Compute Time: min = 0.4 ms, max = 0.9 ms, mean = 0.5 ms, median = 0.5 ms, percentile(90%) = 0.6 ms
[I] Total Host Walltime: 3 s
"""

TIMES = json.dumps([
    {"startEnqMs": 0.0, "endEnqMs": 0.1, "startH2dMs": 0.1, "endH2dMs": 0.2, "startComputeMs": 0.2, "endComputeMs": 1.2,
     "startD2hMs": 1.2, "endD2hMs": 1.5, "h2dMs": 0.1, "computeMs": 1.0, "d2hMs": 0.3, "latencyMs": 1.4},
    {"startComputeMs": 2.0, "endComputeMs": 4.5},
])  # fmt: skip


def inspection(proto: Any, tactic: str, major: int) -> str:
    """An inspector's dump in the layout of 10 or 11, one layer per node."""
    typed = (
        {"Format/Datatype": "Row major linear FP32"}
        if major < 11
        else {"Format": "Row major linear", "DataType": "Float"}
    )
    layers = [
        {
            "Name": n.name or n.op_type,
            "LayerType": n.op_type,
            "Inputs": [{"Name": i, "Dimensions": [1], **typed} for i in n.input[:1]],
            "Outputs": [{"Name": o, "Dimensions": [1], **typed} for o in n.output],
            "TacticName": f"{n.op_type.lower()}_{tactic}",
            "Metadata": f"[ONNX Layer: {n.name}]",
        }
        for n in proto.graph.node
    ]
    names = [v.name for v in (*proto.graph.input, *proto.graph.output)]
    if major < 11:
        return json.dumps({"Layers": layers, "Bindings": names})
    return json.dumps({"Layers": layers, "I/O Tensors": [{"Name": n, "IOMode": "Input"} for n in names]})
