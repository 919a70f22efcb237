"""Graphs with a fault that has nothing to do with quantization: opset, operators, types, shapes, control flow."""

from __future__ import annotations

from typing import Any

from fixtures_lint_graphs import FLOAT, UINT8, Build
from onnx import TensorProto, helper


def one(
    op: str, *, opset: int = 19, shape: Any = (1, 4, 8, 8), kind: int = FLOAT, **attributes: Any
) -> Build:
    g = Build(opset)
    g.input("x", list(shape), kind)
    g.node(op, ["x"], "y", **attributes)
    g.output("y", None, kind)
    return g


def old_opset() -> Build:
    return one("Relu", opset=8)


def new_opset() -> Build:
    return one("Relu", opset=26)


def opset_25() -> Build:
    return one("Relu", opset=25)


def unsupported() -> Build:
    g = one("Det", shape=(4, 4))
    g.outputs.clear()
    g.output("y", [])
    return g


def foreign_domain() -> Build:
    g = one("FastGelu", domain="com.example")
    g.domains["com.example"] = 1
    g.outputs.clear()
    g.output("y", [1, 4, 8, 8])
    return g


def undeclared_plugin() -> Build:
    g = one("EfficientNMS_TRT")
    g.outputs.clear()
    g.output("y", [1, 4, 8, 8])
    return g


def swish_on_10() -> Build:
    return one("Swish", opset=24)


def branch(g: Build, name: str) -> Any:
    return next(a.g for a in g.nodes[-1].attribute if a.name == name)


def in_a_branch() -> Build:
    g = Build()
    g.input("x", [4, 4])
    g.input("c", [], TensorProto.BOOL)
    branches = []
    for name, op in (("then", "Relu"), ("else", "Det")):
        node = helper.make_node(op, ["x"], [f"{name}_out"], name=f"{name}_node")
        shape = [4, 4] if op == "Relu" else []
        branches.append(
            helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}_out", FLOAT, shape)])
        )
    g.node("If", ["c"], "y", then_branch=branches[0], else_branch=branches[0])
    inner = branch(g, "else_branch")
    inner.CopyFrom(branches[1])
    g.output("y")
    # Ranks differ too; give the branch that of the other.
    inner.node.append(
        helper.make_node("Expand", ["else_out", "inner_shape"], ["else_wide"], name="else_expand")
    )
    inner.initializer.append(helper.make_tensor("inner_shape", TensorProto.INT64, [2], [4, 4]))
    inner.output[0].CopyFrom(helper.make_tensor_value_info("else_wide", FLOAT, [4, 4]))
    return g


def in_a_function() -> Build:
    g = one("Lose", domain="local")
    g.domains["local"] = 1
    node = helper.make_node("Multinomial", ["a"], ["b"], name="draw")
    g.functions.append(
        helper.make_function("local", "Lose", ["a"], ["b"], [node], [helper.make_opsetid("", 19)])
    )
    g.inputs.clear()
    g.input("x", [2, 8])
    g.outputs.clear()
    g.output("y", None, TensorProto.INT32)
    return g


def int16() -> Build:
    g = one("Cast", to=TensorProto.FLOAT)
    g.inputs.clear()
    g.input("x", [4], TensorProto.INT16)
    return g


def uint8_inside() -> Build:
    g = Build()
    g.input("x", [4])
    g.node("Cast", ["x"], "small", to=UINT8)
    g.node("Identity", ["small"], "same")
    g.node("Cast", ["same"], "y", to=FLOAT)
    g.output("y")
    return g


def double() -> Build:
    return one("Relu", kind=TensorProto.DOUBLE)


def wrong_type() -> Build:
    g = Build()
    g.input("x", [2, 4], TensorProto.INT32)
    g.node("NonZero", ["x"], "z")
    g.node("Cast", ["z"], "y", to=FLOAT)
    g.output("y")
    return g


def pool_1d() -> Build:
    return one("MaxPool", shape=(1, 4, 8), kernel_shape=[2])


def dilated_pool() -> Build:
    return one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])


def cubic_resize() -> Build:
    g = Build()
    g.input("x", [1, 4, 8, 8])
    g.constant("s", [1, 1, 2, 2])
    g.node("Resize", ["x", "", "s"], "y", mode="cubic")
    g.output("y")
    return g


def large_topk() -> Build:
    g = Build()
    g.input("x", [1, 8000])
    g.constant("k", [4000], TensorProto.INT64)
    g.nodes.append(helper.make_node("TopK", ["x", "k"], ["y", "i"], name="top"))
    g.output("y")
    return g


def computed_axes() -> Build:
    g = Build()
    g.input("x", [2, 4])
    g.input("a", [1], TensorProto.INT64)
    g.node("ReduceSum", ["x", "a"], "y", keepdims=1)
    g.output("y", ["a", "b"])
    return g


def seed() -> Build:
    g = Build()
    g.node("RandomNormal", [], "y", shape=[4], seed=3.0)
    g.output("y")
    return g


def unchecked() -> Build:
    g = one("Relu")
    g.nodes[0].attribute.append(helper.make_attribute("slope", 2))
    return g


def shapes_contradict() -> Build:
    g = Build()
    g.input("x", [2, 3])
    g.input("z", [5, 7])
    g.node("MatMul", ["x", "z"], "y")
    g.output("y", [2, 7])
    return g


def bfloat16() -> Build:
    return one("Relu", kind=TensorProto.BFLOAT16)


def plain_net() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.node("MatMul", ["x", g.weights("w", 32, 32)], "y")
    g.output("y")
    return g


def dynamic() -> Build:
    return one("Relu", shape=("batch", 4, 8, 8))


def two_inputs() -> Build:
    g = Build()
    g.input("a", ["batch", 4])
    g.input("b", ["batch", 4])
    g.node("Add", ["a", "b"], "y")
    g.output("y")
    return g


def branch_ranks() -> Build:
    g = in_a_branch()
    g.outputs.clear()
    g.output("y", ["a"])
    inner = branch(g, "else_branch")
    del inner.node[:]
    inner.node.append(
        helper.make_node("ReduceSum", ["x", "inner_axes"], ["else_wide"], name="else_sum", keepdims=0)
    )
    del inner.initializer[:]
    inner.initializer.append(helper.make_tensor("inner_axes", TensorProto.INT64, [1], [0]))
    inner.output[0].CopyFrom(helper.make_tensor_value_info("else_wide", FLOAT, [4]))
    return g


def loop(body_shape: list[int], trips: bool = True, stack: bool = False) -> Build:
    g = Build()
    g.input("x", [2, 4])
    g.input("n", [], TensorProto.INT64)
    if trips:
        g.constant("trips", 3, TensorProto.INT64)
    nodes = [
        helper.make_node("Identity", ["c_in"], ["c_out"], name="keep"),
        helper.make_node("Concat", ["v", "v"], ["v_out"], name="grow", axis=0)
        if body_shape == [4, 4]
        else helper.make_node("Relu", ["v"], ["v_out"], name="grow"),
    ]
    made = [
        helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v_out", FLOAT, body_shape),
    ]
    if stack:
        nodes.append(helper.make_node("Identity", ["v_out"], ["s_out"], name="stack"))
        made.append(helper.make_tensor_value_info("s_out", FLOAT, body_shape))
    body = helper.make_graph(
        nodes, "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, [2, 4]),
        ],
        made,
    )  # fmt: skip
    outputs = ["y", "stacked"] if stack else ["y"]
    g.nodes.append(
        helper.make_node("Loop", ["trips" if trips else "n", "", "x"], outputs, name="loop", body=body)
    )
    g.output("y", ["a", 4])
    if stack:
        g.output("stacked", ["b", 2, 4])
    return g


def growing_loop() -> Build:
    return loop([4, 4])


def endless_stack() -> Build:
    return loop([2, 4], trips=False, stack=True)


def nonzero() -> Build:
    g = Build()
    g.input("x", [2, 4])
    g.node("NonZero", ["x"], "z")
    g.node("Cast", ["z"], "y", to=FLOAT)
    g.output("y")
    return g


def shape_input() -> Build:
    g = Build()
    g.input("x", [2, 4])
    g.input("s", [2], TensorProto.INT64)
    g.node("Reshape", ["x", "s"], "y")
    g.output("y", ["a", "b"])
    return g
