"""The verdicts of a judge model: their JSON schemas, and how one is found in its reply."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

LOWEST, HIGHEST = 1, 7  # of a rubric's scores
_LONGEST = 20_000  # characters of a reply that are read, from its end
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside of texts are common
_BAD_ESCAPE = re.compile(r'\\(?!["\\/bfnrtu])')  # LaTeX in the analysis, \sqrt{2}, is no JSON


class Unreadable(Exception):
    """The reply holds no verdict of the asked form."""


class Verdict(BaseModel):
    """What all verdicts share. The analysis comes before the verdict: the model thinks by writing it."""

    model_config = ConfigDict(extra="forbid")
    id: str
    analysis: str


class ReferenceVerdict(Verdict):
    """Is the answer right, measured against the reference?"""

    verdict: Literal["correct", "incorrect"]


class PairVerdict(Verdict):
    """Which of two answers is better?"""

    winner: Literal["A", "B", "tie"]


def rubric_verdict(criteria: Iterable[str]) -> type[Verdict]:
    """A verdict whose `scores` hold a whole number from 1 to 7 for every criterion."""
    score = Annotated[int, Field(strict=True, ge=LOWEST, le=HIGHEST)]
    # Criteria may have any name, fields may not: hence aliases.
    fields: dict[str, Any] = {f"c{i}": (score, Field(alias=name)) for i, name in enumerate(criteria)}
    scores = create_model("Scores", __config__=ConfigDict(extra="forbid"), **fields)
    return create_model("RubricVerdict", __base__=Verdict, scores=(scores, ...))


def vote_value(verdict: Any, first: bool) -> float:
    """From 0 to 1: right, preferred (`first`: the answer was A), or the mean score."""
    if isinstance(verdict, ReferenceVerdict):
        return float(verdict.verdict == "correct")
    if isinstance(verdict, PairVerdict):
        return 0.5 if verdict.winner == "tie" else float((verdict.winner == "A") == first)
    scores = list(verdict.scores.model_dump().values())
    return sum(score - LOWEST for score in scores) / (len(scores) * (HIGHEST - LOWEST))


def read_verdict(reply: str, kind: type[Verdict], expected: str) -> Any:
    """The last JSON object in a reply that is a verdict with the `expected` id; reasoning and fences are passed over.

    The id is drawn anew for every request. So a verdict that stands in the judged text, written before, cannot be
    taken for the judge's own, even when the judge quotes it.

    Raises:
        Unreadable: there is none; the text says what was found instead.
    """
    text = reply.rpartition("</think>")[2][-_LONGEST:]
    problem = "no JSON object"
    for candidate in (text, _BAD_ESCAPE.sub(r"\\\\", text)):
        for value in reversed(list(_objects(candidate))):
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


def _objects(text: str) -> Iterator[Any]:
    """The outermost JSON objects of a text, in order; none after one that is nested beyond what Python reads, as
    trying each of its levels would take seconds."""
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except RecursionError:
            return
        except json.JSONDecodeError:
            end = start + 1
        else:
            yield value
        start = text.find("{", end)
