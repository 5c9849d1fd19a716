"""Settings that change on the way: in a config a list of {from_step, value} in the place of a number."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pydantic import AfterValidator, BaseModel, GetCoreSchemaHandler, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from grpo.config.section import SectionT, check_size


class Stepwise:
    """A number that changes: to whoever makes room or asks whether there is any, it is the largest of its values."""

    changes: tuple[tuple[int, float], ...]  # (from which step on, value), from step 0

    def at(self, step: int) -> float:
        """The value after so many updates."""
        return next(value for start, value in reversed(self.changes) if start <= step)

    def written(self) -> list[dict[str, float]]:
        """As a config has it."""
        return [{"from_step": start, "value": value} for start, value in self.changes]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stepwise) and self.changes == other.changes

    def __ne__(self, other: object) -> bool:  # a number has its own
        return not self == other

    def __hash__(self) -> int:
        return hash(self.changes)


class _Whole(Stepwise, int): ...


class _Real(Stepwise, float): ...


class MayChange:
    """Annotates a number that may be `Stepwise`; limits that stand before it hold for each of its values."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(_write)
        return core_schema.no_info_wrap_validator_function(_read, handler(source), serialization=write)


def _read(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, Stepwise):
        value = value.written()
    if not isinstance(value, list | tuple):
        return number(value)
    if not value or not all(isinstance(item, Mapping) and item.keys() == {"from_step", "value"} for item in value):
        raise ValueError("must be a number, or a list of {from_step: N, value: V}")
    starts = [item["from_step"] for item in value]
    if not all(type(start) is int for start in starts) or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
        raise ValueError("'from_step' must be 0 in the first and whole numbers that grow in the others")
    values = [number(check_size(item["value"])) for item in value]
    for start, (before, after) in zip(starts[1:], pairwise(values), strict=True):
        if before == after:
            raise ValueError(f"from_step {start} has the value of before; remove it")
    if len(values) == 1:
        return values[0]
    largest = max(values)
    stepwise = _Whole(largest) if isinstance(largest, int) else _Real(largest)
    stepwise.changes = tuple(zip(starts, values, strict=True))
    return stepwise


def _write(value: Any) -> Any:
    return value.written() if isinstance(value, Stepwise) else value


def at(section: SectionT, step: int) -> SectionT:
    """The section as it is after so many updates; itself where nothing in it changes."""
    now: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        then = (
            value.at(step)
            if isinstance(value, Stepwise)
            else at(value, step)
            if isinstance(value, BaseModel)
            else value
        )
        if then is not value:
            now[name] = then
    return section.model_copy(update=now) if now else section


def unchanging(*, because: str) -> AfterValidator:
    """For a section that serves in a place that has no steps."""

    def check(section: BaseModel) -> BaseModel:
        for name in changing(section):
            raise ValueError(f"'{name}' cannot change here: {because}; give one number")
        return section

    return AfterValidator(check)


def changing(section: BaseModel, prefix: str = "") -> dict[str, Stepwise]:
    """{key path: number} of what changes in it."""
    found: dict[str, Stepwise] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Stepwise):
            found[prefix + name] = value
        elif isinstance(value, BaseModel):
            found |= changing(value, f"{prefix}{name}.")
    return found
