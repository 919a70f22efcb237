"""The error tree: exit codes, one-line text, and what survives the pipe between processes."""

from __future__ import annotations

import pickle

import pytest

from edgekd import errors

_CODES = {
    errors.EdgeKDError: 4,
    errors.InputError: 2,
    errors.UsageError: 2,
    errors.RecipeError: 2,
    errors.DataError: 2,
    errors.ModelError: 2,
    errors.DamagedFileError: 2,
    errors.EvidenceError: 2,
    errors.InfrastructureError: 4,
    errors.MissingDependencyError: 4,
    errors.TargetUnavailableError: 4,
    errors.StorageError: 4,
    errors.ChildError: 4,
    errors.PolicyError: 5,
}


@pytest.mark.parametrize(("kind", "code"), _CODES.items(), ids=lambda v: getattr(v, "__name__", str(v)))
def test_exit_code_of_every_error(kind: type[errors.EdgeKDError], code: int) -> None:
    assert kind("broken").exit_code == code


def test_no_error_is_missing_from_this_table() -> None:
    tree = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.EdgeKDError)}
    assert tree - set(_CODES) == {errors.NotReleasableError}


def test_not_releasable_has_the_verdicts_exit_code() -> None:
    assert errors.NotReleasableError("rejected").exit_code == 1
    assert pickle.loads(pickle.dumps(errors.NotReleasableError("a", "b", 3))).exit_code == 3


def test_text_is_what_then_fix() -> None:
    assert str(errors.DataError("no rows", "give some")) == "no rows; give some"
    assert str(errors.DataError("no rows")) == "no rows"


def test_errors_survive_pickling_with_all_they_carry() -> None:
    plain = pickle.loads(pickle.dumps(errors.ModelError("damaged", "make it again")))
    assert type(plain) is errors.ModelError
    assert (plain.what, plain.fix) == ("damaged", "make it again")
    child = pickle.loads(pickle.dumps(errors.ChildError("gone", "look", "signal 9")))
    assert (child.what, child.fix, child.outcome) == ("gone", "look", "signal 9")


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 3], 3),
        ([3, 1], 1),
        ([1, 2, 3], 2),
        ([2, 4, 0], 4),
        ([4, 5, 1], 5),
        ([0, 137], 4),
        ([0, 130], 4),
        ([99], 4),
        ([99, 5], 5),
    ],
)
def test_worst_exit(codes: list[int], worst: int) -> None:
    assert errors.worst_exit(codes) == worst


def test_worst_exit_leaves_its_argument_alone() -> None:
    codes = [0, 99]
    errors.worst_exit(codes)
    assert codes == [0, 99]
