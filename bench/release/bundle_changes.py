"""Ways to change a bundle, one at a time; each says which file must be named, and with which keys to verify."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

sys.path.append(str(Path(__file__).resolve().parent))

from bundle_base import Base, Change, flip
from bundle_stories import STORIES, WHOLE_STORIES
from fixtures_bundle import rehash, sign_bundle

from edgekd.release.manifest import padding, tar_header
from edgekd.release.trust import Trust


def _any(base: Base, random: random.Random, *, but: tuple[str, ...] = ()) -> str:
    return random.choice([f for f in base.files if f not in but])


# Changes that leave the manifest as it is ---------------------------------------------------------


def one_byte(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random)
    flip(bundle / name, random)
    return {name}, base.trust(base.mine)


def one_byte_without_key(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random, but=("model.sig",))
    flip(bundle / name, random)
    return {name}, base.trust()


def truncated(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random)
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[: random.randrange(len(data))])
    return {name}, base.trust()


def lengthened(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random)
    with (bundle / name).open("ab") as sink:
        sink.write(random.randbytes(random.randrange(1, 600)))
    return {name}, base.trust()


def added(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    beside = Path(_any(base, random)).parent
    name = (
        beside / random.choice(["extra.txt", ".hidden", "x.so", "conftest.py", "a b", "é.json"])
    ).as_posix()
    (bundle / name).write_bytes(random.randbytes(random.randrange(3)))
    return {name}, base.trust()


def missing(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random)
    (bundle / name).unlink()
    return {name, Path(name).parent.as_posix()}, base.trust(base.mine)


def renamed(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random)
    new = (
        Path(name)
        .with_name(random.choice(["renamed", "verdict2.json", Path(name).name.upper() + "x"]))
        .as_posix()
    )
    (bundle / name).rename(bundle / new)
    return {name, new}, base.trust(base.mine)


def swapped(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    while True:
        first, second = random.sample(base.files, 2)
        one, two = (bundle / first).read_bytes(), (bundle / second).read_bytes()
        if one != two:
            break
    (bundle / first).write_bytes(two)
    (bundle / second).write_bytes(one)
    return {first, second}, base.trust()


def linked(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random)
    outside = bundle.parent / "outside"
    shutil.move(bundle / name, outside)
    if random.random() < 0.5:
        (bundle / name).symlink_to(outside)
    else:
        os.link(outside, bundle / name)
    return {name}, base.trust()


def empty_folder(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = (Path(_any(base, random)).parent / random.choice(["plugins", ".git", "d"])).as_posix()
    (bundle / name).mkdir()
    return {name}, base.trust()


def special_file(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = (Path(_any(base, random)).parent / "pipe").as_posix()
    os.mkfifo(bundle / name)
    return {name}, base.trust()


# The manifest made again, the signature kept or exchanged, a key asked -------------------------------


def rehashed(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _any(base, random, but=("manifest.json", "model.sig"))
    flip(bundle / name, random)
    rehash(bundle)
    return {name}, base.trust(base.mine)


def rehashed_subject(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """The model is exchanged, and every document follows: only the signature tells."""
    model = "artifacts/student-int8/model.onnx"
    old = _sha256(bundle / model)
    flip(bundle / model, random)
    new = _sha256(bundle / model)
    for path in [*sorted((bundle / "attestations").iterdir()), bundle / "bom.cdx.json"]:
        path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    rehash(bundle)
    return {model}, base.trust(base.mine)


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def stripped(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    (bundle / "model.sig").unlink()
    return {"model.sig"}, base.trust(base.mine)


def of_another_bundle(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    shutil.copyfile(base.other / "model.sig", bundle / "model.sig")
    return {"model.sig"}, base.trust(base.mine)


def by_another_key(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    sign_bundle(bundle, base.theirs.private)
    return {"model.sig"}, base.trust(base.mine)


def by_a_revoked_key(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    return {"model.sig"}, base.trust(*[base.mine][: random.randrange(2)], revoked=True)


#: Changes that are one each, whatever is drawn: a few of them are enough.
SINGLE: dict[str, Change] = {
    **WHOLE_STORIES,
    "signature stripped, key asked": stripped,
    "signature of another bundle": of_another_bundle,
    "signature by another key": by_another_key,
    "signature by a revoked key": by_a_revoked_key,
}
DRAWN: dict[str, Change] = {
    **STORIES,
    "one byte, key asked": one_byte,
    "one byte, no key": one_byte_without_key,
    "truncated": truncated,
    "lengthened": lengthened,
    "file added": added,
    "file missing": missing,
    "file renamed": renamed,
    "two files swapped": swapped,
    "re-hashed one byte, signature kept": rehashed,
    "re-hashed model and its subjects, signature kept": rehashed_subject,
}
#: What a .tar cannot hold, or `pack` would follow.
FOLDER_ONLY: dict[str, Change] = {
    "link in place of a file": linked,
    "empty folder": empty_folder,
    "special file": special_file,
}


# The archive's own bytes --------------------------------------------------------------------------


def regions(archive: Path) -> Iterator[tuple[int, int, str]]:
    """(start, end, path) of every file's header, content and padding."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            start = member.offset_data - len(tar_header(member.name, member.size))
            yield start, member.offset_data + member.size + padding(member.size), path


def tar_byte(archive: Path, random: random.Random) -> set[str]:
    """Flip one bit anywhere in the archive: in a file, in a header or between."""
    data = bytearray(archive.read_bytes())
    where = list(regions(archive))
    if random.random() < 0.5:
        at = random.randrange(len(data))
    else:  # headers and padding are few bytes: half of the draws go there
        start, _, _ = random.choice(where)
        at = start + random.randrange(512)
    data[at] ^= 1 << random.randrange(8)
    archive.write_bytes(data)
    hit = [i for i, (start, end, _) in enumerate(where) if start <= at < end]
    return {where[hit[0] if hit else -1][2]}


def tar_cut(archive: Path, random: random.Random) -> set[str]:
    """Cut the archive anywhere, or write something behind it."""
    data = archive.read_bytes()
    where = list(regions(archive))
    if random.random() < 0.3:
        archive.write_bytes(data + random.randbytes(random.randrange(1, 2000)))
        return {where[-1][2]}
    at = random.randrange(1, len(data))
    archive.write_bytes(data[:at])
    hit = [i for i, (start, end, _) in enumerate(where) if start <= at < end]
    first = hit[0] if hit else len(where) - 1
    return {where[first][2], where[max(0, first - 1)][2]}


def tar_link(archive: Path, random: random.Random) -> set[str]:
    """A link or a device in place of a file, or beside it, in an archive that is otherwise the same."""
    with tarfile.open(archive) as tar:
        members = [(m, tar.extractfile(m)) for m in tar]
        at = random.randrange(1, len(members))
        name = members[at][0].name
        info = tarfile.TarInfo(random.choice([name, f"{name}.link"]))
        info.type = random.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
        info.linkname = random.choice(["/etc/passwd", members[0][0].name])
        with tarfile.open(archive.with_suffix(".new"), "w", format=tarfile.PAX_FORMAT) as out:
            for i, (member, data) in enumerate(members):
                if i == at:
                    out.addfile(info)
                if i != at or info.name != name:
                    out.addfile(member, data)
    archive.with_suffix(".new").replace(archive)
    return {info.name.partition("/")[2]}


def tar_folder(archive: Path, random: random.Random) -> set[str]:
    """The one folder of the archive under another name."""
    name = random.choice(["something-else", "..hidden", "synthetic2", "SYNTHETIC"])
    with tarfile.open(archive) as tar:
        members = [(m, tar.extractfile(m)) for m in tar]
        with tarfile.open(archive.with_suffix(".new"), "w", format=tarfile.PAX_FORMAT) as out:
            for member, data in members:
                member.name = f"{name}/{member.name.partition('/')[2]}"
                out.addfile(member, data)
    archive.with_suffix(".new").replace(archive)
    return {name}


TAR_ONLY = {
    "one byte of the archive": tar_byte,
    "archive cut or lengthened": tar_cut,
    "link or device in the archive": tar_link,
    "folder of the archive renamed": tar_folder,
}
