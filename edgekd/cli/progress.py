"""Progress on stderr: a line per stage, a bar for what lasts; bars are off where stderr is no terminal."""

from __future__ import annotations

import sys
import time

from edgekd.stages import StageResult

_shown: set[str] = set()


def stage_line(event: str, name: str, result: StageResult | None) -> None:
    """One line per stage: what is being done, then that it is done or was there already."""
    if event == "start":
        if sys.stderr.isatty():
            print(f"  … {name}", end="\r", file=sys.stderr, flush=True)
        return
    if result is not None:
        if result.cached and result.digest in _shown:
            return  # one stage may serve several steps of a run
        _shown.add(result.digest)
        how = "cached" if result.cached else f"{result.seconds:.1f} s"
        clear = "\x1b[2K" if sys.stderr.isatty() else ""
        print(f"{clear}  ✓ {name} ({how})", file=sys.stderr, flush=True)


def step_line(text: str) -> None:
    """What is being done now, over the last such line; empty when it is done. Only on a terminal."""
    if sys.stderr.isatty():
        print("\x1b[2K" + (f"  … {text}" if text else ""), end="\r", file=sys.stderr, flush=True)


class TrainingBar:
    """A bar for one training after another, and for asking a teacher; redrawn at most five times a second."""

    def __init__(self) -> None:
        self._last = 0.0
        self._begin: dict[str, tuple[float, int]] = {}

    def __call__(self, name: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        now = time.monotonic()
        done, whole = epoch * steps + step + 1, epochs * steps
        # A resumed training starts in the middle: time left comes from this process's own steps.
        begin, first = self._begin.setdefault(name, (now, done - 1))
        if not sys.stderr.isatty() or (now - self._last < 0.2 and done != whole):
            return
        self._last = now
        rate = (done - first) / max(now - begin, 1e-6)
        left = (whole - done) / max(rate, 1e-6)
        filled = round(24 * done / whole)
        bar = "█" * filled + "·" * (24 - filled)
        where = f"{done / whole:.0%}" if loss is None else f"epoch {epoch + 1}/{epochs}  loss {loss:.3f}"
        text = f"\x1b[2K  {name} {bar} {where}  {left:.0f} s left"
        print(text, end="\r", file=sys.stderr, flush=True)
