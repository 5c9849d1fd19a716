"""Times of the day and ratios: both are written with colons, neither is a division.

A time has two digits behind the colon (4:17, 05:00); everything else with a colon is a ratio (3:4, 1:2:3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.accuracy.normalise import words

_HALF = r"(?P<half>[ap])\.? ?m\b\.?"
_CLOCK = re.compile(
    r"(?:at )?(?P<hour>\d{1,2}) ?: ?(?P<minute>[0-5]\d)(?: ?: ?(?P<second>[0-5]\d))?"
    rf"(?: ?{_HALF}| o'?clock| hours| h| hrs)?",
    re.IGNORECASE,
)
_FULL_HOUR = re.compile(rf"(?P<hour>\d{{1,2}}) ?(?:{_HALF}|o'?clock)", re.IGNORECASE)
_SPELT = {"noon": "12:00 pm", "12 noon": "12:00 pm", "12:00 noon": "12:00 pm", "midnight": "12:00 am",
          "12 midnight": "12:00 am", "12:00 midnight": "12:00 am"}  # fmt: skip
_OF_DAY = re.compile(r" (?:in the (morning|afternoon|evening)|at (night))$")
_RATIO = re.compile(r"(?:the )?(?:ratio (?:is |of )?)?")
_HOUR = re.compile(r"\d{1,2}")
_TO = re.compile(r"(\d+) to (\d+)(?: to (\d+))?")


@dataclass(frozen=True)
class Clock:
    hour: int
    minute: int
    second: int
    half: str | None  # "a", "p"; None where it is not said


def parse_clock(text: str) -> Clock | None:
    """The time of the day that a `plain` answer names."""
    text = words(text)
    if text.endswith(("n", "t", "g")):  # noon, midnight, in the morning
        text = _SPELT.get(text.casefold(), text)
        text = _OF_DAY.sub(lambda m: " a.m." if m[1] == "morning" else " p.m.", text)
    match = _CLOCK.fullmatch(text) or _FULL_HOUR.fullmatch(text)
    if match is None:
        return None
    found = match.groupdict()
    hour, half = int(found["hour"]), (found["half"] or "").lower() or None
    if hour > 24 or (half is not None and not 1 <= hour <= 12):
        return None
    return Clock(hour, int(found.get("minute") or 0), int(found.get("second") or 0), half)


def same_clock(gold: str, answer: str) -> bool | None:
    """Whether two times are the same; None when the gold is no time, and no hour that is answered by one.

    A half of the day that either leaves out is no difference; 16:30 is 4:30 p.m.
    """
    expected = parse_clock(gold)
    if expected is None and not _HOUR.fullmatch(gold):
        return None
    given = parse_clock(answer)
    if expected is None:
        expected = Clock(int(gold), 0, 0, None)
        if given is None:
            return None
    if given is None and _HOUR.fullmatch(answer):  # 9 for 9 a.m.
        given = Clock(int(answer), 0, 0, None)
    if given is None:
        return None if "=" in answer else False
    if (expected.minute, expected.second) != (given.minute, given.second):
        return False
    if expected.half is None and given.half is None:
        return expected.hour == given.hour
    if expected.half is not None and given.half is not None:
        return (expected.hour, expected.half) == (given.hour, given.half)
    said, unsaid = (expected, given) if expected.half else (given, expected)
    of_day = said.hour % 12 + (12 if said.half == "p" else 0)
    return unsaid.hour in (of_day, said.hour)


def ratio(text: str) -> list[str] | None:
    """The parts of a ratio, as they are written."""
    text = words(text)
    to = _TO.fullmatch(text)
    if to is not None:
        return [part for part in to.groups() if part]
    parts = _RATIO.sub("", text, count=1).split(":")
    if not 2 <= len(parts) <= 6 or re.search(r"[;,=<>?]", text):
        return None
    if not all(re.search(r"\d|\\[a-z]|\b[a-z]\b", part) for part in parts):
        return None
    if any(re.search(r"[^\W\d_]{4,}", re.sub(r"\\[a-zA-Z]+", "", part)) for part in parts):
        return None  # "Note: 5"
    return [part.strip() for part in parts]


def quotients(parts: list[str]) -> str:
    """What two ratios have in common, for the worker: every part over the first."""
    over = [rf"\frac{{{parts[0]}}}{{{part}}}" for part in parts[1:]]
    return over[0] if len(over) == 1 else "(" + ", ".join(over) + ")"
