"""Reads the documentation: its pages and their fenced blocks, and runs a page's blocks as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>[a-z]*) ?(?P<info>[^\n]*)\n(?P<text>.*?)^```[ \t]*$", re.M | re.S)
_EXIT = re.compile(r"^# exit (\d+)\b", re.M)
_FILE = re.compile(r"\A# file: (\S+)\n")
#: A figure with its unit: what differs from machine to machine.
_FIGURE = re.compile(r"[+-]?\d[\d,]*(\.\d+)?(e[+-]\d+)?( ?(ns|µs|ms|s|KiB|MiB)\b)?")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: relative to the repository; line: of the fence, from 1.
        language, info: the words after the fence; text: what is inside.
    """

    page: str
    line: int
    language: str
    info: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def exit_code(self) -> int:
        """What ``# exit N`` in the block promises; 0 without it."""
        found = _EXIT.search(self.text)
        return int(found.group(1)) if found else 0

    @property
    def commands(self) -> list[str]:
        """Command lines, continuation lines joined, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    @property
    def file(self) -> str:
        """The name in ``# file: NAME``, the first line of a block that readers save; empty without it."""
        found = _FILE.match(self.text)
        return found.group(1) if found else ""


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(name_of(page), text.count("\n", 0, m.start()) + 1, m["language"], m["info"].strip(), m["text"])
        for m in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def shape_of(output: str) -> list[str]:
    """Lines with figures, spaces and rules levelled: two runs of one command differ in no more than these."""
    lines = (re.sub(r"\s+", " ", _FIGURE.sub("#", line)).strip() for line in output.splitlines())
    return [re.sub(r"-{2,}", "--", line) for line in lines if line]


def run_block(block: Block, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a bash or python block in ``place``; a block with a file name is saved first."""
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EDGEKD_DATA")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "LC_ALL": "C.UTF-8",
    }
    if block.language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    elif block.file:
        (place / block.file).parent.mkdir(parents=True, exist_ok=True)
        (place / block.file).write_text(block.text, encoding="utf-8")
        command = [sys.executable, block.file]
    else:
        command = [sys.executable, "-c", block.text]
    return subprocess.run(
        command, cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
