"""LiteRT sessions: ``.tflite`` in ai-edge-litert's interpreter. Needs numpy and ai-edge-litert only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import (
    MissingDependencyError,
    ModelError,
    TargetUnavailableError,
    UsageError,
)
from edgekd.lazy import require
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd.placement import PlacedOp
from edgekd.spec import check_feeds
from edgekd.target import Placement, SessionOptions
from edgekd_litert.graph import MOVING, Operator, Port, delegates, operators, ports, signature_names
from edgekd_onnx.settings import own_threads, thread_counts

_PURPOSE = "running LiteRT models"
_DAMAGED = "the file is damaged or no .tflite: export or copy it again"

#: Provider -> the interpreter's OpResolverType. AUTO applies XNNPACK and runs what it does not take in built-in kernels.
_RESOLVERS: Mapping[str, str] = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
#: What ``io`` means: floats at the boundary of a quantized file, or the integers as they are stored.
_IO = ("float32", "native")


def _litert() -> Any:
    return require("ai_edge_litert.interpreter", extra="litert", purpose=_PURPOSE)


def litert_version() -> str:
    """Of the installed ai-edge-litert."""
    import importlib.metadata

    try:
        return importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError:
        return "0 (unknown)"


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_header(path: Path) -> None:
    """Refuse what is no ``.tflite`` before a library sees it.

    A FlatBuffer's first four bytes say where its root table is, the next four are ``TFL3`` (LiteRT's schema.fbs).

    Raises:
        ModelError: missing, unreadable, empty, a Git LFS pointer, or something else.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist", "check the path")
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            head = f.read(8)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    root = int.from_bytes(head[:4], "little")
    if len(head) < 8 or head[4:8] != b"TFL3" or not 8 <= root < size:
        refuse_pointer_file(path, ModelError)
        raise ModelError(f"{path} is no .tflite file ({size} bytes, identifier {head[4:8]!r})", _DAMAGED)


class BoundInvoke:
    """Runs one session on inputs set once; a timed call is the interpreter's invoke and nothing else.

    Where the session was fed otherwise meanwhile, the first call after that sets the inputs again.
    """

    __slots__ = ("_arrays", "_session")

    def __init__(self, session: LiteRtSession, arrays: Mapping[int, Array]) -> None:
        self._session = session
        self._arrays = arrays

    def __call__(self) -> None:
        session = self._session
        if session.fed_by is not self:
            session.feed(self._arrays, self)
        session.invoke()

    def outputs(self) -> dict[str, Array]:
        """Copies of what the last call made."""
        return self._session.fetch()


class LiteRtSession:
    """An opened ``.tflite``."""

    def __init__(
        self, path: Path, interpreter: Any, *, inputs: tuple[Port, ...], outputs: tuple[Port, ...],
        as_float: bool, placement: Placement,
    ) -> None:  # fmt: skip
        self.path = path
        self.inputs = tuple(p.as_float if as_float else p.spec for p in inputs)
        self.outputs = tuple(p.as_float if as_float else p.spec for p in outputs)
        self.placement = placement
        #: Whose inputs the interpreter holds.
        self.fed_by: object = None
        self._ins, self._outs = inputs, outputs
        self._as_float = as_float
        self._interpreter = interpreter
        self._sizes = {p.index: tuple(int(d) for d in self._detail(p)["shape"]) for p in inputs}

    def _detail(self, port: Port) -> Any:
        return self._open()._get_tensor_details(port.index, 0)

    def _open(self) -> Any:
        if self._interpreter is None:
            raise ModelError(f"the session of {self.path} is closed", "open it again")
        return self._interpreter

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: input name -> array of exactly the specs' dtypes and fixed sizes.

        Raises:
            DataError: feeds that do not fit; ModelError: the model failed on them.
        """
        self.feed(self._stored(feeds), None)
        self.invoke()
        return self.fetch()

    def bind(self, feeds: Mapping[str, Array]) -> BoundInvoke:
        """Set the inputs; the result runs once per call.

        Raises:
            DataError: feeds that do not fit; ModelError: sizes that the file cannot take.
        """
        bound = BoundInvoke(self, self._stored(feeds))
        self.feed(bound._arrays, bound)
        return bound

    def _stored(self, feeds: Mapping[str, Array]) -> dict[int, Array]:
        """Feeds as the file stores them, by tensor: copies, so that the caller's arrays may change."""
        self._open()
        check_feeds(self.inputs, feeds, str(self.path))
        stored = {}
        for port in self._ins:
            array = feeds[port.spec.name]
            if port.affine is not None and self._as_float:
                stored[port.index] = port.affine.quantize(array, port.spec.name)
            else:
                stored[port.index] = np.array(array, order="C")
        return stored

    def feed(self, arrays: Mapping[int, Array], owner: object) -> None:
        """Hand arrays to the interpreter, resized where the file's sizes are open.

        Raises:
            ModelError: the file cannot be resized so.
        """
        interpreter = self._open()
        self.fed_by = None
        changed = [index for index, array in arrays.items() if self._sizes.get(index) != array.shape]
        try:
            for index in changed:
                interpreter.resize_tensor_input(index, list(arrays[index].shape), strict=True)
            if changed:
                self._sizes = {}  # unknown until it has allocated
                interpreter.allocate_tensors()
                self._sizes = {index: array.shape for index, array in arrays.items()}
            for index, array in arrays.items():
                interpreter.set_tensor(index, array)
        except (RuntimeError, ValueError) as e:
            sizes = ", ".join("x".join(map(str, a.shape)) for a in arrays.values())
            raise ModelError(
                f"{self.path} cannot take inputs of {sizes} ({one_line(e)})",
                "feed it the size that it was made for",
            ) from e
        self.fed_by = owner

    def invoke(self) -> None:
        """Run on the inputs that are set.

        Raises:
            ModelError: it failed.
        """
        try:
            self._open().invoke()
        except (RuntimeError, ValueError) as e:
            raise ModelError(f"{self.path} failed while running ({one_line(e)})", "check the model") from e

    def fetch(self) -> dict[str, Array]:
        """Copies of the outputs; those of a quantized file as float32 unless ``io`` is ``native``."""
        interpreter = self._open()
        made: dict[str, Array] = {}
        for port in self._outs:
            stored = np.asarray(interpreter.get_tensor(port.index))
            made[port.spec.name] = (
                port.affine.dequantize(stored) if port.affine and self._as_float else stored
            )
        return made

    def operators(self) -> tuple[Operator, ...]:
        """See :func:`edgekd_litert.graph.operators`."""
        return operators(self._open())

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self._interpreter = None
        self.fed_by = None


class LiteRtRuntime:
    """Opens ``.tflite`` files in ai-edge-litert's interpreter, on the CPU.

    Providers: ``xnnpack`` (the interpreter's default: XNNPACK where it can, built-in kernels for the rest),
    ``builtin`` (optimised built-in kernels alone), ``reference`` (the plain kernels, one thread).
    """

    name = "litert"
    formats: tuple[str, ...] = ("litert",)

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can."""
        try:
            _provider(device, provider)
            _litert()
        except (TargetUnavailableError, MissingDependencyError) as e:
            return str(e)
        return ""

    def sweepable(self, device: str, provider: str, cpus: int) -> dict[str, tuple[Any, ...]]:
        """See :class:`edgekd.measure.sweep.SweepableRuntime`: the thread count is all that changes no answer."""
        alone = cpus == 1 or _provider(device, provider) == "reference"
        return {} if alone else {"threads": thread_counts(cpus)}

    def open(self, path: Path, options: SessionOptions) -> LiteRtSession:
        """Open a model file.

        Args:
            path: the ``.tflite`` file.
            options: ``settings``: ``io``, ``float32`` (default: a quantized file is fed and gives float32, converted
                by its own scale and zero point) or ``native`` (integers as stored).

        Raises:
            ModelError: missing, damaged, or with operators that this build does not have;
            TargetUnavailableError: another device or provider, or XNNPACK took no operator; UsageError: a setting.
        """
        provider = _provider(options.device, options.provider)
        io = _io(options.settings or {})
        if options.threads < 1:
            raise UsageError(f"threads is {options.threads}", "ask for 1 or more")
        if provider == "reference" and options.threads != 1:
            raise TargetUnavailableError(
                f"litert's reference kernels run in one thread, {options.threads} were asked for",
                "ask for 1, or for cpu:litert+builtin",
            )
        litert = _litert()
        check_header(path)
        before = own_threads()
        try:
            interpreter = litert.Interpreter(
                model_path=str(path),
                num_threads=options.threads,
                experimental_op_resolver_type=litert.OpResolverType[_RESOLVERS[provider]],
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as e:
            raise ModelError(
                f"ai-edge-litert {litert_version()} cannot open {path} ({one_line(e)})",
                "the file is damaged, or has operators that this build does not have",
            ) from e
        after = own_threads()
        started = None if before is None or after is None else len(after - before)
        nodes = operators(interpreter)
        _check_delegation(path, provider, nodes, delegates(interpreter))
        # XNNPACK starts its workers while it prepares, the built-in kernels at the first call that has use for them.
        if provider == "xnnpack" and started is not None and started < options.threads - 1:
            raise TargetUnavailableError(
                f"litert started {started} threads beside the calling one, {options.threads - 1} were asked for",
                "this build takes its threads from elsewhere: ask for 1",
            )
        into, out_of = signature_names(interpreter)
        ins = ports(interpreter.get_input_details(), into, path)
        outs = ports(interpreter.get_output_details(), out_of, path)
        stored = {p.spec.name: p.affine.to_json() for p in (*ins, *outs) if p.affine}
        placement = Placement(
            device=options.device,
            provider=provider,
            runtime=f"litert {litert_version()}",
            threads=options.threads,
            detail={
                "operators": len(nodes),
                "delegated": sum(n.delegated for n in nodes),
                "partitions": delegates(interpreter),
                "kept": dict(sorted(Counter(n.op_type for n in nodes if not n.delegated).items())),
                "threads_started": started,
                "io": io,
                "stored_as": stored,
            },
        )
        return LiteRtSession(
            path, interpreter, inputs=ins, outputs=outs, as_float=io == "float32", placement=placement
        )

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> tuple[PlacedOp, ...]:
        """See :class:`edgekd.placement.PlacingRuntime`. Times are not told: the interpreter has no profiler here."""
        session = self.open(path, options)
        try:
            session.run(feeds)
            # After the run: sizes that it brought may have changed what XNNPACK takes.
            nodes = session.operators()
        finally:
            session.close()
        own = session.placement.provider if session.placement.provider != "xnnpack" else "builtin"
        return tuple(
            PlacedOp(
                name=n.name, op_type=n.op_type, place="XNNPACK" if n.delegated else own,
                dtype="" if n.op_type in MOVING else n.dtype, sources=(n.name,),
            )
            for n in nodes
        )  # fmt: skip


def _provider(device: str, provider: str) -> str:
    if device != "cpu":
        raise TargetUnavailableError(f"litert does not run on device '{device}' here", "it knows cpu")
    name = provider.lower() or "xnnpack"
    if name not in _RESOLVERS:
        raise TargetUnavailableError(
            f"litert has no provider '{provider}' for device 'cpu'", f"it knows {', '.join(_RESOLVERS)}"
        )
    return name


def _io(settings: Mapping[str, Any]) -> str:
    for name in settings:
        if name != "io":
            raise UsageError(f"litert has no setting '{name}'", "it knows io")
    io = settings.get("io", _IO[0])
    if io not in _IO:
        raise UsageError(f"io {io!r} is not known", f"choose {', '.join(_IO)}")
    return str(io)


def _check_delegation(path: Path, provider: str, nodes: tuple[Operator, ...], partitions: int) -> None:
    """Refuse a session of which no operator runs where it was asked to."""
    if provider == "xnnpack" and nodes and not any(n.delegated for n in nodes):
        kinds = ", ".join(sorted({n.op_type for n in nodes})[:5])
        raise TargetUnavailableError(
            f"XNNPACK took none of the {len(nodes)} operators of {path} ({kinds})",
            "ask for what runs them: cpu:litert+builtin",
        )
    if provider != "xnnpack" and partitions:
        raise TargetUnavailableError(
            f"asked for litert's {provider} kernels, a delegate took {sum(n.delegated for n in nodes)} operators of {path}",
            "this build applies a delegate by itself: ask for cpu:litert+xnnpack",
        )
