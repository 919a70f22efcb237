"""What a device cannot compute is refused, by its name and with what to use instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.errors import TargetUnavailableError
from edgekd.quantize.hardware import CPU_FEATURES, DeviceFacts, refuse_precision, this_cpu

T4, A100, L4, H100 = (
    DeviceFacts(name=name, capability=capability)
    for name, capability in (
        ("NVIDIA T4", (7, 5)),
        ("NVIDIA A100", (8, 0)),
        ("NVIDIA L4", (8, 9)),
        ("NVIDIA H100", (9, 0)),
    )
)


@pytest.mark.parametrize(
    ("precision", "device", "words"),
    [
        ("float8e4m3fn", A100, r"NVIDIA A100 \(compute capability 8\.0\) has no float8e4m3fn; that takes 8\.9; use int8"),
        ("float8e4m3fn", T4, r"compute capability 7\.5.*takes 8\.9"),
        ("bfloat16", T4, r"NVIDIA T4 .* has no bfloat16; that takes 8\.0; use float16 or float32, or another GPU"),
        ("tf32", T4, r"has no tf32"),
    ],
)  # fmt: skip
def test_an_older_gpu(precision: str, device: DeviceFacts, words: str) -> None:
    with pytest.raises(TargetUnavailableError, match=words) as caught:
        refuse_precision(precision, device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", [L4, H100])
@pytest.mark.parametrize("precision", ["float8e4m3fn", "bfloat16", "float16", "int8", "float32", "int4"])
def test_a_gpu_that_has_it(precision: str, device: DeviceFacts) -> None:
    refuse_precision(precision, device)


def _cpu(tmp_path: Path, *cores: str, name: str = "Test CPU @ 2 GHz") -> DeviceFacts:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "\n\n".join(f"processor\t: {i}\nmodel name\t: {name}\nflags\t\t: {c}" for i, c in enumerate(cores))
    )
    return this_cpu(path)


@pytest.mark.parametrize(
    ("flags", "precision", "refused"),
    [
        ("fpu avx2 avx512f", "bfloat16", True),
        ("fpu avx512_bf16", "bfloat16", False),
        ("amx_tile amx_bf16", "bfloat16", False),
        ("fp asimd bf16", "bfloat16", False),
        ("fpu avx2 f16c", "float16", True),  # f16c only converts
        ("fp asimd asimdhp", "float16", False),
        ("avx512_bf16 amx_int8", "float8e4m3fn", True),
        ("fpu", "int8", False),
        ("fpu", "float32", False),
    ],
)
def test_processors_by_their_flags(tmp_path: Path, flags: str, precision: str, refused: bool) -> None:
    device = _cpu(tmp_path, flags)
    if not refused:
        refuse_precision(precision, device)
        return
    with pytest.raises(
        TargetUnavailableError, match=f"Test CPU @ 2 GHz has no instructions for {precision}"
    ) as caught:
        refuse_precision(precision, device)
    assert all(name in str(caught.value) for name in CPU_FEATURES[precision])
    assert "; use " in str(caught.value)


def test_what_one_core_lacks_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailableError):
        refuse_precision("bfloat16", _cpu(tmp_path, "avx512_bf16 avx2", "avx2"))


def test_what_is_not_known_refuses_nothing(tmp_path: Path) -> None:
    unknown = this_cpu(tmp_path / "missing")
    assert unknown.features is None
    for precision in ("bfloat16", "float16", "float8e4m3fn"):
        refuse_precision(precision, unknown)
