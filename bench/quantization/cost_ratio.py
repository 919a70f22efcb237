"""How much cheaper than its teacher may a student be, at 1, 2 and 3 points: every student x runtime x precision.

    python bench/quantization/cost_ratio.py --out runs/cost-ratio RECIPE [RECIPE ...]

Every recipe brings a student; all must have the same teacher and test data. Accuracy is judged on the test split against
the teacher, by Tango's test, at each margin. Cost is the time per example of the device working offline at its best
batch with all CPUs (METHOD 4: price per hour / throughput), and latency that of one example at a time, each in an
interleaved measurement of its own beside the teacher in float32 at its own best: the faster of the runtimes, at its best
batch, threads and, offline, sessions side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from beside import TARGETS, Shape, answers_of, ns_per_example, race, ratios

from edgekd.artifact import Artifact
from edgekd.evidence import Evaluation, save_measurement
from edgekd.gates.accuracy import judge_accuracy
from edgekd.measure import Scenario
from edgekd.model import Model
from edgekd.pipeline.artifacts import export_to, quantize_to
from edgekd.pipeline.training import make_models, task_spec
from edgekd.quantize import QuantConfig
from edgekd.recipe import Recipe, load_recipe
from edgekd.stages import StageStore, default_cache_root
from edgekd.target import usable_cpus
from edgekd.tasks import TaskSpec

MARGINS = (0.01, 0.02, 0.03)
#: What each student is shipped as: (name, format, quantized, session settings).
VARIANTS: tuple[tuple[str, str, bool, Mapping[str, Any]], ...] = (
    ("ONNX Runtime float32", "onnx", False, {}),
    ("ONNX Runtime int8", "onnx", True, {}),
    ("OpenVINO bf16", "openvino", False, {"precision": "bf16"}),
    ("OpenVINO int8", "openvino", True, {}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One student as it would ship."""

    student: str
    variant: str
    artifact: Artifact
    evaluation: Evaluation

    @property
    def label(self) -> str:
        return f"{self.student}, {self.variant}"


def _entrants(name: str, model: Model | Artifact, task: TaskSpec, store: StageStore) -> list[Entrant]:
    found = []
    for variant, format_name, quantized, settings in VARIANTS:
        label = f"{name}, {variant}"
        if quantized:
            made = quantize_to(model, format_name, QuantConfig(), task, {}, store, label)
        else:
            made = export_to(model, format_name, {}, store, label)
        made = replace(made, settings={**made.settings, **settings})
        answers = answers_of(label, made, task, store)
        found.append(Entrant(student=name, variant=variant, artifact=made, evaluation=answers))
        print(
            f"{label}: {answers.mean:.4f} on {answers.n} examples, {made.size_bytes / 2**20:.3f} MiB",
            flush=True,
        )
    return found


def _shapes(scenario: Scenario) -> list[Shape]:
    """What is tried: every number of threads, and offline a session for each CPU."""
    cpus = usable_cpus()
    alone = [Shape(threads=threads) for threads in range(1, cpus + 1)]
    return [*alone, Shape(sessions=cpus)] if scenario.name == "offline" and cpus > 1 else alone


def _fastest(
    label: str, versions: Sequence[Artifact], task: TaskSpec, scenario: Scenario, restarts: int
) -> tuple[tuple[str, Artifact], Shape, list[Mapping[str, Any]]]:
    """The fastest of some versions of a model: (label, artifact), its shape with the best batch, all tried."""
    tried: list[Mapping[str, Any]] = []
    best: tuple[float, tuple[str, Artifact], Shape] | None = None
    for artifact in versions:
        for shape in _shapes(scenario):
            found = race(scenario, (label, artifact), [], task, shape=lambda _, n=shape: n, restarts=restarts)  # type: ignore[misc]
            ns = ns_per_example(found)
            batch = int(found.arms["baseline"]["batch"])
            tried.append(
                {
                    "format": artifact.format, "sessions": shape.sessions, "threads": shape.threads, "batch": batch,
                    "ms_per_example": ns / 1e6,
                }
            )  # fmt: skip
            print(
                f"{label} ({artifact.format}), {shape.sessions} x {shape.threads} threads, batch {batch}: "
                f"{ns / 1e6:.4f} ms per example",
                flush=True,
            )
            if best is None or ns < best[0]:
                offline = scenario.name == "offline"
                best = (
                    ns,
                    (label, artifact),
                    replace(shape, batch=batch // shape.sessions if offline else None),
                )
    if best is None:
        raise SystemExit(f"nothing to time of {label}")
    return best[1], best[2], tried


def _judge(entrant: Entrant, teacher: Evaluation) -> dict[str, Any]:
    gates = {m: judge_accuracy(teacher, entrant.evaluation, max_drop=m) for m in MARGINS}
    first = gates[MARGINS[0]]
    return {
        "accuracy": entrant.evaluation.mean,
        "drop": -float(first.estimate or 0.0),
        "bound": -float(first.interval[0]) if first.interval else None,
        "decisions": {f"{m:g}": g.decision for m, g in gates.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--restarts", type=int, default=6)
    parser.add_argument("--accuracy-only", action="store_true")
    args = parser.parse_args()
    store = StageStore(root=default_cache_root(os.environ))
    args.out.mkdir(parents=True, exist_ok=True)
    entrants: list[Entrant] = []
    teacher: Model | Artifact | None = None
    task: TaskSpec | None = None
    for path in args.recipes:
        recipe: Recipe = load_recipe(path, os.environ)
        base = path.resolve().parent
        made = make_models(
            recipe.model_copy(update={"student": recipe.student.model_copy(update={"naive": 0})}), base, store
        )
        task = task_spec(recipe, base)
        teacher = teacher or made.teacher
        entrants += _entrants(recipe.name, made.student, task, store)
    if teacher is None or task is None:
        return 2
    floats = [export_to(teacher, f, {}, store, f"teacher {f}") for f in TARGETS]
    answers = answers_of("teacher", floats[0], task, store, role="teacher")
    print(f"teacher: {answers.mean:.4f} on {answers.n} examples", flush=True)
    rows = {e.label: _judge(e, answers) for e in entrants}
    found: dict[str, Any] = {"teacher": {"accuracy": answers.mean, "n": answers.n}, "rows": rows}
    for scenario in () if args.accuracy_only else (Scenario(name="offline"), Scenario()):
        probes = max(2, args.restarts // 2)
        best, most, tried = _fastest("teacher, float32", floats, task, scenario, probes)
        found["teacher"][scenario.name] = {"format": best[1].format, "shape": asdict(most), "tried": tried}
        shapes = {best[0]: most, f"{best[0]} (twin)": most}
        for entrant in entrants:
            _, own, tried = _fastest(entrant.label, [entrant.artifact], task, scenario, probes)
            shapes[entrant.label] = own
            rows[entrant.label][f"{scenario.name} at"] = {"shape": asdict(own), "tried": tried}
        for k, entrant in enumerate(entrants):
            # Each beside the teacher alone: sessions that have all CPUs slow down whatever is open beside them.
            measured = race(
                scenario, best, [(entrant.label, entrant.artifact)], task,
                shape=lambda label, known=shapes: known[label], restarts=args.restarts,  # type: ignore[misc]
            )  # fmt: skip
            save_measurement(measured, args.out / f"{scenario.name}-{k}.json")
            ratio, low, high = ratios(measured)[entrant.label]
            rows[entrant.label][scenario.name] = [1 / ratio, 1 / high, 1 / low]
    (args.out / "cost_ratio.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 0


def table(found: Mapping[str, Any]) -> str:
    """Markdown: cheapest first."""
    rows = sorted(found["rows"].items(), key=lambda r: -float(r[1].get("offline", [0])[0]))
    lines = [
        "| student | top1 | against the teacher | 1 point | 2 points | 3 points | cost | latency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, row in rows:
        times = [
            f"{r[0]:.1f}x [{r[1]:.1f}, {r[2]:.1f}]" if (r := row.get(k)) else ""
            for k in ("offline", "single-stream")
        ]
        bound = f"{-100 * row['drop']:+.2f} (at worst {-100 * row['bound']:+.2f})"
        decisions = " | ".join(row["decisions"][f"{m:g}"] for m in MARGINS)
        lines.append(
            f"| {label} | {100 * row['accuracy']:.2f} % | {bound} | {decisions} | {times[0]} | {times[1]} |"
        )
    for m in MARGINS:
        passing = [
            (float(r["offline"][0]), label)
            for label, r in rows
            if "offline" in r and r["decisions"][f"{m:g}"] == "pass"
        ]
        best = max(passing, default=None)
        lines.append(
            f"\nAt {100 * m:g} points: " + (f"{best[0]:.1f}x ({best[1]})" if best else "none passes")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
