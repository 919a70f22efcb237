"""Every name of TensorRT's that the package uses exists, with these arguments, in 10.16 and in 11.4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures_tensorrt import CONTRACT, FACTS, VERSIONS, Double, signatures

from edgekd_tensorrt import contract

TABLE = json.loads(CONTRACT.read_text())


def test_every_name_exists_in_both_versions_or_is_guarded() -> None:
    lacking = [
        (use, version)
        for use in contract.uses()
        for version in VERSIONS
        if not use.owner.startswith("cuda")
        and not contract.find(TABLE["tensorrt"][version], use.owner, use.name)
        and not use.guarded
    ]
    assert lacking == []


def test_the_scan_sees_the_calls_that_matter() -> None:
    seen = {(u.owner, u.name) for u in contract.uses()}
    assert {
        ("IBuilderConfig", "set_timing_cache"), ("IExecutionContext", "execute_async_v3"), ("BuilderFlag", "STRIP_PLAN"),
        ("OnnxParser", "parse_from_file"), ("ParserError", "node_operator"), ("cuda", "cudaStreamBeginCapture"),
        ("IBuilderConfig", "build_route"), ("", "Builder"), ("ICudaEngine", "weight_streaming_budget_v2"),
    } <= seen  # fmt: skip
    assert len(seen) > 90


@pytest.mark.parametrize(
    "line",
    [
        "def f(trt, config): config.set_flag(trt.BuilderFlag.FP16)",
        "def f(config): config.int8_calibrator = None",
        "def f(parser): parser.supports_model(b'')",
        "def f(engine): return engine.device_memory_size",
        "def f(builder): return builder.platform_has_fast_fp16",
        "def f(trt): return trt.IInt8EntropyCalibrator2",
    ],
)
def test_names_that_11_lost_are_found(line: str) -> None:
    if not (FACTS / "trt_sig_10.16.json").is_file():
        pytest.skip("the whole signature tables are not on this machine (../shared/facts)")
    old, new = (signatures(v) for v in VERSIONS)
    lost = [u for u in contract.scan(line, "x") if not contract.find(new, u.owner, u.name) and not u.guarded]
    assert len(lost) == 1 and contract.find(old, lost[0].owner, lost[0].name)


def test_a_guarded_name_is_known_as_such() -> None:
    (use,) = contract.scan("if version.major >= 11:\n    told = config.build_route", "x")
    assert use.guarded and use.owner == "IBuilderConfig"


@pytest.mark.parametrize(
    "line", ["n = builder.create_network(1 << 1)", "config.set_flag(6)", "config.flags = 8", "f(1 << 13)"]
)
def test_a_number_for_a_flag_is_found(line: str) -> None:
    assert contract.literal_flags(line) == [1]


def test_no_number_stands_for_a_flag() -> None:
    found = {m: contract.literal_flags((contract.HERE / f"{m}.py").read_text()) for m in contract.MODULES}
    assert {m: lines for m, lines in found.items() if lines} == {}


def test_every_module_that_touches_tensorrt_is_scanned() -> None:
    touching = {
        p.stem
        for p in contract.HERE.glob("*.py")
        if any(word in p.read_text() for word in ("trt.", "cudart.")) and p.stem != "contract"
    }
    assert touching <= set(contract.MODULES)


def test_the_committed_table_is_current() -> None:
    if not all((FACTS / f"trt_sig_{v}.json").is_file() for v in VERSIONS):
        pytest.skip("the whole signature tables are not on this machine (../shared/facts)")
    assert contract.make_contract(FACTS) == TABLE


def test_the_committed_table_holds_no_more_than_is_used() -> None:
    used = {(u.owner, u.name) for u in contract.uses()}
    own = {("ILogger", "log"), ("IProfiler", "report_layer_time")}
    for version in VERSIONS:
        for name, spec in TABLE["tensorrt"][version]["classes"].items():
            for member in (*spec["methods"], *spec["props"]):
                assert member == "__init__" or (name, member) in used | own, f"{name}.{member}"


def test_the_page_is_current(repository: Path) -> None:
    assert (repository / "docs" / "results" / "tensorrt_contract.md").read_text() == contract.page(TABLE)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_refuses_what_the_bindings_refuse(version: str) -> None:
    class Acts:
        def Builder_init(self, this: object, logger: object) -> None: ...
        def Builder_create_network(self, this: object, flags: int = 0) -> int:
            return flags

        def IBuilderConfig_set_flag(self, this: object, flag: object) -> None: ...

    double = Double(TABLE["tensorrt"][version], Acts())
    trt = double.module

    class Own(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

    builder = trt.Builder(Own())
    assert builder.create_network(flags=4) == 4
    for wrong in (
        lambda: builder.create_network(1, 2),
        lambda: builder.create_network(bits=1),
        lambda: trt.Builder(),
        lambda: trt.Builder(object()),
        lambda: double.make("IBuilderConfig").set_flag(6),
    ):
        with pytest.raises(TypeError):
            wrong()
    for unknown in (lambda: builder.make_network, lambda: trt.Bilder, lambda: trt.BuilderFlag.FP16):
        with pytest.raises(AttributeError):
            if version == "10.16" and unknown.__code__.co_names[-1] == "FP16":
                raise AttributeError  # 10 still has it
            unknown()
    with pytest.raises(AttributeError):
        double.make("IBuilderConfig").num_optimization_profiles = 3  # read only
    with pytest.raises(AttributeError):
        double.make("IBuilderConfig").int8_calibrator = None


def test_flags_moved_between_the_versions() -> None:
    old, new = (TABLE["tensorrt"][v]["enums"] for v in VERSIONS)
    moved = {n for n in old["BuilderFlag"] if new["BuilderFlag"].get(n) not in (None, old["BuilderFlag"][n])}
    assert "VERSION_COMPATIBLE" in moved and "STRIP_PLAN" in moved
    assert (old["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"],
            new["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"]) == (1, 0)  # fmt: skip
