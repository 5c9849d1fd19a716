"""Every way to get one key of a config wrong: one line that names it, with what was meant; nothing is ignored.

A walk over `FULL` reaches every setting: hypothesis misspells keys, loops drop, retype and stretch each one.
"""

import copy
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from grpo.api import HeldOutConfig
from grpo.config.data import RewardConfig
from grpo.config.file import validate
from grpo.config.training import TrainConfig
from grpo.errors import UserError, nearest
from rewards.loader import load_reward
from stages.commands.eval import EvalCommandConfig
from stages.recipe.config import RecipeConfig
from stages.served.config import EndpointConfig
from stages.teacher import TeacherConfig
from support.recipes import FULL, TREES, KeyPath, dotted, owner, refused, sections, settings_of

SETTINGS = {name: list(settings_of(RecipeConfig.model_validate(tree))) for name, tree in TREES.items()}
ALL = [(name, path, kind) for name, settings in SETTINGS.items() for path, kind in settings]
EVERY = SETTINGS["full"]
ONE_OF_EACH = list({(owner(kind, str(path[-1])), path[-1]): (path, kind) for path, kind in EVERY}.values())


def parent_of(tree: Any, path: KeyPath) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def with_value(path: KeyPath, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(TREES["full"])
    parent_of(tree, path)[path[-1]] = value
    return tree


def field_of(path: KeyPath, kind: type[BaseModel]) -> Any:
    return kind.model_fields[str(path[-1])]


def test_full_sets_every_setting_to_something_else_than_its_default():
    config = RecipeConfig.model_validate(FULL)
    default: dict[tuple[str, str], bool] = {}
    for path, kind in EVERY:
        value: Any = config
        for key in path:
            value = value[key] if isinstance(value, tuple | dict) else getattr(value, key)
        field = field_of(path, kind)
        same = not field.is_required() and value == field.get_default()
        place = (owner(kind, str(path[-1])).__name__, str(path[-1]))
        default[place] = default.get(place, True) and same
    assert not {place for place, same in default.items() if same}
    written = {(kind.__name__, name) for kind in sections() for name in kind.model_fields if owner(kind, name) is kind}
    # Other roots.
    others = {kind.__name__ for kind in (TrainConfig, HeldOutConfig, EvalCommandConfig, EndpointConfig, TeacherConfig)}
    assert {place for place in written if place[0] not in others} == default.keys()


# --- one mistake in one key -------------------------------------------------------------------------------------------


def misspellings(word: str) -> list[str]:
    """A letter dropped, doubled, or swapped with the next."""
    dropped = [word[:i] + word[i + 1 :] for i in range(len(word))]
    doubled = [word[:i] + word[i] + word[i:] for i in range(len(word))]
    swapped = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)]
    return [wrong for wrong in dict.fromkeys(dropped + doubled + swapped) if wrong and wrong != word]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_a_misspelt_key_is_named_with_the_one_that_was_meant(data):
    name, path, kind = data.draw(st.sampled_from(ALL), label="setting")
    right = str(path[-1])
    choices = [wrong for wrong in misspellings(right) if wrong not in kind.model_fields]
    wrong = data.draw(st.sampled_from(choices or [right * 3]), label="misspelling")
    tree = copy.deepcopy(TREES[name])
    parent = parent_of(tree, path)
    parent[wrong] = parent.pop(right, {})  # an empty `columns` of data is not written
    line = refused(tree)
    assert f"unknown key '{dotted((*path[:-1], wrong))}' (did you mean '" in line
    assert f"'{right}'" in line


def test_every_misspelling_of_every_key_finds_its_way_back():
    for kind in sections():
        for right in kind.model_fields:
            for wrong in misspellings(right):
                if wrong not in kind.model_fields:
                    assert f"'{right}'" in nearest(wrong, kind.model_fields), (kind.__name__, wrong)


def test_every_required_key_is_missed():
    required = [path for path, kind in EVERY if field_of(path, kind).is_required()]
    # Training has a rate of its own where none is given; a stage without tasks wants what its only one has.
    defaults = [path for path in required if path[-1] == "lr" and "pretrain" not in path]
    required = [path for path in required if path not in defaults and path[-1] != "tasks"]
    assert len(required) > 35
    for path in required:
        tree = copy.deepcopy(TREES["full"])
        del parent_of(tree, path)[path[-1]]
        assert f"'{dotted(path)}' is missing" in refused(tree)


def kinds(annotation: Any) -> set[Any]:
    """What may stand there: of a union, all its parts."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(annotation) for kind in kinds(part)}
    if origin is typing.Annotated:
        return kinds(typing.get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {BaseModel}
    return {origin or annotation}


def short_for(annotation: Any) -> str | None:
    """The setting that a bare number in this section's place is short for."""
    parts = (annotation, *typing.get_args(annotation))
    return next((name for part in parts if (name := getattr(part, "number_is", None))), None)


WRONG: dict[Any, list[Any]] = {
    int: ["many", 1.5, [1], {"a": 1}, True],
    float: ["many", [1.0], {"a": 1}, True, math.nan, math.inf], bool: ["perhaps", 3, [True]],
    str: [3, 1.5, True, {"a": 1}], Literal: ["nonsense", 3, True, ["local"]], BaseModel: [3, [1], True],
    tuple: [3, 1.5, {"a": 1}], dict: [3, "text", [1]],
}  # fmt: skip


def test_a_value_of_the_wrong_type_is_named():
    tried = 0
    for path, kind in ONE_OF_EACH:
        accepted = kinds(field_of(path, kind).annotation)
        values = [value for one in accepted - {types.NoneType} for value in WRONG[one]]
        values = [value for value in values if not (value == 3 and short_for(field_of(path, kind).annotation))]
        for value in values if types.NoneType in accepted else [*values, None]:
            line = refused(with_value(path, value))
            assert f"'{dotted(path)}" in line, line
            assert "validation error" not in line
            tried += 1
    assert tried > 500


def beyond(field: Any) -> Iterator[float]:
    """The nearest values that the bounds of a field refuse."""
    little = 1 if int in kinds(field.annotation) else 1e-9
    for bound in field.metadata:
        for kind, name, step in ((Ge, "ge", -little), (Le, "le", little), (Gt, "gt", 0), (Lt, "lt", 0)):
            if isinstance(bound, kind):
                yield getattr(bound, name) + step


def test_a_number_out_of_range_is_named():
    tried = 0
    for path, kind in EVERY:
        for value in beyond(field_of(path, kind)):
            line = refused(with_value(path, value))
            assert f"'{dotted(path)}': " in line
            assert f"got {value!r}" in line
            tried += 1
    assert tried > 250


def test_every_number_has_a_range():
    """Or is free on purpose: a reward may be punished, and a tuple is checked as a whole."""
    free = {
        (kind.__name__, name)
        for kind in sections()
        for name, field in kind.model_fields.items()
        if kinds(field.annotation) & {int, float} and not list(beyond(field))
    }
    assert free == {("RewardConfig", "weight")}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_two_mistakes_are_both_said(data):
    tree = copy.deepcopy(TREES["full"])
    tree["sead"] = tree.pop("seed")
    below = [path for path, kind in EVERY if BaseModel in kinds(field_of(path, kind).annotation)]
    path = data.draw(st.sampled_from(below))
    parent_of(tree, path)[path[-1]] = [3]
    line = refused(tree)
    assert "unknown key 'sead' (did you mean 'seed'?)" in line
    assert f"'{dotted(path)}" in line


def test_all_that_is_missing_or_unknown_is_said_at_once():
    tree = {
        "cold_start": {}, "reasoning_rl": {"step": 3, "data": {"pth": "x"}, "reward": ["accuracy"]},
        "reasonin_rl": {}, "helpfulness_rl": {"tasks": {"a": {"share": 2}}}, "seed": "x", "engine": {"knd": "local"},
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        validate(RecipeConfig, tree, "config 'c.yaml'")
    line = str(caught.value)
    for meant in (
        "'reasonin_rl' (did you mean 'reasoning_rl'", "'reasoning_rl.step' (did you mean 'steps'",
        "'reasoning_rl.data.pth' (did you mean 'path'", "'reasoning_rl.reward' (did you mean 'rewards'",
        "'engine.knd' (did you mean 'kind'",
    ):  # fmt: skip
        assert f"unknown key {meant}" in line
    missing = "'base', 'cold_start.data', 'helpfulness_rl.steps', 'helpfulness_rl.tasks.a.data', "
    assert f"{missing}'helpfulness_rl.tasks.a.rewards' are missing; 'seed': " in line  # nothing that is misspelt only
    assert refused({}).endswith("'base' is missing")


def test_of_other_mistakes_the_first_few_are_said():
    tree = copy.deepcopy(TREES["full"])
    for name in ("steps", "group_size", "prompts_per_step", "inner_epochs", "reference_every"):
        tree["reasoning_rl"][name] = "many"
    line = refused(tree)
    assert line.count("got 'many'") == 3
    assert line.endswith("(2 more)")


def test_a_long_value_is_shortened():
    line = refused(with_value(("reasoning_rl", "steps"), ["many"] * 100))
    assert len(line) < 200
    assert "..." in line


def test_names_of_rewards_are_those_of_the_loader():
    for spec in ({"fn": "accuracy"}, {"fn": "accuracy", "name": "mine"}, {"fn": "rewards.format.format_reward"}):
        assert RewardConfig(**spec).label == load_reward(spec).name
