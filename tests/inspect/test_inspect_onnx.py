"""The ONNX inspector: what it says of sound files, and the rule by which it refuses each kind of unsound one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import DamagedFileError, EdgeKDError, PolicyError
from edgekd.inspect import LIMITS, Limits, inspect_file
from edgekd.inspect.limits import STORED
from edgekd.inspect.onnx_tensor import TYPES
from edgekd.inspect.rules import DAMAGE
from edgekd.inspect.wire import encode


def _field(number: int, payload: bytes) -> bytes:
    return encode(number << 3 | 2) + encode(len(payload)) + payload


def _number(number: int, value: int) -> bytes:
    return encode(number << 3) + encode(value % (1 << 64))


_OUTPUT = _field(12, _field(1, b"y"))
_OPSET = _field(8, _number(2, 17))


def _raw(graph: bytes = b"", rest: bytes = b"") -> bytes:
    """A model in bytes, so that it may say what no library would write."""
    return _number(1, 8) + _OPSET + _field(7, graph + _OUTPUT) + rest


def _node(op: str = "Relu", domain: str = "", **attributes: Any) -> Any:
    return helper.make_node(op, ["x"], ["y"], name="the node", domain=domain, **attributes)


def _model(
    *nodes: Any, weights: tuple[Any, ...] = (), functions: tuple[Any, ...] = (), opsets: tuple[Any, ...] = ()
) -> Any:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy")
    graph = helper.make_graph(list(nodes) or [_node()], "the graph", [x], [y], list(weights))
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), *opsets],
        functions=list(functions),
        producer_name="a test",
        producer_version="1",
    )
    helper.set_model_props(made, {"licence": "MIT"})
    return made


def _function(name: str, *calls: str, domain: str = "own") -> Any:
    nodes = [helper.make_node(call, ["x"], ["x"], domain=domain) for call in calls] or [_node()]
    return helper.make_function(domain, name, ["x"], ["y"], nodes, [helper.make_opsetid("", 17)])


def _saved(folder: Path, model: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def _refusal(path: Path, limits: Limits = LIMITS) -> PolicyError | DamagedFileError:
    with pytest.raises((PolicyError, DamagedFileError)) as caught:
        inspect_file(path, limits=limits, digest=False)
    assert caught.value.exit_code == (2 if caught.value.rule in DAMAGE else 5)
    text = str(caught.value)
    assert str(path) in text
    assert f"(rule {caught.value.rule})" in text
    assert text.isprintable()
    return caught.value


# --- what is in a sound file


def test_the_facts(tmp_path: Path) -> None:
    weights = (
        numpy_helper.from_array(np.ones((4, 4), np.float32), "w"),
        numpy_helper.from_array(np.ones(3, np.int64), "axes"),
    )
    model = _model(_node(), _node("Gelu", "com.microsoft"), _node("f", "own"), weights=weights,
                   functions=(_function("f"),), opsets=(helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)))  # fmt: skip
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    path = _saved(tmp_path, model)
    found = inspect_file(path)
    assert (found.format, found.size_bytes, len(found.sha256)) == ("onnx", path.stat().st_size, 64)
    facts = dict(found.facts)
    assert facts.pop("ir_version") == model.ir_version
    assert facts == {
        "producer": "a test 1",
        "opsets": {"ai.onnx": 17, "com.microsoft": 1, "own": 1},
        "graph": "the graph",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 4]}],
        "nodes": 4,
        "ops": {"Relu": 2, "com.microsoft::Gelu": 1, "own::f": 1},
        "functions": 1,
        "tensors": 2,
        "dtypes": {"float32": 1, "int64": 1},
        "initializer_bytes": 64 + 24,
        "metadata": {"licence": "MIT"},
    }


def test_every_element_type_of_onnx_is_known() -> None:
    assert set(TYPES) >= {number for name, number in TensorProto.DataType.items() if name != "UNDEFINED"}


@pytest.mark.parametrize("number", sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}))
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_is_measured_as_onnx_writes_it(tmp_path: Path, number: int, raw: bool) -> None:
    if number == TensorProto.STRING:
        tensor = helper.make_tensor("t", number, [5], [b"a"] * 5)
    else:
        values = np.ones(5, helper.tensor_dtype_to_np_dtype(number))
        tensor = numpy_helper.from_array(values, "t") if raw else helper.make_tensor("t", number, [5], values)
    found = inspect_file(_saved(tmp_path, _model(weights=(tensor,))), digest=False)
    assert found.facts["tensors"] == 1
    tensor.dims[0] = 13
    assert _refusal(_saved(tmp_path, _model(weights=(tensor,)))).rule == "tensor-data"


def test_numbers_that_are_not_packed_are_counted(tmp_path: Path) -> None:
    """Old writers spend one field on each number."""
    for count, sound in ((300, True), (299, False)):
        for kind, entries in (
            (1, b"".join(encode(4 << 3 | 5) + b"\0\0\x80\x3f" for _ in range(count))),
            (7, b"".join(_number(7, i - 150) for i in range(count))),
            (6, b"".join(_number(5, i * 1000) for i in range(count))),
        ):
            tensor = _number(1, 300) + _number(2, kind) + entries + _field(8, b"w")
            path = _saved(tmp_path, _raw(_field(5, tensor)))
            if sound:
                assert inspect_file(path).facts["tensors"] == 1
            else:
                assert _refusal(path).rule == "tensor-data"


@pytest.mark.data
def test_the_real_files_are_sound(data_root: Path) -> None:
    files = sorted(data_root.glob("**/*.onnx"))
    assert files
    for path in files:
        facts = inspect_file(path, digest=False).facts
        model = onnx.load(str(path))
        assert facts["nodes"] == len(model.graph.node)
        assert facts["tensors"] >= len(model.graph.initializer)
        assert [v["name"] for v in facts["outputs"]] == [v.name for v in model.graph.output]


# --- the wire


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (_raw() + b"\0\0\0\0", "malformed"),  # field 0
        (_raw() + b"PK\x05\x06", "trailing-bytes"),
        (_raw() + _field(9, b"more"), "trailing-bytes"),
        (_raw() + _number(30, 1), "trailing-bytes"),
        (_raw() + b"\x0b", "malformed"),  # a group
        (_raw() + b"\x0f", "malformed"),  # wire type 7
        (_raw() + b"\x08" + b"\x80" * 10 + b"\x01", "malformed"),  # a number of 11 bytes
        (_raw() + b"\x08" + b"\xff" * 9 + b"\x7f", "malformed"),  # of 70 bits
        (_raw() + b"\x88\x80\x80\x80\x80\x01\x01", "malformed"),  # a tag of 36 bits
        (_raw() + b"\x08\x80", "truncated"),
        (_raw() + b"\x0d\0\0\0", "truncated"),  # three bytes of four
        (_raw() + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "truncated"),  # a length of 2^64 - 1
        (_raw() + _number(7, 1), "malformed"),  # a number for a graph
        (_raw() + _field(7, _OUTPUT), "malformed"),  # two graphs
        (_number(1, 8) + _OPSET, "malformed"),
        (_number(1, 8) + _field(7, _OUTPUT), "malformed"),
        (_number(1, 8) + _OPSET + _field(7, b""), "malformed"),
        (_raw(_number(1, 1)), "malformed"),  # a number for a node
        (_raw(_field(1, _field(4, b"Relu") + _field(4, b"Loop"))), "malformed"),
        (_raw(_field(1, _field(4, b"If") + _field(5, _field(6, b"") + _field(6, b"")))), "malformed"),
        (_raw(_field(1, _field(5, _number(6, 1)))), "malformed"),
        (_raw(_field(5, _number(1, 1) + _number(2, 1) + _field(9, b"1234") + _field(9, b""))), "malformed"),
        (_raw(_field(5, _number(1, 1) + _number(2, 1) + _field(4, b"123"))), "malformed"),
        (_raw(_field(5, _number(1, 1) + _number(2, 7) + _field(7, b"\x80"))), "truncated"),
        (_raw(_field(5, _field(3, b""))), "malformed"),  # a segment
        (b"\x80\x04\x95" + bytes(40), "content-mismatch"),
        (b"PK\x03\x04" + bytes(40), "content-mismatch"),
        (b"\x7fELF" + bytes(40), "content-mismatch"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes, rule: str) -> None:
    assert _refusal(_saved(tmp_path, data)).rule == rule


def test_every_prefix_of_a_model_is_refused(tmp_path: Path) -> None:
    """A file that was cut off anywhere never passes."""
    whole = _model(weights=(numpy_helper.from_array(np.ones(4, np.float32), "w"),)).SerializeToString()
    graph = onnx.load_from_string(whole).graph.SerializeToString()
    after = whole.index(graph) + len(graph)
    for size in range(1, after):
        _refusal(_saved(tmp_path, whole[:size]))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), put=st.binary(min_size=1, max_size=6), cut=st.integers(0, 60))
def test_any_change_of_bytes_is_facts_or_one_line(tmp_path: Path, at: int, put: bytes, cut: int) -> None:
    data = bytearray(
        _model(
            _node("If", then_branch=_model().graph, else_branch=_model().graph),
            weights=(numpy_helper.from_array(np.ones(4, np.float32), "w"),),
            functions=(_function("f"),),
        ).SerializeToString()
    )
    data[at : at + len(put)] = put
    path = _saved(tmp_path, bytes(data[: len(data) - cut]))
    try:
        assert inspect_file(path).format == "onnx"
    except EdgeKDError as e:
        assert str(e).isprintable()


# --- tensors


def _tensor(**changes: Any) -> Any:
    tensor = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    for key, value in changes.items():
        if key == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, key, value)
    return tensor


_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dims": [2, 3]}, "tensor-data"),
    ({"dims": [1 << 38]}, "tensor-data"),
    ({"dims": [1 << 62] * 30}, "tensor-data"),
    ({"dims": [-2, -2]}, "tensor-shape"),
    ({"dims": [1] * 33}, "tensor-shape"),
    ({"data_type": 0}, "tensor-type"),
    ({"data_type": 99}, "tensor-type"),
    ({"data_type": 8}, "tensor-data"),
    ({"raw_data": b""}, "tensor-data"),
    ({"name": "w\n"}, "name-text"),
]


@pytest.mark.parametrize(("changes", "rule"), _WRONG)
@pytest.mark.parametrize(
    "place",
    [
        "initializer",
        "attribute",
        "attributes",
        "branch",
        "function",
        "sparse",
        "sparse attribute",
        "training",
    ],
)
def test_a_wrong_tensor_is_refused_wherever_it_is(
    tmp_path: Path, place: str, changes: dict[str, Any], rule: str
) -> None:
    assert inspect_file(_saved(tmp_path, _placed(_tensor(), place)), digest=False).facts["tensors"] >= 1
    assert _refusal(_saved(tmp_path, _placed(_tensor(**changes), place))).rule == rule


def _placed(tensor: Any, place: str) -> Any:
    model = _model()
    graph = model.graph
    if place == "initializer":
        graph.initializer.append(tensor)
    elif place == "attribute":
        graph.node[0].attribute.append(helper.make_attribute("value", tensor))
    elif place == "attributes":
        graph.node[0].attribute.append(helper.make_attribute("values", [tensor]))
    elif place == "branch":
        inner = _model(weights=(tensor,)).graph
        graph.node.append(_node("If", then_branch=inner, else_branch=inner))
    elif place == "function":
        function = _function("f")
        function.node[0].attribute.append(helper.make_attribute("value", tensor))
        model.functions.append(function)
    elif place == "training":
        model.training_info.add().algorithm.CopyFrom(_model(weights=(tensor,)).graph)
    else:
        sparse = graph.sparse_initializer.add() if place == "sparse" else onnx.SparseTensorProto()
        sparse.values.CopyFrom(tensor)
        sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "indices"))
        sparse.dims.append(9)
        if place != "sparse":
            graph.node[0].attribute.append(helper.make_attribute("sparse_value", sparse))
    return model


def test_data_of_two_kinds_is_refused(tmp_path: Path) -> None:
    tensor = _tensor()
    tensor.float_data.extend([1, 1, 1, 1])
    assert _refusal(_saved(tmp_path, _model(weights=(tensor,)))).rule == "tensor-data"
    tensor = _tensor(raw_data=b"")
    tensor.int64_data.extend([1, 1, 1, 1])
    assert "another type" in _refusal(_saved(tmp_path, _model(weights=(tensor,)))).what


# --- operators and functions


def test_an_operator_of_nobody_is_refused_by_its_name(tmp_path: Path) -> None:
    found = _refusal(_saved(tmp_path, _model(_node("Wavelet", "com.example"))))
    assert found.rule == "opset-domain"
    assert "node 'the node' is com.example::Wavelet" in found.what
    inner = _model(_node("Wavelet", "com.example")).graph
    nested = _model(_node("If", then_branch=inner, else_branch=inner))
    assert _refusal(_saved(tmp_path, nested)).rule == "opset-domain"
    calls = _model(functions=(_function("f", "Wavelet", domain="com.example"),))
    assert _refusal(_saved(tmp_path, calls)).rule == "opset-domain"
    # A domain that is only imported asks for nothing.
    inspect_file(_saved(tmp_path, _model(opsets=(helper.make_opsetid("com.example", 1),))))


@pytest.mark.parametrize("version", [0, -1, 1000, 1 << 62])
def test_versions_that_do_not_exist(tmp_path: Path, version: int) -> None:
    data = _number(1, 8) + _field(8, _number(2, version)) + _field(7, _OUTPUT)
    assert _refusal(_saved(tmp_path, data)).rule == "opset-version"


def test_two_versions_of_one_domain(tmp_path: Path) -> None:
    inspect_file(_saved(tmp_path, _model(opsets=(helper.make_opsetid("ai.onnx", 17),))))
    found = _refusal(_saved(tmp_path, _model(opsets=(helper.make_opsetid("ai.onnx", 18),))))
    assert (found.rule, "as version 17 and as 18" in found.what) == ("opset-version", True)


@pytest.mark.parametrize("functions", [{"f": "f"}, {"f": "g", "g": "f"}, {"f": "g", "g": "h", "h": "g"}])
def test_functions_that_call_themselves(tmp_path: Path, functions: dict[str, str]) -> None:
    made = tuple(_function(name, callee) for name, callee in functions.items())
    assert _refusal(_saved(tmp_path, _model(functions=made))).rule == "function-recursion"


def test_functions_that_expand_without_bound(tmp_path: Path) -> None:
    """Each of 30 calls the next one twice: 2^29 nodes in a file of 2 KiB."""
    chain = [_function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(29)] + [_function("f29")]
    model = _model(_node("f0", "own"), functions=tuple(chain))
    assert _refusal(_saved(tmp_path, model)).rule == "nodes"
    deep = [_function(f"f{i}", f"f{i + 1}") for i in range(40)] + [_function("f40")]
    assert _refusal(_saved(tmp_path, _model(functions=tuple(deep)))).rule == "nesting"


def test_functions_that_are_defined_twice_or_replace_an_operator(tmp_path: Path) -> None:
    assert _refusal(_saved(tmp_path, _model(functions=(_function("f"),) * 2))).rule == "function-duplicate"
    relu = _function("Relu", domain="")
    assert _refusal(_saved(tmp_path, _model(functions=(relu,)))).rule == "function-duplicate"


# --- limits


def _nested(depth: int) -> Any:
    graph = _model().graph
    for _ in range(depth - 1):
        graph = _model(_node("If", then_branch=graph)).graph
    made = _model()
    made.graph.CopyFrom(graph)
    return made


_LIMITED: list[tuple[Callable[[int], Any], str, str]] = [
    (lambda n: _model(*[_node()] * n), "nodes", "nodes"),
    (lambda n: _model(_node(**{f"a{i}": i for i in range(n)})), "attributes", "attributes"),
    (lambda n: _model(weights=(_tensor(),) * n), "tensors", "tensors"),
    (lambda n: _model(weights=(_tensor(dims=[1] * (n - 2) + [2, 2]),)), "dimensions", "tensor-shape"),
    (_nested, "nesting", "nesting"),
    (lambda n: _model(_node("R" * n)), "name_bytes", "name-text"),
]


@pytest.mark.parametrize(("make", "limit", "rule"), _LIMITED, ids=[limit for _, limit, _ in _LIMITED])
def test_each_limit_takes_what_reaches_it_and_no_more(
    tmp_path: Path, make: Callable[[int], Any], limit: str, rule: str
) -> None:
    limits = Limits(**{limit: 11})
    inspect_file(_saved(tmp_path, make(11)), limits=limits)
    assert _refusal(_saved(tmp_path, make(12)), limits).rule == rule


@pytest.mark.parametrize(
    ("limit", "rule"),
    [
        ("fields", "fields"),
        ("file_bytes", "file-size"),
        ("protobuf_bytes", "file-size"),
        ("initializer_bytes", "initializer-bytes"),
        ("name_total_bytes", "name-text"),
    ],
)
def test_the_other_limits(tmp_path: Path, limit: str, rule: str) -> None:
    assert _refusal(_saved(tmp_path, _model(weights=(_tensor(),))), Limits(**{limit: 15})).rule == rule


def test_a_flood_of_fields_is_left_at_the_limit(tmp_path: Path) -> None:
    """100 million fields, unread: the file is mapped, and has holes where it was not written."""
    path = tmp_path / "model.onnx"
    start = _number(1, 8) + b"\x3a" + encode(200_000_000)
    with path.open("wb") as file:
        file.write(start + b"\x52\x00" * 2_000_000)  # empty doc strings in a graph
        file.truncate(len(start) + 200_000_000)
    found = _refusal(path)
    assert found.rule == "fields"


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\u202eb", "a\u2028b", "a\x00", "\x85"])
def test_names_that_do_not_print(tmp_path: Path, name: str) -> None:
    for make in (
        lambda: _model(_node(name)),
        lambda: _model(helper.make_node("Relu", [name], ["y"])),
        lambda: _model(_node(**{name: 1})),
        lambda: _model(functions=(_function(name),)),
        lambda: _model(opsets=(helper.make_opsetid(name, 1),)),
    ):
        assert _refusal(_saved(tmp_path, make())).rule == "name-text"
    # Prose may hold line breaks, and names any script.
    model = _model(helper.make_node("Relu", ["größe/层.0"], ["y"], doc_string="two\nlines"))
    assert inspect_file(_saved(tmp_path, model)).facts["nodes"] == 1
    assert _refusal(_saved(tmp_path, _raw(_field(1, _field(4, b"\xff\xfe"))))).rule == "name-text"


# --- external data


def _external(folder: Path, *entries: tuple[str, str]) -> Path:
    """A model whose weights of 16 bytes are in w.bin, of 64 bytes; an entry of the same key comes instead of its own."""
    own = {"location": "w.bin", "offset": "16", "length": "16"}
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in ({**own, **dict(entries)} if len(entries) < 2 else dict(own)).items():
        tensor.external_data.add(key=key, value=value)
    for key, value in entries if len(entries) > 1 else ():
        tensor.external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(bytes(64))
    return _saved(folder, _model(weights=(tensor,)))


def test_external_data_is_a_file_that_is_reached(tmp_path: Path) -> None:
    found = inspect_file(_external(tmp_path))
    assert dict(found.files) == {tmp_path / "w.bin": 64}
    assert found.facts["initializer_bytes"] == 16


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (("location", "../secret.bin"), "external-data-location"),
        (("location", "inner/../../secret.bin"), "external-data-location"),
        (("location", "/etc/hostname"), "external-data-location"),
        (("location", ""), "external-data-location"),
        (("location", "."), "external-data-location"),
        (("location", "..\\secret.bin"), "external-data-location"),
        (("location", "C:/secret.bin"), "external-data-location"),
        (("location", "*/_ORT_MEM_ADDR_/*"), "external-data-location"),
        (("location", "w.bin\0"), "external-data-location"),
        (("location", "link.bin"), "external-data-link"),
        (("location", "inside.bin"), "external-data-link"),
        (("location", "linked/secret.bin"), "external-data-link"),
        (("location", "hard.bin"), "external-data-hard-link"),
        (("location", "pipe"), "irregular-file"),
        (("location", "folder"), "irregular-file"),
        (("offset", "-4"), "external-data-range"),
        (("offset", "56"), "external-data-range"),
        (("offset", "9999999999999999999"), "external-data-range"),
        (("length", "1099511627776"), "external-data-range"),
        (("length", "-1"), "external-data-range"),
        (("offset", "four"), "external-data-keys"),
        (("offset", "0x10"), "external-data-keys"),
        (("offset", "1_6"), "external-data-keys"),
        (("offset", ""), "external-data-keys"),
        (("basepath", "/etc"), "external-data-keys"),
        (("length", "12"), "tensor-data"),
        (("length", "20"), "tensor-data"),
    ],
)
def test_external_data_out_of_reach(tmp_path: Path, entry: tuple[str, str], rule: str) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(secret)
    (folder / "inside.bin").symlink_to(folder / "w.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.link(secret, folder / "hard.bin")
    os.mkfifo(folder / "pipe")
    assert _refusal(_external(folder, entry)).rule == rule


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    """Which of two locations is read differs from reader to reader."""
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "16")):
        found = _refusal(_external(tmp_path, (key, value), (key, value)))
        assert (found.rule, f"{key} twice" in found.what) == ("external-data-keys", True)


def test_a_length_that_is_left_out_is_the_rest_of_the_file(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    path = _saved(tmp_path, _model(weights=(tensor,)))
    for size, rule in ((16, ""), (15, "tensor-data")):
        (tmp_path / "w.bin").write_bytes(bytes(size))
        assert not rule or _refusal(path).rule == rule
        assert rule or inspect_file(path).facts["initializer_bytes"] == 16


def test_entries_without_the_mark_are_checked_too(tmp_path: Path) -> None:
    tensor = _tensor()
    tensor.external_data.add(key="location", value="../secret.bin")
    assert _refusal(_saved(tmp_path, _model(weights=(tensor,)))).rule == "tensor-data"
    tensor.ClearField("raw_data")
    assert _refusal(_saved(tmp_path, _model(weights=(tensor,)))).rule == "external-data-location"


def test_hard_links_of_our_own_store_are_taken(tmp_path: Path) -> None:
    path = _external(tmp_path)
    os.link(tmp_path / "w.bin", tmp_path / "other.bin")
    assert _refusal(path).rule == "external-data-hard-link"
    assert inspect_file(path, limits=STORED).files


def test_more_files_than_the_limit(tmp_path: Path) -> None:
    tensors = []
    for i in range(3):
        (tmp_path / f"w{i}.bin").write_bytes(bytes(16))
        tensors.append(TensorProto(name=f"w{i}", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL))
        tensors[-1].external_data.add(key="location", value=f"w{i}.bin")
    path = _saved(tmp_path, _model(weights=(*tensors, *tensors)))
    assert len(inspect_file(path, limits=Limits(external_files=3)).files) == 3
    assert _refusal(path, Limits(external_files=2)).rule == "external-data-files"
