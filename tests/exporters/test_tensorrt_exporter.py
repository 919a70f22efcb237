"""The exporter under the contract double of both versions: what it asks TensorRT for, and what it says when refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_tensorrt import VERSIONS, read_log
from fixtures_tensorrt_place import Place, make_place
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, EdgeKDError, ModelError, TargetUnavailableError, UsageError
from edgekd.model import Model
from edgekd.quantize import QuantConfig
from edgekd.testing import check_exporter
from edgekd_onnx.export_options import TOLERANCES
from edgekd_onnx.exporter import OnnxExporter
from edgekd_tensorrt.exporter import TensorRtExporter


@pytest.fixture(params=VERSIONS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from make_place(tmp_path, request.param)


@pytest.fixture
def new_place(tmp_path: Path) -> Iterator[Place]:
    yield from make_place(tmp_path, "11.4")


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """``y = x W + b`` with a free batch, as ONNX."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((4, 3)).astype("float32"), rng.standard_normal(3).astype("float32")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
         helper.make_node("Add", ["h", "b"], ["y"], name="bias")],
        "linear", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    return _written(graph, tmp_path_factory.mktemp("linear"))


def _written(graph: Any, folder: Path) -> Artifact:
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(proto, folder / "model.onnx")
    return OnnxExporter().read(folder / "model.onnx")


def build(artifact: Artifact, tmp_path: Path, **options: Any) -> Artifact:
    out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
    out.mkdir()
    return TensorRtExporter().convert(artifact, out, options)


def test_the_conformance_suite(place: Place, digits_model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    made = check_exporter(TensorRtExporter(), digits_model, folder)
    assert (
        made.lineage["parity"]["max_abs_error"] == 0.0
    )  # the double runs ONNX Runtime: this proves the plumbing only
    assert made.lineage["engine"]["tensorrt"].startswith(place.version)


def test_the_calls_and_their_order(place: Place, linear: Artifact, tmp_path: Path) -> None:
    build(linear, tmp_path)
    log = read_log(place.log_path)
    calls = [c for c, _ in log]
    order = [
        "Builder()", "Builder.create_network", "OnnxParser.parse_from_file", "Builder.create_builder_config",
        "IBuilderConfig.set_memory_pool_limit", "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.set_timing_cache", "Builder.build_serialized_network", "ITimingCache.serialize",
        "Runtime.deserialize_cuda_engine", "EngineInspector.get_engine_information",
    ]  # fmt: skip
    assert [calls.index(c) for c in order] == sorted(calls.index(c) for c in order)
    flags = dict(log)["Builder.create_network"]
    assert flags == ([] if place.version == "11.4" else ["2"])
    assert ["IOptimizationProfile.set_shape", ["x", "(1, 4)", "(1, 4)", "(64, 4)"]] in [list(e) for e in log]
    run = calls[calls.index("IExecutionContext.set_optimization_profile_async") :]
    for earlier, later in (
        ("IExecutionContext.set_optimization_profile_async", "IExecutionContext.set_input_shape"),
        ("IExecutionContext.set_input_shape", "IExecutionContext.infer_shapes"),
        ("IExecutionContext.infer_shapes", "IExecutionContext.execute_async_v3"),
    ):
        assert run.index(earlier) < run.index(later)


def test_the_record_names_everything(place: Place, linear: Artifact, tmp_path: Path) -> None:
    made = build(
        linear, tmp_path, tf32="true", hardware="ampere_plus", workspace_mib="256", optimization_level="4"
    )
    told = made.lineage["engine"]
    assert told["builder"]["flags"] == ["TF32"]
    assert told["builder"]["memory_pools"]["WORKSPACE"] == 256 << 20
    assert told["builder"]["hardware_compatibility"] == "AMPERE_PLUS"
    assert told["builder"]["optimization_level"] == 4
    assert ("build_route" in told["builder"]) == (place.version == "11.4")
    assert told["device"]["sm"] == "9.0" and told["device"]["name"] == "Double GPU"
    assert told["plan_sha256"] == hashlib.sha256(made.path.read_bytes()).hexdigest()
    dump = made.folder / "model.plan.inspector.json"
    assert told["inspector_sha256"] == hashlib.sha256(dump.read_bytes()).hexdigest()
    assert told["histogram"]["kinds"] == {"Add": 1, "MatMul": 1}
    assert told["histogram"]["dtypes"] == {"float32": 2}
    assert made.lineage["source"] == linear.digest
    assert [f.path for f in made.files] == ["model.plan", "model.plan.inspector.json", "model.plan.json"]
    assert "much more" not in told["log"]


@pytest.mark.parametrize(
    ("dtype", "more", "wanted"),
    [
        ("float32", {}, TOLERANCES["float32"]),
        ("float32", {"tf32": "true"}, TOLERANCES["float16"]),
        ("float16", {}, (2e-2, 2e-2)),
        ("bfloat16", {}, (1e-1, 1e-1)),
        ("int8", {}, TOLERANCES["int8"]),
        ("int4", {}, TOLERANCES["int8"]),
        ("int8", {"atol": 0, "rtol": 0.3}, (0.0, 0.3)),
    ],
)
def test_parity_is_held_to_the_tolerance_of_the_graphs_type(
    new_place: Place,
    linear: Artifact,
    tmp_path: Path,
    dtype: str,
    more: dict[str, Any],
    wanted: tuple[float, float],
) -> None:
    told = build(replace(linear, dtype=dtype), tmp_path, **more).lineage["parity"]
    assert (told["atol"], told["rtol"]) == wanted


def test_exports_are_kept_by_the_content_of_a_pinned_cache() -> None:
    assert TensorRtExporter.FILE_OPTIONS == ("timing_cache",)
    assert set(TensorRtExporter.FILE_OPTIONS) <= set(TensorRtExporter.OPTIONS)


def test_tf32_is_off_unless_asked_for(place: Place, linear: Artifact, tmp_path: Path) -> None:
    assert build(linear, tmp_path).lineage["engine"]["builder"]["flags"] == []
    assert "IBuilderConfig.clear_flag" in place.calls()


def test_every_parser_error_is_named_by_node(place: Place, linear: Artifact, tmp_path: Path) -> None:
    place.fault("parse")
    with pytest.raises(ModelError) as e:
        build(linear, tmp_path)
    said = str(e.value)
    assert "2 error(s)" in said and "node 0 'product' (MatMul)" in said and "node 1 'bias' (Add)" in said
    assert "UNSUPPORTED_NODE" in said and "\n" not in said
    assert list((tmp_path / "out-0").iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("build", ModelError, "could not find any implementation for node conv"),
        ("build-oom", ModelError, "ran out of memory on Double GPU"),
        ("cache", TargetUnavailableError, "refuses the timing cache"),
        ("load", TargetUnavailableError, "does not load the engine that it just built"),
        ("profile", ModelError, "refused profile 0"),
        ("flag", TargetUnavailableError, "did not take the TF32"),
        ("builder", TargetUnavailableError, "factory function returned nullptr"),
        ("no-gpu", TargetUnavailableError, "no usable GPU (cudaErrorNoDevice"),
        ("wrong", ModelError, "output 'y' differs by 1"),
        ("execute", ModelError, "cudaErrorIllegalAddress"),
        ("oom", ModelError, "Double GPU is out of memory"),
        ("context", ModelError, "no memory for a context"),
        ("infer", ModelError, "'x' is not set"),
        ("crash", ChildError, "SIGABRT"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    new_place: Place, linear: Artifact, tmp_path: Path, fault: str, error: type[EdgeKDError], words: str
) -> None:
    new_place.fault(fault)
    with pytest.raises(error) as e:
        build(linear, tmp_path)
    assert words in str(e.value) and "\n" not in str(e.value)
    assert list((tmp_path / "out-0").iterdir()) == []


def test_a_network_of_10_that_is_not_strongly_typed_is_refused(linear: Artifact, tmp_path: Path) -> None:
    for place in make_place(tmp_path, "10.16"):
        place.fault("not-strong")
        with pytest.raises(TargetUnavailableError, match="not strongly typed"):
            build(linear, tmp_path)


def test_a_build_that_hangs_is_stopped(new_place: Place, linear: Artifact, tmp_path: Path) -> None:
    new_place.fault("hang")
    with pytest.raises(ChildError, match="did not answer within 3 s"):
        build(linear, tmp_path, timeout_s="3")


@pytest.mark.parametrize(
    ("dtype", "sm", "least"), [("float8e4m3fn", "8.0", "8.9"), ("bfloat16", "7.5", "8.0")]
)
def test_a_gpu_without_the_precision_of_the_graph(
    new_place: Place, linear: Artifact, tmp_path: Path, dtype: str, sm: str, least: str
) -> None:
    new_place.gpu("Older GPU", sm)
    words = rf"Older GPU \(compute capability {sm}\) has no {dtype}; that takes {least}; use "
    with pytest.raises(TargetUnavailableError, match=words):
        build(replace(linear, dtype=dtype), tmp_path)
    new_place.gpu("Newer GPU", least)
    assert build(replace(linear, dtype=dtype), tmp_path).lineage["engine"]["device"]["sm"] == least


def test_the_timing_cache_is_kept_and_reused(new_place: Place, linear: Artifact, tmp_path: Path) -> None:
    new_place.fault("vary")  # without a cache every build would choose another tactic
    first = build(linear, tmp_path).lineage["engine"]
    second = build(linear, tmp_path, cache_miss="error").lineage["engine"]
    assert first["timing_cache"]["before_sha256"] == "" and not first["timing_cache"]["hits_only"]
    assert second["timing_cache"]["before_sha256"] == first["timing_cache"]["after_sha256"]
    assert second["timing_cache"]["hits_only"]
    assert second["histogram"] == first["histogram"]
    new_place.gpu("Another GPU", "9.0")
    assert build(linear, tmp_path).lineage["engine"]["timing_cache"]["before_sha256"] == ""


def test_a_pinned_timing_cache(new_place: Place, linear: Artifact, tmp_path: Path) -> None:
    build(linear, tmp_path)
    (kept,) = (tmp_path / "cache" / "tensorrt-timing").rglob("timing.cache")
    pinned = tmp_path / "pinned.cache"
    pinned.write_bytes(kept.read_bytes())
    sha = hashlib.sha256(pinned.read_bytes()).hexdigest()
    told = build(
        linear, tmp_path, timing_cache=str(pinned), timing_cache_sha256=sha, cache_miss="error"
    ).lineage
    assert told["engine"]["timing_cache"] == {
        "source": "pinned", "before_sha256": sha, "after_sha256": sha, "hits_only": True,
    }  # fmt: skip
    assert told["options"]["timing_cache"] == "pinned.cache"  # no path of this machine
    with pytest.raises(ModelError, match="was asked for"):
        build(linear, tmp_path, timing_cache=str(pinned), timing_cache_sha256="0" * 64)
    new_place.use("10.16")
    with pytest.raises(TargetUnavailableError, match="made on another GPU or version"):
        build(linear, tmp_path, timing_cache=str(pinned))
    pinned.write_bytes(b"junk")
    with pytest.raises(TargetUnavailableError, match="damaged"):
        build(linear, tmp_path, timing_cache=str(pinned))


def test_a_miss_is_an_error_where_asked(new_place: Place, linear: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not in the timing cache"):
        build(linear, tmp_path, cache_miss="error")


@pytest.mark.parametrize("varies", [False, True])
def test_builds_are_compared_and_kept(
    new_place: Place, linear: Artifact, tmp_path: Path, varies: bool
) -> None:
    if varies:
        new_place.fault("vary")
    made = build(linear, tmp_path, builds="3")
    told = made.lineage["builds"]
    assert told["builds"] == 3 and told["same_bytes"] is not varies and told["same_tactics"] is not varies
    assert told["same_layers"]
    assert [d["layer"] for d in told["differing"]] == (["product", "bias"] if varies else [])
    for entry in told["files"]:
        plan = made.folder / entry["path"]
        assert hashlib.sha256(plan.read_bytes()).hexdigest() == entry["sha256"]
        assert entry["timing_cache"]["before_sha256"] == ""  # none of them saw what another had learned
        assert TensorRtExporter().read(plan).inputs == linear.inputs
    assert "builds/2/model.plan" not in {f.path for f in made.files}  # not shipped, so not counted


def test_a_stripped_plan_is_refitted_from_its_own_file(
    place: Place, linear: Artifact, tmp_path: Path
) -> None:
    made = build(linear, tmp_path, strip="true")
    assert {"REFIT_IDENTICAL", "STRIP_PLAN"} <= set(made.lineage["engine"]["builder"]["flags"])
    assert "model.onnx" in {f.path for f in made.files}
    calls = place.calls()
    assert calls.index("OnnxParserRefitter.refit_from_file") < calls.index("Refitter.refit_cuda_engine")
    assert made.lineage["parity"]["feeds"] > 1


def test_weights_that_do_not_come_back_are_named(new_place: Place, linear: Artifact, tmp_path: Path) -> None:
    new_place.fault("refit")
    with pytest.raises(ModelError, match=r"conv\.weight"):
        build(linear, tmp_path, strip="true")


def test_several_profiles(new_place: Place, linear: Artifact, tmp_path: Path) -> None:
    made = build(linear, tmp_path, profiles="x=1x4:2x4:4x4;x=16x4")
    record = json.loads((made.folder / "model.plan.json").read_text())
    assert record["profiles"] == [{"x": [[1, 4], [2, 4], [4, 4]]}, {"x": [[16, 4], [16, 4], [16, 4]]}]
    assert made.lineage["parity"]["batches"] == [1, 2, 4, 16]
    chosen = [a[0] for c, a in read_log(new_place.log_path)
              if c == "IExecutionContext.set_optimization_profile_async"]  # fmt: skip
    assert set(chosen) == {"0", "1"}


def test_shape_tensors(place: Place, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "size"], ["y"], name="expand")], "shaped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
         helper.make_tensor_value_info("size", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
    )  # fmt: skip
    artifact = _written(graph, tmp_path)
    with pytest.raises(UsageError, match="'size' is a shape tensor without values"):
        build(artifact, tmp_path)
    with pytest.raises(UsageError, match="'x' is no shape tensor"):
        build(artifact, tmp_path, values="size=1x4:2x4:8x4,x=1")
    made = build(artifact, tmp_path, values="size=1x4:2x4:8x4", timing_cache="off")
    assert made.lineage["engine"]["shape_inputs"] == ["size"]


def test_flags_by_name(place: Place, linear: Artifact, tmp_path: Path) -> None:
    options = {"version_compatible": True, "refit": "full", "weight_streaming": True, "max_aux_streams": 0,
               "avg_timing_iterations": 2, "inspector": False}  # fmt: skip
    made = build(linear, tmp_path, **options)
    assert set(made.lineage["engine"]["builder"]["flags"]) == {
        "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "REFIT", "WEIGHT_STREAMING",
    }  # fmt: skip
    assert [f.path for f in made.files] == ["model.plan", "model.plan.json"]
    assert "ICudaEngine.weight_streaming_budget_v2=" in place.calls()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bilds": 2}, "did you mean 'builds'"),
        ({"builds": "ten"}, "not a whole number"),
        ({"builds": 10}, "out of range"),
        ({"tf32": "yes"}, "not true or false"),
        ({"hardware": "any"}, "choose none, ampere_plus"),
        ({"dtype": "float16"}, "strongly typed engine"),
        ({"opset": 18}, "opset belongs to the ONNX export"),
        ({"profiles": "z=1x4"}, "'z', which the model does not have"),
        ({"profiles": "x=1x5"}, "the model has 4 for 5"),
        ({"values": "n=3:2:1"}, "MIN <= OPT <= MAX"),
        ({"timing_cache": "/no/such"}, "does not exist"),
        ({"timing_cache_sha256": "ab"}, "without timing_cache"),
        ({"cache_miss": "error", "timing_cache": "off"}, "needs a timing cache"),
        ({"lean_runtime": True}, "version_compatible=true only"),
        ({"timeout_s": "soon"}, "not a number of seconds"),
        ({"shapes": {"q": ((1,),) * 3}}, "'q', which the model does not have"),
    ],
)
def test_options_that_cannot_be(
    linear: Artifact, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        build(linear, tmp_path, **options)


def test_an_engine_is_not_quantized(linear: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quantize the ONNX first"):
        TensorRtExporter().quantize(linear, QuantConfig(), [], tmp_path)


def test_without_tensorrt_the_machine_is_named(linear: Artifact, tmp_path: Path) -> None:
    from edgekd.errors import MissingDependencyError
    from edgekd.lazy import require

    try:
        require("tensorrt", extra="tensorrt", purpose="a test")
    except MissingDependencyError:
        with pytest.raises(MissingDependencyError, match="building an engine needs the package 'tensorrt'"):
            build(linear, tmp_path)
    else:
        pytest.skip("TensorRT is installed here")


def test_an_engine_in_the_cache_is_of_this_machine(place: Place, linear: Artifact, tmp_path: Path) -> None:
    """Stage keys hold what the engine belongs to: another GPU or driver builds anew."""
    key = TensorRtExporter().machine_key()
    assert set(key) == {"tensorrt", "device"}
    assert key["tensorrt"].startswith(("10.", "11."))
    assert key["device"]["name"]
    assert {"sm", "driver"} <= set(key["device"])
