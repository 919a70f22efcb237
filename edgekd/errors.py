"""The error tree. Every error says what happened, with the value, and what to do about it.

::

    EdgeKDError                    exit 4
    ├── InputError                 exit 2   wrong usage, recipe, model, data or evidence
    │   ├── UsageError                      the command line
    │   ├── RecipeError                     a recipe or policy file
    │   ├── DataError                       data sets, feeds, labels, predictions
    │   ├── ModelError                      model files and artifacts
    │   │   └── DamagedFileError            cut off, or not what its name says
    │   └── EvidenceError                   stored evaluations, measurements, verdicts
    ├── InfrastructureError        exit 4   the machine, not the model
    │   ├── MissingDependencyError          an extra that is not installed
    │   ├── TargetUnavailableError          a target that is not on this machine
    │   ├── StorageError                    disk full, read-only, I/O error
    │   └── ChildError                      a measuring child: crash, hang, out of memory, bad output
    ├── NotReleasableError         exit as the verdict's: 1 rejected, 3 inconclusive, 2, 4 or 5 an error
    └── PolicyError                exit 5   refused by file safety, provenance or `verify`

Exit codes are METHOD's: 0 pass, 1 rejected, 2 input, 3 inconclusive, 4 infrastructure, 5 policy,
130 interrupted.
"""

from __future__ import annotations

EXIT_PASS = 0
EXIT_REJECT = 1
EXIT_INPUT = 2
EXIT_INCONCLUSIVE = 3
EXIT_INFRASTRUCTURE = 4
EXIT_POLICY = 5
EXIT_INTERRUPTED = 130

#: Where several apply, the first of these wins.
EXIT_PRECEDENCE = (
    EXIT_POLICY,
    EXIT_INFRASTRUCTURE,
    EXIT_INPUT,
    EXIT_REJECT,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
)


class EdgeKDError(Exception):
    """Base of every error that EdgeKD raises on purpose.

    Args:
        what: what happened, with the value that caused it and what was expected.
        fix: what the user can do next; empty where ``what`` says it all.
    """

    exit_code: int = EXIT_INFRASTRUCTURE
    kind: str = "infrastructure"

    def __init__(self, what: str, fix: str = "") -> None:
        self.what = what
        self.fix = fix
        super().__init__(f"{what}; {fix}" if fix else what)

    def __reduce__(self) -> tuple[type[EdgeKDError], tuple[str, str]]:
        return type(self), (self.what, self.fix)


class InputError(EdgeKDError):
    """What the user gave cannot be used."""

    exit_code = EXIT_INPUT
    kind = "input"


class UsageError(InputError):
    """The command line is wrong."""


class RecipeError(InputError):
    """A recipe or policy file is wrong; the message names file, line and key."""


class DataError(InputError):
    """A data set, feed, label or prediction is wrong."""


class ModelError(InputError):
    """A model file or artifact cannot be read, converted or run as asked."""


class DamagedFileError(ModelError):
    """A file from outside that is cut off, or is not of its format.

    Attributes:
        rule: which rule of :data:`edgekd.inspect.RULES` said so.
    """

    def __init__(self, what: str, fix: str = "", rule: str = "") -> None:
        super().__init__(what, fix)
        self.rule = rule

    def __reduce__(self) -> tuple[type[EdgeKDError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.what, self.fix, self.rule)


class EvidenceError(InputError):
    """Stored evidence is missing, damaged or contradicts itself."""


class InfrastructureError(EdgeKDError):
    """The machine failed, not the model."""


class MissingDependencyError(InfrastructureError):
    """A package that this step needs is not installed."""


class TargetUnavailableError(InfrastructureError):
    """A device or runtime is known but not usable on this machine."""


class StorageError(InfrastructureError):
    """A write failed: disk full, read-only file system, I/O error."""


class ChildError(InfrastructureError):
    """A child process did not deliver.

    Attributes:
        outcome: ``time-out``, ``out of memory``, ``signal N``, ``bad output`` or ``exit N``.
    """

    def __init__(self, what: str, fix: str = "", outcome: str = "") -> None:
        super().__init__(what, fix)
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[EdgeKDError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.what, self.fix, self.outcome)


class PolicyError(EdgeKDError):
    """Refused by a file-safety or provenance rule, or a bundle that fails ``verify``.

    Attributes:
        rule: which rule, by its name in the docs (``external-data-link``); empty where there is only one.
    """

    exit_code = EXIT_POLICY
    kind = "policy"

    def __init__(self, what: str, fix: str = "", rule: str = "") -> None:
        super().__init__(what, fix)
        self.rule = rule

    def __reduce__(self) -> tuple[type[EdgeKDError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.what, self.fix, self.rule)


class NotReleasableError(EdgeKDError):
    """A run that did not pass was asked to be released.

    Args:
        code: the exit code of its verdict.
    """

    kind = "verdict"

    def __init__(self, what: str, fix: str = "", code: int = EXIT_REJECT) -> None:
        super().__init__(what, fix)
        self.exit_code = code

    def __reduce__(self) -> tuple[type[EdgeKDError], tuple[str, str, int]]:  # type: ignore[override]
        return type(self), (self.what, self.fix, self.exit_code)


def worst_exit(codes: list[int]) -> int:
    """The exit code that wins where several apply (5 > 4 > 2 > 1 > 3 > 0).

    >>> worst_exit([0, 3, 1])
    1
    """
    if any(code not in EXIT_PRECEDENCE for code in codes):
        codes = [*codes, EXIT_INFRASTRUCTURE]  # a code that nobody defined must not read as a pass
    return next((code for code in EXIT_PRECEDENCE if code in codes), EXIT_PASS)
