"""``verify``: is this bundle, folder or .tar, byte for byte what was released, and by whom?

Nothing is extracted and nothing in the bundle is run or trusted before its hash is known. Hashes need the standard
library alone, a signature needs ``cryptography``. Without a trusted key this proves that the files belong together,
not who made them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError, InputError, PolicyError
from edgekd.release.manifest import MANIFEST_FILE
from edgekd.release.tar import top_folder
from edgekd.release.trust import Trust
from edgekd.release.verify_decision import RUN_FILE
from edgekd.release.verify_files import FoundFile, check_layout, scan_tar, walk_folder
from edgekd.release.verify_manifest import compare_files, read_manifest, signed_hashes
from edgekd.release.verify_problem import Problem, printable
from edgekd.release.verify_signature import SIGNATURE_FILE, Signature, check_key, read_signature
from edgekd.release.verify_statements import PROVENANCE_FILE
from edgekd.release.verify_story import SUPPLY_FILES, check_downgrade, check_supply, check_verdict, has_supply

RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a sound bundle says of itself.

    Attributes:
        name, decision, edgekd: of the run, its verdict, and the EdgeKD that wrote it.
        files: how many, with the manifest and without the signature.
        digest: of the manifest: names the content, whoever signed it.
        signature: who signed, and the trusted key that it was checked with; None where nobody did.
        warnings: what expired since, what was not checked and what is not stated, a sentence each.
    """

    name: str
    decision: str
    edgekd: str
    files: int
    digest: str = ""
    signature: Signature | None = None
    warnings: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Signed by a key that was asked for."""
        return self.signature is not None and self.signature.key is not None

    def to_json(self) -> dict[str, Any]:
        signed = self.signature
        return {
            "name": self.name,
            "decision": self.decision,
            "edgekd": self.edgekd,
            "files": self.files,
            "digest": self.digest,
            "signature": None
            if signed is None
            else {
                "fingerprint": signed.fingerprint or None,
                "keyless": signed.keyless,
                "checked": self.trusted,
                "key": str(signed.key.path) if signed.key else None,
            },
            "warnings": list(self.warnings),
        }


def verify(
    bundle: Path, *, trust: Trust | None = None, as_of: date | None = None, today: date | None = None
) -> Verified:
    """Check a bundle.

    Args:
        bundle: the folder or the .tar that ``release`` wrote.
        trust: keys, one of which must have signed, and revoked ones; None asks for no signature.
        as_of: judge terms records and waivers by this day instead of the day of the evidence.
        today: what later expiry is counted to, for warnings; None: the clock's day (UTC).

    Raises:
        PolicyError: it is not as released; names the first files and what is wrong with them, and the rule.
        EvidenceError: not a bundle, or one of a newer version.
        UsageError: a trusted key that is damaged.
    """
    found = _examine(bundle, trust or Trust(), as_of)
    if found.problems:
        first = found.problems[:3]
        more = f" (and {len(found.problems) - 3} more)" if len(found.problems) > 3 else ""
        raise PolicyError(
            f"{bundle} is not as released: {', '.join(p.text for p in first)}{more} (rule {first[0].rule})",
            _FIXES.get(first[0].rule, "do not use it; get the bundle again"),
            first[0].rule,
        )
    manifest = found.manifest
    warnings = _warnings(found, as_of, today or datetime.now(timezone.utc).date())
    return Verified(
        name=printable(str(manifest["name"])),
        decision=printable(str(manifest["decision"])),
        edgekd=printable(str(manifest["edgekd"])),
        files=len(manifest["files"]) + 1,
        digest=str(manifest["digest"]),
        signature=found.signature,
        warnings=tuple(map(printable, warnings)),
    )


def _warnings(found: _Found, as_of: date | None, today: date) -> list[str]:
    if found.terms is None:
        return [f"{PROVENANCE_FILE} is missing: the bundle states no provenance, as the first ones did not"]
    from edgekd.release.verify_terms import later_expiry, not_yet

    said = []
    if found.signature is None or found.signature.key is None:
        # It is signed, or it would have been refused; by whom is not known.
        said = [
            f"{PROVENANCE_FILE}: waiver of {w.rule} by {w.by}: the signature was not checked; give --key"
            for w in found.terms.declaration.waivers
        ]
    said += not_yet(found.terms, today)
    return said + (later_expiry(found.terms, today) if as_of is None else [])


_FIXES = {
    "bundle-key": "do not use it; if you know that key, name it with --key",
    "bundle-signature": "do not use it; get the bundle again, from who signed it",
    "bundle-record": "do not use it; look at the terms again and release the run again",
    "bundle-waiver": "do not use it; have it signed by who takes the waiver upon themselves",
}


def find_problems(bundle: Path, *, trust: Trust | None = None, as_of: date | None = None) -> list[str]:
    """Everything that :func:`verify` would object to, one sentence each: links, missing, changed, extra; empty when sound.

    Raises:
        EvidenceError: not a bundle, or one of a newer version.
    """
    return [p.text for p in _examine(bundle, trust or Trust(), as_of).problems]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    problems: list[Problem]
    manifest: Mapping[str, Any]
    signature: Signature | None = None
    terms: Any = None


def _examine(bundle: Path, trust: Trust, as_of: date | None) -> _Found:
    if bundle.exists() and not (bundle.is_dir() or bundle.is_file()):
        raise EvidenceError(
            f"{bundle} is neither a folder nor a plain file", "name a bundle folder or its .tar"
        )
    if not bundle.exists():
        raise EvidenceError(f"{bundle} does not exist", "name a bundle folder or its .tar")
    try:
        files, problems, top = (*walk_folder(bundle), "") if bundle.is_dir() else scan_tar(bundle)
        if not _is_bundle(bundle, files, problems):
            raise EvidenceError(
                f"{bundle} is no bundle: it holds no {MANIFEST_FILE}", "name a bundle folder or its .tar"
            )
        if MANIFEST_FILE in files:
            found = _compare(bundle, files, problems, top, trust, as_of)
        else:
            if not any(p.path == MANIFEST_FILE for p in problems):
                problems.append(Problem(MANIFEST_FILE, f"{MANIFEST_FILE} is missing", "bundle-manifest"))
            found = _Found(problems=problems, manifest={})
    except OSError as e:
        raise InputError(
            f"cannot read {e.filename or bundle}: {e.strerror}", "check the path and its permissions"
        ) from e
    plain = [Problem(printable(p.path), printable(p.text), p.rule) for p in found.problems]
    return _Found(problems=plain, manifest=found.manifest, signature=found.signature, terms=found.terms)


def _is_bundle(bundle: Path, files: Mapping[str, FoundFile], problems: list[Problem]) -> bool:
    """Whether it is one, however damaged: another file, or a run, is not as released because nobody released it."""
    if bundle.is_file():
        return bundle.suffix == ".tar" or MANIFEST_FILE in files
    there = {MANIFEST_FILE, SIGNATURE_FILE, *SUPPLY_FILES}
    return has_supply(files) or not there.isdisjoint([*files, *(p.path for p in problems)])


def _compare(
    bundle: Path,
    files: Mapping[str, FoundFile],
    problems: list[Problem],
    top: str,
    trust: Trust,
    as_of: date | None,
) -> _Found:
    raw = files[MANIFEST_FILE].read()
    found, manifest = read_manifest(bundle, raw)
    if found:
        return _Found(problems=[*problems, *found], manifest={})
    problems += compare_files(files, manifest)
    listed = {str(f["path"]): str(f["sha256"]) for f in manifest["files"]}
    signature: Signature | None = None
    if SIGNATURE_FILE in files:
        signature, more = read_signature(files[SIGNATURE_FILE].read(), signed_hashes(manifest, raw))
        problems += more
        if signature is not None and not problems:
            signature, more = check_key(signature, trust)
            problems += more
    elif trust.keys:
        problems.append(
            Problem(
                SIGNATURE_FILE, f"{SIGNATURE_FILE} is missing, and a signature was asked", "bundle-signature"
            )
        )
    terms = None
    if not problems:
        problems, terms = _tell_story(bundle, files, listed, manifest, as_of)
    if not problems and not bundle.is_dir():
        last = [SIGNATURE_FILE] if SIGNATURE_FILE in files else []
        if top != (asked := top_folder(str(manifest["name"]))):
            text = f"{top}: the folder in the archive is called {asked} where it is released"
            problems = [Problem(top, text, "bundle-archive")]
    if not problems and not bundle.is_dir():
        problems = check_layout(bundle, [MANIFEST_FILE, *sorted(listed), *last], files, top)
    return _Found(problems=problems, manifest=manifest, signature=signature, terms=terms)


def _tell_story(
    bundle: Path,
    files: Mapping[str, FoundFile],
    listed: Mapping[str, str],
    manifest: Mapping[str, Any],
    as_of: date | None,
) -> tuple[list[Problem], Any]:
    """What the documents say, once every hash is known to be right."""

    def read(path: str) -> bytes | None:
        return files[path].read() if path in listed else None

    run, recipe = _object(read(RUN_FILE)), _object(read(RECIPE_FILE))
    for path, value in ((RUN_FILE, run), (RECIPE_FILE, recipe)):
        if value is None and (path in listed or path == RUN_FILE):
            return [Problem(path, f"{path} is missing or damaged", "bundle-verdict")], None
    problems, verdict = check_verdict(read, listed, manifest, run or {})
    if problems:
        return problems, None
    problems = check_supply(read, listed, manifest, verdict)
    if any(p.rule == "bundle-file" for p in problems):
        return problems, None  # what is missing comes before what others say of it
    signed = SIGNATURE_FILE in files
    if PROVENANCE_FILE not in listed:
        if not problems:
            problems = check_downgrade(str(manifest["edgekd"]), run or {}, verdict, recipe, signed=signed)
        return problems, None
    from edgekd.release.verify_terms import check_terms, read_terms

    terms, more = read_terms(bundle, read(PROVENANCE_FILE) or b"")
    if terms is not None:
        more += check_terms(
            terms,
            name=str(manifest["name"]),
            run=run or {},
            verdict=verdict,
            recipe=recipe,
            read=read,
            signed=signed,
            as_of=as_of,
        )
    # A document that declares otherwise contradicts the bill of materials too: it is named first.
    return [*more, *problems], terms


def _object(raw: bytes | None) -> dict[str, Any] | None:
    """A JSON object; None where it is missing or none."""
    try:
        value = json.loads(raw or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
