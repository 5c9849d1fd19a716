"""The terminal of the viewer: single keys where the system has termios, else a line with Enter."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

from rich.console import Console, Group
from rich.text import Text

from grpo.errors import UserError
from stages.view.browse import ASKS, Command, State, groups_of, press
from stages.view.run_folder import StageFolder
from stages.view.terminal import heading, prompt_view, summary

ESCAPES = {"\x1b[C": "n", "\x1b[D": "p", "\x1b[B": "j", "\x1b[A": "k", "\x1b[6~": " ", "\x1b[5~": "b"}
QUITS = ("\x03", "\x04", "")  # Ctrl-C, Ctrl-D, the terminal is gone
ESCAPE_SECONDS = 0.05  # the rest of an arrow's sequence comes at once; the Escape key comes alone
ESCAPE_BYTES = 8


def browse(console: Console, stage: StageFolder, state: State) -> None:
    """Show the state and follow the keys until the reader quits."""
    if find_spec("termios") is None or not sys.stdin.isatty():  # Windows; a pipe
        _browse_lines(console, stage, state)
        return
    with console.screen(hide_cursor=False):
        keys = read_keys(sys.stdin.fileno())
        while not state.done:
            state = _draw(console, stage, state)
            state = press(state, _command(next(keys), console), stage, _page(console))


def _browse_lines(console: Console, stage: StageFolder, state: State) -> None:
    """Each command is typed with Enter; a view is printed whole and the terminal scrolls."""
    while not state.done:
        console.print(_view(console, stage, state))
        try:
            line = input("n p j k g N /TEXT f CONDITION ? q > ")
        except (EOFError, KeyboardInterrupt):
            return
        state = press(state, Command(line[:1], line[1:]) if line else Command("j"), stage)


def _view(console: Console, stage: StageFolder, state: State) -> Group:
    """The prompt of the state under its heading, or why there is none."""
    try:
        groups = groups_of(state, stage)
    except UserError as error:  # a resumed run writes its last steps anew
        return Group(Text(str(error), "red"))
    parts = [heading(stage, state.step, state.filters, summary(groups, groups))]
    if groups:
        index = min(state.prompt, len(groups) - 1)
        parts.append(prompt_view(groups[index], index, len(groups), state.filters.text, console.width))
    return Group(*parts, Text(state.notice, "yellow"))


def _draw(console: Console, stage: StageFolder, state: State) -> State:
    """One page of the view; the state with its line inside of what there is."""
    with console.capture() as captured:
        console.print(_view(console, stage, replace(state, notice="")))
    lines = captured.get().rstrip("\n").split("\n")  # rich ends every style with its line
    page = _page(console)
    line = min(state.line, max(0, len(lines) - page))
    console.clear()
    console.file.write("\n".join(lines[line : line + page]) + "\n")
    last = min(line + page, len(lines))
    place = f"lines {line + 1}–{last} of {len(lines)}{', space for more' * (last < len(lines))} · "
    keys = "n p step · j k prompt · g N · / text · f reward · ? help · q"
    status = Text(state.notice or (place if len(lines) > page else "") + keys, "reverse")
    status.truncate(2 * console.width - 1)  # two lines are kept for it
    console.print(status, end="")
    console.file.flush()
    return replace(state, line=line)


def _page(console: Console) -> int:
    return max(1, console.height - 3)


def _command(key: str, console: Console) -> Command:
    """The key, with its argument asked for at the bottom."""
    if key not in ASKS:
        return Command(key)
    try:
        console.file.write("\n")
        return Command(key, input(ASKS[key]))
    except (EOFError, KeyboardInterrupt):
        return Command("?")


def read_keys(descriptor: int) -> Iterator[str]:
    """Keys as they are pressed, without echo, arrows and page keys as the letters they stand for; "q" at the end.

    What follows a key stays unread: it may be the answer to what the key asks for. The terminal is as it was whenever a
    key is handed out.
    """
    while True:
        yield from split_keys(_read_key(descriptor))


def _read_key(descriptor: int) -> str:
    """One character, or one escape sequence; empty at the end of the input or on Ctrl-C."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        typed = os.read(descriptor, 1)
        if typed == b"\x1b" and select.select([descriptor], [], [], ESCAPE_SECONDS)[0]:
            typed += os.read(descriptor, ESCAPE_BYTES)
        return typed.decode("utf-8", "replace")
    except KeyboardInterrupt:
        return ""
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def split_keys(typed: str) -> list[str]:
    """What one read brought: letters, escape sequences (one that means nothing here is passed over), or the end."""
    if not typed:
        return ["q"]
    keys: list[str] = []
    while typed:
        known = next((sequence for sequence in ESCAPES if typed.startswith(sequence)), None)
        if known is None and typed.startswith("\x1b"):
            break
        keys.append(ESCAPES[known] if known else "q" if typed[0] in QUITS else typed[0])
        typed = typed[len(known or typed[0]) :]
    return keys
