"""What is shown on a terminal: names, paths, rewards and completions are texts of others; nothing in them acts on it or
is markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from grpo.errors import public, visible


class SafeConsole(Console):
    """For tables and the like: rich lets an escape of a text through."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def render(self, *given: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*given, **options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def say(text: str) -> None:
    """A line."""
    print(public(text), flush=True)
