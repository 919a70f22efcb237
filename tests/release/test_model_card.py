"""The model card: front matter that hubs read, the words that a licence asks for, figures with their bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures_release import make_rich_run, read

from edgekd.release import release


@pytest.fixture(scope="module")
def card(rich: Path) -> str:
    return (rich / "bundle/MODEL_CARD.md").read_text(encoding="utf-8")


def matter(card: str) -> Any:
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(head)


def test_the_front_matter_parses(card: str) -> None:
    found = matter(card)
    assert found["base_model"] == ["meta-llama/Llama-3.1-8B"]
    assert found["base_model_relation"] == "distilled"
    assert found["datasets"] == ["Pictures"]
    assert (found["license"], found["license_name"]) == ("other", "llama3.1 AND cc-by-4.0")
    assert found["license_link"] == "NOTICES.md"
    assert found["library_name"] == "onnx"
    assert {"knowledge-distillation", "int8"} <= set(found["tags"])
    # What https://github.com/huggingface/hub-docs/blob/main/modelcard.md asks of an evaluation result.
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert model["name"] == "Llama-pictures"
    assert result["task"] == {"type": "classification"}
    assert {"name", "type"} <= set(result["dataset"])
    assert [(m["type"], m["name"]) for m in result["metrics"]] == [("top1", "top1 on cpu:onnxruntime")]


def test_scores_are_the_students_own_not_differences(card: str, rich: Path) -> None:
    gates = {g["gate"]: g for g in read(rich / "bundle/verdict.json")["gates"]}
    (metric,) = matter(card)["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == gates["accuracy"]["detail"]["candidate_mean"]


def test_the_body(card: str, rich: Path) -> None:
    assert "\n# Llama-pictures\n\n> Built with Llama\n" in card
    assert "| base model, distilled from | meta-llama/Llama-3.1-8B 3.1 | llama3.1 | weights |" in card
    gate = next(g for g in read(rich / "bundle/verdict.json")["gates"] if g["gate"] == "latency")
    assert f"{gate['interval'][0]:.6g} to {gate['interval'][1]:.6g}" in card
    assert "## Intended use\n\nNot stated by this release" in card
    assert "trained as another network by distillation, method logits" in card
    assert "int8, static quantization" in card
    assert "## Waivers" not in card
    assert "| https://huggingface.co/meta-llama/Llama-3.1-8B |" in card
    assert "&#8203;" not in card
    assert "that passed 4 gates of" in card


def test_names_cannot_break_out(tmp_path: Path) -> None:
    evil = """x"' \n---\nlicense: mit | <script>alert(1)</script> ${{ `y` }}"""
    own = {"teacher": {"name": evil, "licence": "own"}, "data": {"name": "- a: [b", "licence": "own"}}
    make_rich_run(tmp_path / "run", own)
    text = (release(tmp_path / "run", tmp_path / "bundle") / "MODEL_CARD.md").read_text(encoding="utf-8")
    found = matter(text)
    assert found["license"] == "other"
    assert found["base_model"] == [" ".join(evil.split())]
    assert found["datasets"] == ["- a: [b"]
    assert "<script>" not in text.split("---\n", 2)[2]
