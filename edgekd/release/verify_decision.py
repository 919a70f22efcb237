"""Does the verdict follow from its own gates, and do those rest on the evidence that the run names? Standard library only.

Nothing is judged again here: that is ``edgekd gate BUNDLE``. What can be seen without numbers is seen by everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from edgekd.release.verify_problem import Problem

VERDICT_FILE = "verdict.json"
RUN_FILE = "run.json"

#: Its gate is of the whole run, without artifact and target.
_PROVENANCE = "provenance"
#: A gate of a policy's key is called otherwise here alone.
_GATES_OF = {"slices": "slice"}


def check_decision(
    verdict: Mapping[str, Any], run: Mapping[str, Any], shipped: Collection[str]
) -> list[Problem]:
    """What contradicts a verdict that says ``pass``.

    Args:
        shipped: digests of the artifacts in the bundle.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: verdict or run is not whole.
    """

    def refused(text: str) -> list[Problem]:
        return [Problem(VERDICT_FILE, f"{VERDICT_FILE} {text}", "bundle-verdict")]

    selected, optional, policy = dict(verdict["selected"]), list(verdict["optional"]), dict(verdict["policy"])
    for key in ("selected", "optional", "collected_at"):
        if verdict[key] != run.get(key, []):
            return refused(f"has another '{key}' than {RUN_FILE}")
    if not set(selected.values()) & set(shipped):
        return refused("selects no artifact that is in the bundle")
    for digest in shipped:
        if digest not in run["artifacts"]:
            return refused(f"is not of the artifact {digest[:19] or 'without a digest'}… in the bundle")
    gates = list(verdict["gates"])
    decisive = [g for g in gates if g["gate"] == _PROVENANCE or g["target"] not in optional]
    # Licences that allow it are no answer to what else was asked.
    counted = [g for g in decisive if g["gate"] != _PROVENANCE or set(policy) == {_PROVENANCE}]
    if not any(g["decision"] == "pass" for g in counted):
        return refused("says 'pass', and none of its gates does")
    if wrong := [g for g in decisive if g["decision"] not in ("pass", "not_run")]:
        return refused(f"says 'pass', and {str(wrong[0]['decision'])!r} of its gate {wrong[0]['gate']}")
    for gate in gates:
        if gate["artifact"] and gate["artifact"] != selected[gate["target"]]:
            return refused(f"judges {gate['artifact'][:19]}… on {gate['target']}, and selects another there")
    required = [t for t in selected if t not in optional]
    for key in policy:
        asked = _GATES_OF.get(key, key)
        answered = {g["target"] for g in gates if str(g["gate"]).partition(":")[0] == asked}
        for target in [""] if key == _PROVENANCE else required:
            if target not in answered:
                return refused(f"holds no gate of {key} on {target}" if target else f"holds no gate of {key}")
    if not policy:
        return refused("asks no gate")
    return _check_evidence(verdict, run, decisive)


def _check_evidence(
    verdict: Mapping[str, Any], run: Mapping[str, Any], decisive: list[Mapping[str, Any]]
) -> list[Problem]:
    """Each gate that passed rests on documents that the run names for it and the verdict read.

    Not everything that a run names is read: a policy may ask less than was collected.
    """
    evidence = dict(verdict["evidence"])
    tests = {(c["target"], c["artifact"]): c.get("test") or {} for c in run["candidates"]}
    for gate in decisive:
        if gate["decision"] != "pass" or gate["gate"] in (_PROVENANCE, "size"):
            continue
        test = tests[gate["target"], gate["artifact"]]
        paths = list(_rests_on(gate, test))
        for path in paths:
            if path not in evidence:
                text = (
                    f"{path}, of which {gate['gate']} on {gate['target']} is judged, is not in {VERDICT_FILE}"
                )
                return [Problem(path, text, "bundle-verdict")]
        if not paths:
            text = f"{VERDICT_FILE}: {gate['gate']} on {gate['target']} passed, and {RUN_FILE} names no evidence of it"
            return [Problem(VERDICT_FILE, text, "bundle-verdict")]
    return []


def _rests_on(gate: Mapping[str, Any], test: Mapping[str, Any]) -> Iterator[str]:
    """Paths of the documents that a gate is judged by."""
    name = str(gate["gate"]).partition(":")[0]
    if name in ("accuracy", "fidelity", "slice"):
        answers = test.get("accuracy") or {}
        # The first version knew one reference, the teacher.
        references = answers.get("references") or {"teacher": answers.get("baseline")}
        yield from filter(None, (answers.get("candidate"), references.get(gate["against"])))
    elif name in ("latency", "tail", "regression"):
        timed = test.get("regression" if name == "regression" else "latency")
        yield from [str(timed["measurement"])] if timed else []
    elif name == "latency_absolute":
        # As Evidence.timings has them; the first one is judged.
        timings = [str(e["measurement"]) for e in map(test.get, ("alone", "latency", "regression")) if e]
        yield from timings[:1]
    elif name == "placement":
        yield from filter(None, (test.get("placement"),))
