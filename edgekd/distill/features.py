"""Layers inside a network, by name: what they make, and which of two networks can be compared."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.distill.terms import LossTerm
from edgekd.errors import ModelError, UsageError
from edgekd.lazy import require


def answer_of(made: Any) -> Any:
    """The logits in what a network returns: a tensor, the entry ``logits`` of a mapping, or the first of a sequence."""
    if isinstance(made, Mapping):
        made = made["logits"] if "logits" in made else next(iter(made.values()), None)
    elif isinstance(made, (list, tuple)) and made:
        made = made[0]
    if not hasattr(made, "ndim"):
        raise ModelError(
            f"the network returns {type(made).__name__}, not logits",
            "return a tensor, or a mapping with `logits`",
        )
    return made


class Taps:
    """Keeps what named layers made in the last call of a network.

    What convolutions of series and their like make, (batch, channels, length), is kept as (batch, length, channels),
    which is how tokens come.

    Args:
        module: the network; role: ``student`` or ``teacher``, for messages.
        names: of modules in it, as ``named_modules`` has them, in the order in which :meth:`take` answers.

    Raises:
        UsageError: no such module.
    """

    def __init__(self, module: Any, names: Sequence[str], role: str) -> None:
        known = dict(module.named_modules())
        for name in names:
            if not name or name not in known:
                raise UsageError(f"the {role} has no layer '{name}'", _near(name, list(known)))
        self._names, self._role = list(names), role
        self._seen: dict[str, Any] = {}
        self._series = _holds_series(module) if names else False
        self._handles = [known[n].register_forward_hook(self._keeper(n)) for n in dict.fromkeys(names)]
        if names:
            self._handles.append(module.register_forward_pre_hook(self._forget))

    def _forget(self, module: Any, inputs: Any) -> None:
        self._seen.clear()

    def _keeper(self, name: str) -> Any:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            if name in self._seen:
                raise ModelError(
                    f"layer '{name}' of the {self._role} is called more than once", "name another layer"
                )
            found = output[0] if isinstance(output, (list, tuple)) and output else output
            if not hasattr(found, "ndim"):
                raise ModelError(
                    f"layer '{name}' of the {self._role} makes {type(found).__name__}, not a tensor",
                    "name a layer inside it",
                )
            # A copy: an operation in place after the layer would change it.
            found = found.clone()
            if found.ndim == 3 and self._series:
                channels_second = _channels_second(module)
                if channels_second is None:
                    raise ModelError(
                        f"layer '{name}' of the {self._role} ({type(module).__name__}) makes {tuple(found.shape[1:])}, "
                        "which may be (channels, length) or (tokens, width)",
                        "name a convolution, pooling, norm or linear layer",
                    )
                found = found.transpose(1, 2) if channels_second else found
            self._seen[name] = found

        return keep

    def take(self) -> list[Any]:
        """The tensors of the last call, in the order of the names, once.

        Raises:
            ModelError: a layer was not called.
        """
        missing = next((n for n in self._names if n not in self._seen), None)
        if missing is not None:
            raise ModelError(
                f"layer '{missing}' of the {self._role} was not called",
                "name a layer that its forward pass uses",
            )
        found = [self._seen[n] for n in self._names]
        self._seen.clear()
        return found

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()


def _holds_series(module: Any) -> bool:
    """Whether a network has convolutions of series; without, what has three dimensions is tokens."""
    nn = require("torch.nn", extra="torch", purpose="training")
    return any(isinstance(m, (nn.Conv1d, nn.ConvTranspose1d)) for m in module.modules())


def _channels_second(module: Any) -> bool | None:
    """Whether a layer makes (batch, channels, length), not (batch, tokens, width); None where its kind does not say."""
    nn = require("torch.nn", extra="torch", purpose="training")
    if isinstance(module, nn.Sequential):
        rest = (m for m in reversed(module) if not _elementwise(m))
        last = next(rest, None)
        return None if last is None else _channels_second(last)
    if isinstance(
        module,
        (
            nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm, nn.MaxPool1d, nn.AvgPool1d,
            nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d,
        ),
    ):  # fmt: skip
        return True
    tokens = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.TransformerEncoderLayer, nn.TransformerEncoder)
    return False if isinstance(module, tokens) else None


def _elementwise(module: Any) -> bool:
    nn = require("torch.nn", extra="torch", purpose="training")
    return isinstance(
        module,
        (
            nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Dropout, nn.Identity,
        ),
    )  # fmt: skip


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    top = [k for k in known if k and "." not in k]
    return f"it has {', '.join(top[:12])}{' …' if len(top) > 12 else ''} and what is inside them"


def layer_names(terms: Sequence[LossTerm]) -> tuple[list[str], list[str]]:
    """The student's and the teacher's layers, one of each per pair, over all terms."""
    pairs = [p for t in terms for p in t.pairs]
    return [s for s, _ in pairs], [t for _, t in pairs]


def per_term(terms: Sequence[LossTerm], features: Sequence[Any]) -> list[list[Any]]:
    """Features in the order of :func:`layer_names` as one list per term, empty where it has no pairs."""
    rest = iter(features)
    return [[next(rest) for _ in t.pairs] for t in terms]


def projections(
    terms: Sequence[LossTerm], features: Sequence[Any], wanted: Sequence[Any]
) -> dict[int, tuple[int, int, int]]:
    """Which pairs need a projector: position -> (width, wanted width, dimensions).

    Args:
        features, wanted: what the student's and the teacher's layers made of the same examples.

    Raises:
        ModelError: shapes that the loss cannot compare; names both layers.
    """
    needs = {}
    losses = [(t.loss, p) for t in terms for p in t.pairs]
    for position, ((loss, (own, theirs)), s, t) in enumerate(zip(losses, features, wanted, strict=True)):
        least = 3 if loss == "attention" else 2
        here, there = tuple(s.shape[1:]), tuple(t.shape[1:])
        pair = (
            f"the student's '{own}' {here} and the teacher's '{theirs}' {there} cannot be paired for {loss}"
        )
        if not least <= s.ndim <= 4 or not least <= t.ndim <= 4:
            kinds = "(tokens, width) or (channels, height, width)"
            raise ModelError(pair, f"layers must make {kinds}" + ("" if least == 3 else " or (width,)"))
        if loss == "relation":
            continue
        if s.ndim != t.ndim or _positions(s) != _positions(t):
            raise ModelError(pair, "pair layers whose features have equal positions; widths may differ")
        if loss == "feature" and _width(s) != _width(t):
            needs[position] = (_width(s), _width(t), s.ndim)
    return needs


def _width(x: Any) -> int:
    return int(x.shape[1] if x.ndim == 4 else x.shape[-1])


def _positions(x: Any) -> tuple[int, ...]:
    return tuple(x.shape[2:] if x.ndim == 4 else x.shape[1:-1])
