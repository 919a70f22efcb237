"""The lineage: the same graph from a run and from its bundle, nothing invented where nothing was recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_release import DECLARED, make_rich_run, read
from fixtures_run import make_run

from edgekd.errors import EvidenceError
from edgekd.evidence.run import load_run
from edgekd.report import load_view, render
from edgekd.report.html.lineage import lineage_figure
from edgekd.report.lineage import Edge, Lineage, Node, load_lineage, outline


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lineage") / "run"
    make_rich_run(folder)
    return folder


def graph_of(folder: Path, declared: Any = DECLARED) -> Lineage:
    found = load_lineage(folder, load_run(folder), declared)
    assert found is not None
    return found


def set_lineage(folder: Path, name: str, lineage: dict[str, Any]) -> None:
    path = folder / f"artifacts/{name}/artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lineage": lineage}))


def test_teacher_and_data_to_what_ships(run: Path) -> None:
    graph = graph_of(run)
    assert [(n.kind, n.rank, n.title) for n in graph.nodes] == [
        ("teacher", 0, "meta-llama/Llama-3.1-8B"),
        ("data", 0, "Pictures"),
        ("student", 1, "zoo:cifar-resnet20"),
        ("step", 2, "student-float32"),
        ("shipped", 3, "student-int8"),
    ]
    titles = {n.key: n.title for n in graph.nodes}
    assert [(titles[e.source], e.how, titles[e.target]) for e in graph.edges] == [
        ("meta-llama/Llama-3.1-8B", "distilled (logits)", "zoo:cifar-resnet20"),
        ("Pictures", "trained on", "zoo:cifar-resnet20"),
        ("zoo:cifar-resnet20", "exported", "student-float32"),
        ("student-float32", "quantized (static)", "student-int8"),
    ]
    assert "calibrated on cccccccccccc" in graph.nodes[-1].lines
    assert "ships to cpu:onnxruntime" in graph.nodes[-1].lines


def test_a_bundle_has_the_graph_of_its_run(run: Path, tmp_path: Path) -> None:
    from edgekd.release import release

    bundle = release(run, tmp_path / "bundle")
    assert not (bundle / "artifacts/student-float32").exists()
    assert load_view(bundle).lineage == load_view(run).lineage


@pytest.mark.parametrize(
    ("floating", "steps"),
    [
        ("onnx", ["converted to openvino", "quantized (static)"]),
        ("openvino", ["quantized (static)", "converted to openvino"]),
    ],
)
def test_quantized_then_converted_and_the_other_way(tmp_path: Path, floating: str, steps: list[str]) -> None:
    """Quantization keeps the format, and that tells which of the two came last."""
    run = make_rich_run(tmp_path / "run")
    path = tmp_path / "run/run.json"
    index = json.loads(path.read_text())
    _, before, small = run.artifacts
    index["artifacts"][small]["format"] = "openvino"
    index["artifacts"][before]["format"] = floating
    path.write_text(json.dumps(index))
    told = read(tmp_path / "run/artifacts/student-int8/artifact.json")["lineage"]
    set_lineage(tmp_path / "run", "student-int8", {**told, "source": "sha256:" + "4" * 64})
    graph = graph_of(tmp_path / "run")
    edges = [e.how for e in reversed(graph.edges) if e.how not in ("distilled (logits)", "trained on")]
    assert edges[:2] == steps


def test_what_was_not_recorded_is_not_said(tmp_path: Path) -> None:
    make_run(tmp_path / "run", provenance={})
    graph = graph_of(tmp_path / "run", {})
    assert [n.kind for n in graph.nodes] == ["teacher", "student", "shipped"]
    assert graph.nodes[0].lines[0] == "not declared"
    assert [e.how for e in graph.edges] == ["", ""]
    assert load_lineage(tmp_path / "run", replace(load_run(tmp_path / "run"), selected={}), {}) is None


def test_a_lineage_that_loops_is_refused_and_the_report_says_so(tmp_path: Path) -> None:
    run = make_rich_run(tmp_path / "run")
    _, floating, small = run.artifacts
    set_lineage(tmp_path / "run", "student-float32", {"quantized_from": small})
    set_lineage(tmp_path / "run", "student-int8", {"quantized_from": floating})
    with pytest.raises(EvidenceError, match="does not end"):
        graph_of(tmp_path / "run")
    assert "Provenance and lineage are not shown whole" in render(tmp_path / "run", "md")


def test_markdown_reads_as_text(run: Path) -> None:
    assert outline(graph_of(run), str) == [
        "- **student-int8** (shipped, onnx int8, 600 bytes, "
        f"{load_run(run).selected['cpu:onnxruntime'][7:19]}, calibrated on cccccccccccc, ships to cpu:onnxruntime)",
        f"  - quantized (static) from **student-float32** (step, onnx float32, 2,000 bytes, {sorted(read(run / 'run.json')['artifacts'])[0][7:19]})",
        "    - exported from **zoo:cifar-resnet20** (student, weights 555555555555)",
        "      - distilled (logits) from **meta-llama/Llama-3.1-8B** (teacher, licence: llama3.1, reached by weights, "
        f"run as {load_run(run).candidates[0].baseline[7:19]})",
        "      - trained on from **Pictures** (data, licence: cc-by-4.0)",
    ]


def test_the_drawing_says_all_in_words_too(run: Path) -> None:
    graph = graph_of(run)
    drawn = lineage_figure(graph)
    assert drawn is not None
    assert drawn.count("<svg") == 2 and drawn.count('role="img"') == 2
    assert "meta-llama/Llama-3.1-8B to zoo:cifar-resnet20, distilled (logits)" in drawn
    page = render(run, "html")
    assert page.count("Lineage of what ships") == 2
    assert "<script" not in page


def test_names_are_escaped_and_cut(run: Path) -> None:
    evil = "<script>alert(1)</script>" * 4
    nodes = (
        Node(key="a", kind="teacher", rank=0, title=evil),
        Node(key="b", kind="shipped", rank=1, title="b"),
    )
    drawn = lineage_figure(Lineage(nodes=nodes, edges=(Edge(source="a", target="b", how="x"),)))
    assert drawn is not None and "<script" not in drawn


def test_many_nodes_are_a_list_only() -> None:
    nodes = tuple(Node(key=str(i), kind="step", rank=i, title=str(i)) for i in range(30))
    assert lineage_figure(Lineage(nodes=nodes, edges=())) is None
