"""Kill a line at every file operation and at random times, run it again, and compare with one that was not killed.

    python bench/faults/kill_study.py --out work/kill [--every K] [--random N]

Prints a table; ends in 1 where anything was lost, mixed, done twice or left behind. Points that are in
``OUT/points.jsonl`` are not tried again, so that an interrupted study continues.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from faults import check, shim
from faults.line import Place, run_line

#: name -> (tokens of the killed line and of the next one, whether an earlier line had finished, what happens).
MODES = {
    "killed before an operation": ((0, 0), False, shim.KILL),
    "killed inside a write": ((0, 0), False, shim.TEAR),
    "killed, measured by another line": ((1, 2), False, shim.KILL),
    "killed while replacing": ((1, 1), True, shim.KILL),
    "killed at a random time": ((1, 2), False, None),
}


@dataclass(frozen=True, slots=True)
class Point:
    """Where one line is killed: before the ``at``-th operation, or after ``at`` milliseconds."""

    mode: str
    at: int


@dataclass(slots=True)
class Outcome:
    """What came of it; ``problems`` is empty where all is well."""

    mode: str
    at: int
    killed: bool
    whole_stages: int
    problems: list[str]


def in_child(work: Callable[[], int], log: Path, kill_after_s: float | None = None) -> int:
    """Exit status of a forked process that does ``work``, as :func:`os.waitpid` gives it, decoded."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for number in (1, 2):
                os.dup2(fd, number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # noqa: BLE001 - a child never returns into its parent's code
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            code = 99
        os._exit(code)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Study:
    """One place, one reference, and as many points as there is time for."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.log = self.out / "log"
        self.place = Place(self.out / "place")
        self.wipe()
        self.place.prepare()
        with self.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            # Here, so that no child has to import anything.
            self._expect(run_line(self.place, 0), "a line")
        self.operations = {}
        for name, error in (("all", shim.KILL), ("write", shim.KILL)):
            self.wipe()
            self.operations[name] = self._count(shim.CHANGES if name == "all" else "write", error)
        self.reference = {0: check.files_of(self.place.root)}
        self._finished = self.out / "finished"
        shutil.rmtree(self._finished, ignore_errors=True)
        shutil.copytree(self.place.root, self._finished)
        shutil.copyfile(self.place.journal, self.out / "finished.journal")
        self.wipe()
        started = time.monotonic()
        self._expect(in_child(lambda: run_line(self.place, 2), self.log), "an unkilled line")
        self.seconds = time.monotonic() - started
        self.reference[2] = check.files_of(self.place.root)
        self.wipe()
        self.restore()
        self.replacing = self._count(shim.CHANGES, shim.KILL, 1, "--remeasure")
        self.replaced = check.files_of(self.place.root)

    def wipe(self) -> None:
        shutil.rmtree(self.place.root, ignore_errors=True)
        self.place.journal.unlink(missing_ok=True)

    def restore(self) -> None:
        """The state after an earlier line."""
        shutil.copytree(self._finished, self.place.root)
        self.place.journal.touch()

    def _expect(self, code: int, what: str) -> None:
        if code != 0:
            raise SystemExit(f"{what} ended in {code}; see {self.log}")

    def _count(self, ops: str, error: int, token: int = 0, *more: str) -> int:
        counted = self.out / "count"

        def work() -> int:
            shim.arm(shim.Fault(root=self.place.root, ops=ops, at=shim.NEVER, error=error))
            code = run_line(self.place, token, *more)
            counted.write_text(str(shim.seen()))
            return code

        self._expect(in_child(work, self.log), "an unkilled line")
        return int(counted.read_text())

    def points(self, every: int, random_times: int, seed: int = 0) -> Iterator[Point]:
        """Modes in turn, each over the whole line, so that an interrupted study has seen all of it."""
        kinds = list(MODES)
        rng = random.Random(seed)
        spread = {
            kinds[0]: range(1, self.operations["all"] + 1, every),
            kinds[1]: range(1, self.operations["write"] + 1, every) if shim.is_loaded() else (),
            kinds[2]: range(1 + every // 2, self.operations["all"] + 1, 3 * every),
            kinds[3]: range(1, self.replacing + 1, 2 * every),
            kinds[4]: sorted(rng.randrange(int(self.seconds * 1000) + 1) for _ in range(random_times)),
        }
        found = [Point(mode, at) for mode, ats in spread.items() for at in ats]
        rng.shuffle(found)
        yield from found

    def try_point(self, point: Point) -> Outcome:
        """Kill there, look at what is left, run again, and look again."""
        place, (tokens, earlier, error) = self.place, MODES[point.mode]
        more = ("--remeasure",) if earlier else ()
        self.wipe()
        if earlier:
            self.restore()

        def killed() -> int:
            if error is not None:
                ops = "write" if error == shim.TEAR else shim.CHANGES
                shim.arm(shim.Fault(root=place.root, ops=ops, at=point.at, error=error))
            return run_line(place, tokens[0], *more)

        code = in_child(killed, self.log, point.at / 1000 if error is None else None)
        problems = [] if code in (0, -signal.SIGKILL) else [f"the killed line ended in {code}"]
        problems += check.half_documents(place)
        if earlier:
            problems += self._lost(place)
        before = check.files_of(place.cache) if place.cache.exists() else {}
        whole = check.whole_stages(place)
        since = len(place.journal.read_text().splitlines()) if place.journal.exists() else 0
        again = in_child(lambda: run_line(place, tokens[1], *more), self.log)
        if again != 0:
            problems.append(f"the next line ended in {again}")
        else:
            problems += self._compared(tokens, before, whole, since, earlier)
        return Outcome(point.mode, point.at, code == -signal.SIGKILL, len(whole), problems)

    def _lost(self, place: Place) -> list[str]:
        """An earlier run and bundle are there, the old ones or the new ones, at their names."""
        return [f"{path.name} is gone" for path in (place.run, place.bundle) if not path.is_dir()]

    def _compared(
        self, tokens: tuple[int, int], before: check.Tree, whole: check.Tree, since: int, earlier: bool
    ) -> list[str]:
        place = self.place
        after = check.files_of(place.root)
        bad = [f"left behind: {name}" for name in check.temporary_names(place)]
        bad += check.mixed_measurements(place)
        if not earlier:  # which measures again what it was asked to
            bad += check.built_again(place, whole, since)
            kept = {p: d for p, d in before.items() if "/".join(p.split("/")[:2]) in whole}
            bad += [f"changed: cache/{p}" for p, d in kept.items() if after.get(f"cache/{p}") != d]
        wanted = self.replaced if earlier else self.reference[tokens[1]]
        if tokens[0] != tokens[1]:
            after, wanted = check.untimed(after), check.untimed(wanted)
        bad += [f"missing: {p}" for p in sorted(wanted.keys() - after.keys())]
        bad += [f"unexpected: {p}" for p in sorted(after.keys() - wanted.keys())]
        bad += [f"differs: {p}" for p in sorted(wanted) if p in after and wanted[p] != after[p]]
        return bad


def table(outcomes: list[Outcome]) -> str:
    """Modes, points, kills that hit, and what was wrong."""
    lines = ["| killed where | points | killed in time | problems |", "|---|---:|---:|---:|"]
    for mode in MODES:
        own = [o for o in outcomes if o.mode == mode]
        lines.append(
            f"| {mode} | {len(own)} | {sum(o.killed for o in own)} | {sum(bool(o.problems) for o in own)} |"
        )
    lines.append(
        f"| all | {len(outcomes)} | {sum(o.killed for o in outcomes)} | {sum(bool(o.problems) for o in outcomes)} |"
    )
    return "\n".join(lines)


def read_outcomes(path: Path) -> list[Outcome]:
    """Outcomes so far; a last line that was cut off is tried again."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Outcome(**json.loads(text)))
        except ValueError:
            continue
    return found


def run_study(out: Path, *, every: int, random_times: int, most: int | None = None) -> list[Outcome]:
    """Try the points that are not in ``out/points.jsonl`` yet; all outcomes."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "points.jsonl"
    outcomes = read_outcomes(path)
    done = {(o.mode, o.at) for o in outcomes}
    study = Study(out)
    print(f"operations: {study.operations}, replacing {study.replacing}, {study.seconds:.1f} s", flush=True)
    left = [p for p in study.points(every, random_times) if (p.mode, p.at) not in done]
    for point in left if most is None else left[:most]:
        outcome = study.try_point(point)
        outcomes.append(outcome)
        with path.open("a") as f:
            f.write(json.dumps(asdict(outcome)) + "\n")
        for problem in outcome.problems[:5]:
            print(f"{point.mode}, {point.at}: {problem}", flush=True)
    return outcomes


def preload(out: Path) -> None:
    """Start again with the library, where there is a compiler."""
    if shim.is_loaded() or not shim.compiler():
        return
    os.environ["LD_PRELOAD"] = str(shim.build_shim(out))
    os.environ["OMP_NUM_THREADS"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.argv])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="every K-th operation")
    parser.add_argument("--random", type=int, default=60, help="kills at random times")
    parser.add_argument("--most", type=int, help="try at most so many points now")
    parser.add_argument("--table", action="store_true", help="only print what was found so far")
    args = parser.parse_args(argv)
    if args.table:
        print(table(read_outcomes(args.out / "points.jsonl")))
        return 0
    preload(args.out.resolve())
    outcomes = run_study(args.out, every=args.every, random_times=args.random, most=args.most)
    print(table(outcomes))
    return 1 if any(o.problems for o in outcomes) or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
