"""One loss of a weighted sum: which, how much, and with what settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.errors import UsageError

#: Loss -> its settings and their usual values. ``relation``: the weights of Park et al. 2019, section 4.
_SETTINGS: Mapping[str, Mapping[str, float]] = {
    "labels": {},
    "logits": {"temperature": 4.0},
    "dist": {"beta": 1.0, "gamma": 1.0, "temperature": 1.0},
    "feature": {},
    "attention": {},
    "relation": {"distance": 25.0, "angle": 50.0},
}
LOSSES = tuple(_SETTINGS)
#: Those that compare what layers inside the networks make.
PAIRED = ("feature", "attention", "relation")
#: Those that look at the answers; without one of them nothing trains the last layer.
_ANSWERING = ("labels", "logits", "dist")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """One term; :func:`loss_term` makes it and fills in the usual settings.

    Attributes:
        loss: one of :data:`LOSSES`.
        weight: its factor, > 0.
        temperature, beta, gamma, distance, angle: settings of the losses that have them, else None.
        pairs: (module of the student, module of the teacher), by name, for the losses of :data:`PAIRED`.
    """

    loss: str
    weight: float = 1.0
    temperature: float | None = None
    beta: float | None = None
    gamma: float | None = None
    distance: float | None = None
    angle: float | None = None
    pairs: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the settings that this loss has not."""
        settings = {k: getattr(self, k) for k in _SETTINGS[self.loss]}
        pairs = {"pairs": [{"student": s, "teacher": t} for s, t in self.pairs]} if self.pairs else {}
        return {"loss": self.loss, "weight": self.weight, **settings, **pairs}


def loss_term(
    loss: str, *, weight: float = 1.0, pairs: Sequence[tuple[str, str]] = (), **settings: float | None
) -> LossTerm:
    """A term with the usual settings where none are given.

    Raises:
        UsageError: an unknown loss, a setting or pairs that it does not take, or pairs that it needs and has not.
    """
    if loss not in _SETTINGS:
        raise UsageError(f"there is no loss '{loss}'", f"choose one of {', '.join(LOSSES)}")
    known = _SETTINGS[loss]
    given = {k: float(v) for k, v in settings.items() if v is not None}
    takes = ", ".join(("weight", *known, *(("pairs",) if loss in PAIRED else ())))
    foreign = sorted(set(given) - set(known))
    if foreign or (pairs and loss not in PAIRED):
        raise UsageError(
            f"the loss {loss} takes no {foreign[0] if foreign else 'pairs'}", f"it takes {takes}"
        )
    if loss in PAIRED and not pairs:
        raise UsageError(
            f"the loss {loss} names no layers", "give pairs: [{student: NAME, teacher: NAME}, ...]"
        )
    if loss in ("dist", "relation") and not any({**known, **given}[k] for k in known if k != "temperature"):
        raise UsageError(f"both parts of the loss {loss} have weight 0", "leave the loss out")
    return LossTerm(loss=loss, weight=float(weight), pairs=tuple(pairs), **{**known, **given})


def check_terms(terms: Sequence[LossTerm]) -> None:
    """Raises UsageError where no term looks at the answers: nothing would train the last layer."""
    if terms and not any(t.loss in _ANSWERING for t in terms):
        raise UsageError(
            f"nothing in the losses looks at the answers, only {', '.join(t.loss for t in terms)}",
            f"add one of {', '.join(_ANSWERING)}",
        )
