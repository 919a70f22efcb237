"""The questions that `edgekd init` leaves in comments are ones that a recipe may ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.cli import main
from edgekd.recipe import load_recipe


@pytest.mark.parametrize("kind", ["cnn", "onnx"])
def test_the_commented_questions_are_valid(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "edgekd.yaml"
    assert main(["init", "--from", kind, "-o", str(recipe)]) == 0
    text = recipe.read_text()
    plain = load_recipe(recipe, {}).gates.asked
    text = text.replace("  # fidelity:", "  fidelity:").replace("  # slices:", "  slices:")
    lines = [line for line in text.splitlines() if not line.strip().startswith("accuracy:")]
    recipe.write_text("\n".join(line.replace("  # accuracy may be a list:", "  accuracy:") for line in lines))
    gates = load_recipe(recipe, {}).gates
    assert set(gates.asked) == {*plain, "fidelity", "slices"}
    assert [rule.against for rule in gates.accuracy_rules] == ["teacher", "float32", "baseline"]
