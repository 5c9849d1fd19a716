"""Where the program stands in a completion.

The program is the last fenced block that is marked as Python; where none is, the last unmarked one that holds a program
(``O(1)`` and printed values are none). Of several blocks that are marked alike, one that defines the names which the
tests call goes before one that only uses them. A marked block that is not closed was cut off: there is no program, and
an earlier block does not stand in for it. Every scan is linear in the length of the text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_BESIDE_TAG = re.compile(r"(<answer>)[ \t]*(?=```|~~~)|(```|~~~)[ \t]*(?=</answer>)", re.IGNORECASE)
_FENCE = re.compile(r"([ \t]*)(`{3,}+|~{3,}+)[ \t]*(?:\{[ \t]*\.?)?([\w+#-]*)[^`]*")
_INLINE = re.compile(r"(?<!`)(`{3,}+)[ \t]*(python3?|py3?)[ \t]*$", re.IGNORECASE)  # after a text: "Code: ```python"
_PYTHON = re.compile(r"(?:i?python|py)[\d.]*")
_QUOTES = re.compile(r"\"{3}|'{3}|#.*|\"(?:\\.|[^\"\\])*(?:\"|$)|'(?:\\.|[^'\\])*(?:'|$)|\\.")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    code: str
    marked: bool  # as Python; else it has no mark
    closed: bool = True


def extract_code(answer: str, names: Collection[str] = ()) -> str | None:
    """The program in an answer, or None; `names`: what the tests call."""
    blocks = list(_blocks(answer))
    marked = [block for block in blocks if block.marked]
    if any(not block.closed for block in (marked or blocks)[-1:]):
        return None
    if len(marked or blocks) < 2:
        return (marked or blocks)[0].code if blocks else None
    if marked:
        defining = [block for block in marked if names and block.closed and _defined(block.code) & set(names)]
        return (defining or marked)[-1].code
    whole = [block for block in blocks if block.closed]
    programs = [block for block in whole if _is_program(block.code)]
    defining = [block for block in programs if names and _defined(block.code) & set(names)]
    chosen = (defining or programs or whole)[-1:]
    return chosen[0].code if chosen else None


def _blocks(text: str) -> Iterator[Block]:
    """The blocks that are marked as Python or not marked."""
    lines = [line.rstrip("\r") for line in _BESIDE_TAG.sub(lambda tag: tag[0].strip() + "\n", text).split("\n")]
    place = 0
    while place < len(lines):
        opening = _FENCE.fullmatch(lines[place])
        inline = None if opening else _INLINE.search(lines[place])
        place += 1
        if opening is None and inline is None:
            continue
        indent, marks, language = opening.groups() if opening else ("", inline[1], inline[2])  # type: ignore[index]
        place, code = _body(lines, place, marks)
        python = _PYTHON.fullmatch(language.lower()) is not None
        if python or not language:
            body = [_without_indent(line, len(indent)) for line in code or ()]
            yield Block("\n".join(body) + "\n", python, code is not None)


def _body(lines: list[str], start: int, marks: str) -> tuple[int, list[str] | None]:
    """(where the text goes on, the lines of a block that begins at `start`); None: it is never closed.

    A fence within a text of several lines, as in a docstring, closes nothing, if another one does.
    """
    first: int | None = None
    quote = ""  # of an open text of several lines
    for place in range(start, len(lines)):
        line = lines[place].rstrip()
        code = line.rstrip(marks[0])
        if len(line) - len(code) >= len(marks):
            if code.strip() and "`" not in code and not _quote_after(code, quote):  # on the last line of the code
                return place + 1, [*lines[start:place], code]
            if not code.strip() and not quote:
                return place + 1, lines[start:place]
            if not code.strip() and first is None:
                first = place
        quote = _quote_after(lines[place], quote)
    return (len(lines), None) if first is None else (first + 1, lines[start:first])


def _quote_after(line: str, quote: str) -> str:
    """The three quotes of the text that is open after a line."""
    place = 0
    while place < len(line):
        if quote:
            end = line.find(quote, place)
            if end < 0:
                return quote
            place, quote = end + 3, ""
            continue
        found = _QUOTES.search(line, place)
        if found is None:
            return ""
        place = found.end()
        quote = found[0] if found[0] in ('"""', "'''") else ""
    return quote


def _defined(code: str) -> set[str]:
    """The names that a program defines at its top, and those of its class Solution."""
    body = _parsed(code)
    named = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    methods = [part.name for node in body if isinstance(node, ast.ClassDef) and node.name == "Solution"
               for part in node.body if isinstance(part, ast.FunctionDef)]  # fmt: skip
    return named | {target.id for target in targets if isinstance(target, ast.Name)} | set(methods)


def _is_program(code: str) -> bool:
    """Whether it does more than name values or call something that it does not have."""
    body = _parsed(code)
    plain = all(isinstance(node, ast.Expr | ast.Pass) for node in body)
    called = {node.func.id for part in body for node in ast.walk(part)
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    return bool(body) and (not plain or bool(called & {"print", "input", "open", "exec"}))


def _parsed(code: str) -> list[ast.stmt]:
    try:
        return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _without_indent(line: str, width: int) -> str:
    """Without as many leading blanks as the fence has: a block in a list item is indented as a whole."""
    return line[min(width, len(line) - len(line.lstrip(" \t"))) :]
