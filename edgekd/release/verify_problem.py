"""What `verify` objects to: the file, the sentence and the rule. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Rule -> what it asks, for the docs. The first problem's rule stands in the refusal.
RULES: Mapping[str, str] = {
    "bundle-file": "every listed file is there with its bytes, and no other file, link, special file or empty folder",
    "bundle-archive": "the .tar has the canonical form: folder, order, headers and padding, no byte is free",
    "bundle-manifest": "manifest.json is whole, in canonical form, and agrees with its own digest",
    "bundle-verdict": "the verdict is a pass, follows from its gates, and rests on evidence and artifacts that are in the bundle",
    "bundle-bom": "the bill of materials has the hashes of the files, and the teachers and data that provenance.json declares",
    "bundle-attestation": "every attestation is of the files that it should be of, by their hashes; each artifact and gate has one",
    "bundle-obligation": "every obligation of the licences is listed, and met in files that are there and say so",
    "bundle-record": "no terms record was older than allowed when the evidence was collected (or at --as-of)",
    "bundle-waiver": "a waiver names a person, a reason and a day that was not over, and the bundle is signed",
    "bundle-provenance": "provenance.json says what run.json and recipe.json say, and the rules allow it",
    "bundle-signature": "model.sig is whole and signs exactly the files of the manifest; it is there where keys are asked",
    "bundle-key": "the signature is by a trusted key that is not revoked",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One objection: the file, a sentence that names it, and the rule."""

    path: str
    text: str
    rule: str = "bundle-file"


def printable(text: str) -> str:
    """Names from outside on one line, whatever they hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
