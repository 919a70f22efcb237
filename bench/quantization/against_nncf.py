"""EdgeKD's search beside NNCF's ``quantize_with_accuracy_control``: same model, same rows, same bound.

    python bench/quantization/rescale.py mlperftiny_pretrainedResnet.onnx -o student.onnx --powers 4 --pair 2
    python bench/quantization/against_nncf.py student.onnx --data cifar.npz --output Identity:probs --max-drop 0.01

Both start from the file and an empty cache, choose on the even rows and calibrate on them; the odd rows judge. NNCF stops
where the measured drop is below the bound; EdgeKD where the bound of its confidence interval is. At the end all three
models (float32, NNCF's, EdgeKD's) are timed in one interleaved race. With ``--repeats`` the two take turns, each time from
the start, and the middle one of each counts: on a machine that others use, one run tells little. Both times
are whole: NNCF's with its process and imports, EdgeKD's with nncf's import, processes, latencies and the verdict on the test
rows. ``chosen after`` is NNCF's one call without imports, which times nothing and judges on no other rows, and EdgeKD's time
until the test rows are asked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.sources import pick_rows
from edgekd.evaluate import EvaluationRequest
from edgekd.gates.accuracy import judge_accuracy
from edgekd.gates.latency import ratio_of
from edgekd.measure import Setting
from edgekd.measure.arm import Protocol
from edgekd.models import open_reference
from edgekd.pipeline.collect import Comparison, Feeds, evaluate_artifact, measure_comparison
from edgekd.pipeline.search import SearchRequest, search_student
from edgekd.pipeline.targets import present_target
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.tasks import TaskSpec, parse_output

#: NNCF's own default for calibration.
SUBSET = 300


def run_nncf(model: Path, data: Path, max_drop: float, out: Path) -> None:
    """In a process of its own: quantize with accuracy control, write the IR and what it took."""
    from edgekd_openvino.library import silence_telemetry

    silence_telemetry()
    import nncf
    import openvino as ov

    with np.load(data) as arrays:
        name = next(n for n in arrays.files if n != "label")
        rows, labels = arrays[name][::2], arrays["label"][::2]
    counts = {"calls": 0, "examples": 0}

    def validate(compiled: Any, items: Any) -> tuple[float, None]:
        counts["calls"] += 1
        right = seen = 0
        for k in items:
            right += int(compiled({0: rows[k][None]})[0].argmax() == labels[k])
            seen += 1
        counts["examples"] += seen
        return right / max(seen, 1), None

    core = ov.Core()
    started, used = time.monotonic(), _cpu()
    source = core.read_model(model)
    made = nncf.quantize_with_accuracy_control(
        source,
        nncf.Dataset(range(len(rows)), lambda k: {0: rows[k][None]}),
        nncf.Dataset(range(len(rows))),
        validation_fn=validate,
        max_drop=max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=SUBSET,
        preset=nncf.QuantizationPreset.MIXED,
    )
    seconds = time.monotonic() - started
    ov.save_model(made, out / "model.xml", compress_to_fp16=False)
    (out / "took.json").write_text(json.dumps({"seconds": seconds, "cpu_seconds": _cpu() - used, **counts}))


def _cpu() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help=".npz with one input and label")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--output", default="", help="NAME[:KIND] of the answer")
    parser.add_argument("--for", dest="targets", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=1, help="turns of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    parser.add_argument("--nncf-into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.nncf_into:
        run_nncf(args.model, args.data, args.max_drop, args.nncf_into)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(args, Path(folder))
    print(table(figures))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1))


def compare(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    base = str(Path.cwd())
    data = {s: pick_rows(str(args.data), slice(k, None, 2)) for k, s in enumerate(("select", "test"))}
    task = TaskSpec(data={**data, "calibration": data["select"]}, base=base)
    targets = [present_target(t) for t in args.targets or ["cpu:onnxruntime", "cpu:openvino"]]
    output = parse_output(args.output) if args.output else {}
    ours: list[Mapping[str, float]] = []
    theirs: list[Mapping[str, float]] = []
    for turn in range(args.repeats):
        store = StageStore(work / f"cache-{turn}")
        source = open_reference(str(args.model), weights=None, base=Path.cwd(), store=store)
        assert isinstance(source, Artifact), "give an .onnx file"
        request = SearchRequest(
            reference=args.model.name, model=source, task=task, targets=targets, max_drop=args.max_drop, output=output
        )  # fmt: skip
        started, used = time.monotonic(), _cpu()

        steps: list[tuple[float, str]] = []

        def told(text: str, since: float = started, into: list[tuple[float, str]] = steps) -> None:
            into.append((time.monotonic() - since, text))
            print(f"{into[-1][0]:7.1f} search: {text}", file=sys.stderr)

        found, winner = search_student(request, store, told)
        ours.append(
            {"seconds": time.monotonic() - started, "chosen": steps[-1][0], "cpu_seconds": _cpu() - used}
        )
        folder = work / f"nncf-{turn}"
        folder.mkdir()
        started = time.monotonic()
        subprocess.run(
            [sys.executable, __file__, str(args.model), "--data", str(args.data), "--max-drop", str(args.max_drop),
             "--nncf-into", str(folder)],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
        took = json.loads((folder / "took.json").read_text())
        took |= {"chosen": took["seconds"], "seconds": time.monotonic() - started}
        theirs.append(took)

    from edgekd_openvino.exporter import OpenVinoExporter

    ir = OpenVinoExporter().read(folder / "model.xml")
    paths = {"openvino": present_target("cpu:openvino").runtime_paths["openvino"]}
    paths["onnx"] = present_target("cpu:onnxruntime").runtime_paths["onnx"]
    models = {"float32": source, "nncf": ir, "edgekd": winner}
    race = Comparison(
        baseline=("float32", source), candidates=[(n, models[n]) for n in ("nncf", "edgekd")], limits={},
        feeds=Feeds(task=task, split="select"), occasion="test", baseline_role="student", own_settings=False,
        setting=Setting(target=parse_target("cpu:onnxruntime"), runtime_paths=paths),
    )  # fmt: skip
    timed = measure_comparison(
        race, store, remeasure=True, decided=lambda m: True, protocol=Protocol(min_restarts=6, max_restarts=6)
    )
    digest = task.split_digest("test")

    def answers(name: str) -> Any:
        where = "cpu:openvino" if models[name].format == "openvino" else "cpu:onnxruntime"
        request = EvaluationRequest(
            label=name, artifact=models[name], target=parse_target(where), runtime_paths=paths, task=task, split="test",
            data_digest=digest, output=output if models[name].format == "onnx" else {}, batch=1,
        )  # fmt: skip
        return evaluate_artifact(request, store)

    reference = answers("float32")
    gates = {
        n: judge_accuracy(reference, answers(n), max_drop=args.max_drop, against="float32")
        for n in ("nncf", "edgekd")
    }
    return {
        "bound": args.max_drop,
        "turns": {"edgekd": ours, "nncf": theirs},
        "rows": {"select": reference.n, "test": reference.n},
        "float32": {"accuracy": reference.mean},
        "edgekd": {
            **_middle(ours), "evaluations": found.evaluations, "examples": sum(t.n for t in found.trials),
            "what": found.winner, "accuracy": answers("edgekd").mean, "gate": gates["edgekd"].reason,
            "decision": gates["edgekd"].decision, "ratio": ratio_of(timed, "candidate_2"),
        },
        "nncf": {
            **_middle(theirs), "evaluations": took["calls"], "examples": took["examples"],
            "what": "quantize_with_accuracy_control", "accuracy": answers("nncf").mean, "gate": gates["nncf"].reason,
            "decision": gates["nncf"].decision, "ratio": ratio_of(timed, "candidate"),
        },
    }  # fmt: skip


def _middle(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {k: float(np.median([t[k] for t in turns])) for k in ("seconds", "chosen", "cpu_seconds")}


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"Bound: {100 * figures['bound']:g} points; float32 has {figures['float32']['accuracy']:.4f} on "
        f"{figures['rows']['test']:,} test rows.",
        "",
        "| | seconds | chosen after | of a processor | evaluations | examples evaluated | test accuracy | test verdict | time against float32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ("nncf", "edgekd"):
        x = figures[name]
        ratio, low, high = x["ratio"]
        lines.append(
            f"| {name}: {x['what']} | {x['seconds']:.1f} | {x['chosen']:.1f} | {x['cpu_seconds']:.1f} | {x['evaluations']} | {x['examples']:,} | {x['accuracy']:.4f} "
            f"| {x['decision']} | {ratio:.3f}x [{low:.3f}, {high:.3f}] |"
        )
    a, b = figures["edgekd"], figures["nncf"]
    lines += [
        "",
        f"EdgeKD takes {a['seconds'] / b['seconds']:.2f} of NNCF's time ({a['chosen'] / b['chosen']:.2f} until the mixture is chosen), {a['cpu_seconds'] / b['cpu_seconds']:.2f} of its processor time and {a['examples'] / b['examples']:.2f} of its "
        "evaluated examples. (NNCF calls its validation function for single examples too: its evaluations count those.)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
