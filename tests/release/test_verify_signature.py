"""Who signed, and what: every way in which a signature can be wrong, and the exit code that goes with it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fixtures_bundle import Pair, make_bundle, make_key, pack, rehash, rewrite, sign_bundle

from edgekd.cli import main
from edgekd.errors import PolicyError, UsageError
from edgekd.release.trust import Trust, read_public_key, read_revoked, read_trust, trusted_folder
from edgekd.release.verify import find_problems, verify
from edgekd.release.verify_signature import signature_bytes


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder, name) for name in ("mine", "other")}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Pair]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("signed"), key=keys["mine"].private)


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    shutil.copyfile(released.with_name("bundle.tar"), tmp_path / "bundle.tar")
    return Path(shutil.copytree(released, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_TRUSTED_KEYS", "")
    monkeypatch.delenv("EDGEKD_REVOKED_KEYS", raising=False)


def trust(*pairs: Pair, **revoked: str) -> Trust:
    return Trust(keys=tuple(read_public_key(p.public) for p in pairs), revoked=revoked)


def forms(bundle: Path) -> tuple[Path, Path]:
    """The folder, and a .tar of what it holds."""
    return bundle, pack(bundle, "synthetic")


def refused(bundle: Path, who: Trust, rule: str, says: str) -> None:
    for form in forms(bundle):
        with pytest.raises(PolicyError, match=says) as caught:
            verify(form, trust=who)
        assert (caught.value.rule, caught.value.exit_code) == (rule, 5)
        assert f"(rule {rule})" in str(caught.value)


def test_a_trusted_key_signed(bundle: Path, keys: dict[str, Pair]) -> None:
    for form in (bundle, bundle.with_name("bundle.tar")):
        found = verify(form, trust=trust(keys["other"], keys["mine"]))
        assert found.trusted
        assert found.signature is not None
        assert found.signature.fingerprint == keys["mine"].fingerprint
        told = verify(form)
        assert (told.trusted, told.signature is not None) == (False, True)
        assert told.digest == found.digest


def test_another_key_or_none(bundle: Path, keys: dict[str, Pair]) -> None:
    refused(bundle, trust(keys["other"]), "bundle-key", f"is by the key {keys['mine'].fingerprint}")
    (bundle / "model.sig").unlink()
    refused(
        bundle, trust(keys["mine"]), "bundle-signature", "model.sig is missing, and a signature was asked"
    )
    assert verify(bundle).signature is None


def test_a_revoked_key(bundle: Path, keys: dict[str, Pair], tmp_path: Path) -> None:
    mine = keys["mine"]
    gone = {mine.fingerprint: "2026-01-31 laptop lost"}
    for who in (Trust(revoked=gone), trust(mine, **gone)):
        refused(bundle, who, "bundle-key", "by the revoked key .* \\(2026-01-31 laptop lost\\)")
    assert verify(bundle, trust=Trust(revoked={keys["other"].fingerprint: ""})).signature is not None


def edit(bundle: Path, change: object, *, canonical: bool = True) -> None:
    path = bundle / "model.sig"
    value = json.loads(path.read_bytes())
    change(value)  # type: ignore[operator]
    path.write_bytes(signature_bytes(value) if canonical else json.dumps(value).encode())


def restate(value: dict[str, object], change: object) -> None:
    """Change the signed statement, as someone without the key would."""
    envelope: dict[str, str] = value["dsseEnvelope"]  # type: ignore[assignment]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)  # type: ignore[operator]
    envelope["payload"] = base64.b64encode(json.dumps(statement, indent=2).encode()).decode()


#: What is done to the document, and what is said; where no key is needed to see it, so without one.
FORGED = {
    "not json": (lambda b: (b / "model.sig").write_text("{"), "is damaged", True),
    "empty": (lambda b: (b / "model.sig").write_bytes(b""), "is damaged", True),
    "a list": (lambda b: (b / "model.sig").write_text("[]\n"), "is damaged", True),
    "a space more": (
        lambda b: (b / "model.sig").write_bytes((b / "model.sig").read_bytes() + b" "),
        "not in the form",
        True,
    ),
    "other layout": (lambda b: edit(b, lambda v: None, canonical=False), "not in the form", True),
    "a key more": (lambda b: edit(b, lambda v: v.update(more=1)), "more or other than one signature", True),
    "a key id": (
        lambda b: edit(b, lambda v: v["dsseEnvelope"]["signatures"][0].update(keyid="x")),
        "more or other",
        True,
    ),
    "two signatures": (
        lambda b: edit(b, lambda v: v["dsseEnvelope"]["signatures"].append(v["dsseEnvelope"]["signatures"][0])),
        "more or other",
        True,
    ),
    "other type": (lambda b: edit(b, lambda v: v.update(mediaType="x")), "more or other", True),
    "loose base64": (
        lambda b: edit(b, lambda v: v["dsseEnvelope"]["signatures"][0].update(sig="QR==")),
        "is damaged",
        True,
    ),
    "no hint": (
        lambda b: edit(b, lambda v: v["verificationMaterial"]["publicKey"].update(hint=None)),
        "names no key",
        True,
    ),
    "hint in capitals": (
        lambda b: edit(
            b, lambda v: v["verificationMaterial"]["publicKey"].update(hint=v["verificationMaterial"]["publicKey"]["hint"].upper())
        ),
        "names no key",
        True,
    ),
    "other statement": (
        lambda b: edit(b, lambda v: restate(v, lambda s: s.update(predicateType="x"))),
        "is damaged",
        True,
    ),
    "a file twice": (
        lambda b: edit(
            b,
            lambda v: restate(v, lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0])),
        ),
        "is damaged",
        True,
    ),
    "blake2": (
        lambda b: edit(b, lambda v: restate(v, lambda s: s["predicate"]["resources"][0].update(algorithm="blake2"))),
        "is damaged",
        True,
    ),
    "other root": (
        lambda b: edit(b, lambda v: restate(v, lambda s: s["subject"][0]["digest"].update(sha256="0" * 64))),
        "is damaged",
        True,
    ),
    "other name, not signed": (
        lambda b: edit(b, lambda v: restate(v, lambda s: s["subject"][0].update(name="x"))),
        "does not hold",
        False,
    ),
    "other signature": (
        lambda b: edit(b, lambda v: v["dsseEnvelope"]["signatures"][0].update(sig=base64.b64encode(b"x" * 70).decode())),
        "does not hold",
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_signatures(bundle: Path, keys: dict[str, Pair], name: str) -> None:
    spoil, says, seen_without_key = FORGED[name]
    spoil(bundle)
    refused(bundle, trust(keys["mine"]), "bundle-signature", says)
    assert bool(find_problems(bundle)) is seen_without_key


def test_a_bundle_that_was_hashed_again_is_not_the_signed_one(bundle: Path, keys: dict[str, Pair]) -> None:
    (bundle / "report.md").write_text("All is well.\n")
    rehash(bundle)
    refused(bundle, trust(keys["mine"]), "bundle-signature", r"report\.md is not what was signed")
    refused(bundle, Trust(), "bundle-signature", r"report\.md is not what was signed")
    (bundle / "model.sig").unlink()
    assert find_problems(bundle) == []  # without a key nothing says who made it
    refused(bundle, trust(keys["mine"]), "bundle-signature", "is missing")


def test_files_added_or_dropped_and_hashed_again(bundle: Path) -> None:
    (bundle / "more.txt").write_text("x")
    (bundle / "report.md").unlink()
    rehash(bundle)
    found = find_problems(bundle)
    assert "more.txt is not signed: model.sig does not cover it" in found
    assert "report.md is missing: model.sig signs it, the manifest does not list it" in found


def test_the_manifest_itself_is_signed(bundle: Path) -> None:
    from edgekd.release.manifest import manifest_bytes, manifest_digest

    path = bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["edgekd"] = "99.0"
    manifest["digest"] = manifest_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))
    assert find_problems(bundle) == ["manifest.json is not what was signed: model.sig signs other content"]


def test_the_signature_of_another_bundle(bundle: Path, keys: dict[str, Pair], tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", key=keys["mine"].private, ratio=0.6)
    shutil.copyfile(other / "model.sig", bundle / "model.sig")
    refused(bundle, trust(keys["mine"]), "bundle-signature", "is not what was signed")


def test_the_hint_of_another_key(bundle: Path, keys: dict[str, Pair]) -> None:
    hint = keys["other"].fingerprint
    edit(bundle, lambda v: v["verificationMaterial"]["publicKey"].update(hint=hint))
    refused(bundle, trust(keys["mine"], keys["other"]), "bundle-signature", "does not hold")


def test_signed_again_by_another(bundle: Path, keys: dict[str, Pair]) -> None:
    sign_bundle(bundle, keys["other"].private)
    assert verify(bundle, trust=trust(keys["other"])).trusted
    refused(bundle, trust(keys["mine"]), "bundle-key", "is by the key")


def test_every_byte_of_the_signature_counts(bundle: Path, keys: dict[str, Pair]) -> None:
    path = bundle / "model.sig"
    whole = path.read_bytes()
    who = trust(keys["mine"])
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert find_problems(bundle, trust=who), at


# Keys and lists -----------------------------------------------------------------------------------


def not_a_key(path: Path, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_public_key(path)
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_files_that_are_no_public_key(tmp_path: Path, keys: dict[str, Pair]) -> None:
    not_a_key(tmp_path / "none.pub", "cannot be read: No such file")
    not_a_key(tmp_path, "cannot be read: Is a directory")
    not_a_key(keys["mine"].private, "is a private key, a public one is checked with; openssl pkey -in")
    other = make_key(tmp_path, "rsa", private=rsa.generate_private_key(65537, 2048))
    not_a_key(other.public, "a public key of another kind")
    (tmp_path / "text").write_text("hello")
    not_a_key(tmp_path / "text", "holds no key in PEM form")
    body = keys["mine"].public.read_text().replace("PUBLIC KEY", "CERTIFICATE")
    (tmp_path / "cert.pem").write_text(body)
    not_a_key(tmp_path / "cert.pem", "is a CERTIFICATE")
    (tmp_path / "bad.pub").write_text(keys["mine"].public.read_text().replace("A", "", 1))
    not_a_key(tmp_path / "bad.pub", "is damaged")


def test_a_key_on_another_curve_is_said_to_be(bundle: Path, tmp_path: Path) -> None:
    odd = make_key(tmp_path, "odd", ec.SECP256K1)
    hint = odd.fingerprint
    edit(bundle, lambda v: v["verificationMaterial"]["publicKey"].update(hint=hint))
    with pytest.raises(UsageError, match=r"on the curve secp256k1.*name the signer's public key"):
        verify(bundle, trust=trust(odd))
    for curve in (ec.SECP384R1, ec.SECP521R1):
        assert read_public_key(make_key(tmp_path, "good", curve).public).fingerprint


def test_a_fingerprint_is_what_openssl_says(keys: dict[str, Pair]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    pem = subprocess.run(
        ["openssl", "pkey", "-in", keys["mine"].private, "-pubout"], capture_output=True, check=True
    ).stdout
    import hashlib

    assert hashlib.sha256(pem).hexdigest() == keys["mine"].fingerprint


def test_a_list_of_revoked_keys(tmp_path: Path, keys: dict[str, Pair]) -> None:
    gone = tmp_path / "gone"
    first, second = keys["mine"].fingerprint, keys["other"].fingerprint
    gone.write_text(f"# lost\n\n{first}  2026-01-31  laptop lost\nsha256:{second.upper()} # no reason\n")
    with pytest.raises(UsageError, match="line 4: 'sha256:"):
        gone.write_text(f"# lost\n\n{first}  2026\nsha256:12 # short\n")
        read_revoked(gone)
    gone.write_text(f"# lost\n\n{first}  2026-01-31  laptop lost\nsha256:{second.upper()} # none\n")
    assert read_revoked(gone) == {first: "2026-01-31 laptop lost", second: ""}
    gone.write_text(f"{first}\t2026-01-31\tlaptop lost\n\t{second}\n")
    assert read_revoked(gone) == {first: "2026-01-31 laptop lost", second: ""}
    with pytest.raises(UsageError, match="cannot be read"):
        read_revoked(tmp_path / "none")


def test_trusted_keys_of_a_folder(bundle: Path, tmp_path: Path, keys: dict[str, Pair]) -> None:
    folder = tmp_path / "trusted"
    folder.mkdir()
    shutil.copyfile(keys["mine"].public, folder / "mine.pem")
    (folder / "readme.txt").write_text("not a key")
    environ = {"EDGEKD_TRUSTED_KEYS": str(folder)}
    assert verify(bundle, trust=read_trust(environ)).trusted
    assert [k.path for k in read_trust(environ, keys=[keys["other"].public]).keys] == [keys["other"].public]
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert trusted_folder(home) is None
    (tmp_path / "config/edgekd").mkdir(parents=True)
    shutil.copytree(folder, tmp_path / "config/edgekd/trusted")
    assert verify(bundle, trust=read_trust(home)).trusted
    assert trusted_folder({"EDGEKD_TRUSTED_KEYS": "", **home}) is None
    with pytest.raises(UsageError, match="which is no folder"):
        read_trust({"EDGEKD_TRUSTED_KEYS": str(tmp_path / "none")})


def test_a_folder_without_a_key_is_refused_as_it_would_ask_nothing(
    tmp_path: Path, keys: dict[str, Pair]
) -> None:
    folder = tmp_path / "edgekd/trusted"
    folder.mkdir(parents=True)
    named, default = {"EDGEKD_TRUSTED_KEYS": str(folder)}, {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(UsageError, match="holds no public key"):
        read_trust(named)
    assert read_trust(default).keys == ()
    (folder / "notes.txt").write_text("keys come later")
    for environ in (named, default):
        with pytest.raises(UsageError, match="holds no public key") as caught:
            read_trust(environ)
        assert caught.value.exit_code == 2
    shutil.copyfile(keys["mine"].public, folder / "ada.PEM")
    assert [k.path.name for k in read_trust(named).keys] == ["ada.PEM"]


# The command --------------------------------------------------------------------------------------


def test_exit_codes(
    bundle: Path, keys: dict[str, Pair], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = str(keys["mine"].public), str(keys["other"].public)
    gone = tmp_path / "gone"
    gone.write_text(f"{keys['mine'].fingerprint} 2026-01-31 lost\n")
    cases = [
        ([], 0), (["--key", mine], 0), (["--key", other, "--key", mine], 0), (["--key", other], 5),
        (["--key", "none.pub"], 2), (["--key", str(keys["mine"].private)], 2), (["--revoked", str(gone)], 5),
        (["--revoked", "none"], 2), (["--as-of", "yesterday"], 2), (["--as-of", "20271231"], 2), (["--as-of", "2027-W01-1"], 2),
    ]  # fmt: skip
    for options, code in cases:
        try:
            found = main(["verify", str(bundle), *options])
        except SystemExit as e:
            found = int(e.code or 0)
        assert found == code, options
    capsys.readouterr()
    assert main(["verify", str(bundle)]) == 0
    said = capsys.readouterr().out
    assert f"says it is signed by the key {keys['mine'].fingerprint}; not checked" in said
    assert main(["verify", str(bundle), "--key", mine]) == 0
    assert f"signed by {mine}" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--key", mine, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["signature"] == {
        "checked": True, "fingerprint": keys["mine"].fingerprint, "key": mine, "keyless": False,
    }  # fmt: skip


def test_telling_who_signed_needs_the_standard_library_only(bundle: Path) -> None:
    script = (
        "import sys, pathlib; from edgekd.release.verify import verify; "
        "v = verify(pathlib.Path(sys.argv[1])); assert v.signature; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'numpy', 'pydantic', 'yaml', 'cryptography', 'model_signing', 'google'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, bundle], capture_output=True, text=True, env={**os.environ}
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_rewritten_document_is_caught_only_by_the_signature(bundle: Path, keys: dict[str, Pair]) -> None:
    rewrite(bundle, "run.json", lambda d: d["environment"].update(machine={"cpu": "better"}))
    refused(bundle, trust(keys["mine"]), "bundle-signature", r"run\.json is not what was signed")
