"""Which completions are shown: by a reward's value, by text."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from grpo.errors import UserError, nearest
from stages.view.run_folder import Sample, SampleGroup

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
CONDITION = re.compile(rf"(.*?\S)\s*({'|'.join(COMPARE)})\s*(\S+)")
TOTALS = ("reward", "advantage")
FORM = "expected NAME<NUMBER (or <=, >, >=, =, !=), in quotes, such as 'accuracy<0.5', or NAME=none"


@dataclass(frozen=True)
class Condition:
    """`name` is a reward's, or "reward" (the total) or "advantage"; `value` None: what is not defined."""

    name: str
    relation: str
    value: float | None

    def holds(self, sample: Sample) -> bool:
        """False where the reward is not one of the sample's task, or has no value to compare."""
        if self.name not in TOTALS and self.name not in sample.rewards:
            return False
        value = getattr(sample, self.name) if self.name in TOTALS else sample.rewards[self.name]
        if self.value is None:
            return (value is None) == (self.relation == "=")
        return value is not None and COMPARE[self.relation](value, self.value)

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{'none' if self.value is None else f'{self.value:g}'}"


@dataclass(frozen=True)
class Filters:
    """All conditions hold, and the text stands in the prompt or the completion, whatever the case."""

    conditions: tuple[Condition, ...] = ()
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.conditions or self.text)

    def __str__(self) -> str:
        return ", ".join([*map(str, self.conditions), *([f"text '{self.text}'"] if self.text else [])])

    def select(self, groups: list[SampleGroup]) -> list[SampleGroup]:
        """The groups with the samples that match; those where none does are left out."""
        kept = (replace(group, samples=tuple(s for s in group.samples if self._match(group, s))) for group in groups)
        return [group for group in kept if group.samples]

    def _match(self, group: SampleGroup, sample: Sample) -> bool:
        wanted = self.text.casefold()
        texts = (sample.completion, *(content for _, content in group.prompt))
        return all(c.holds(sample) for c in self.conditions) and any(wanted in text.casefold() for text in texts)


def read_condition(text: str, names: Collection[str]) -> Condition:
    """``accuracy<0.5`` -> Condition.

    Raises:
        UserError: not of that form, or no reward of that name among `names`.
    """
    match = CONDITION.fullmatch(text.strip())
    if match is None:
        raise UserError(f"--reward '{text}': {FORM}")
    name, relation, value = match.groups()
    if name not in (*names, *TOTALS):
        raise UserError(f"--reward '{text}': no reward named '{name}'{nearest(name, [*names, *TOTALS])}")
    return Condition(name, relation, _value(text, relation, value))


def _value(text: str, relation: str, value: str) -> float | None:
    if value == "none" and relation in ("=", "!="):
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UserError(f"--reward '{text}': '{value}' is not a number; {FORM}")
    return number
