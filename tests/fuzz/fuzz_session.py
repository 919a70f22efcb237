"""One target's session: runs inputs, times them, keeps what crashed."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from fuzz_target import Reader, Target

#: CPU seconds that one execution may take; and by the wall, where it waits for something that never comes.
SLOW_S = 1.0
HANG_S = 20
#: MiB that a session's process may come to.
MEMORY_MIB = 512.0


class HangError(BaseException):
    """An execution that did not end."""


@dataclass(slots=True, kw_only=True)
class Crash:
    """What must not have happened: the same kind at the same line is one crash."""

    kind: str
    where: str
    message: str
    input: str
    times: int = 1


@dataclass(slots=True, kw_only=True)
class Session:
    """Counts of one target.

    Attributes:
        kept: folder that inputs which crash are written to.
    """

    target: Target
    reader: Reader
    kept: Path
    executions: int = 0
    accepted: int = 0
    slowest_s: float = 0.0
    busy_s: float = 0.0
    crashes: dict[tuple[str, str], Crash] = field(default_factory=dict)

    def execute(self, data: bytes) -> None:
        """Run one input; never raises for what the reader raises."""
        begin = time.process_time()
        signal.alarm(HANG_S)
        try:
            self.reader(data)
            self.accepted += 1
        except self.target.refusals:
            pass
        except (Exception, HangError) as e:  # noqa: BLE001 - what may not leave a reader is what is looked for
            self._crashed(type(e).__name__, _where(e), str(e), data)
        finally:
            signal.alarm(0)
        took = time.process_time() - begin
        self.executions += 1
        self.busy_s += took
        if took > self.slowest_s:
            self.slowest_s = took
        if took > SLOW_S:
            self._crashed("slow", self.target.name, f"{took:.2f} s", data)

    def finish(self) -> None:
        """Counts memory, once everything ran."""
        peak = peak_mib()
        if peak > MEMORY_MIB:
            self._crashed("memory", self.target.name, f"{peak:.0f} MiB", b"")

    def _crashed(self, kind: str, where: str, message: str, data: bytes) -> None:
        known = self.crashes.get((kind, where))
        if known is not None:
            known.times += 1
            return
        name = f"{self.target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        self.kept.mkdir(parents=True, exist_ok=True)
        (self.kept / name).write_bytes(data)
        short = " ".join(message.split())[:200].encode("ascii", "backslashreplace").decode()
        self.crashes[kind, where] = Crash(kind=kind, where=where, message=short, input=name)

    def to_json(self, engine: str, wall_s: float) -> dict[str, object]:
        return {
            "target": self.target.name,
            "reads": self.target.reads,
            "engine": engine,
            "executions": self.executions,
            "accepted": self.accepted,
            "per_s": round(self.executions / max(self.busy_s, 1e-9), 1),
            "wall_s": round(wall_s, 1),
            "slowest_ms": round(1e3 * self.slowest_s, 1),
            "peak_mib": round(peak_mib(), 1),
            "crashes": [asdict(c) for c in self.crashes.values()],
        }


def _where(error: BaseException) -> str:
    """The last line of EdgeKD that the error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "edgekd" in f.filename or "gate_power" in f.filename] or frames
    last = own[-1]
    return f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.lineno}"


def _hung(signum: int, frame: FrameType | None) -> None:
    raise HangError(f"no end after {HANG_S} s")


def guard() -> None:
    """Let hangs end, and data above twice the allowed memory fail instead of taking the machine's."""
    signal.signal(signal.SIGALRM, _hung)
    limit = int(2 * MEMORY_MIB) << 20
    # Data, not addresses: a file may be mapped that is larger than memory.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def peak_mib() -> float:
    """The process's greatest resident size. Not ru_maxrss, which keeps the size of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mutated(seeds: Sequence[bytes], draw: random.Random, longest: int) -> bytes:
    """One input made of the seeds: what both engines start from, and all that the short run in the test suite is."""
    data = bytearray(draw.choice(seeds))[:longest] if seeds else bytearray()
    for _ in range(draw.choice((0, 1, 1, 2, 4, 8))):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 2:
            del data[at : at + draw.randrange(1, 33)]
        elif kind == 3:
            data[at : at + 4] = draw.choice(
                (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
            )
        elif kind == 4:
            data[at : at + 8] = draw.choice((b"\xff" * 8, (2**63 - 1).to_bytes(8, "little"), b"\0" * 8))
        elif kind == 5 and data:
            start = draw.randrange(len(data))
            data[at:at] = data[start : start + draw.randrange(1, 65)]
        else:
            data[at:at] = draw.choice(
                (b"[", b"{", b'"', b"\n", b"\0", b"NaN", b"1e999", b"../", b"- ", b": ", b"&a *a")
            )
    return bytes(data[:longest])


def write_result(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
