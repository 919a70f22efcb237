"""Optimisation profiles: which sizes of its dynamic inputs an engine takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.spec import TensorSpec, concrete_shape, draw_feeds, parse_shapes
from edgekd_tensorrt.plan import Ends

#: Greatest leading dimension where nothing says otherwise: as many examples as an evaluation feeds at once.
DEFAULT_BATCH = 64
_SEED = 31_000

Profile = Mapping[str, Ends]


def plan_profiles(inputs: Sequence[TensorSpec], options: Mapping[str, Any]) -> tuple[dict[str, Ends], ...]:
    """Profiles for the dynamic inputs; a model without any has one that is empty.

    Args:
        options: ``profiles`` (text, or a sequence of mappings) is taken literally. Else ``shapes``: three sizes are a
            range; one size fixes the other dimensions, the leading one then runs from 1 to 64 (or to that size), as it
            does for an input that nothing is said of.

    Raises:
        UsageError: an input that the model does not have or that is fixed, sizes that contradict it, or a dimension
            that nothing bounds.
    """
    literal = _groups(options.get("profiles"))
    dynamic = [s for s in inputs if any(isinstance(d, str) for d in s.shape)]
    if literal is not None:
        for group in literal:
            _refuse_foreign(group, inputs)
            missing = [s for s in dynamic if s.name not in group]
            if missing:
                raise UsageError(
                    f"a profile does not cover the dynamic input {missing[0]}",
                    "every profile covers every one",
                )
        return tuple({s.name: group[s.name] for s in dynamic} for group in literal)
    shapes = dict(options.get("shapes") or {})
    _refuse_foreign(shapes, inputs)
    return ({spec.name: _range(spec, shapes) for spec in dynamic},)


def _range(spec: TensorSpec, shapes: Mapping[str, tuple[tuple[int, ...], ...]]) -> Ends:
    usual = concrete_shape(spec, shapes)
    if spec.name in shapes:
        low, opt, high = shapes[spec.name]
        if low != high:
            return (low, opt, high)
    if not spec.dynamic_batch:
        return (usual, usual, usual)
    return ((1, *usual[1:]), usual, (max(DEFAULT_BATCH, usual[0]), *usual[1:]))


def _groups(given: object) -> list[dict[str, Ends]] | None:
    if given is None or given == "":
        return None
    if isinstance(given, str):
        return [
            {name: _three(ends) for name, ends in parse_shapes(group.split(",")).items()}
            for group in given.split(";")
            if group
        ]
    if isinstance(given, Sequence) and given and all(isinstance(g, Mapping) for g in given):
        return [{str(name): _three(ends) for name, ends in group.items()} for group in given]
    raise UsageError(f"profiles {given!r} is not understood", "for example profiles=x=1x8:2x8:4x8;x=8x8")


def _three(ends: Sequence[Sequence[int]]) -> Ends:
    low, opt, high = (tuple(int(n) for n in e) for e in ends)
    return (low, opt, high)


def _refuse_foreign(group: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> None:
    known = {s.name: s for s in inputs}
    for name, ends in group.items():
        spec = known.get(name)
        if spec is None:
            raise UsageError(
                f"a profile names the input '{name}', which the model does not have",
                f"inputs: {', '.join(known)}",
            )
        for sizes in ends:
            concrete_shape(spec, {name: (tuple(sizes),) * 3})


def plan_values(options: Mapping[str, Any], profiles: int) -> tuple[dict[str, Ends], ...]:
    """Values of shape tensors for every profile: ``n=1:4:8;n=16``.

    Raises:
        UsageError: not of that form, not ordered, or not as many groups as profiles.
    """
    given = options.get("values") or ""
    if not given:
        return ({},) * profiles
    groups: list[dict[str, Ends]] = []
    for text in str(given).split(";"):
        group: dict[str, Ends] = {}
        for entry in text.split(","):
            name, eq, rest = entry.partition("=")
            try:
                parts = [tuple(int(n) for n in part.split("x")) for part in rest.split(":")]
            except ValueError:
                parts = []
            low, opt, high = parts * 3 if len(parts) == 1 else parts if len(parts) == 3 else ((), (), (1,))
            same = len(low) == len(opt) == len(high)
            if not eq or not same or any(a > b or b > c for a, b, c in zip(low, opt, high, strict=True)):
                raise UsageError(
                    f"values {entry!r} is not of the form NAME=MIN[:OPT:MAX] with MIN <= OPT <= MAX",
                    "for example values=n=1:4:8",
                )
            group[name] = (low, opt, high)
        groups.append(group)
    if len(groups) != profiles:
        raise UsageError(
            f"values has {len(groups)} groups, there are {profiles} profiles", "give one per profile"
        )
    return tuple(groups)


def fitting_profile(profiles: Sequence[Profile], feeds: Mapping[str, Array]) -> int | None:
    """The profile that takes these feeds: one tuned for exactly their sizes before any that only allows them."""
    fits = [
        i
        for i, profile in enumerate(profiles)
        if all(
            name in feeds and feeds[name].ndim == len(low)
            and all(a <= n <= b for a, n, b in zip(low, feeds[name].shape, high, strict=True))
            for name, (low, _, high) in profile.items()
        )
    ]  # fmt: skip
    tuned = [i for i in fits if all(feeds[name].shape == opt for name, (_, opt, _) in profiles[i].items())]
    return next(iter((*tuned, *fits)), None)


def profile_feeds(
    inputs: Sequence[TensorSpec],
    profiles: Sequence[Profile],
    values: Sequence[Profile],
) -> Iterator[Mapping[str, Array]]:
    """Seeded feeds at the least, usual and greatest sizes of every profile, and at batch 2 where it is allowed.

    Equal arguments give equal bytes.
    """
    seen: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
    for profile, shape_values in zip(profiles, values, strict=True):
        for end in (0, 1, 2, 3):
            sized = {name: _two(ends) if end == 3 else ends[end] for name, ends in profile.items()}
            key = tuple(sorted(sized.items()))
            if key in seen:
                continue
            seen.add(key)
            drawn = draw_feeds(
                inputs,
                seed=_SEED + len(seen),
                shapes={name: (shape,) * 3 for name, shape in sized.items()},
            )
            for name, ends in shape_values.items():
                drawn[name] = np.array(ends[min(end, 2)], drawn[name].dtype).reshape(drawn[name].shape)
            yield drawn


def _two(ends: Ends) -> tuple[int, ...]:
    low, opt, high = ends
    return (min(max(2, low[0]), high[0]), *opt[1:]) if low else opt
