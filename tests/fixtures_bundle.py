"""Keys, and bundles signed with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures_run import make_run

from edgekd.evidence.run import load_run
from edgekd.gates import judge_run
from edgekd.recipe import GatesBlock
from edgekd.release import release
from edgekd.release.manifest import manifest_bytes, manifest_digest
from edgekd.release.signing import sign
from edgekd.release.tar import write_tar


class Pair(NamedTuple):
    """A private key, its public half and the fingerprint."""

    private: Path
    public: Path
    fingerprint: str


def make_key(
    folder: Path, name: str = "key", curve: Any = ec.SECP256R1, *, password: str = "", private: Any = None
) -> Pair:
    """Write NAME.pem and NAME.pub."""
    key = private or ec.generate_private_key(curve())
    locked = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    path.chmod(0o600)
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / f"{name}.pub").write_bytes(pem)
    return Pair(path, folder / f"{name}.pub", hashlib.sha256(pem).hexdigest())


OWN = "teacher: {name: house teacher, licence: own}\ndata: {name: house data, licence: own}\n"
#: A teacher with two obligations, data with a third.
LICENSED = """
teacher: {name: A/Teacher, licence: apache-2.0, source: "https://example.org/t", access: weights, licence_file: LICENSE}
data: {name: Pictures, licence: cc-by-4.0, source: "https://example.org/d", attribution: Ada Example}
"""
WAIVED = """
teacher: {name: A/Teacher, licence: apache-2.0, source: "https://example.org/t", access: weights, licence_file: LICENSE}
data: {name: Pictures, licence: none-stated, source: "https://example.org/d"}
waivers: [{rule: data-licence-unknown, by: Ada Example, reason: research benchmark, expires: 2027-12-31}]
"""


def make_bundle(folder: Path, declared: str = LICENSED, *, key: Path | None = None, **run: Any) -> Path:
    """Judge and release a synthetic run: FOLDER/bundle and FOLDER/bundle.tar."""
    folder.mkdir(parents=True, exist_ok=True)
    made = make_run(folder / "run", **{"n": 1500, "provenance": {}, **run})
    policy = GatesBlock.model_validate(made.policy)
    judge_run(folder / "run", load_run(folder / "run"), policy).save(folder / "run/verdict.json")
    (folder / "LICENSE").write_text("A licence text of two lines,\nwith a copyright line.\n")
    (folder / "declared.yaml").write_text(declared)
    return release(folder / "run", folder / "bundle", provenance=folder / "declared.yaml", key=key)


def pack(bundle: Path, name: str) -> Path:
    """Write BUNDLE.tar of what the folder holds now, in the order of a release; the manifest need not agree."""
    inside = sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())
    last = [f for f in inside if f == "model.sig"]
    files = ["manifest.json", *(f for f in inside if f not in ("manifest.json", "model.sig")), *last]
    out = bundle.with_name(bundle.name + ".tar")
    write_tar(bundle, out, name, files)
    return out


def sign_bundle(bundle: Path, key: Path) -> Path:
    """Sign a folder and write its .tar again."""
    name = json.loads((bundle / "manifest.json").read_bytes())["name"]
    sign(bundle, key, name=name)
    return pack(bundle, name)


def rehash(bundle: Path) -> None:
    """Make the manifest again over what the folder holds, as an attacker would."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["files"] = [
        {
            "path": p.relative_to(bundle).as_posix(),
            "size_bytes": p.stat().st_size,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in sorted(bundle.rglob("*"), key=lambda p: p.relative_to(bundle).as_posix())
        if p.is_file() and p.name not in ("manifest.json", "model.sig")
    ]
    manifest["digest"] = manifest_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))


def rewrite(bundle: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON document of a bundle, keeping its layout, and make the manifest again."""
    path = bundle / name
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    rehash(bundle)
