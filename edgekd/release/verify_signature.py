"""``model.sig``, read with the standard library and checked with ``cryptography``.

The format is OpenSSF model-signing 1.0: a Sigstore bundle (v0.3) with a DSSE envelope around an in-toto statement
whose resources are the SHA-256 of every file. The hashes are compared with those that `verify` computed anyway, so
nothing is hashed twice and a .tar needs no unpacking. The file is in one canonical form, so no byte of it is free.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.lazy import require
from edgekd.release.manifest import MANIFEST_FILE
from edgekd.release.trust import CURVES, HOW_TO_NAME, PublicKey, Trust
from edgekd.release.verify_problem import Problem

SIGNATURE_FILE = "model.sig"

_FINGERPRINT = re.compile("[0-9a-f]{64}")

# Sigstore protobuf-specs, in-toto attestation and model-signing 1.0 name these.
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What ``model.sig`` says, and whether it was checked.

    Attributes:
        fingerprint: SHA-256 of the signer's public key as PEM; empty where it is keyless.
        key: the trusted key it verified with; None while it was not checked.
        payload, value: the signed bytes and the signature over them.
    """

    fingerprint: str
    payload: bytes
    value: bytes
    key: PublicKey | None = None

    @property
    def keyless(self) -> bool:
        """By a certificate of Sigstore, which this version leaves to OpenSSF's own tool."""
        return not self.fingerprint


def signature_bytes(value: Mapping[str, Any]) -> bytes:
    """The one serialisation of a ``model.sig``."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _problem(text: str) -> tuple[None, list[Problem]]:
    return None, [Problem(SIGNATURE_FILE, f"{SIGNATURE_FILE} {text}", "bundle-signature")]


def read_signature(raw: bytes, listed: Mapping[str, str]) -> tuple[Signature | None, list[Problem]]:
    """Parse a signature and compare what it covers; checks no key.

    Args:
        raw: the file's bytes.
        listed: path -> sha256 of everything it must cover: the manifest's files, and the manifest.
    """
    try:
        value = json.loads(raw)
        if signature_bytes(value) != raw:
            return _problem("was changed: it is not in the form that release writes")
        material, envelope = value["verificationMaterial"], value["dsseEnvelope"]
        payload, sig = _decode(envelope["payload"]), _decode(envelope["signatures"][0]["sig"])
        keyless = "certificate" in material or "x509CertificateChain" in material
        hint = "" if keyless else material["publicKey"]["hint"]
        free = {**value, "verificationMaterial": None} if keyless else value
        if not keyless and (not isinstance(hint, str) or _FINGERPRINT.fullmatch(hint) is None):
            return _problem("names no key")
        if free != _plain(None if keyless else hint, envelope["payload"], envelope["signatures"][0]["sig"]):
            return _problem("holds more or other than one signature of model-signing 1.0")
        statement = json.loads(payload)
        covered = _covered(statement)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return _problem("is damaged: it is no signature of model-signing 1.0")
    signature = Signature(fingerprint=hint, payload=payload, value=sig)
    return signature, _compare(covered, listed)


def _plain(hint: str | None, payload: str, sig: str) -> dict[str, Any]:
    """The document that model-signing writes around a payload and its signature."""
    return {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": None if hint is None else {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": payload,
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": sig, "keyid": ""}],
        },
    }


def _decode(text: str) -> bytes:
    """Base64 in its one form: no other text decodes to these bytes."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise binascii.Error("not in plain form")
    return data


def _covered(statement: Mapping[str, Any]) -> dict[str, str]:
    """Path -> sha256 of a statement's resources.

    Raises:
        ValueError, KeyError, TypeError: not a statement of model-signing 1.0 over SHA-256 of whole files.
    """
    predicate = statement["predicate"]
    kinds = (statement["_type"], statement["predicateType"], predicate["serialization"]["method"])
    if kinds != (_STATEMENT_TYPE, _PREDICATE_TYPE, "files"):
        raise ValueError(f"unknown kind {kinds}")
    covered: dict[str, str] = {}
    for resource in predicate["resources"]:
        if resource["algorithm"] != "sha256" or resource["name"] in covered:
            raise ValueError("not one SHA-256 per file")
        covered[str(resource["name"])] = str(resource["digest"])
    root = hashlib.sha256(b"".join(bytes.fromhex(d) for d in covered.values())).hexdigest()
    if [s["digest"]["sha256"] for s in statement["subject"]] != [root]:
        raise ValueError("its subject is not the digest of its resources")
    return covered


def _compare(covered: Mapping[str, str], listed: Mapping[str, str]) -> list[Problem]:
    # The manifest last: where a file was changed and the manifest made again, the file is the story.
    order = [*sorted({*covered, *listed} - {MANIFEST_FILE}), MANIFEST_FILE]
    problems = []
    for path in order:
        if path not in listed:
            text = f"{path} is missing: {SIGNATURE_FILE} signs it, the manifest does not list it"
        elif path not in covered:
            text = f"{path} is not signed: {SIGNATURE_FILE} does not cover it"
        elif covered[path] != listed[path]:
            text = f"{path} is not what was signed: {SIGNATURE_FILE} signs other content"
        else:
            continue
        problems.append(Problem(path, text, "bundle-signature"))
    return problems


def check_key(signature: Signature, trust: Trust) -> tuple[Signature, list[Problem]]:
    """Check who signed.

    Returns:
        The signature, with its key where one of ``trust.keys`` verified it.

    Raises:
        MissingDependencyError: there are keys, and the extra ``release`` is not installed.
        UsageError: a trusted key that is damaged.
    """

    def refused(text: str, rule: str = "bundle-key") -> tuple[Signature, list[Problem]]:
        return signature, [Problem(SIGNATURE_FILE, f"{SIGNATURE_FILE} {text}", rule)]

    if (reason := trust.revoked.get(signature.fingerprint)) is not None and signature.fingerprint:
        return refused(f"is by the revoked key {signature.fingerprint} ({reason or 'no reason given'})")
    if not trust.keys:
        return signature, []
    if signature.keyless:
        return refused("is keyless (Sigstore), and a key was asked")
    key = next((k for k in trust.keys if k.fingerprint == signature.fingerprint), None)
    if key is None:
        known = ", ".join(f"{k.fingerprint[:16]}… ({k.path.name})" for k in trust.keys[:3])
        return refused(f"is by the key {signature.fingerprint}, trusted: {known}")
    if not _holds(signature, key):
        return refused("does not hold: its signature is not of this content by that key", "bundle-signature")
    return (
        Signature(
            fingerprint=signature.fingerprint, payload=signature.payload, value=signature.value, key=key
        ),
        [],
    )


def _holds(signature: Signature, key: PublicKey) -> bool:
    """ECDSA over the DSSE pre-authentication encoding (DSSE 1.0, protocol.md), with the hash of the curve's size."""
    purpose = "checking a signature"
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="release", purpose=purpose)
    hashes = require("cryptography.hazmat.primitives.hashes", extra="release", purpose=purpose)
    public = load_public(key.path, key.pem)
    algorithm = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[public.curve.key_size]
    head = f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(signature.payload)} "
    exceptions = require("cryptography.exceptions", extra="release", purpose=purpose)
    try:
        public.verify(signature.value, head.encode() + signature.payload, ec.ECDSA(algorithm()))
    except exceptions.InvalidSignature:
        return False
    return True


def load_public(path: Path, pem: bytes) -> Any:
    """A public key on one of the curves that model-signing signs with.

    Raises:
        UsageError: damaged, or on another curve.
    """
    from edgekd.errors import UsageError

    serialization = require(
        "cryptography.hazmat.primitives.serialization", extra="release", purpose="checking a signature"
    )
    exceptions = require("cryptography.exceptions", extra="release", purpose="checking a signature")
    try:
        public = serialization.load_pem_public_key(pem)
        curve = str(public.curve.name)
    except (ValueError, AttributeError, exceptions.UnsupportedAlgorithm) as e:
        raise UsageError(f"key {path} is damaged ({e})", "get the public key again") from e
    if curve not in CURVES:
        raise UsageError(f"key {path} is on the curve {curve}", HOW_TO_NAME)
    return public
