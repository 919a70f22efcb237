"""A verb's options as Python keywords, for callers that are no shell: ``--max-size-mib 2`` is ``max_size_mib=2``.

What the verb learns, its keywords learn; values are checked by the same parser.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from edgekd.errors import UsageError

#: An option in a message, and the example after it: ``--teacher T.onnx``, ``--shape image=1x3x8x8``.
_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?: ([A-Z](?:\.[a-z]+)?\b|[^\s=]+=[\w:]+))?")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(in_keywords(message.removeprefix("argument ")), "see `edgekd gate --help`")


class Keywords:
    """The options of one verb, by keyword.

    Args:
        configure: the verb module's ``configure``.
        leave_out: keywords that the caller decides itself (where to write, how to print).
    """

    def __init__(
        self, configure: Callable[[argparse.ArgumentParser], None], *, leave_out: Collection[str] = ()
    ) -> None:
        self._parser = _Parser(add_help=False, allow_abbrev=False)
        configure(self._parser)
        self._actions = {
            option[2:].replace("-", "_"): action
            for action in self._parser._actions
            for option in action.option_strings
            if option.startswith("--")
        }
        for name in leave_out:
            self._actions.pop(name, None)

    def check(self, names: Collection[str], *, where: str, also: Sequence[str] = ()) -> None:
        """Refuse names that are no keyword.

        Args:
            where: what they were given to, for the message.
            also: the caller's own keywords.

        Raises:
            UsageError: names the keyword, and the nearest or all of those there are.
        """
        known = [*also, *self._actions]
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                fix = (
                    f"did you mean '{close[0]}'?" if close else f"known keywords: {', '.join(sorted(known))}"
                )
                raise UsageError(f"{where} has no keyword '{name}'", fix)

    def parse(self, values: Mapping[str, object]) -> argparse.Namespace:
        """The namespace that the verb would have made of these options; ``None`` means not given.

        Raises:
            UsageError: a value that its option does not take.
        """
        words: list[str] = []
        for name, value in values.items():
            if value is not None:
                words += _words(name, self._actions[name], value)
        return self._parser.parse_args(words)


def _words(name: str, action: argparse.Action, value: object) -> list[str]:
    option = next(o for o in action.option_strings if o.startswith("--"))
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{name}={value!r} is neither True nor False", f"write {name}=True")
        return [option] if value else []
    if isinstance(action, argparse._AppendAction):
        joiner = "=" if "=" in str(action.metavar) else ":"
        return [f"{option}={text}" for text in listed(name, value, joiner)]
    return [f"{option}={_text(name, value)}"]


def listed(name: str, value: object, joiner: str = "=") -> list[str]:
    """The texts of a repeatable option: one, a list of them, or a mapping, sizes as numbers.

    >>> listed("shape", {"image": (1, 3, 8, 8)})
    ['image=1x3x8x8']

    Raises:
        UsageError: a value of another kind.
    """
    if isinstance(value, Mapping):
        return [f"{key}{joiner}{_text(name, item, sizes=True)}" for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_text(name, item) for item in value]
    return [_text(name, value)]


def _text(name: str, value: Any, *, sizes: bool = False) -> str:
    if isinstance(value, (str, os.PathLike)):
        return str(os.fspath(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(value)
    if sizes and isinstance(value, (list, tuple)) and all(isinstance(n, int) for n in value):
        return "x".join(map(str, value))
    raise UsageError(f"{name}={value!r} is neither text, path nor number", f"see `{name}` in docs/pytest.md")


def in_keywords(text: str) -> str:
    """A message about options, in keywords.

    >>> in_keywords("--max-accuracy-drop needs labelled data; give --data D.npz")
    'max_accuracy_drop= needs labelled data; give data="D.npz"'
    """

    def keyword(match: re.Match[str]) -> str:
        value = f'"{match[2]}"' if match[2] else ""
        return f"{match[1].replace('-', '_')}={value}"

    return _OPTION.sub(keyword, text)
