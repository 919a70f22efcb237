"""What a profile requires is read and compared; nothing is set."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from edgekd.board.requirements import check_requirements, read_state
from edgekd.errors import TargetUnavailableError

_GOVERNOR = {
    "what": "the governor performance",
    "read": "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    "expect": "^performance$",
    "fix": "sudo cpupower frequency-set -g performance",
}


def _profile(*requires: dict[str, str]) -> dict[str, Any]:
    return {"name": "mine", "arch": platform.machine(), "requires": list(requires)}


def _governors(root: Path, *governors: str) -> Path:
    for n, governor in enumerate(governors):
        folder = root / f"sys/devices/system/cpu/cpu{n}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    return root


def test_every_file_of_a_pattern_counts(tmp_path: Path) -> None:
    good = _governors(tmp_path / "good", "performance", "performance")
    assert check_requirements(_profile(_GOVERNOR), good) == [
        {"what": _GOVERNOR["what"], "read": _GOVERNOR["read"], "found": ["performance"]}
    ]
    bad = _governors(tmp_path / "bad", "performance", "schedutil")
    before = sorted((p, p.read_text()) for p in bad.rglob("*") if p.is_file())
    with pytest.raises(TargetUnavailableError) as e:
        check_requirements(_profile(_GOVERNOR), bad)
    assert "the profile mine requires the governor performance" in e.value.what
    assert e.value.what.endswith("says 'schedutil'")
    assert e.value.fix == _GOVERNOR["fix"]
    assert sorted((p, p.read_text()) for p in bad.rglob("*") if p.is_file()) == before


def test_what_cannot_be_read_does_not_hold(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailableError, match=r"and there is no /sys/devices.*; sudo cpupower"):
        check_requirements(_profile(_GOVERNOR), tmp_path)


def test_a_command_is_run_without_a_shell() -> None:
    assert read_state("echo 'NV Power Mode: MAXN' > file") == ["NV Power Mode: MAXN > file"]
    mode = {"what": "MAXN", "read": "echo NV Power Mode: 15W", "expect": "MAXN", "fix": "sudo nvpmodel -m 0"}
    with pytest.raises(TargetUnavailableError, match=r"says 'NV Power Mode: 15W'; sudo nvpmodel -m 0"):
        check_requirements(_profile(mode))
    for command, why in (("nosuch-program -q", "cannot be run"), ("false", "ended with 1")):
        with pytest.raises(TargetUnavailableError, match=why):
            check_requirements(_profile({**mode, "read": command}))


def test_the_profile_of_another_architecture() -> None:
    with pytest.raises(TargetUnavailableError, match=r"the profile mine is of sparc"):
        check_requirements({**_profile(), "arch": "sparc"})
