"""The size gate: how large are the shipped files?"""

from __future__ import annotations

from edgekd.gates.verdict import Decision, ErrorKind, Gate

MIB = 1 << 20


def judge_size(
    size_bytes: int,
    *,
    max_mib: float | None = None,
    max_ratio: float | None = None,
    baseline_bytes: int | None = None,
    artifact: str = "",
    target: str = "",
    against: str = "teacher",
) -> Gate:
    """Judge the size of an artifact's files, in MiB or as a ratio to the baseline's.

    Args:
        size_bytes: all files of the artifact.
        max_mib: absolute limit, MiB (2^20 bytes); or
        max_ratio: limit on size / baseline size, which needs ``baseline_bytes``.

    Returns:
        A gate without an interval: sizes are known, not sampled. At the limit is within it.
    """
    if max_ratio is None:
        against = ""
    unit, limit = ("MiB", max_mib) if max_ratio is None else ("ratio", max_ratio)

    def gate(
        decision: Decision, reason: str, estimate: float | None = None, kind: ErrorKind | None = None
    ) -> Gate:
        return Gate(
            gate="size",
            decision=decision,
            metric="size",
            against=against,
            artifact=artifact,
            target=target,
            estimate=estimate,
            limit=limit,
            unit=unit,
            method="sum of the artifact's files",
            reason=reason,
            error_kind=kind,
            detail={
                "size_bytes": size_bytes,
                **({} if baseline_bytes is None else {"baseline_bytes": baseline_bytes}),
            },
        )

    if (max_mib is None) == (max_ratio is None):
        return gate("error", "give one limit, MiB or a ratio", kind="input")
    if size_bytes <= 0:
        return gate(
            "error", f"the artifact's recorded size is {size_bytes} bytes; export it again", kind="input"
        )
    if max_ratio is not None:
        if baseline_bytes is None:
            return gate(
                "inconclusive", f"the {against}'s size is unknown: give the {against} or limit MiB instead"
            )
        if baseline_bytes <= 0:
            return gate(
                "error",
                f"the {against}'s recorded size is {baseline_bytes} bytes; export it again",
                kind="input",
            )
        ratio = size_bytes / baseline_bytes
        return gate(
            "pass" if ratio <= max_ratio else "reject",
            f"student is {ratio:.3f}x the {against}'s size (limit {max_ratio:.3f}x): "
            f"{size_bytes / MIB:.2f} and {baseline_bytes / MIB:.2f} MiB",
            ratio,
        )
    mib = size_bytes / MIB
    return gate(
        "pass" if mib <= (max_mib or 0.0) else "reject",
        f"student is {mib:.3f} MiB (limit {max_mib:g} MiB)",
        mib,
    )
