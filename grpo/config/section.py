"""The base of every section of a config."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

LARGEST_SEED = 2**63 - 1
LARGEST_COUNT = 10**9  # of steps, tokens, rows, ...
LARGEST = 1e30  # near it the arithmetic of fp32 and bf16 ends
_NUMBERS = (int, float, int | None, float | None)

SectionT = TypeVar("SectionT", bound=BaseModel)


class Section(BaseModel):
    """Unknown keys refused, values immutable, defaults checked too, numbers finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    text_is: ClassVar[str | None] = None  # the setting that a bare text in the section's place is short for
    number_is: ClassVar[str | None] = None  # likewise, a bare number

    @model_validator(mode="before")
    @classmethod
    def _short(cls, tree: Any) -> Any:
        number = isinstance(tree, int | float) and not isinstance(tree, bool)
        short = cls.text_is if isinstance(tree, str) else cls.number_is if number else None
        return {short: tree} if short else tree

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation not in _NUMBERS:
            return value
        return check_size(value, LARGEST_SEED if info.field_name == "seed" else None)


def check_size(value: Any, most: float | None = None) -> Any:
    """The value.

    Raises:
        ValueError: it is a switch (YAML reads true as True, which pydantic would take for 1), or no run can honour it.
    """
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        most = most or (LARGEST_COUNT if isinstance(value, int) else LARGEST)
        if abs(value) > most:
            raise ValueError(f"is beyond {most:.3g}, which no run can honour")
    return value


def changed(section: BaseModel, names: Iterable[str]) -> list[str]:
    """Those of these settings that are not at their default.

    Not `model_fields_set`: the resolved config of a run names every setting and has to be readable again.
    """
    return [name for name in names if getattr(section, name) != type(section).model_fields[name].get_default()]


def without(*names: str, because: str) -> AfterValidator:
    """For a section that serves in a place where some of its settings would do nothing: there they are refused."""

    def check(section: BaseModel) -> BaseModel:
        for name in changed(section, names):
            raise ValueError(f"'{name}' has no effect here: {because}; remove it")
        return section

    return AfterValidator(check)


def below(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A section as it was given, with these defaults where it says nothing."""
    merged = {**defaults, **given}
    for key in defaults.keys() & given.keys():
        if isinstance(defaults[key], Mapping) and isinstance(given[key], Mapping):
            merged[key] = below(defaults[key], given[key])
    return merged


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat
