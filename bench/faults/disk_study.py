"""Lines on disks that are full, fail, or cannot be written, and under clocks that jump; then again on a sound one.

    python bench/faults/disk_study.py --out work/disk [--every K]

A line that meets a fault has to end in 4 with one sentence that names the path and the fix, leave nothing that is half,
and, run again, leave the same bytes as one that met none. Prints a table; ends in 1 where anything went otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from faults import check, shim
from faults.kill_study import in_child, preload
from faults.line import Place, run_line

NOBODY = 65534
#: What no line may pass over. Elsewhere there is another way (a copy without sendfile), or nobody has to know (a
#: leftover that stays for the next line); that nothing is half and the bytes are the same is asked of all.
_FATAL = ("create", "rename")
_KINDS = ("create", "write", "fsync", "rename", "read", "mkdir", "open", "unlink", "chmod")


class Disk:
    """A place, what a line without faults leaves there, and what one with faults says and leaves."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.place = Place(self.out / "place")
        self.place.prepare()
        self.log = self.out / "log"
        self.wipe()
        with self.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            if run_line(self.place, 0) != 0:
                raise SystemExit(f"an unkilled line failed; see {self.log}")
        self.reference = check.files_of(self.place.root)
        self.bytes = sum(p.stat().st_size for p in self.place.root.rglob("*") if p.is_file())
        self.rows: list[tuple[str, int, int, int, list[str]]] = []

    def wipe(self) -> None:
        for entry in self.place.root.iterdir() if self.place.root.exists() else ():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self.place.journal.unlink(missing_ok=True)

    def line(self, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
        """Exit code and everything said by a line in a process of its own."""
        self.log.unlink(missing_ok=True)
        (self.place.root / "tmp").mkdir(parents=True, exist_ok=True)

        def work() -> int:
            before()
            return run_line(self.place, 0)

        return in_child(work, self.log), self.log.read_text(errors="replace")

    def count(self, ops: str) -> int:
        """Operations of a line."""
        counted = self.out / "count"
        self.wipe()

        def work() -> int:
            shim.arm(shim.Fault(root=self.place.root, ops=ops, at=shim.NEVER))
            code = run_line(self.place, 0)
            counted.write_text(str(shim.seen()))
            return code

        if in_child(work, self.log) != 0:
            raise SystemExit(f"a counted line failed; see {self.log}")
        return int(counted.read_text())

    def said(self, code: int, text: str, *, named: str = "", tolerated: bool = False) -> list[str]:
        """What is wrong with how a line ended."""
        errors = [entry for entry in text.splitlines() if entry.startswith("edgekd: error:")]
        if code == 0 and tolerated:
            return []
        bad = [] if code == 4 else [f"ended in {code}: {(errors or text.splitlines() or ['?'])[-1][:200]}"]
        if code == 4 and (len(errors) != 1 or "Traceback" in text):
            bad.append(f"{len(errors)} lines of error, or a traceback: {text[-300:]}")
        for said in errors:
            if "unexpected" in said or "; " not in said or (named or str(self.place.base)) not in said:
                bad.append(f"says neither path nor fix: {said}")
        return bad

    def again(self) -> list[str]:
        """Nothing half is there, and the next line makes the same bytes."""
        bad = check.half_documents(self.place)
        code, text = self.line()
        if code != 0:
            return [*bad, f"the next line ended in {code}: {text[-300:]}"]
        after = {p: d for p, d in check.files_of(self.place.root).items() if not p.startswith("tmp/")}
        wanted = {p: d for p, d in self.reference.items() if not p.startswith("tmp/")}
        bad += [f"left behind: {name}" for name in check.temporary_names(self.place)]
        bad += [
            f"differs: {p}" for p in sorted(wanted.keys() | after.keys()) if wanted.get(p) != after.get(p)
        ]
        return bad

    def tell(self, what: str, tried: int, failed: int, problems: list[str]) -> None:
        self.rows.append((what, tried, failed, len(problems), problems))
        for problem in problems[:8]:
            print(f"{what}: {problem}", flush=True)


def failing_sample(disk: Disk, count: int, seed: int = 0) -> None:
    """Some of :func:`failing_operations`, among the first of each kind."""
    rng, problems, failed = random.Random(seed), list[str](), 0
    for k in range(count):
        ops, at = _KINDS[k % len(_KINDS)], rng.randint(1, 60)
        disk.wipe()
        fault = shim.Fault(root=disk.place.root, ops=ops, at=at, error=errno.EIO)
        code, text = disk.line(lambda fault=fault: shim.arm(fault))
        failed += code == 4
        bad = disk.said(code, text, tolerated=ops not in _FATAL) + disk.again()
        problems += [f"{ops} {at}: {b}" for b in bad]
    disk.tell("EIO at one operation", count, failed, problems)


def failing_operations(disk: Disk, every: int) -> None:
    """EIO once, at every operation of each kind; ENOSPC from an operation on."""
    for ops, number, sticky in (
        *((op, errno.EIO, False) for op in _KINDS),
        ("create,write,mkdir,fsync", errno.ENOSPC, True),
    ):  # fmt: skip
        total, tried, failed, problems = disk.count(ops), 0, 0, []
        for at in range(1, total + 1, max(1, every if total > 20 else 1)):
            disk.wipe()
            fault = shim.Fault(root=disk.place.root, ops=ops, at=at, error=number, sticky=sticky)
            code, text = disk.line(lambda fault=fault: shim.arm(fault))
            tried, failed = tried + 1, failed + (code == 4)
            bad = disk.said(code, text, tolerated=ops not in _FATAL) + disk.again()
            problems += [f"{ops} {at}: {b}" for b in bad]
        if failed == 0 and ops not in ("unlink", "chmod", "open", "mkdir"):
            problems.append(f"{ops}: no line noticed")
        name = f"{errno.errorcode[number]} at one {ops}" if not sticky else "no space from one operation on"
        disk.tell(name, tried, failed, problems)


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Callable[[str], None]]:
    """A tmpfs at ``folder`` for as long as the block runs; yields what remounts it with other options.

    Raises:
        OSError: this user cannot mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0777", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OSError(errno.EPERM, f"cannot mount a small file system here: {done.stderr.strip()}")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disks(disk: Disk, levels: int) -> None:
    """A real file system of too little space, at many sizes, which then gets enough."""
    # Blocks are of 4 KiB; a bundle needs the run's space again, and half-written siblings count as well.
    most = disk.bytes // 1024 + 4 * len(disk.reference) + 200
    tried = failed = 0
    problems: list[str] = []
    disk.wipe()
    for kib in range(most // levels, most, max(1, most // levels)):
        with small_disk(disk.place.root, kib) as remount:
            code, text = disk.line()
            tried, failed = tried + 1, failed + (code == 4)
            bad = disk.said(code, text, tolerated=True)
            remount("size=64m")
            bad += disk.again()
            problems += [f"{kib} KiB: {b}" for b in bad]
            disk.place.journal.unlink(missing_ok=True)
    disk.tell("full disk (tmpfs)", tried, failed, problems)


def read_only_disks(disk: Disk) -> None:
    """Read-only from the start, and after a whole line; then writable again."""
    problems: list[str] = []
    failed = 0
    disk.wipe()
    for earlier in (False, True):
        with small_disk(disk.place.root, 64 << 10) as remount:
            if earlier:
                disk.line()
            (disk.place.root / "tmp").mkdir(exist_ok=True)
            before = check.files_of(disk.place.root)
            remount("ro")
            code, text = disk.line()
            failed += code == 4
            bad = disk.said(code, text)
            if check.files_of(disk.place.root) != before:
                bad.append("files changed on a read-only disk")
            remount("rw")
            problems += [f"earlier line {earlier}: {b}" for b in [*bad, *disk.again()]]
    disk.tell("read-only disk", 2, failed, problems)


def forbidden_folders(disk: Disk) -> None:
    """Folders of another user, one at a time; root steps down for it."""
    problems: list[str] = []
    failed = 0
    names = ("cache", "models", ".")
    for name in names:
        disk.wipe()
        disk.place.root.chmod(0o777)
        target = disk.place.root / name
        (disk.place.root / "tmp").mkdir()
        (disk.place.root / "tmp").chmod(0o777)
        target.mkdir(exist_ok=True)
        target.chmod(0o555)
        disk.place.journal.touch()
        disk.place.journal.chmod(0o666)

        def as_nobody() -> None:
            os.setgid(NOBODY)
            os.setuid(NOBODY)

        code, text = disk.line(as_nobody if os.geteuid() == 0 else lambda: None)
        failed += code == 4
        problems += [f"{name}: {b}" for b in disk.said(code, text)]
        target.chmod(0o777)
        for path in disk.place.root.iterdir():
            path.chmod(0o755)
        problems += [f"{name}: {b}" for b in disk.again()]
    disk.tell("folder of another user", len(names), failed, problems)


def table(disk: Disk) -> str:
    lines = ["| fault | tried | ended in 4 | problems |", "|---|---:|---:|---:|"]
    lines += [f"| {what} | {tried} | {failed} | {bad} |" for what, tried, failed, bad, _ in disk.rows]
    return "\n".join(lines)


def own_mounts() -> None:
    """Start again where mounts are this process's own, where that is allowed."""
    if os.environ.get("EDGEKD_OWN_MOUNTS") or os.geteuid() != 0 or not shutil.which("unshare"):
        return
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0:
        os.environ["EDGEKD_OWN_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=5, help="every K-th operation")
    parser.add_argument("--levels", type=int, default=30, help="sizes of small disks")
    parser.add_argument("--sample", type=int, default=0, help="try only so many failing operations")
    args = parser.parse_args(argv)
    own_mounts()
    preload(args.out.resolve())
    disk = Disk(args.out)
    if os.environ.get("EDGEKD_OWN_MOUNTS"):
        full_disks(disk, args.levels)
        read_only_disks(disk)
    else:
        print("not tried: small and read-only disks (needs root and unshare)")
    if all(p.stat().st_mode & 0o001 for p in disk.place.base.parents):
        forbidden_folders(disk)
    else:
        print("not tried: folders of another user (nobody else may enter a folder above --out)")
    if shim.is_loaded() and args.sample:
        failing_sample(disk, args.sample)
    elif shim.is_loaded():
        failing_operations(disk, args.every)
    else:
        print("not tried: failing operations (needs gcc)")
    print(table(disk))
    return 1 if any(row[4] for row in disk.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
