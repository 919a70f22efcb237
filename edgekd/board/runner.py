"""The runner on a board: takes models, runs the whole protocol over there, and hands the raw samples back.

One message at a time, as :mod:`edgekd.child.wire` frames them: ``{"do": name, "args": …}`` is answered with ``{"ok":
…}`` or ``{"error": …}``; before that it may say ``{"progress": …}`` and ask for inputs with ``{"feeds": …}``. Needs
numpy and one runtime, Python 3.10.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgekd.artifact import Artifact, FileRecord
from edgekd.board.line import Line
from edgekd.board.manners import PART_BYTES
from edgekd.board.requirements import check_requirements
from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import (
    ChildError,
    DataError,
    EdgeKDError,
    ModelError,
    StorageError,
    TargetUnavailableError,
    UsageError,
)
from edgekd.evidence.measurement import Measurement, save_measurement
from edgekd.files import storage_error
from edgekd.gates.timing import TimingLimits
from edgekd.measure import Arm, Protocol, Scenario, Setting, ledger, measure_scenario
from edgekd.measure.arm import BUILD_OF
from edgekd.measure.meters import Meter, find_meters
from edgekd.measure.resources import Inspection, inspect_resources
from edgekd.measure.run import Entry
from edgekd.spec import TensorSpec
from edgekd.stages import tool_versions
from edgekd.statistics.binomial import most_over
from edgekd.target import Target, check_threads

Reply = tuple[dict[str, Any], list[Array]]

#: Left free on the disk beside what is sent.
_SPARE_BYTES = 64 << 20


class _Feeds(dict[str, Array]):
    """Inputs from the host, with what the evidence says of them."""

    record: Mapping[str, Any]


class _AbortedError(DataError):
    """The host could not give the inputs; it knows why."""


class Runner:
    """One session on a board."""

    def __init__(self, folder: Path, line: Line) -> None:
        self._folder, self._line = folder, line
        self._blobs, self._results = folder / "blobs", folder / "results"
        for made in (self._blobs, self._results):
            made.mkdir()
        self._artifacts: dict[str, Artifact] = {}
        self._sessions: dict[int, ChildProcess] = {}
        self._meters: tuple[list[Meter], dict[str, str]] = ([], {})
        self._target = Target(device="cpu", runtime="")
        self._runtime_path = ""
        self.operations: Mapping[str, Callable[[dict[str, Any], list[Array]], Reply]] = {
            "hello": self.hello, "has": self.has, "put": self.put, "artifact": self.artifact, "open": self.open,
            "run": self.run, "close": self.close, "measure": self.measure, "meters": self.meters,
            "inspect": self.inspect, "get": self.get, "place": self.place,
        }  # fmt: skip

    def hello(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """What this board is: machine, versions, and the device that the runtime has here.

        Raises:
            TargetUnavailableError: the runtime does not run here, or the profile's requirements do not hold.
        """
        runtime, provider = args["runtime"], args["provider"]
        with ChildProcess(f"looking for {args['name']}") as child:
            found, _ = child.request(
                "edgekd.board.operations:find_device", {"runtime": runtime, "provider": provider}
            )
        if not found["device"]:
            what, _, fix = found["reason"].partition("; ")
            raise TargetUnavailableError(what, fix)
        required = check_requirements(args["profile"]) if args["profile"] else []
        self._target = Target(device=found["device"], runtime=args["name"], provider=provider)
        self._runtime_path = runtime
        return {
            "machine": ledger.machine(),
            "device": found["device"],
            "tools": tool_versions(*args["packages"]),
            "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "required": required,
        }, []

    def has(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """Which of these files have not arrived in this session yet."""
        return {"missing": [s for s in args["sha256"] if not self._blob(s).is_file()]}, []

    def _blob(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise UsageError(f"{sha256!r} is not a SHA-256")
        return self._blobs / sha256

    def put(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """One part of a file; the last one is followed by a check of the whole.

        Raises:
            StorageError: no room, or the file arrived damaged.
        """
        final, size, offset = self._blob(args["sha256"]), int(args["size"]), int(args["offset"])
        partial = final.with_suffix(".part")
        if offset == 0:
            free = shutil.disk_usage(self._blobs).free
            if free < size + _SPARE_BYTES:
                raise StorageError(
                    f"{self._folder.parent} has {free / 2**20:.0f} MiB free, a file of {size / 2**20:.0f} MiB was to "
                    "be put there", "free some, or name another folder in EDGEKD_BOARD_TMPDIR",
                )  # fmt: skip
        try:
            with partial.open("r+b" if offset else "wb") as f:
                f.seek(offset)
                f.write(arrays[0].tobytes())
            if offset + arrays[0].nbytes < size:
                return {}, []
            with partial.open("rb") as f:
                digest = hashlib.sha256()
                while part := f.read(PART_BYTES):
                    digest.update(part)
        except OSError as e:
            raise storage_error(e, partial) from e
        if digest.hexdigest() != args["sha256"]:
            partial.unlink()
            raise StorageError(
                f"a file of {size} bytes arrived damaged", "look at the board's memory and disk"
            )
        partial.replace(final)
        return {}, []

    def artifact(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """Lay an artifact out of files that have arrived.

        Raises:
            ModelError: a file's name leaves the folder.
        """
        digest = args["digest"]
        folder = self._folder / "artifacts" / hashlib.sha256(digest.encode()).hexdigest()
        for file in args["files"]:
            pure = PurePosixPath(file["path"])
            if pure.is_absolute() or ".." in pure.parts:
                raise ModelError(
                    f"the artifact names the file {file['path']!r} outside its folder", "do not use it"
                )
            path = folder / pure
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                try:
                    os.link(self._blob(file["sha256"]), path)
                except OSError:  # a file system without hard links
                    shutil.copyfile(self._blob(file["sha256"]), path)
        self._artifacts[digest] = Artifact(
            folder=folder, entry=args["entry"], format=args["format"], dtype=args["dtype"],
            files=tuple(FileRecord(**f) for f in args["files"]),
            inputs=tuple(TensorSpec.from_json(s) for s in args["inputs"]),
            outputs=tuple(TensorSpec.from_json(s) for s in args["outputs"]),
            lineage={BUILD_OF: args[BUILD_OF]} if args.get(BUILD_OF) else {},
        )  # fmt: skip
        return {}, []

    def open(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """Open a model in a child that stays; see :meth:`run`."""
        check_threads(args["threads"])
        artifact = self._artifacts[args["artifact"]]
        child = ChildProcess(
            f"running {args['label']} on the board",
            Limits(timeout_s=args["timeout_s"], threads=args["threads"]),
        )
        try:
            opened, _ = child.request(
                "edgekd.board.operations:open_for_link",
                {
                    "runtime": self._runtime_path, "path": str(artifact.path), "device": self._target.device,
                    "provider": self._target.provider, "threads": args["threads"], "settings": args["settings"],
                },
            )  # fmt: skip
        except BaseException:
            child.close()
            raise
        number = len(self._sessions)
        self._sessions[number] = child
        return {"session": number, **opened}, []

    def run(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """One call of an opened model."""
        child = self._sessions[args["session"]]
        return child.request("edgekd.child.sessions:run_once", {"feeds": args["feeds"]}, arrays)

    def place(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """Where the operators of an artifact run, as :func:`edgekd.measure.placing.place_ops` tells it in a child."""
        check_threads(args["threads"])
        limits = Limits.on(self._target.device, timeout_s=args["timeout_s"], threads=args["threads"])
        with ChildProcess(f"placing {args['label']} on the board", limits) as child:
            return child.request(
                "edgekd.measure.placing:place_ops",
                {
                    "runtime": self._runtime_path, "path": str(self._artifacts[args["artifact"]].path),
                    "device": self._target.device, "provider": self._target.provider, "threads": args["threads"],
                    "settings": args["settings"], "feeds": args["feeds"],
                },
                arrays,
            )  # fmt: skip

    def close(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """End an opened model's child."""
        self._sessions[args["session"]].close()
        return {}, []

    def close_all(self) -> None:
        """End every child."""
        for child in self._sessions.values():
            child.close()

    def _setting(self, args: Mapping[str, Any]) -> Setting:
        formats = {a.format for a in self._artifacts.values()}
        return Setting(target=self._target, runtime_paths=dict.fromkeys(formats, self._runtime_path), **args)

    def _feeds(self, label: str, count: int) -> _Feeds:
        """Ask the host for inputs of so many examples."""
        self._line.say({"feeds": {"label": label, "count": count}})
        answer, arrays = self._line.next()
        if "names" not in answer:
            raise _AbortedError("the host gave no inputs")
        # Copies: what came in a frame cannot be written to, and shares the frame's memory.
        feeds = _Feeds(zip(answer["names"], (np.array(a) for a in arrays), strict=True))
        feeds.record = answer["record"]
        return feeds

    def measure(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """The whole protocol of METHOD 1, here; the evidence waits to be fetched with :meth:`get`."""
        scenario, protocol = Scenario(**args["scenario"]), Protocol(**args["protocol"])
        limits = {label: _limits(x) for label, x in (args["limits"] or {}).items()}
        tuned = args["tuned"]
        feeds = functools.lru_cache(maxsize=2)(self._feeds)

        def entry(label: str, digest: str, settings: Mapping[str, Any]) -> Entry:
            return label, replace(self._artifacts[digest], settings=settings), functools.partial(feeds, label)

        def stop(measurement: Measurement) -> bool:
            return all(
                limits[record["name"]].should_stop(measurement, arm)
                for arm, record in measurement.arms.items()
                if record.get("name") in limits
            )

        def tune(arm: Arm, label: str) -> Arm:
            return replace(arm, **tuned[label]) if label in tuned else arm

        entries = [entry(*e) for e in args["entries"]]
        made = measure_scenario(
            scenario, entries[0], entries[1:], self._setting(args["setting"]), record=lambda f: f.record,  # type: ignore[attr-defined]
            most_over=lambda n: most_over(n, scenario.level), stop=stop if args["limits"] is not None else None,
            protocol=protocol, progress=lambda done, most: self._line.say({"progress": [done, most]}), tune=tune,
        )  # fmt: skip
        path = self._results / "measurement.json"
        save_measurement(made, path)
        return {"files": [path.name, path.with_suffix(".npz").name]}, []

    def meters(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """Find the energy meters of this board, for :meth:`inspect`.

        Raises:
            UsageError, TargetUnavailableError: as :func:`edgekd.measure.meters.find_meters`.
        """
        self._meters = find_meters(args["asked"], self._target.device)
        return {"found": [m.name for m in self._meters[0]], "absent": self._meters[1]}, []

    def inspect(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """Look at every arm once more, as :func:`edgekd.measure.resources.inspect_resources` does."""
        arms = [
            Arm(
                name=a["name"], label=a["label"], artifact=replace(self._artifacts[a["artifact"]], settings=a["settings"]),
                feeds=self._feeds(a["label"], a["batch"]), batch=a["batch"], threads=a["threads"],
                settings=a["settings"], calls_per_query=a["calls_per_query"],
            )
            for a in args["arms"]
        ]  # fmt: skip
        found = inspect_resources(
            arms, self._setting(args["setting"]), inspection=Inspection(**args["inspection"]), meters=self._meters[0],
            meters_absent=dict(self._meters[1]), nodes=lambda arm: args["nodes"].get(arm.name),
            progress=lambda label: self._line.say({"progress": label}),
        )  # fmt: skip
        return {"arms": found}, []

    def get(self, args: dict[str, Any], arrays: list[Array]) -> Reply:
        """One part of a result; empty at its end."""
        path = self._results / Path(args["name"]).name
        with path.open("rb") as f:
            f.seek(args["offset"])
            return {}, [np.frombuffer(f.read(PART_BYTES), np.uint8)]


def _limits(value: Mapping[str, Any]) -> TimingLimits:
    """What :meth:`TimingLimits.to_json` wrote."""
    return TimingLimits(
        max_ratio=value["max_ratio"],
        absolute=tuple(value["absolute"]) if value["absolute"] else None,
        tail=tuple(value["tail"]) if value["tail"] else None,
    )


def error_json(error: BaseException) -> dict[str, Any]:
    """An error as the host raises it again."""
    if isinstance(error, EdgeKDError):
        more = {"outcome": error.outcome} if isinstance(error, ChildError) else {}
        return {"class": type(error).__name__, "what": error.what, "fix": error.fix, **more}
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return {"class": "InfrastructureError", "what": f"the runner failed ({text})", "fix": "report it"}


def serve(folder: str, read_fd: int, write_fd: int) -> None:
    """Answer until the host says goodbye; leaves by SystemExit when it is gone (see :class:`Line`)."""
    line = Line(Path(folder), read_fd, write_fd)
    runner = Runner(Path(folder), line)
    try:
        while True:
            message, arrays = line.next()
            if message["do"] == "goodbye":
                line.end()
                return
            try:
                reply, made = runner.operations[message["do"]](message["args"], arrays)
                answer: dict[str, Any] = {"ok": reply}
            except Exception as e:  # noqa: BLE001 - told to the host, which raises it
                answer, made = {"error": error_json(e)}, []
            line.say(answer, made)
    except BrokenPipeError:
        return  # the host is gone; the caller removes the folder
    finally:
        runner.close_all()
