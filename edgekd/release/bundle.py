"""``release``: a passed run becomes a bundle, a folder and a deterministic .tar beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekd
from edgekd.artifact import load_artifact, record_file
from edgekd.errors import NotReleasableError, PolicyError, UsageError
from edgekd.evidence.run import RUN_FILE, Run, load_run
from edgekd.files import building, write_bytes, write_json
from edgekd.gates.judge import judge_run
from edgekd.gates.verdict import VERDICT_FILE, Verdict, exit_code
from edgekd.recipe import GatesBlock
from edgekd.release.attestations import write_attestations
from edgekd.release.bom import BOM_FILE, write_bom
from edgekd.release.contents import (
    RECIPE_FILE,
    check_artifacts,
    check_out,
    evidence_files,
    judge_again,
    read_recipe,
    shipped_records,
)
from edgekd.release.declared import Settled, settle
from edgekd.release.manifest import MANIFEST_FILE, make_manifest, manifest_bytes
from edgekd.release.model_card import write_model_card
from edgekd.release.notices import plan_notices, write_notices
from edgekd.release.paths import portable, portable_prose
from edgekd.release.story import gather
from edgekd.release.tar import tar_path, write_tar
from edgekd.release.verify import find_problems
from edgekd.release.verify_signature import SIGNATURE_FILE
from edgekd.report import render

if TYPE_CHECKING:
    from edgekd.release.signing import SigningKey


def release(
    run_folder: Path,
    out: Path,
    *,
    formats: Sequence[str] | None = None,
    provenance: Path | None = None,
    key: Path | None = None,
    keyless: bool = False,
) -> Path:
    """Bundle a run that passed.

    The run is judged again first, from its stored evidence and under the policy of its verdict, then its provenance, as
    of the day on which it was collected. The same evidence gives the same bytes, but for the signature.

    Args:
        run_folder: holds ``run.json``, ``verdict.json``, artifacts and evidence.
        out: folder to write; ``OUT.tar`` is written beside it. A bundle that is there already is replaced.
        formats: which formats of the selected artifacts go in; None asks the run's recipe, else takes all.
        provenance: a YAML file that declares teacher and data, for a run that does not.
        key: a private key to sign with, needed where a person waived a rule; None: the recipe's ``release.sign``.
        keyless: sign with the identity of a CI job instead, through Sigstore's public service; needs network.

    Returns:
        ``out``.

    Raises:
        NotReleasableError: rejected (exit 1, or 5 for its provenance), inconclusive (3) or an error (2, 4 or 5).
        PolicyError: provenance that is undeclared or needs a human, an obligation that cannot be met, or a bundle that
            :func:`edgekd.release.verify.verify` would refuse.
        EvidenceError: no verdict yet, a verdict that is not of this evidence, or an altered artifact.
        UsageError: ``out`` holds something else, no selected artifact has an asked format, waivers and no key.
        StorageError: a write failed; what was at ``out`` is intact.
    """
    run = load_run(run_folder)
    verdict = judge_again(run_folder, run)
    check_artifacts(run_folder, run)
    if verdict.decision != "pass":
        _refuse(run_folder, verdict)
    check_out(out)
    recipe = read_recipe(run_folder)
    settled = settle(run_folder, run, verdict.policy, provenance, recipe)
    signer = _check_signed(run_folder, settled, key or _key_of(recipe, keyless), keyless)
    texts, met_in = plan_notices(run_folder, run.name, settled)
    recipe = portable(recipe)
    records = shipped_records(run_folder, run, verdict, recipe, formats)
    with building(out) as bundle:
        shipped = [_bring_artifact(run_folder, bundle, record) for record in records]
        for path in evidence_files(run_folder, run):
            (bundle / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run_folder / path, bundle / path)
        run, verdict = _bring_verdict(run_folder, bundle, run, verdict)
        if recipe:
            write_json(bundle / RECIPE_FILE, recipe)
        story = gather(run_folder, run, verdict, recipe, shipped, settled)
        settled.save(bundle, met_in)
        write_notices(settled, texts, bundle)
        write_model_card(story, bundle)
        write_bom(story, bundle)
        attestations = write_attestations(story, bundle)
        for kind in ("md", "html"):
            write_bytes(bundle / f"report.{kind}", render(bundle, kind).encode())
        files = sorted(str(p.relative_to(bundle).as_posix()) for p in bundle.rglob("*") if p.is_file())
        manifest = make_manifest(
            run.name,
            edgekd.__version__,
            verdict.decision,
            [record_file(bundle, f).to_json() for f in files],
            attestations=attestations,
            bom=BOM_FILE,
        )
        write_bytes(bundle / MANIFEST_FILE, manifest_bytes(manifest))
        for entry in (bundle, *bundle.rglob("*")):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        signature = _sign(bundle, signer, run.name, keyless)
        _check_bundle(run_folder, bundle)
        write_tar(bundle, tar_path(out), run.name, [MANIFEST_FILE, *files, *signature])
    return out


def _refuse(run_folder: Path, verdict: Verdict) -> None:
    worst = next((g for g in verdict.gates if g.decision == verdict.decision), None)
    why = ""
    if worst:
        where = f" on {worst.target}" if worst.target else ""
        why = f": {worst.gate}{where}: {worst.reason.rstrip('.')}"
    raise NotReleasableError(
        f"{run_folder} is not released, its verdict is {verdict.decision}{why}",
        "only a run that passed is released",
        exit_code(verdict),
    )


def _key_of(recipe: Mapping[str, Any], keyless: bool) -> Path | None:
    """The key that the recipe names, from the folder where ``release`` runs."""
    block = recipe.get("release")
    named = block.get("sign") if isinstance(block, Mapping) else None
    return Path(str(named)) if named and not keyless else None


def _check_bundle(run_folder: Path, bundle: Path) -> None:
    """No bundle leaves that ``verify`` would refuse."""
    problems = find_problems(bundle)
    if problems:
        raise PolicyError(
            f"{run_folder} is not released, its bundle would not verify: {problems[0]} (rule bundle-unsound)",
            "make the run again; if that does not help, it is a fault of EdgeKD",
            rule="bundle-unsound",
        )


def _check_signed(run_folder: Path, settled: Settled, key: Path | None, keyless: bool) -> SigningKey | None:
    """The key, found fit before anything is made of it; None without one."""
    waivers = settled.declaration.waivers
    if key is not None:
        from edgekd.release.signing import check_key

        return check_key(key)
    if waivers and not keyless:
        raise UsageError(
            f"{run_folder} rests on the waiver of {waivers[0].rule} by {waivers[0].by}, and a waiver is signed with the bundle",
            "name a private key: --key key.pem, or `sign` in the recipe's `release:`",
        )
    return None


def _sign(bundle: Path, key: SigningKey | None, name: str, keyless: bool) -> list[str]:
    """The signature's file, which is last in the archive; nothing where nobody signs."""
    if key is None and not keyless:
        return []
    from edgekd.release.signing import sign

    sign(bundle, key, name=name, keyless=keyless).chmod(0o644)
    return [SIGNATURE_FILE]


def _bring_artifact(run_folder: Path, bundle: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an artifact in; its record with the files as they lie in the bundle."""
    source = run_folder / record["folder"]
    folder = f"artifacts/{Path(record['folder']).name}"
    shutil.copytree(source, bundle / folder)
    names = sorted({"artifact.json", *(f.path for f in load_artifact(source, check=False).files)})
    return {**record, "files": [record_file(bundle, f"{folder}/{name}") for name in names]}


def _bring_verdict(run_folder: Path, bundle: Path, run: Run, verdict: Verdict) -> tuple[Run, Verdict]:
    """Write run.json and verdict.json; sentences that name paths of the machine keep the last part of them."""
    raw = json.loads((run_folder / RUN_FILE).read_bytes())
    said, policy = _without_paths(raw), portable(dict(verdict.policy))
    if said == raw:
        shutil.copyfile(run_folder / RUN_FILE, bundle / RUN_FILE)
    else:
        write_json(bundle / RUN_FILE, said)
        run = load_run(bundle)
    if said != raw or policy != verdict.policy:
        judged = judge_run(bundle, run, GatesBlock.model_validate(policy))
        verdict = replace(judged, edgekd=verdict.edgekd)
        if verdict.decision != "pass":
            _refuse(run_folder, verdict)
    verdict.save(bundle / VERDICT_FILE)
    return run, verdict


def _without_paths(run: dict[str, Any]) -> dict[str, Any]:
    """The index with portable notes, reasons, policy and declaration; all else in it is relative to the run already."""
    found = dict(run)
    found["notes"] = [portable_prose(str(n)) for n in run.get("notes", ())]
    found["absent"] = [{**a, "reason": portable_prose(str(a["reason"]))} for a in run.get("absent", ())]
    found["provenance"] = portable(run.get("provenance", {}))
    if isinstance(run.get("policy"), dict):
        found["policy"] = portable(run["policy"])
    found["candidates"] = [
        {**c, **{k: _evidence(c[k]) for k in ("select", "test") if c.get(k)}} for c in run["candidates"]
    ]
    return found


def _evidence(value: Mapping[str, Any]) -> dict[str, Any]:
    failures = {
        k: {**f, "reason": portable_prose(str(f["reason"]))} for k, f in value.get("failures", {}).items()
    }
    return {**value, **({"failures": failures} if "failures" in value else {})}
