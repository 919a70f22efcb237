"""What ``edgekd_gate`` and ``edgekd_session`` do in a test; imported by the first test that uses one of them.

The gate is the command line's: its keywords are the options of ``edgekd gate``, and the evidence, the verdict and the
run folder come from the same functions.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgekd.cli import gate as gate_verb
from edgekd.cli.keywords import Keywords, in_keywords
from edgekd.cli.options import trust_of
from edgekd.cli.progress import stage_line
from edgekd.errors import EdgeKDError, EvidenceError, InfrastructureError, PolicyError, UsageError
from edgekd.pytest_session import INCONCLUSIVE, Judged, Session, shown

if TYPE_CHECKING:
    from edgekd.gates.verdict import Gate, Verdict
    from edgekd.pipeline.sessions import OpenModel
    from edgekd.stages import StageResult, StageStore
    from edgekd.trust import Trust

    Reference = str | os.PathLike[str]

#: Options of ``edgekd gate`` that the session decides: where it writes, and what becomes of the verdict.
_OURS = ("out", "junit", "markdown", "json", "on_inconclusive")

#: Variables by which coverage tools trace child processes: a traced child is timed with its tracer.
_TRACERS = ("COV_CORE_", "COVERAGE_PROCESS_")

#: A folder name stays below what file systems take (255 bytes), temporary suffixes included.
_LONGEST = 150


class _Fixture:
    """What both fixtures have: the test, the session's settings, the marker's defaults."""

    name = ""

    def __init__(self, item: pytest.Item, session: Session) -> None:
        self._item = item
        self._session = session
        self._keywords = Keywords(gate_verb.configure, leave_out=_OURS)
        self._marked: dict[str, Any] = {}
        for mark in item.iter_markers("edgekd"):  # closest first
            if mark.args:
                raise UsageError(
                    f"the marker edgekd was given {mark.args[0]!r} without a name", "write edgekd(target=…)"
                )
            self._keywords.check(mark.kwargs, where="the marker edgekd", also=("on_inconclusive",))
            self._marked = {**mark.kwargs, **self._marked}

    def _failed(self, error: Exception) -> None:
        """Remember an error, so that its test is reported as one; ours loses the frames that say nothing to a user."""
        self._session.errors.append(error)
        if isinstance(error, EdgeKDError):
            error.what, error.fix = in_keywords(error.what), in_keywords(error.fix)
            error.args = (f"{error.what}; {error.fix}" if error.fix else error.what,)


class EdgekdGate(_Fixture):
    """The value of the fixture ``edgekd_gate``."""

    def __init__(self, item: pytest.Item, session: Session) -> None:
        super().__init__(item, session)
        self._calls = 0

    def __call__(
        self,
        *,
        student: Reference | None = None,
        teacher: Reference | None = None,
        baseline: Reference | None = None,
        max_accuracy_drop: float | None = None,
        max_latency_ratio: float | None = None,
        max_regression: float | None = None,
        max_size_mib: float | None = None,
        policy: Reference | None = None,
        data: Reference | None = None,
        metric: str | None = None,
        target: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
        shape: Mapping[str, str | Sequence[int]] | str | None = None,
        on_inconclusive: str | None = None,
        **options: object,
    ) -> Verdict:
        """Collect evidence, judge it, and fail this test unless it passes.

        Args:
            student, teacher, baseline: model references; relative paths start in the current folder.
            max_accuracy_drop, max_latency_ratio, max_regression, max_size_mib: limits, as of ``edgekd gate``.
            policy: a file with a recipe's gates block, instead of limits.
            data: labelled data; metric: how it is scored.
            target, threads, batch, shape: where and how the models run; ``shape={"image": (1, 3, 224, 224)}``.
            on_inconclusive: ``fail``, ``skip`` or ``pass``, for this gate.
            options: any other option of ``edgekd gate``, with underscores.

        Returns:
            A verdict that passed; or an inconclusive one, where that was asked to pass.

        Raises:
            EdgeKDError: what was given cannot be judged, or the machine failed; the test is then an error.
        """
        __tracebackhide__ = True
        given = {
            "student": student, "teacher": teacher, "baseline": baseline, "max_accuracy_drop": max_accuracy_drop,
            "max_latency_ratio": max_latency_ratio, "max_regression": max_regression, "max_size_mib": max_size_mib,
            "policy": policy, "data": data, "metric": metric, "target": target, "threads": threads, "batch": batch,
            "shape": shape, "on_inconclusive": on_inconclusive, **options,
        }  # fmt: skip
        self._calls += 1
        reused: list[str] = []
        try:
            verdict, folder = self._judge(given, reused)
            if verdict.decision == "error":
                raise _error_of(verdict, shown(folder, self._item.config))
        except Exception as e:
            self._failed(e)
            kind = e.kind if isinstance(e, EdgeKDError) else "infrastructure"
            reason = str(e) if isinstance(e, EdgeKDError) else f"{type(e).__name__}: {e}"
            self._note("error", (f"{kind}: {reason}",), None, bool(reused))
            self._record({"decision": "error", "error_kind": kind, "reason": reason})
            if isinstance(e, EdgeKDError) and not os.environ.get("EDGEKD_DEBUG"):
                raise e.with_traceback(None) from None
            raise
        self._note(verdict.decision, _lines(verdict), folder, bool(reused))
        self._record(_properties(verdict, shown(folder, self._item.config)))
        self._settle(verdict, folder, str(on_inconclusive or self._default("on_inconclusive")))
        return verdict

    def _default(self, name: str) -> Any:
        return self._marked.get(name, getattr(self._session, name))

    def _judge(self, given: Mapping[str, Any], reused: list[str]) -> tuple[Verdict, Path]:
        from edgekd.pipeline.gate import gate_files

        self._keywords.check(given, where="edgekd_gate", also=("on_inconclusive",))
        asked = {
            "target": self._session.target,
            **({} if self._session.threads is None else {"threads": self._session.threads}),
            "remeasure": self._session.remeasure,
            **self._marked,
            **{k: v for k, v in given.items() if v is not None},
        }
        mode = asked.pop("on_inconclusive", "fail")
        if mode not in INCONCLUSIVE:
            raise UsageError(f"on_inconclusive is {mode!r}", f"choose {', '.join(INCONCLUSIVE)}")
        if not asked.get("student"):
            raise UsageError(
                "edgekd_gate was given no student", 'name the model that may ship: student="S.onnx"'
            )
        args = self._keywords.parse(asked)
        request = gate_verb.gate_request(args)
        out = self._folder()
        with untraced_children():
            return gate_files(request, out=out, store=_store(reused, trust_of(args))), out

    def _folder(self) -> Path:
        """The run folder of this call: named after the test, so that the next session replaces it."""
        from edgekd.pipeline.folder import slug

        session, nodeid = self._session, self._item.nodeid
        name = slug(nodeid)
        if len(name) > _LONGEST or session.taken.get(name, nodeid) != nodeid:
            name = f"{name[:_LONGEST]}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"
        session.taken[name] = nodeid
        if session.own_out and not (session.out / ".gitignore").is_file():
            session.out.mkdir(parents=True, exist_ok=True)
            (session.out / ".gitignore").write_text(
                "# Made by the pytest plugin of EdgeKD.\n*\n", encoding="utf-8"
            )
        return session.out / (name if self._calls == 1 else f"{name}-{self._calls}")

    def _note(self, decision: str, lines: tuple[str, ...], folder: Path | None, stored: bool) -> None:
        self._session.judged.append(
            Judged(
                nodeid=self._item.nodeid, call=self._calls, decision=decision, lines=lines, folder=folder, stored=stored
            )
        )  # fmt: skip

    def _record(self, properties: Mapping[str, object]) -> None:
        """Into JUnit's properties of the test; what ``record_property`` does, without its warning about xunit2."""
        prefix = "edgekd" if self._calls == 1 else f"edgekd.{self._calls}"
        self._item.user_properties += [(f"{prefix}.{name}", value) for name, value in properties.items()]

    def _settle(self, verdict: Verdict, folder: Path, on_inconclusive: str) -> None:
        """Fail or skip the test, as the decision says."""
        __tracebackhide__ = True
        from edgekd.report import render

        if verdict.decision == "pass":
            return
        deciding = "; ".join(_lines(verdict, only=verdict.decision)) or "nothing was judged"
        evidence = f"Evidence: {shown(folder, self._item.config)}"
        if verdict.decision == "reject":
            pytest.fail(f"rejected: {deciding}\n\n{render(folder, 'text')}\n{evidence}", pytrace=False)
        if on_inconclusive == "skip":
            pytest.skip(f"inconclusive: {deciding}")
        if on_inconclusive == "fail":
            way_out = (
                "It fails because it was not decided (--edgekd-on-inconclusive=skip or pass says otherwise)."
            )
            pytest.fail(
                f"inconclusive: {deciding}\n\n{render(folder, 'text')}\n{way_out}\n{evidence}", pytrace=False
            )


class EdgekdSession(_Fixture):
    """The value of the fixture ``edgekd_session``."""

    def __init__(self, item: pytest.Item, session: Session) -> None:
        super().__init__(item, session)
        self._open = contextlib.ExitStack()

    def __call__(
        self,
        model: Reference,
        *,
        target: str | None = None,
        threads: int | None = None,
        weights: Reference | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> OpenModel:
        """Open a model where the session's options, the marker or these arguments say, and read back where it is.

        Args:
            model: a model reference; relative paths start in the current folder.
            target: ``device:runtime[+provider]``; threads: of the runtime.
            weights: safetensors of a ``zoo:`` or ``python:`` reference.
            settings: of the runtime, e.g. ``{"graph_level": "basic"}``.

        Raises:
            EdgeKDError: it cannot be opened as asked; the test is then an error.
        """
        __tracebackhide__ = True
        from edgekd.pipeline.sessions import open_model

        try:
            opened = open_model(
                str(os.fspath(model)),
                target=str(target or self._marked.get("target", self._session.target)),
                threads=int(threads or self._marked.get("threads") or self._session.threads or 1),
                weights=Path(weights) if weights is not None else None,
                settings=settings,
                store=_store([]),
            )
        except EdgeKDError as e:
            self._failed(e)
            if os.environ.get("EDGEKD_DEBUG"):
                raise
            raise e.with_traceback(None) from None
        self._open.callback(opened.close)
        return opened

    def close(self) -> None:
        """Close what was opened, the last first."""
        self._open.close()


def _store(reused: list[str], trust: Trust | None = None) -> StageStore:
    """The stage cache; its lines go to stderr, which pytest shows with a failure. Collects reused measurements."""
    from edgekd.stages import StageStore, default_cache_root
    from edgekd.trust import Trust

    def report(event: str, name: str, result: StageResult | None) -> None:
        stage_line(event, name, result)
        if result is not None and result.cached and result.folder.parent.name == "measure":
            reused.append(name)

    return StageStore(default_cache_root(os.environ), report=report, trust=trust or Trust())


@contextlib.contextmanager
def untraced_children() -> Iterator[None]:
    """Without the variables by which coverage tools follow into child processes: they would time their own tracing."""
    held = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith(_TRACERS)}
    try:
        yield
    finally:
        os.environ.update(held)


def _error_of(verdict: Verdict, folder: str) -> EdgeKDError:
    """The error behind a verdict that could not judge: the worst kind of its gates."""
    from edgekd.errors import EXIT_INPUT, EXIT_POLICY
    from edgekd.gates.verdict import exit_code

    kinds: dict[int, type[EdgeKDError]] = {EXIT_POLICY: PolicyError, EXIT_INPUT: EvidenceError}
    kind = kinds.get(exit_code(verdict), InfrastructureError)
    return kind("; ".join(_lines(verdict, only="error")), f"the evidence is in {folder}")


def _name(gate: Gate) -> str:
    return gate.gate if gate.slice is None else f"{gate.gate}:{gate.slice}"


def _lines(verdict: Verdict, only: str = "") -> tuple[str, ...]:
    """A sentence per gate; with ``only``, of those that decided so and count."""
    if only:
        gates = [g for g in verdict.gates if g.decision == only and g.target not in verdict.optional]
        return tuple(f"{_name(g)}: {g.reason}" for g in gates)
    return tuple(
        f"{_name(g)}: {g.reason}"
        if g.decision == verdict.decision
        else f"{_name(g)} ({g.decision}): {g.reason}"
        for g in verdict.gates
    )


def _properties(verdict: Verdict, folder: str) -> dict[str, object]:
    made: dict[str, object] = {"decision": verdict.decision, "evidence": folder}
    for gate in verdict.gates:
        for name in ("decision", "estimate", "limit", "unit", "confidence", "n", "target", "reason"):
            value = getattr(gate, name)
            if value is not None and value != "":
                made[f"{_name(gate)}.{name}"] = value
        if gate.interval is not None:
            made[f"{_name(gate)}.interval"] = f"[{gate.interval[0]!r}, {gate.interval[1]!r}]"
    return made
