"""The verdicts of a judge model: their JSON schemas, and how one is found in its reply."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

LOWEST, HIGHEST = 1, 7  # of a rubric's scores
LEAST, MOST = 1, 10  # points of an answer beside another
_LONGEST = 20_000  # characters of a reply that are read, from its end
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside of texts are common
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')  # \sqrt, \underline: LaTeX, no JSON
_LAST_COMMA = re.compile(r",(?=\s*[}\]])")
OPEN, CLOSE = "<think>", "</think>"


class Unreadable(Exception):
    """The reply holds no verdict of the asked form."""


def _word(value: Any) -> Any:
    """Of the allowed words, whatever its capitals."""
    words = {"correct": "correct", "incorrect": "incorrect", "a": "A", "b": "B", "tie": "tie"}
    return words.get(value.strip().casefold(), value) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """A whole number also as a text ("6") or with a decimal point (6.0)."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,3}(?:\.0{1,3})?\s*", value):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Verdict(BaseModel):
    """What all verdicts share. The analysis comes before the verdict: the model thinks by writing it."""

    model_config = ConfigDict(extra="forbid")
    id: str
    analysis: str


class ReferenceVerdict(Verdict):
    """Is the answer right, measured against the reference?"""

    verdict: Annotated[Literal["correct", "incorrect"], BeforeValidator(_word)]


class PairVerdict(Verdict):
    """Which of two answers is better?"""

    winner: Annotated[Literal["A", "B", "tie"], BeforeValidator(_word)]


class Points(BaseModel):
    """Of two answers, each for itself."""

    model_config = ConfigDict(extra="forbid")
    A: Annotated[int, BeforeValidator(_number), Field(strict=True, ge=LEAST, le=MOST)]
    B: Annotated[int, BeforeValidator(_number), Field(strict=True, ge=LEAST, le=MOST)]


class PointsVerdict(Verdict):
    """How good is each of two answers?"""

    points: Points


def rubric_verdict(criteria: Iterable[str]) -> type[Verdict]:
    """A verdict whose `scores` hold a whole number from 1 to 7 for every criterion."""
    score = Annotated[int, BeforeValidator(_number), Field(strict=True, ge=LOWEST, le=HIGHEST)]
    # Criteria may have any name, fields may not: hence aliases.
    fields: dict[str, Any] = {f"c{i}": (score, Field(alias=name)) for i, name in enumerate(criteria)}
    scores = create_model("Scores", __config__=ConfigDict(extra="forbid"), **fields)
    return create_model("RubricVerdict", __base__=Verdict, scores=(scores, ...))


def vote_value(verdict: Any, first: bool) -> float:
    """From 0 to 1: right, preferred (`first`: the answer was A), or the mean score; of points, how many more it has."""
    if isinstance(verdict, ReferenceVerdict):
        return float(verdict.verdict == "correct")
    if isinstance(verdict, PairVerdict):
        return 0.5 if verdict.winner == "tie" else float((verdict.winner == "A") == first)
    if isinstance(verdict, PointsVerdict):
        more = float(verdict.points.A - verdict.points.B)
        return more if first else -more
    scores = list(verdict.scores.model_dump().values())
    return sum(score - LOWEST for score in scores) / (len(scores) * (HIGHEST - LOWEST))


def read_verdict(reply: str, kind: type[Verdict], expected: str, cut: bool = False) -> Any:
    """The last JSON object after the judge's thinking that is a verdict with the `expected` id; fences are passed over.

    The id is drawn anew for every request. So a verdict that stands in the judged text, written before, cannot be
    taken for the judge's own, even when the judge quotes it. What a judge drafts while it thinks is no verdict: not in
    a thinking that never ends, nor in a reply that was `cut` and had not come to its end. Tags within a JSON object are
    quoted from what is judged. LaTeX's backslashes, a comma after the last value, capitals, and scores as texts are
    mended.

    Raises:
        Unreadable: there is none; the text says what was found instead.
    """
    text = _LAST_COMMA.sub("", _ESCAPE.sub(lambda found: found[0] if found[1] else "\\\\", reply[-_LONGEST:]))
    objects = list(_objects(text))
    begin = _after_thinking(reply[:-_LONGEST], text, objects, cut)
    problem = "no JSON object"
    for start, _, value in reversed(objects):
        if start < begin:
            break
        try:
            verdict = kind.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            continue
        if verdict.id == expected:
            return verdict
        problem = "the id of the verdict is not that of the request"
    raise Unreadable(f"no verdict in the reply: {problem}")


def _after_thinking(before: str, text: str, objects: Iterable[tuple[int, int, Any]], cut: bool) -> int:
    """Where in `text`, which follows `before`, the thinking has ended.

    Raises:
        Unreadable: it has not.
    """
    said, place = [], 0  # the text with blanks where its objects are: at the same places
    for start, end, _ in objects:
        said += [text[place:start], " " * (end - start)]
        place = end
    around = before + "".join([*said, text[place:]])
    _, closed, rest = around.rpartition(CLOSE)
    if rest.lstrip().startswith(OPEN) or (cut and not closed):
        raise Unreadable("no verdict in the reply: its thinking has not ended")
    return len(text) - len(rest) if closed else 0


def _objects(text: str) -> Iterator[tuple[int, int, Any]]:
    """(start, end, value) of the outermost JSON objects of a text, in order; none after one that is nested beyond what
    Python reads, as trying each of its levels would take seconds."""
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except RecursionError:
            return
        except json.JSONDecodeError:
            end = start + 1
        else:
            yield start, end, value
        start = text.find("{", end)
