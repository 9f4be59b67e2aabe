"""What the README and the pages of the site show, block by block."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(\w*) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of code: its language, what stands after it, and where it begins."""

    language: str
    info: str
    code: str
    line: int


def name(page: Path) -> str:
    """A page as the tests call it, such as docs/train.md."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in some languages, in order; all of them for none."""
    text = page.read_text()
    found = (
        Block(*m.groups(), line=text.count("\n", 0, m.start(3))) for m in _FENCE.finditer(text)
    )
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """A page without its code and without what the build fills in."""
    text = _FENCE.sub("", page.read_text())
    return re.sub(r"`[^`\n]*`|\{\{.*?\}\}", "", text, flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, but for other hosts."""
    return re.findall(r"\]\(((?!https?:)[^)\s]+)\)", page.read_text())


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command in the shell blocks of a page."""
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words
