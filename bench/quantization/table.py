"""Model x precision x runtime: accuracy against the model's own float32, latency against it, size.

    python bench/quantization/table.py --out docs/results RECIPE[:MARGIN] ...

Every recipe brings a student, the precisions of its ``quantize`` and the formats of its ``export``. All precisions are
evaluated on the whole test split beside float32 in the same runtime (Tango's test at MARGIN, one-sided 95 %), and timed
in one interleaved measurement of each runtime: one example, one thread. Nothing is chosen by this table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from beside import TARGETS, Shape, answers_of, race, ratios

from edgekd.artifact import Artifact
from edgekd.errors import EdgeKDError
from edgekd.gates.accuracy import judge_accuracy
from edgekd.measure import Scenario
from edgekd.pipeline.artifacts import export_to, quantize_to
from edgekd.pipeline.training import make_models, task_spec
from edgekd.quantize.config import usual_for
from edgekd.quantize.precision import Precision
from edgekd.recipe import load_recipe
from edgekd.stages import StageStore, default_cache_root
from edgekd.tasks import TaskSpec

#: What OpenVINO computes in bfloat16 is the float32 file; it is a setting of the session.
BF16 = Precision(name="bfloat16 (session)", cast="float32")


def _make(
    model: Any, precision: Precision, format_name: str, task: TaskSpec, store: StageStore, label: str
) -> Artifact:
    if precision.config is not None:
        config = usual_for(precision.config, format_name) if precision.usual else precision.config
        return quantize_to(model, format_name, config, task, {}, store, label)
    options = {} if precision.cast == "float32" else {"dtype": precision.cast}
    made = export_to(model, format_name, options, store, label)
    return replace(made, settings={**made.settings, "precision": "bf16"}) if precision is BF16 else made


def rows_of(path: Path, margin: float, store: StageStore, restarts: int) -> list[dict[str, Any]]:
    """One recipe's rows."""
    recipe = load_recipe(path, os.environ)
    base = path.resolve().parent
    recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"naive": 0})})
    task = task_spec(recipe, base)
    model = make_models(recipe, base, store).student
    rows: list[dict[str, Any]] = []
    for format_name in recipe.export:
        made: dict[str, Artifact] = {}
        precisions = [*recipe.precisions, *([BF16] if format_name == "openvino" else [])]
        for precision in precisions:
            label = f"{recipe.name} {format_name} {precision.name}"
            row: dict[str, Any] = {
                "model": recipe.name,
                "target": TARGETS[format_name],
                "precision": precision.name,
            }
            rows.append(row)
            try:
                artifact = _make(model, precision, format_name, task, store, label)
                found = answers_of(label, artifact, task, store)
            except EdgeKDError as e:
                row["refused"] = str(e)
                print(f"{label}: {e}", flush=True)
                continue
            made[precision.name] = artifact
            row |= {
                "accuracy": found.mean,
                "n": found.n,
                "size_mib": artifact.size_bytes / 2**20,
                "margin": margin,
            }
            reference = answers_of(f"{recipe.name} {format_name}", made["float32"], task, store)
            gate = judge_accuracy(reference, found, max_drop=margin, against="float32")
            row |= {"difference": gate.estimate, "interval": gate.interval, "decision": gate.decision}
            emulated = artifact.dtype.startswith("float8")
            row["timed"] = not emulated
            print(f"{label}: {found.mean:.4f} ({gate.decision})", flush=True)
        timed = {n: a for n, a in made.items() if n != "float32" and not a.dtype.startswith("float8")}
        if restarts and timed:
            pairs = [(f"{recipe.name} {n}", a) for n, a in timed.items()]
            raced = race(
                Scenario(), (f"{recipe.name} float32", made["float32"]), pairs, task, shape=lambda _: Shape(), restarts=restarts,
            )  # fmt: skip
            for label, ratio in ratios(raced).items():
                row = next(
                    r
                    for r in rows
                    if r["target"] == TARGETS[format_name] and label == f"{recipe.name} {r['precision']}"
                )
                row["ratio"] = list(ratio)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| model | runtime | precision | top1 | against its float32, points | margin | decision | time / float32 | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        head = f"| {r['model']} | {str(r['target']).partition(':')[2]} | {r['precision']} |"
        if "refused" in r:
            lines.append(f"{head} refused: {r['refused']} | | | | | |")
            continue
        low, high = r["interval"] or (0.0, 0.0)
        change = f"{100 * r['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        times = (
            "{:.3f} [{:.3f}, {:.3f}]".format(*r["ratio"])
            if "ratio" in r
            else ""
            if r["timed"]
            else "emulated"
        )
        lines.append(
            f"{head} {100 * r['accuracy']:.2f} % | {change} | {100 * r['margin']:g} | {r['decision']} | {times} | {r['size_mib']:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE[:MARGIN]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--restarts", type=int, default=4, help="of each measurement; 0 leaves timings out")
    args = parser.parse_args()
    store = StageStore(root=default_cache_root(os.environ))
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for given in args.recipes:
        path, _, margin = str(given).partition(":")
        rows += rows_of(Path(path), float(margin or 0.0075), store, args.restarts)
        (args.out / "quantization.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
