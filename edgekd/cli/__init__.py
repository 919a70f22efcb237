"""The command line: one thin module per verb, imported only when that verb is called."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from edgekd import errors

#: Verb -> (module, one-line summary). The module offers ``configure(parser)`` and ``run(args) -> exit code``.
_VERBS = {
    "init": ("init", "write a commented recipe that runs"),
    "demo": ("demo", "the whole line on real data that ships with a dependency"),
    "run": ("run", "the whole line, from a recipe to a verdict"),
    "distill": ("distill", "teacher to student"),
    "quantize": ("quantize", "a float model to INT8"),
    "export": ("export", "a model to another format, parity checked"),
    "bench": ("bench", "latency of one model, or of several side by side"),
    "eval": ("evaluate", "per-example accuracy of one model"),
    "compare": ("compare", "numeric parity of two models"),
    "gate": ("gate", "may this student ship? judge stored evidence, or collect it first"),
    "inspect": ("inspect", "what is in a model file, and whether it is safe to open"),
    "release": ("release", "bundle a passed run"),
    "verify": ("verify", "check a bundle"),
    "provenance": ("provenance", "whose knowledge is in the student, and what do its terms say?"),
    "report": ("report", "views of a run: text, Markdown, HTML, JUnit"),
    "ci": ("ci", "what a CI job does around a gate: check, baseline, comment"),
    "cache": ("cache", "where stages are kept; clean up"),
    "doctor": ("doctor", "what works on this machine, and how to fix what does not"),
}
VERBS: tuple[str, ...] = tuple(_VERBS)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(errors.EXIT_INPUT, f"edgekd: error: {message}; see `{self.prog} --help`\n")


def _overview() -> str:
    width = max(map(len, _VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, (_, summary) in _VERBS.items()]
    return "\n".join(
        [
            "usage: edgekd VERB [options]",
            "",
            "May this distilled student ship? Accuracy, latency and size beside its teacher, with the evidence.",
            "",
            *lines,
            "",
            "`edgekd VERB --help` explains a verb. Exit codes: 0 pass, 1 rejected, 2 wrong input,",
            "3 inconclusive, 4 infrastructure, 5 refused by policy, 130 interrupted.",
        ]
    )


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if argv else errors.EXIT_INPUT
    if argv[0] in ("-V", "--version"):
        from edgekd import __version__

        print(f"edgekd {__version__}")
        return 0
    verb = argv[0]
    if verb not in _VERBS:
        import difflib

        close = difflib.get_close_matches(verb, VERBS, n=1)
        raise errors.UsageError(
            f"no verb is called '{verb}'", f"did you mean '{close[0]}'?" if close else "see `edgekd --help`"
        )
    module = importlib.import_module(f"edgekd.cli.{_VERBS[verb][0]}")
    parser = _Parser(
        prog=f"edgekd {verb}", description=_VERBS[verb][1].capitalize() + ".", allow_abbrev=False
    )
    module.configure(parser)
    # Intermixed: options may stand before, between and after the words of a verb.
    args = parser.parse_intermixed_args(list(argv[1:]))
    from edgekd.temporary import own_tempdir

    with own_tempdir(verb):
        return int(module.run(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Every error is one line on stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: nobody reads it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    try:
        code = _dispatch(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:
        code = errors.EXIT_PASS  # what is judged has its own care, see judging.show
    except errors.EdgeKDError as e:
        return _say(" ".join(str(e).split()), e.exit_code)
    except KeyboardInterrupt:
        return _say(
            "interrupted; what was finished is kept: run the same command to continue",
            errors.EXIT_INTERRUPTED,
        )
    except MemoryError:
        return _say("out of memory; free some, or use a smaller model or batch", errors.EXIT_INFRASTRUCTURE)
    except OSError as e:
        if e.errno != errno.ENOSPC:
            return _unexpected(e)
        drop_stdout()
        return _say(
            "no space left on the disk that this was written to; free some", errors.EXIT_INFRASTRUCTURE
        )
    except Exception as e:  # noqa: BLE001 - the last door: one line and an exit code, never Python's own 1
        return _unexpected(e)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()  # the reader went away (`| head`): the verdict stands
    except OSError as e:
        drop_stdout()
        return _say(
            f"cannot write to stdout: {e.strerror}; what was asked is done", errors.EXIT_INFRASTRUCTURE
        )
    return code


def drop_stdout() -> None:
    """Send what is still buffered nowhere: its reader is gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: Exception) -> int:
    if os.environ.get("EDGEKD_DEBUG"):
        raise error
    text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    return _say(
        f"unexpected {text}; set EDGEKD_DEBUG=1 for the traceback and report it", errors.EXIT_INFRASTRUCTURE
    )


def _say(message: str, code: int) -> int:
    # Names from outside may hold what a terminal obeys, or turn the text round.
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in message)
    print(f"edgekd: error: {shown}", file=sys.stderr)
    return code
