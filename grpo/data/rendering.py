"""The one call of a chat template: what goes wrong in it is one line, and the date it prints stays that of the run.

A template is a program that came with the model. Llama-3.2's prints today's date: a run that goes on after midnight
would train on other prompts than it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo.errors import UserError, describe
from grpo.system.files import write_text
from grpo.system.limits import limited
from grpo.types import Message

MOST_TURNS = 1_000_000  # of the loops over ranges in a template, whose steps no signal may interrupt
MOST_SECONDS, MOST_MEMORY = 3.0, 2**28  # of one rendering
MOST_TEXT, MOST_REPEATS = 1_000_000, 20  # characters that it writes, and how often as much as it was given besides
DATE = "date.txt"  # of a run folder whose templates have asked for it
_run: Path | None = None
_beyond: dict[str, str] = {}  # templates that went beyond a limit, and which: the next rendering need not wait for it


def render(
    tokenizer: Any, messages: Sequence[Message], *, open_answer: bool, where: str = "chat template", **variables: Any
) -> str:
    """The template's text; `open_answer` adds the generation prompt. `variables`: `tools` and others that it reads.

    Raises:
        UserError: there is no template, or this one refuses the conversation, whatever it raises.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise UserError(f"{where}: the model has no chat template; give the tokenizer one (chat_template.jinja)")
    if isinstance(template, dict) and "default" not in template:
        names = ", ".join(sorted(template))
        raise UserError(f"{where}: the model has chat templates ({names}) and none of them is the default: name it so")
    if reason := _beyond.get(str(template)):
        raise UserError(f"{where}: the model's chat template refuses this conversation: {reason}")
    variables = {"strftime_now": _strftime_now, **variables, "add_generation_prompt": open_answer}

    def work() -> str:
        counted = {"range": _counted_range(), **variables}
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **counted))

    try:
        text = limited(work, MOST_SECONDS, MOST_MEMORY)
        _check_length(text, messages, variables)
    except Exception as error:
        reason = describe(error)
        if isinstance(error, TimeoutError | MemoryError):
            _beyond[str(template)] = reason
        if isinstance(error, TypeError) and not variables.get("tools") and "in tools" in str(template):
            reason += ": it reads 'tools', which the row does not have"
        raise UserError(f"{where}: the model's chat template refuses this conversation: {reason}") from error
    return encodable(text, where)


def _check_length(text: str, *given: Any) -> None:
    """What a template writes is the conversation, not a text without end that no tokenizer could take."""
    if len(text) > MOST_TEXT and len(text) > MOST_TEXT + MOST_REPEATS * len(str(given)):
        raise OverflowError(f"it writes {len(text):,} characters")


def _counted_range() -> Callable[..., range]:
    """For one rendering: jinja bounds each range, and not that they stand inside each other."""
    left = MOST_TURNS

    def counted(*bounds: int) -> range:
        nonlocal left
        left -= len(numbers := range(*bounds))
        if left < 0:
            raise OverflowError(f"its loops take more than {MOST_TURNS} turns")
        return numbers

    return counted


def encodable(text: str, where: str) -> str:
    """The text itself.

    Raises:
        UserError: it holds halves of a character, as a cut JSON string does, which no tokenizer can read.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UserError(f"{where}: the text holds half a character, {half}, a lone surrogate: mend it") from error
    return text


@contextmanager
def dated(run: Path | None) -> Iterator[None]:
    """Templates print the date on which `run` was started, which its folder keeps; None: what held before."""
    global _run
    before, _run = _run, run or _run
    try:
        yield
    finally:
        _run = before


def run_of(model: str) -> Path | None:
    """The run that made a model, if its templates have asked for its date."""
    return next((folder for folder in list(Path(model).absolute().parents)[:2] if (folder / DATE).is_file()), None)


def prints_date(tokenizer: Any, template: str | None) -> bool:
    """Whether prompts hold the date; `template`: the plain-text one that stands in for the model's."""
    return template is None and "strftime_now" in str(getattr(tokenizer, "chat_template", None))


def _strftime_now(pattern: str) -> str:
    return template_date().strftime(pattern)


def template_date() -> datetime:
    """The run's, by the day; today where there is no run. A run from before dates were kept began with its oldest file.

    Raises:
        UserError: the run's cannot be read.
    """
    file = _run and _run / DATE
    day = datetime.now()
    if file and file.is_file():
        try:
            day = datetime.fromisoformat(file.read_text(encoding="utf-8").strip())
        except ValueError as error:
            raise UserError(f"'{file}': no date like 2026-01-31: the one that chat templates print here") from error
    elif file:
        others = (other.stat().st_mtime for other in file.parent.rglob("*") if other.is_file())
        day = datetime.fromtimestamp(min(others, default=day.timestamp()))
        write_text(file, f"{day:%Y-%m-%d}\n")
    return datetime(day.year, day.month, day.day)
