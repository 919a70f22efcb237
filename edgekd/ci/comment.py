"""The text of a sticky comment: found by a hidden marker, within the forge's limits, and addressing nobody."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from edgekd.gates.verdict import VERDICT_FILE

#: Greatest body of an issue comment (GitHub: 65,536 characters; GitLab allows 1,000,000) and of one step's summary
#: (GitHub: 1 MiB).
GITHUB_COMMENT_CHARACTERS = 65_536
GITLAB_NOTE_CHARACTERS = 1_000_000
SUMMARY_BYTES = 1 << 20
_LOG_CHARACTERS = 600
_ZERO_WIDTH = "\u200b"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CUT = "\n\n*Shortened: the whole report is in the run folder.*\n"
_MEANING = {
    1: "❌ REJECT",
    2: "⚠️ ERROR: wrong input",
    3: "❔ INCONCLUSIVE",
    4: "⚠️ ERROR: the machine, not the model",
    5: "⚠️ ERROR: refused",
    130: "⚠️ ERROR: interrupted",
}


def marker(name: str) -> str:
    """The hidden first line of a gate's comment; other names give other markers.

    >>> marker("cifar-student")
    '<!-- edgekd:cifar-student -->'
    >>> marker("a-->@me")
    '<!-- edgekd:a-%2D%3E%40me -->'
    """
    # Two hyphens would end an HTML comment early.
    return f"<!-- edgekd:{quote(name, safe='').replace('--', '-%2D')} -->"


def defuse(markdown: str) -> str:
    """Markdown that mentions nobody, refers to no issue, opens no HTML comment and holds no quick action.

    A zero-width space after the sign does it: HTML entities do not, since forges look for mentions in what was
    rendered. GitLab runs a line that begins with ``/word`` as a command.
    """
    text = _CONTROL.sub(" ", markdown).replace("<!--", "&lt;!--")
    text = re.sub(r"@(?=[A-Za-z0-9_])", f"@{_ZERO_WIDTH}", text)
    text = re.sub(r"(?<![&\w])([#!])(?=\d)", rf"\1{_ZERO_WIDTH}", text)
    return re.sub(r"^(\s*)/(?=[a-z])", rf"\1{_ZERO_WIDTH}/", text, flags=re.M)


def body_of(name: str, markdown: str, footer: str, *, characters: int) -> str:
    """The comment: marker, report, footer; the report is shortened where it does not fit.

    Args:
        name: the gate's name.
        markdown: the report.
        footer: where run and evidence are.
        characters: the forge's limit.
    """
    head, tail = marker(name) + "\n", f"\n\n---\n{footer}\n" if footer else "\n"
    return head + _fitted(defuse(markdown).strip(), characters - len(head) - len(tail)) + tail


def summary_of(markdown: str, footer: str) -> str:
    """The same text for GITHUB_STEP_SUMMARY, whose limit is in bytes."""
    tail = f"\n\n---\n{footer}\n\n" if footer else "\n\n"
    text = defuse(markdown).strip()
    room = SUMMARY_BYTES - len(tail.encode()) - 1
    if len(text.encode()) > room:
        # No character has more than four bytes.
        text = _fitted(text, room // 4)
    return text + tail


def _fitted(text: str, characters: int) -> str:
    """Whole lines from the beginning, with what they opened closed again."""
    if len(text) <= characters:
        return text
    room = characters - len(_CUT) - 200
    kept = text[:room].rpartition("\n")[0]
    if len(re.findall(r"^```", kept, flags=re.M)) % 2:
        kept += "\n```"
    for tag in ("details", "table"):
        opened = len(re.findall(rf"<{tag}\b", kept)) - len(re.findall(rf"</{tag}>", kept))
        kept += f"\n\n</{tag}>" * max(0, opened)
    return kept + _CUT


def last_error(log: str) -> str:
    """The last ``edgekd: error:`` line of a log, else its last line that says something."""
    lines = [_CONTROL.sub(" ", _ANSI.sub("", line)).strip() for line in log.splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if "edgekd: error:" in line]
    return (errors or lines or [""])[-1][:_LOG_CHARACTERS]


def notice(name: str, code: int, log: str) -> str:
    """What is said where there is no verdict.

    Args:
        name: the gate's name.
        code: how the step ended.
        log: its stderr.
    """
    said = last_error(log)
    fence = "`" * (max([2, *map(len, re.findall("`+", said))]) + 1)
    lines = [
        f"# {_plain(name)}: {_MEANING.get(code, f'⚠️ ERROR: exit {code}')}",
        "",
        f"There is no verdict: the gate ended with exit code {code} before one was reached. This is not a pass.",
    ]
    return "\n".join([*lines, *(["", fence + "text", said, fence] if said else [])]) + "\n"


def _plain(name: str) -> str:
    """A name as words: nothing of it is Markdown or HTML."""
    text = name[:200].replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return defuse(re.sub(r"([\\`*_\[\]|~])", r"\\\1", text))


def has_verdict(folder: Path) -> bool:
    """Whether a run folder came to a verdict."""
    return (folder / VERDICT_FILE).is_file()


def footer_of(name: str, links: dict[str, str], commit: str) -> str:
    """One small line: which gate, which commit, where the run and the evidence are."""
    parts = [f"EdgeKD gate {_plain(name)}"]
    if re.fullmatch(r"[0-9a-f]{40,64}", commit):
        parts.append(f"commit `{commit[:12]}`")
    for text, url in links.items():
        if re.fullmatch(r"https?://[^\s()<>\"'`]+", url):
            parts.append(f"[{text}]({url})")
    return f"<sub>{' · '.join(parts)}</sub>"
