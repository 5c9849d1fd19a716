"""JSON records that tell when they were changed: each ends in a checksum of its own, so that a flipped bit or an edit
is not taken for what a run has measured."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from grpo.errors import UserError, first_line
from grpo.system.files import write_text
from grpo.system.fingerprint import checksum

ResultT = TypeVar("ResultT")
Kind = type | tuple[type, ...]

SUM = "sha256"  # the last key
_ENDS_IN_A_SUM = re.compile(r'"[0-9a-f]{64}"\s*\}\s*$')  # also where its key is damaged


def sealed_text(content: Mapping[str, Any], indent: int) -> str:
    """The JSON of a record, and its checksum in it. NaN and infinity are a programming error, not a value."""
    content = json.loads(json.dumps({key: value for key, value in content.items() if key != SUM}, allow_nan=False))
    whole = {**content, SUM: checksum(json.dumps(content, sort_keys=True))}
    return json.dumps(whole, indent=indent, ensure_ascii=False) + "\n"


def write_record(file: Path, content: Mapping[str, Any]) -> None:
    """The file appears whole or not at all; of several processes the main one writes."""
    write_text(file, sealed_text(content, 2))


def read_record(file: Path, way: str, needed: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """What `write_record` was given; older versions wrote no checksum. `needed`: keys that must be there, and of which
    kind; `way`: out, in messages.

    Raises:
        UserError: it was edited or damaged.
    """
    text, value = reading(file, way, lambda text: (text, json.loads(text)))
    if not isinstance(value, dict):
        raise UserError(f"'{file}': expected a JSON object; {way}")
    if (SUM in value or _ENDS_IN_A_SUM.search(text)) and not _is_sealed(text, value):
        raise UserError(f"'{file}' was edited or damaged after it was written: put it back, or {way}")
    wrong = [key for key, kind in (needed or {}).items() if not isinstance(value.get(key), kind)]
    if wrong:
        raise UserError(f"'{file}': damaged: '{wrong[0]}' is missing or not what it was; {way}")
    value.pop(SUM, None)
    return value


def _is_sealed(text: str, value: Mapping[str, Any]) -> bool:
    try:
        return text == sealed_text(value, 2)
    except ValueError:  # NaN
        return False


def reading(file: Path, way: str, read: Callable[[str], ResultT]) -> ResultT:
    """What `read` makes of the text of a file; whatever is wrong with the text is one line.

    Raises:
        UserError: it is no text, or not of the form that `read` wants.
    """
    try:
        return read(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"'{file}': damaged ({first_line(error, typed=True)}); {way}") from error
