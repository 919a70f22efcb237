"""Documents without rows go into a bundle like those with them."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

from fixtures_run import make_run

from edgekd.evidence.run import load_run
from edgekd.evidence.speedup import Speedup, save_speedup
from edgekd.gates import judge_run
from edgekd.recipe import GatesBlock
from edgekd.release import release


def test_speedups_are_bundled(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = "evidence/speedup-student-int8.json"
    save_speedup(
        Speedup(
            label="q", artifact=run.candidates[1].artifact, dtype="int8", twin_label="f",
            twin=run.candidates[0].artifact, twin_dtype="float32", target="t", ratio=(1.2, 1.1, 1.3), batch=1, threads=1,
        ),
        tmp_path / "run" / path,
    )  # fmt: skip
    first, second = run.candidates
    replace(run, candidates=(first, replace(second, speedup=path))).save(tmp_path / "run")
    policy = GatesBlock.model_validate(run.policy)
    judge_run(tmp_path / "run", load_run(tmp_path / "run"), policy).save(tmp_path / "run/verdict.json")
    made = release(tmp_path / "run", tmp_path / "bundle")
    if made.is_file():
        with tarfile.open(made) as tar:
            names = {n.rpartition("evidence/")[2] for n in tar.getnames()}
    else:
        names = {p.name for p in (made / "evidence").rglob("*")}
    assert "speedup-student-int8.json" in names
