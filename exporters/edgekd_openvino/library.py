"""The door to OpenVINO: without its telemetry, without its logs, and with its messages on one line.

Needs openvino only.
"""

from __future__ import annotations

import functools
import re
import sys
from typing import Any

from edgekd.lazy import require

_TELEMETRY = "openvino_telemetry"
#: What a ``Telemetry`` object is asked to do by OpenVINO's converter and by NNCF.
_CALLS = ("init", "start_session", "end_session", "send_event", "send_error", "send_stack_trace")

#: Where in OpenVINO's sources a message was made; nobody who reads the message wants to know.
_ORIGIN = re.compile(
    r"Exception from \S+?:\d+:|Check '.*?' failed at \S+?:\d+:|FrontEnd API failed with \w+:|"
    r"While validating node .*? with friendly_name '.*?':"
)


def silence_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting to their makers: importing them would, and leave an id in the home folder.

    Both go on without the package where it cannot be imported. Where somebody has imported it already, its calls do
    nothing from now on, in this whole process.
    """
    found = sys.modules.get(_TELEMETRY)
    if found is None:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # "import" raises ImportError on None
        return
    for name in _CALLS:
        setattr(found.Telemetry, name, _say_nothing)


def _say_nothing(*args: object, **kwargs: object) -> None:
    return None


def openvino(purpose: str) -> Any:
    """The package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    silence_telemetry()
    return require("openvino", extra="openvino", purpose=purpose)


@functools.lru_cache(maxsize=1)
def core() -> Any:
    """OpenVINO's registry of devices, one per process.

    Raises:
        MissingDependencyError: openvino is not installed.
    """
    return openvino("running OpenVINO models").Core()


def version(ov: Any) -> str:
    """``2026.4.1``: the build number behind it goes to a placement's details."""
    return str(ov.__version__).partition("-")[0]


def errors() -> tuple[type[BaseException], ...]:
    """What OpenVINO raises: plain exceptions of Python, and those of its frontends, which share no base class."""
    frontend = require("openvino.frontend", extra="openvino", purpose="reading models with OpenVINO")
    names = ("GeneralFailure", "InitializationFailure", "NotImplementedFailure", "OpConversionFailure",
             "OpValidationFailure")  # fmt: skip
    return (RuntimeError, ValueError, *(getattr(frontend, n) for n in names if hasattr(frontend, n)))


def reason(error: BaseException, limit: int = 400) -> str:
    """An OpenVINO message on one line, without the places in its sources.

    >>> reason(RuntimeError("Exception from src/a.cpp:84:\\nCheck 'p' failed at src/b.cpp:9:\\nIncorrect weights!\\n"))
    'Incorrect weights!'
    """
    text = " ".join(_ORIGIN.sub(" ", " ".join(str(error).split())).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
