"""How large each varying size may become: ExecuTorch plans memory for the greatest, so every one needs an end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekd.errors import UsageError
from edgekd.parity import Shapes
from edgekd.spec import Dim, TensorSpec, concrete_shape

#: What a batch may grow to where nothing says it: what ``edgekd eval`` feeds at once.
DEFAULT_MAX_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of an export.

    Attributes:
        inputs: with a number in place of each size that cannot vary.
        limits: name of a varying size -> its smallest and greatest value.
        fixed: name -> value of the sizes that were named and do not vary.
        usual: the shapes to check at: least, usual and greatest of every input with varying sizes.
    """

    inputs: tuple[TensorSpec, ...]
    limits: Mapping[str, tuple[int, int]]
    fixed: Mapping[str, int]
    usual: Shapes

    def name(self, dims: Sequence[Dim]) -> tuple[Dim, ...]:
        """``dims`` with the fixed sizes filled in."""
        return tuple(self.fixed.get(d, d) if isinstance(d, str) else d for d in dims)


def plan_sizes(inputs: Sequence[TensorSpec], shapes: Shapes, max_batch: int | None) -> Sizes:
    """The range of every symbolic size of ``inputs``.

    ``shapes`` gives least, usual and greatest. Where one shape is given, its sizes are fixed, except the leading
    one, which is the batch and goes from 1 to ``max_batch`` (or to the size given, if that is greater).

    Raises:
        UsageError: an input that does not exist, a size that nothing bounds, or ranges that contradict each other.
    """
    if max_batch is not None and max_batch < 1:
        raise UsageError(f"max_batch is {max_batch}", "ask for 1 or more")
    for name in shapes:
        if name not in {s.name for s in inputs}:
            raise UsageError(
                f"--shape {name} names no input", f"the model has {', '.join(s.name for s in inputs)}"
            )
    ranges: dict[str, tuple[int, int, int]] = {}
    for spec in inputs:
        given = shapes.get(spec.name)
        usual = concrete_shape(spec, shapes)
        for end in given or ():
            concrete_shape(spec, {spec.name: (end,) * 3})  # refuses a size that the model fixes otherwise
        for axis, dim in enumerate(spec.shape):
            if not isinstance(dim, str):
                continue
            here = _range(axis, given, usual, max_batch)
            low, opt, high = ranges.get(dim, here)
            ranges[dim] = (max(low, here[0]), min(opt, here[1]), min(high, here[2]))
            if ranges[dim][0] > ranges[dim][2]:
                raise UsageError(
                    f"the inputs give '{dim}' the ranges {low} to {high} and {here[0]} to {here[2]}",
                    "give every input the same range for it with --shape",
                )
    fixed = {d: low for d, (low, _, high) in ranges.items() if low == high}
    limits = {d: (low, high) for d, (low, _, high) in ranges.items() if low != high}
    checked: dict[str, tuple[tuple[int, ...], ...]] = {}
    for spec in inputs:
        if any(d in limits for d in spec.shape):
            checked[spec.name] = tuple(
                tuple(d if isinstance(d, int) else max(ranges[d][0], ranges[d][end]) for d in spec.shape)
                for end in (0, 1, 2)
            )
    sizes = Sizes(inputs=tuple(inputs), limits=limits, fixed=fixed, usual=checked)
    return replace(sizes, inputs=tuple(replace(s, shape=sizes.name(s.shape)) for s in inputs))


def _range(
    axis: int, given: tuple[tuple[int, ...], ...] | None, usual: tuple[int, ...], max_batch: int | None
) -> tuple[int, int, int]:
    if given is not None and (axis > 0 or given[0] != given[2]):
        return given[0][axis], given[1][axis], given[2][axis]
    # concrete_shape has refused any unbounded size but a leading one.
    high = max_batch if max_batch is not None else max(DEFAULT_MAX_BATCH, usual[axis])
    return 1, min(usual[axis], high), high
