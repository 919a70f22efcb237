"""``model.sig``: the OpenSSF model-signing signature of a bundle, by an elliptic-curve key that needs no network.

The library hashes the bundle's files itself and signs the list of their SHA-256 (a DSSE envelope around an in-toto
statement), so that its own tools check a bundle too:
``model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key key.pub``.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd.errors import EvidenceError, InfrastructureError, UsageError
from edgekd.files import write_bytes
from edgekd.lazy import require
from edgekd.release.manifest import MANIFEST_FILE
from edgekd.release.trust import HOW_TO_MAKE, REVOKED_VARIABLE, read_revoked
from edgekd.release.verify_signature import SIGNATURE_FILE, read_signature, signature_bytes

#: The password of an encrypted private key.
PASSWORD_VARIABLE = "EDGEKD_KEY_PASSWORD"

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key that was found fit to sign: its file, password and the fingerprint of its public half."""

    path: Path
    password: bytes | None
    fingerprint: str


def check_key(path: Path, environ: Mapping[str, str] | None = None) -> SigningKey:
    """Open a private key before any work is done for it.

    A key that others can read is used, and said on stderr.

    Args:
        environ: where ``EDGEKD_KEY_PASSWORD`` and ``EDGEKD_REVOKED_KEYS`` are looked up; None: ``os.environ``.

    Raises:
        UsageError: missing, unreadable, no private key, of another kind, encrypted without its password, or revoked.
        MissingDependencyError: the extra ``release`` is not installed.
    """
    environ = os.environ if environ is None else environ
    purpose = "signing a bundle"
    serialization = require("cryptography.hazmat.primitives.serialization", extra="release", purpose=purpose)
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="release", purpose=purpose)
    try:
        with path.open("rb") as source:
            text = source.read(64 << 10)
            mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
    except OSError as e:
        raise UsageError(f"signing key {path} cannot be read: {e.strerror or e}", HOW_TO_MAKE) from e
    if b"-----BEGIN PUBLIC KEY-----" in text and b"PRIVATE KEY-----" not in text:
        raise UsageError(
            f"signing key {path} is a public key, the private one signs",
            "name key.pem, keep key.pub to verify",
        )
    password = environ.get(PASSWORD_VARIABLE, "").encode() or None
    private = _load(serialization, path, text, password)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        kind = type(private).__name__.removesuffix("PrivateKey")
        raise UsageError(
            f"signing key {path} is of kind {kind}, an elliptic-curve one is needed", HOW_TO_MAKE
        )
    if private.curve.name not in _CURVES:
        raise UsageError(
            f"signing key {path} is on the curve {private.curve.name}, expected {', '.join(_CURVES)}",
            HOW_TO_MAKE,
        )
    fingerprint = _fingerprint(serialization, private)
    if (listed := environ.get(REVOKED_VARIABLE)) and fingerprint in (gone := read_revoked(Path(listed))):
        raise UsageError(
            f"signing key {path} is revoked ({gone[fingerprint] or 'no reason given'}) by {listed}",
            HOW_TO_MAKE,
        )
    if os.name == "posix" and mode & 0o077:
        sys.stderr.write(
            f"edgekd: warning: signing key {path} can be read by others (mode {mode:04o}); chmod 600 {path}\n"
        )
    return SigningKey(path=path, password=password, fingerprint=fingerprint)


def _load(serialization: Any, path: Path, text: bytes, password: bytes | None) -> Any:
    encrypted = b"ENCRYPTED" in text
    try:
        return serialization.load_pem_private_key(text, password if encrypted else None)
    except TypeError as e:
        raise UsageError(
            f"signing key {path} is encrypted, and no password was given", f"set {PASSWORD_VARIABLE}"
        ) from e
    except ValueError as e:
        if encrypted:
            raise UsageError(
                f"signing key {path} does not open with the password of {PASSWORD_VARIABLE}",
                "check the password",
            ) from e
        raise UsageError(f"signing key {path} holds no private key in PEM form", HOW_TO_MAKE) from e
    except Exception as e:  # the library's own UnsupportedAlgorithm is no ValueError
        raise UsageError(f"signing key {path} cannot be used ({e})", HOW_TO_MAKE) from e


def _fingerprint(serialization: Any, private: Any) -> str:
    import hashlib

    pem = private.public_key().public_bytes(
        encoding=serialization.Encoding.PEM, format=serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def sign(bundle: Path, key: Path | SigningKey | None, *, name: str = "", keyless: bool = False) -> Path:
    """Sign a bundle folder, whose manifest is written, into ``model.sig``.

    The file is whole or absent, and covers exactly the manifest's files and the manifest.

    Args:
        bundle: the folder; nothing in it may change afterwards.
        key: an elliptic-curve private key; None only with ``keyless``.
        name: what the signature calls the bundle; empty: the folder's name.
        keyless: sign with the identity of a CI job through Sigstore's public service, which needs network and
            makes the identity public.

    Returns:
        The path of ``model.sig``.

    Raises:
        UsageError: a key that cannot sign (:func:`check_key`), a key and ``keyless``, or neither.
        EvidenceError: the folder is not what its manifest says.
        InfrastructureError: Sigstore did not sign; StorageError: the file could not be written.
    """
    if (key is None) != keyless:
        raise UsageError("a bundle is signed by a key or keyless", "give --key K or --keyless, one of them")
    config = _library(name or bundle.name, bundle)
    if isinstance(key, Path):
        key = check_key(key)
    if key is None:
        config.use_sigstore_signer(use_ambient_credentials=True)
    else:
        # The library passes the password on to cryptography, which takes bytes.
        config.use_elliptic_key_signer(private_key=key.path, password=key.password)
    target = bundle / SIGNATURE_FILE
    with tempfile.TemporaryDirectory(prefix="edgekd-sign-") as folder:
        made = Path(folder) / SIGNATURE_FILE
        try:
            config.sign(bundle, made)
        except Exception as e:
            if not keyless:
                raise
            raise InfrastructureError(
                f"Sigstore did not sign ({type(e).__name__}: {e})",
                "keyless signing needs network and the identity of a CI job; elsewhere give --key K",
            ) from e
        raw = signature_bytes(json.loads(made.read_bytes()))
    _check_whole(bundle, raw)
    write_bytes(target, raw)
    return target


def _library(name: str, bundle: Path) -> Any:
    """The library's configuration: every file but the signature, hidden ones too, under a name that is no temporary."""
    purpose = "signing a bundle"
    hashing = require("model_signing.hashing", extra="release", purpose=purpose)
    manifests = require("model_signing.manifest", extra="release", purpose=purpose)
    signing = require("model_signing.signing", extra="release", purpose=purpose)

    class Named(hashing.Config):  # type: ignore[misc, name-defined]
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            found = super().hash(model_path, files_to_hash=files_to_hash)
            items = [
                manifests.FileManifestItem(path=PurePosixPath(d.identifier), digest=d.digest)
                for d in found.resource_descriptors()
            ]
            kind = manifests.SerializationType.from_args(found.serialization_type)
            return manifests.Manifest(name, items, kind)

    named = Named().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
    return signing.Config().set_hashing_config(named)


def _check_whole(bundle: Path, raw: bytes) -> None:
    """What was signed must be what the manifest lists: nothing came, went or changed in between."""
    import hashlib

    text = (bundle / MANIFEST_FILE).read_bytes()
    listed = {f["path"]: f["sha256"] for f in json.loads(text)["files"]}
    listed[MANIFEST_FILE] = hashlib.sha256(text).hexdigest()
    signature, problems = read_signature(raw, listed)
    if signature is None or problems:
        raise EvidenceError(
            f"{bundle} was not signed: {problems[0].text if problems else 'no signature was made'}",
            "release the run again",
        )
