"""Child processes: models are opened, run and timed in them, never in the process that judges."""

from edgekd.child.process import ChildProcess, Limits

__all__ = ["ChildProcess", "Limits"]
