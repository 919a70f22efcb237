"""How long judging a million paired examples with a hundred slices takes, and in how much memory.

``python bench/judge_million.py [--examples 1000000] [--slices 100]`` writes a synthetic run folder of two evaluations
(right or wrong, no logits) and judges it in a process of its own, as ``edgekd gate RUN --policy`` does: loading,
checking digests, accuracy, fidelity and every slice. Prints seconds and the greatest resident memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekd.evidence.evaluation import Evaluation, save_evaluation
from edgekd.evidence.run import AccuracyEvidence, Candidate, Evidence, Run

TEACHER, STUDENT = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TARGET = "cpu:onnxruntime"

#: What the measured process does; it prints seconds, MiB, the decision and the number of gates.
JUDGE = """
import json, resource, sys, time
began = time.perf_counter()
from pathlib import Path
from edgekd.evidence.run import load_run
from edgekd.gates import judge_run
from edgekd.policy import GatesBlock
folder = Path(sys.argv[1])
policy = GatesBlock.model_validate({"accuracy": {"max_drop": 0.01}, "fidelity": {"against": "teacher", "max_flips": 0.1},
                                    "slices": {"names": ["site"]}})
verdict = judge_run(folder, load_run(folder), policy)
seconds = time.perf_counter() - began
mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, mib, verdict.decision, len(verdict.gates)]))
"""


def make_run(folder: Path, examples: int, slices: int) -> None:
    """Two evaluations that differ on 4 % of the rows, as many gained as lost, and the index that names them."""
    rng = np.random.RandomState(0)
    labels = rng.randint(0, 10, examples)
    right = rng.random_sample(examples) < 0.9
    # As many gained as lost: 2 % each.
    flipped = rng.random_sample(examples) < np.where(right, 0.02 / 0.9, 0.02 / 0.1)
    ids = np.asarray([f"example-{i:07}" for i in range(examples)])
    sites = np.asarray([f"site-{i:03}" for i in range(slices)])[rng.randint(0, slices, examples)]
    for name, artifact, scores in (("teacher", TEACHER, right), ("student", STUDENT, right ^ flipped)):
        save_evaluation(
            Evaluation(
                name=name, artifact=artifact, target=TARGET, metric="top1", split="test", data="sha256:" + "d" * 64,
                ids=ids, scores=scores.astype(np.float64), predictions=np.where(scores, labels, (labels + 1) % 10),
                labels=labels, logits=None, slices={"site": sites},
            ),
            folder / f"{name}.json",
        )  # fmt: skip
    evidence = Evidence(
        accuracy=AccuracyEvidence(candidate="student.json", references={"teacher": "teacher.json"})
    )
    record = {"name": "student", "folder": "a", "dtype": "int8", "format": "onnx", "size_bytes": 1}
    Run(
        name="million", policy={}, artifacts={TEACHER: record, STUDENT: record}, selected={TARGET: STUDENT},
        candidates=(Candidate(artifact=STUDENT, target=TARGET, dtype="int8", baseline=TEACHER, test=evidence),),
    ).save(folder)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="leave the run folder here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        scratch = str(args.keep or made)
        make_run(Path(scratch), args.examples, args.slices)
        done = subprocess.run(
            [sys.executable, "-c", JUDGE, scratch], capture_output=True, text=True, check=True
        )
        seconds, mib, decision, gates = json.loads(done.stdout)
        print(
            f"{args.examples:,} paired examples, {args.slices} slices: {seconds:.2f} s, {mib:.0f} MiB at most, "
            f"{decision}, {gates} gates"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
