"""Signing: which keys are taken, what the file covers, and that OpenSSF's own tool agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fixtures_bundle import Pair, make_key, pack
from fixtures_run import make_run

from edgekd.errors import EvidenceError, UsageError
from edgekd.release.manifest import make_manifest, manifest_bytes
from edgekd.release.signing import check_key, sign
from edgekd.release.trust import Trust, read_public_key
from edgekd.release.verify import find_problems


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest: all that signing looks at."""
    from edgekd.artifact import record_file

    bundle = tmp_path / "bundle"
    (bundle / "deep").mkdir(parents=True)
    for name in ("a.txt", ".gitignore", "deep/b.bin"):
        (bundle / name).write_text(name)
    records = [record_file(bundle, n).to_json() for n in ("a.txt", ".gitignore", "deep/b.bin")]
    (bundle / "manifest.json").write_bytes(manifest_bytes(make_manifest("small", "0", "pass", records)))
    return bundle


def refused(path: Path, says: str, environ: dict[str, str] | None = None) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        check_key(path, environ or {})
    assert caught.value.exit_code == 2
    assert caught.value.fix


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_every_curve_signs_and_verifies(folder: Path, tmp_path: Path, curve: type[ec.EllipticCurve]) -> None:
    pair = make_key(tmp_path, curve=curve)
    assert sign(folder, pair.private, name="small") == folder / "model.sig"
    keys = (read_public_key(pair.public),)
    assert find_problems(folder, trust=Trust(keys=keys)) == ["run.json is missing or damaged"]
    assert keys[0].fingerprint == pair.fingerprint
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == [".gitignore"]


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_encrypted_key_asks_for_its_password(tmp_path: Path, encrypted: bool) -> None:
    pair = make_key(tmp_path, password="secret" if encrypted else "")
    found = check_key(pair.private, {"EDGEKD_KEY_PASSWORD": "secret"})
    assert found.fingerprint == pair.fingerprint
    if encrypted:
        refused(pair.private, "encrypted, and no password was given; set EDGEKD_KEY_PASSWORD")
        refused(pair.private, "does not open with the password", {"EDGEKD_KEY_PASSWORD": "wrong"})


def test_an_encrypted_key_signs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_key(tmp_path, password="secret")
    monkeypatch.setenv("EDGEKD_KEY_PASSWORD", "secret")
    sign(folder, pair.private)
    trust = Trust(keys=(read_public_key(pair.public),))
    assert find_problems(folder, trust=trust) == ["run.json is missing or damaged"]


def test_keys_that_cannot_sign(tmp_path: Path, key: Pair) -> None:
    refused(tmp_path / "none.pem", "cannot be read: No such file or directory; make a pair: openssl genpkey")
    refused(tmp_path, "cannot be read: Is a directory")
    refused(key.public, "is a public key, the private one signs")
    other = make_key(tmp_path, "rsa", private=rsa.generate_private_key(65537, 2048))
    refused(other.private, "of kind RSA, an elliptic-curve one is needed; make a pair: openssl genpkey")
    refused(make_key(tmp_path, "ed", private=ed25519.Ed25519PrivateKey.generate()).private, "of kind Ed25519")
    refused(make_key(tmp_path, "k1", ec.SECP256K1).private, "on the curve secp256k1, expected secp256r1")
    (tmp_path / "text.pem").write_text("hello")
    refused(tmp_path / "text.pem", "holds no private key in PEM form")
    (tmp_path / "cut.pem").write_bytes(key.private.read_bytes()[:90])
    refused(tmp_path / "cut.pem", "holds no private key in PEM form")


def test_a_revoked_key_does_not_sign(tmp_path: Path, key: Pair) -> None:
    (tmp_path / "gone").write_text(f"{key.fingerprint} 2026-01-31 laptop lost\n")
    refused(
        key.private,
        "is revoked \\(2026-01-31 laptop lost\\)",
        {"EDGEKD_REVOKED_KEYS": str(tmp_path / "gone")},
    )


def test_a_key_that_others_can_read_is_warned_of(key: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    check_key(key.private, {})
    assert capsys.readouterr().err == ""
    key.private.chmod(0o644)
    try:
        check_key(key.private, {})
    finally:
        key.private.chmod(0o600)
    assert "can be read by others (mode 0644); chmod 600" in capsys.readouterr().err


def test_one_of_key_and_keyless(folder: Path, key: Pair) -> None:
    for options in ({"key": None}, {"key": key.private, "keyless": True}):
        with pytest.raises(UsageError, match="one of them"):
            sign(folder, **options)  # type: ignore[arg-type]


def test_the_manifest_must_be_of_the_folder(folder: Path, key: Pair) -> None:
    (folder / "late.txt").write_text("x")
    with pytest.raises(EvidenceError, match=r"late\.txt is missing"):
        sign(folder, key.private)
    assert not (folder / "model.sig").exists()


def test_the_statement_names_the_bundle_and_not_a_temporary_folder(folder: Path, key: Pair) -> None:
    import base64

    sign(folder, key.private, name="small")
    text = (folder / "model.sig").read_text()
    statement = json.loads(base64.b64decode(json.loads(text)["dsseEnvelope"]["payload"]))
    assert statement["subject"][0]["name"] == "small"
    names = [r["name"] for r in statement["predicate"]["resources"]]
    assert sorted(names) == [".gitignore", "a.txt", "deep/b.bin", "manifest.json"]


def openssf(folder: Path, public: Path) -> int:
    tool = Path(sys.executable).with_name("model_signing")
    command = [
        tool,
        "verify",
        "key",
        folder,
        "--no-ignore-git-paths",
        "--signature",
        folder / "model.sig",
        "--public_key",
        public,
    ]
    return subprocess.run(list(map(str, command)), capture_output=True).returncode


def test_the_tool_of_openssf_agrees(folder: Path, key: Pair, tmp_path: Path) -> None:
    sign(folder, key.private, name="small")
    assert openssf(folder, key.public) == 0
    (folder / "a.txt").write_text("A.txt")
    assert openssf(folder, key.public) != 0


def test_a_run_is_released_signed(tmp_path: Path, key: Pair) -> None:
    """Folder and .tar, from one signature."""
    run = make_run(tmp_path / "run", n=1500)
    assert run.name == "synthetic"
    bundle = tmp_path / "bundle"
    shutil.copytree(tmp_path / "run/artifacts", bundle / "artifacts")
    from edgekd.artifact import record_file

    files = sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())
    manifest = make_manifest("x", "0", "pass", [record_file(bundle, f).to_json() for f in files])
    (bundle / "manifest.json").write_bytes(manifest_bytes(manifest))
    sign(bundle, key.private, name="x")
    archive = pack(bundle, "x")
    trust = Trust(keys=(read_public_key(key.public),))
    assert (
        find_problems(bundle, trust=trust)
        == find_problems(archive, trust=trust)
        == ["run.json is missing or damaged"]
    )
