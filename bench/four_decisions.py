"""The four decisions of `edgekd gate` as JUnit files: docs/results/junit_{pass,reject,inconclusive,error}.xml.

    python bench/four_decisions.py --out docs/results

Models are small ONNX classifiers whose accuracy is known by construction; data is drawn from a fixed seed. Nothing is
timed, so two runs differ in no more than the time at which they were made.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES, WIDTH = 10, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A student, how many examples it is judged on, and what must come of it."""

    decision: str
    exit_code: int
    weights: NDArray[np.float32]
    examples: int = 2000


def head(*, silent: tuple[int, ...] = (), scale: float = 1.0) -> NDArray[np.float32]:
    """Last layer, float32 (WIDTH, CLASSES): the class of the largest input, except those that are never answered."""
    matrix = np.zeros((WIDTH, CLASSES), np.float32)
    for c in range(CLASSES):
        matrix[c, c] = 0.0 if c in silent else scale
    return matrix


#: With the default margin of one point: a student that agrees, one that never answers a class, one judged on too few
#: examples, and one whose logits are not numbers.
SCENES = (
    Scene(decision="pass", exit_code=0, weights=head(scale=0.9)),
    Scene(decision="reject", exit_code=1, weights=head(silent=(3,))),
    Scene(decision="inconclusive", exit_code=3, weights=head(scale=0.9), examples=60),
    Scene(decision="error", exit_code=2, weights=head(scale=float("nan"))),
)


def write_model(path: Path, weights: NDArray[np.float32], *, layers: int) -> None:
    """An ONNX file: ``layers`` products with the identity, then ``weights``."""
    wide = np.zeros((CLASSES, WIDTH), np.float32)
    wide[:, :CLASSES] = np.eye(CLASSES, dtype=np.float32)
    tensors = [numpy_helper.from_array(wide, "widen"), numpy_helper.from_array(weights, "head")]
    nodes = [helper.make_node("MatMul", ["x", "widen"], ["h0"])]
    for i in range(layers):
        # Not quite the identity: the optimiser would fold it away.
        tensors.append(
            numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32) * np.float32(1 + i * 1e-6), f"w{i}")
        )
        nodes += [
            helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"m{i}"]),
            helper.make_node("Relu", [f"m{i}"], [f"h{i + 1}"]),
        ]
    nodes.append(helper.make_node("MatMul", [f"h{layers}", "head"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CLASSES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_data(path: Path, n: int) -> None:
    """Inputs whose largest entry is the label, of nineteen in twenty: a score that never varies tells nothing."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, n)
    x = rng.random((n, CLASSES)).astype(np.float32)
    x[np.arange(n), label] += 1.0
    label[::20] = (label[::20] + 1) % CLASSES
    np.savez(path, x=x, label=label.astype(np.int64))


def judge(scene: Scene, place: Path) -> Path:
    """The JUnit file of one scene.

    Raises:
        SystemExit: the gate ended otherwise than it must.
    """
    write_model(place / "teacher.onnx", head(), layers=6)
    write_model(place / "student.onnx", scene.weights, layers=2)
    write_data(place / "test.npz", scene.examples)
    command = [
        sys.executable,
        "-m",
        "edgekd",
        "gate",
        "--teacher",
        "teacher.onnx",
        "--student",
        "student.onnx",
    ]
    command += ["--data", "test.npz", "--max-accuracy-drop", "0.01", "--max-size-mib", "1"]
    command += ["--out", "run", "--junit", "junit.xml"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode != scene.exit_code:
        raise SystemExit(
            f"{scene.decision}: exit {done.returncode}, expected {scene.exit_code}\n{done.stdout}{done.stderr}"
        )
    return place / "junit.xml"


def main() -> None:
    parser = argparse.ArgumentParser(description="the four decisions as JUnit files")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for scene in SCENES:
        with tempfile.TemporaryDirectory() as place:
            target = out / f"junit_{scene.decision}.xml"
            shutil.copyfile(judge(scene, Path(place)), target)
            print(f"{scene.decision:12}  {target}")


if __name__ == "__main__":
    main()
