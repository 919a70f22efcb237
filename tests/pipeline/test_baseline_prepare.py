"""Last release's model is fed as the student is, where it does not say how itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fixtures_models import classifier

from edgekd.models import open_reference
from edgekd.pipeline.run import fed_like
from edgekd.stages import StageStore


def test_a_bare_baseline_takes_the_students_keys(tmp_path: Path) -> None:
    classifier(tmp_path / "m.onnx")
    store = StageStore(tmp_path / "cache")
    bare = open_reference("m.onnx", weights=None, base=tmp_path, store=store)
    student = replace(bare, prepare={"scale": 255.0})
    assert fed_like(student, bare).prepare == {"scale": 255.0}
    own = replace(bare, prepare={"scale": 2.0})
    assert fed_like(student, own).prepare == {"scale": 2.0}
    assert fed_like(bare, bare).prepare == {}
