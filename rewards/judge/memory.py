"""Votes that a judge has given, in a file as they come: who is stopped pays for none of them twice."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.evaluation.kept import Kept
from grpo.system.fingerprint import digest
from rewards.judge.cases import Case


class Memory:
    """`asked_with`: what the votes follow from beside the texts. Those of other judges may lie in the same file."""

    def __init__(self, file: Path, asked_with: Any) -> None:
        self._kept = Kept(file, digest(asked_with), strict=False)
        self._votes: dict[tuple[str, int], dict[str, Any]] | None = None

    def recall(self, case: Case, first: bool, vote: int) -> float | None:
        """What the judge said of these texts in this order the `vote`-th time; None: it was not asked."""
        if self._votes is None:  # not before it is needed: a judge that is only looked at writes nothing
            self._votes = self._kept.read()
        known = self._votes.get(_key(case, first, vote))
        return None if known is None else float(known["value"])

    def keep(self, case: Case, first: bool, vote: int, value: float) -> None:
        key = _key(case, first, vote)
        self._kept.add(key, {"value": value})
        if self._votes is not None:
            self._votes[key] = {"value": value}


def _key(case: Case, first: bool, vote: int) -> tuple[str, int]:
    return digest([asdict(case), first]), vote
