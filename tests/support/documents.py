"""The pages that a reader sees, for the tests of what they say."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def text(page: Path | str) -> str:
    """Of a page, or of the page of that name in docs/."""
    return (DOCS / page).read_text(encoding="utf-8")  # an absolute path stays as it is


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path | str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for those without one."""
    return [block for named, block in FENCE.findall(text(page)) if named == language]


def prose(page: Path | str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text(page))


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: the headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
