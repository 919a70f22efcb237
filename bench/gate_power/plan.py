"""Which effect comes next: every effect spread evenly over the study, in random order, so that any part is balanced."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise

from gate_power.models import EFFECTS

#: Trials per effect; METHOD, section 5, asks 200 nulls and 30 of each for long calls.
FULL: Mapping[str, Mapping[str, int]] = {
    "short": {"null": 200, "3": 60, "4": 200, "5": 60, "10": 40},
    "long": {"null": 30, "3": 0, "4": 30, "5": 0, "10": 0},
}
SHORT: Mapping[str, Mapping[str, int]] = {
    "short": {"null": 9, "3": 2, "4": 9, "5": 2, "10": 2},
    "long": {"null": 2, "3": 0, "4": 2, "5": 0, "10": 0},
}


def parse_trials(text: str) -> dict[str, int]:
    """Read ``null=200,4=200``; effects that are not named get none.

    >>> parse_trials("null=2,4=1")
    {'null': 2, '3': 0, '4': 1, '5': 0, '10': 0}

    Raises:
        ValueError: an unknown effect or a number that is none.
    """
    counts = dict.fromkeys(EFFECTS, 0)
    for part in text.split(","):
        effect, _, number = part.partition("=")
        if effect not in counts or not number.isdigit():
            raise ValueError(f"{part!r} is not EFFECT=TRIALS with an effect of {', '.join(counts)}")
        counts[effect] = int(number)
    return counts


def schedule(counts: Mapping[str, int], seed: int) -> list[str]:
    """Effects in the order they are tried: the j-th of n trials of an effect falls at random into [j/n, (j+1)/n)."""
    rng = random.Random(seed)
    places = [((j + rng.random()) / n, effect) for effect, n in counts.items() for j in range(n)]
    return [effect for _, effect in sorted(places)]


def schedule_together(counts: Mapping[str, int], seed: int) -> list[tuple[str, ...]]:
    """Effects by measurement where one holds several candidates: as many as the commonest effect has trials.

    No measurement holds an effect twice: the j-th of n falls at random into the j-th of n equal parts.
    """
    rng = random.Random(seed)
    groups = max(counts.values())
    made: list[list[str]] = [[] for _ in range(groups)]
    for effect, n in counts.items():
        edges = [-(-groups * j // n) for j in range(n + 1)] if n else []
        for first, end in pairwise(edges):
            made[rng.randrange(first, end)].append(effect)
    return [tuple(effects) for effects in made if effects]
