"""Every way to get a config wrong: one line that names the key, with what was meant; nothing is silently ignored.

`FULL` sets every setting there is, so a walk over it reaches all of them: hypothesis misspells keys, loops drop, retype
and stretch each one, and a list holds every contradiction that the validators refuse.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from grpo.config.algorithm import PRESETS
from grpo.config.data import EvalConfig, RewardConfig
from grpo.config.file import apply_override, read_config, validate
from grpo.config.section import Section
from grpo.config.training import RLConfig, TrainConfig
from grpo.config.yaml import dump_yaml, load_yaml
from grpo.errors import UserError, nearest
from grpo.evaluation.endpoint import EndpointConfig
from grpo.evaluation.metrics import GENERAL_METRICS
from rewards.loader import load_reward
from stages.check.command import Warned, setting_checks
from stages.check.subject import Subject
from stages.cli import main
from stages.commands.eval import EvalCommandConfig
from stages.recipe.config import RecipeConfig
from stages.recipe.pipeline import save_config
from stages.recipe.table import STAGES
from stages.teacher import TeacherConfig

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "configs").glob("*.yaml"))

OPTIMIZER = {
    "lr": 1e-3, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "warmup_steps": 2, "schedule": "cosine",
    "min_lr": 1e-4, "max_grad_norm": 0.5,
}  # fmt: skip
HUB = {
    "path": "owner/set", "split": "test", "subset": "main", "limit": 9, "system": "Be brief.", "suffix": "!",
    "max_prompt_tokens": 64, "overlong": "error",
}  # fmt: skip
FUNCTION = {"fn": "my.rows", "kwargs": {"n": 3}}
ACCURACY = {"fn": "accuracy", "name": "right", "weight": 2.0, "kwargs": {"strict": True}, "columns": {"gold": "answer"}}
SFT = {"batch_size": 8, "micro_batch_size": 4, "max_tokens": 64, "optimizer": OPTIMIZER}
RL: dict[str, Any] = {
    "preset": "deepseek_r1",
    "steps": 40,
    "group_size": 4,
    "prompts_per_step": 2,
    "rollout_prompts": 4,
    "inner_epochs": 2,
    "sampling": {"temperature": 0.9, "max_tokens": 32, "stop": ["END"]},
    "truncated": "penalise",
    "penalty_tokens": 8,
    "advantage": {"scale": "batch", "epsilon": 1e-3, "std_floor": 0.1, "combine": "normalise_then_sum"},
    "loss": {
        "ratio": "sequence", "clip": "ppo", "clip_low": 0.1, "clip_high": 0.3, "dual_clip": 3,
        "aggregation": "constant", "beta": 0.01, "kl": {"estimator": "k2", "placement": "loss", "weighted": True},
        "entropy_bonus": 0.01, "off_policy_mask": 0.5,
    },
    "correction": {"level": "sequence", "mode": "mask", "low": 0.5, "high": 3},
    "dynamic_sampling": {"reward": "right", "max_draws": 2},
    "difficulty": {"reward": "right", "low": 0.1, "high": 0.9, "rest_epochs": 2, "target": 0.5},
    "lora": {
        "r": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj"], "rank_stabilised": True, "bias": "all",
    },
    "optimizer": OPTIMIZER,
    "reference_every": 4,
    "micro_batch_tokens": 64,
    "gradient_checkpointing": True,
    "checkpoint": {"every": 4, "keep": 3, "best": "reward"},
}  # fmt: skip
TASKS = {
    "math": {"data": HUB, "rewards": [ACCURACY, {"fn": "format"}]},
    "plain": {
        "data": {**FUNCTION, "template": "Q: {prompt}"}, "rewards": [{"fn": "language"}], "share": 2, "last_steps": 20,
    },
}  # fmt: skip
JUDGE = {"fn": "accuracy", "kwargs": {"strict": True}, "columns": {"gold": "answer"}}
FULL: dict[str, Any] = {
    "seed": 3,
    "engine": {
        "kind": "vllm-server",
        "max_rows": 64,
        "ahead": True,
        "vllm": {
            "memory": 0.5, "kv_cache_gib": 2.0, "tensor_parallel": 2, "lora": "adapter", "sleep": False,
            "quantization": "fp8", "eager": True,
        },
        "server": {
            "urls": ["http://a:1", "http://b:2"], "timeout": 5.0, "retries": 1, "start_timeout": 9.0,
            "transfer": "files", "folder": "/shared",
        },
    },
    "runtime": {
        "device": "cpu", "dtype": "bfloat16", "parallel": "fsdp", "threads": 1, "log_level": "error", "profile": 2,
        "grace": 9.0,
    },
    "evaluation": {
        "math": {
            "data": HUB, "samples": 4, "temperature": 0.5, "top_p": 0.9, "max_tokens": 32, "k": [2, 4],
            "accuracy": JUDGE, "format": {"fn": "format"}, "language": {"fn": "language"},
        },
        "general": {"data": FUNCTION, "max_tokens": 32, **dict.fromkeys(GENERAL_METRICS, JUDGE)},
        "leak_check": "my.keys",
        "decontaminate": {"ngram": 8, "share": 0.4},
    },
    "base": {
        "steps": 40,
        "pretrain": {
            "corpus": FUNCTION, "vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2,
            "intermediate_size": 64, "max_tokens": 64, "batch_size": 8, "micro_batch_size": 4, "optimizer": OPTIMIZER,
            "checkpoint": {"every": 4},
        },
    },
    "r1_zero": {
        **RL, "tasks": TASKS, "advantage": {}, "preset": "gspo",
        "loss": {"clip": "cispo", "beta": 0.1, "kl": {"placement": "reward"}},
        "truncated": "mask", "penalty_tokens": None, "reference_every": None,
    },
    "cold_start": {**SFT, "steps": 9, "data": {**FUNCTION, "system": "Be brief."}, "checkpoint": {"every": 4}},
    "reasoning_rl": {**RL, "tasks": TASKS},
    "rejection_sampling": {
        **SFT, "epochs": 2, "data": HUB, "group_size": 4, "sampling": {"temperature": 1, "max_tokens": 32},
        "filters": [{"fn": "accuracy", "name": "right"}], "keep_per_prompt": 2, "general": FUNCTION,
    },
    "helpfulness_model": {**SFT, "steps": 9, "data": FUNCTION},
    "safety_model": {**SFT, "steps": 9, "data": FUNCTION},
    "helpfulness_rl": {**RL, "tasks": TASKS},
}  # fmt: skip


Path_ = tuple[str | int, ...]


def resolved(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with every setting in it, as a run's config.yaml has them."""
    return RecipeConfig.model_validate(tree).model_dump(mode="json")


def settings_of(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, type[BaseModel]]]:
    """(key path, section it is a setting of) of every setting below `value`."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield (*path, name), type(value)
            yield from settings_of(getattr(value, name), (*path, name))
    elif isinstance(value, tuple | dict):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from settings_of(item, (*path, key))


TREES = {file.stem: resolved(load_yaml(file.read_text(), "yaml")) for file in SHIPPED} | {"full": resolved(FULL)}
SETTINGS = {name: list(settings_of(RecipeConfig.model_validate(tree))) for name, tree in TREES.items()}
ALL = [(name, path, kind) for name, found in SETTINGS.items() for path, kind in found]
EVERY = SETTINGS["full"]


def parent_of(tree: Any, path: Path_) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def dotted(path: Path_) -> str:
    return ".".join(map(str, path))


def refused(tree: dict[str, Any], model: type[BaseModel] = RecipeConfig) -> str:
    """The one line about a wrong tree."""
    with pytest.raises(UserError) as caught:
        validate(model, tree, "config 'c.yaml'")
    line = str(caught.value)
    assert line.startswith("config 'c.yaml': ")
    assert "\n" not in line
    assert len(line) < 400
    return line


def with_value(path: Path_, value: Any, tree: str = "full") -> dict[str, Any]:
    changed = copy.deepcopy(TREES[tree])
    parent_of(changed, path)[path[-1]] = value
    return changed


def field_of(path: Path_, kind: type[BaseModel]) -> Any:
    return kind.model_fields[str(path[-1])]


def owner(kind: type[BaseModel], name: str) -> type[BaseModel]:
    """The class that a setting is written in."""
    return next(each for each in kind.__mro__ if name in inspect.get_annotations(each))


ONE_OF_EACH = list({(owner(kind, str(path[-1])), path[-1]): (path, kind) for path, kind in EVERY}.values())


# --- FULL is what it says ---------------------------------------------------------------------------------------------


def sections(kind: type[Section] = Section) -> set[type[Section]]:
    """Every section of the project."""
    below = {found for child in kind.__subclasses__() for found in sections(child)}
    return below | {child for child in kind.__subclasses__() if child.__module__.split(".")[0] in ("grpo", "stages")}


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
    # FULL trains its base from scratch.
    assert {place for place, same in default.items() if same} == {("BaseConfig", "model")}
    written = {(kind.__name__, name) for kind in sections() for name in kind.model_fields if owner(kind, name) is kind}
    others = {kind.__name__ for kind in (TrainConfig, EvalCommandConfig, EndpointConfig, TeacherConfig)}  # other roots
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
    parent[wrong] = parent.pop(right)
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
    required = [(path, kind) for path, kind in EVERY if field_of(path, kind).is_required()]
    assert len(required) > 60
    for path, _ in required:
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


WRONG: dict[Any, list[Any]] = {
    int: ["many", 1.5, [1], {"a": 1}, True],
    float: ["many", [1.0], {"a": 1}, True, math.nan, math.inf], bool: ["perhaps", 3, [True]],
    str: [3, 1.5, True, {"a": 1}], Literal: ["nonsense", 3, True, ["local"]], BaseModel: [3, [1], True],
    tuple: [3, 1.5, {"a": 1}], dict: [3, "text", [1]],
}  # fmt: skip


def test_a_value_of_the_wrong_type_is_named():
    tried = 0
    for path, kind in ONE_OF_EACH:
        found = kinds(field_of(path, kind).annotation)
        accepted = found - {types.NoneType}
        values = [value for one in accepted for value in WRONG[one]]
        values += [] if types.NoneType in found else [None]
        for value in values:
            line = refused(with_value(path, value))
            assert f"'{dotted(path)}" in line, line
            assert "validation error" not in line
            tried += 1
    assert tried > 500


def beyond(field: Any) -> Iterator[float]:
    """The nearest values that the bounds of a field refuse."""
    whole = int in kinds(field.annotation)
    little = 1 if whole else 1e-9
    for bound in field.metadata:
        if isinstance(bound, Ge):
            yield bound.ge - little  # type: ignore[operator]
        elif isinstance(bound, Le):
            yield bound.le + little  # type: ignore[operator]
        elif isinstance(bound, Gt):
            yield bound.gt  # type: ignore[misc]
        elif isinstance(bound, Lt):
            yield bound.lt  # type: ignore[misc]


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
def test_two_mistakes_are_one_line_that_says_there_are_more(data):
    tree = copy.deepcopy(TREES["full"])
    tree["sead"] = tree.pop("seed")
    path = data.draw(
        st.sampled_from([path for path, kind in EVERY if BaseModel in kinds(field_of(path, kind).annotation)])
    )
    parent_of(tree, path)[path[-1]] = 3
    line = refused(tree)
    assert "unknown key 'sead' (did you mean 'seed'?)" in line
    assert line.endswith("more)")


# --- contradictions ---------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "evaluation": {"math": {"data": {"path": "test.jsonl"}, "max_tokens": 8}},
    "base": {"model": "some-model"},
    "cold_start": {
        "data": {"path": "c.jsonl"}, "steps": 9, "batch_size": 4, "max_tokens": 8, "optimizer": {"lr": 1e-3},
    },
    "reasoning_rl": {
        "steps": 40, "group_size": 4, "prompts_per_step": 4, "sampling": {"max_tokens": 32}, "optimizer": {"lr": 1e-3},
        "tasks": {"math": {"data": {"path": "t.jsonl"}, "rewards": [{"fn": "accuracy"}, {"fn": "format"}]}},
    },
}  # fmt: skip
PRETRAIN = FULL["base"]["pretrain"]
REJECTION = {**FULL["rejection_sampling"], "data": {"path": "r.jsonl"}}

# (overrides of SMALL below reasoning_rl, words of the refusal)
OF_RL: list[tuple[str, str]] = [
    ("advantage.scale=none advantage.epsilon=1e-3", "advantage': 'epsilon' has no effect with scale: none"),
    ("advantage.scale=none advantage.std_floor=0.1", "advantage': 'std_floor' has no effect with scale: none"),
    (
        "advantage.scale=none advantage.combine=normalise_then_sum",
        "advantage': 'combine: normalise_then_sum' with scale: none",
    ),
    ("preset=dr_grpo advantage.std_floor=0.1", "advantage': 'std_floor' has no effect with scale: none"),
    ("loss.beta=0.1 loss.kl.placement=reward loss.kl.weighted=true", "loss.kl': 'weighted' is for a KL in the loss"),
    ("loss.beta=0.1 loss.kl.estimator=k1", "loss.kl': unweighted k1 in the loss has zero expected gradient"),
    (
        "loss.ratio=sequence loss.beta=0.1 loss.kl={estimator: k1, weighted: true}",
        "loss': 'kl': k1 weighted by a sequence ratio",
    ),
    (
        "preset=gspo loss.beta=0.1 loss.kl={estimator: k1, weighted: true}",
        "loss': 'kl': k1 weighted by a sequence ratio",
    ),
    ("loss.clip=cispo loss.dual_clip=3", "loss': 'dual_clip' has no effect with clip: cispo"),
    ("preset=cispo loss.dual_clip=3", "loss': 'dual_clip' has no effect with clip: cispo"),
    ("loss.kl.estimator=k2", "loss': 'kl' has no effect with beta: 0"),
    ("preset=deepseek_r1 loss.beta=0 loss.kl.estimator=k2", "loss': 'kl' has no effect with beta: 0"),
    ("difficulty.reward=format difficulty.low=0.5 difficulty.high=0.5", "difficulty': 'low' must be below 'high'"),
    (
        "difficulty.reward=format difficulty.high=0.9 difficulty.target=1",
        "difficulty': 'target' lies outside 'low' and 'high'",
    ),
    ("difficulty.reward=fromat", "'difficulty.reward': no task has a reward 'fromat' (did you mean 'format'?)"),
    (
        "dynamic_sampling.reward=acuracy",
        "'dynamic_sampling.reward': no task has a reward 'acuracy' (did you mean 'accuracy'?)",
    ),
    ("lora={r: 4, alpha: 8, targets: []}", "lora.targets': must be all-linear, a regular expression, or a list"),
    (
        "lora={r: 4, alpha: 8, targets: [q_proj, 3]}",
        "lora.targets': must be all-linear, a regular expression, or a list",
    ),
    ("lora={r: 4, alpha: 8, targets: ''}", "lora.targets': must be all-linear, a regular expression, or a list"),
    ("optimizer.min_lr=1 optimizer.schedule=linear", "optimizer': 'min_lr' is above 'lr'"),
    ("optimizer.min_lr=1e-4", "optimizer': 'min_lr' has no effect with schedule: constant"),
    ("checkpoint.keep=5", "checkpoint': 'keep' has no effect without 'every'"),
    (
        "checkpoint={every: 5, best: reward/acuracy}",
        "'checkpoint.best': no reward 'reward/acuracy' (did you mean 'reward/accuracy'?)",
    ),
    ("rollout_prompts=6", "'rollout_prompts' must be a multiple of 'prompts_per_step'"),
    ("reference_every=4", "'reference_every' without 'loss.beta' > 0"),
    ("penalty_tokens=4", "'penalty_tokens' has no effect without truncated: penalise"),
    ("truncated=penalise penalty_tokens=33", "'penalty_tokens' is more than 'sampling.max_tokens'"),
    (
        "loss.beta=0.1 loss.kl.placement=reward advantage.combine=normalise_then_sum",
        "'loss.kl.placement: reward' needs advantage.combine: sum_then_normalise",
    ),
    ("truncated=penalise tasks.math.rewards.1.name=overlong", "a reward is called 'overlong'"),
    ("preset=dapo tasks.math.rewards.1.name=overlong", "a reward is called 'overlong'"),
    ("tasks.math.last_steps=9", "every task has 'last_steps'"),
    ("tasks.math.rewards.0.weight=0 tasks.math.rewards.1.weight=0", "tasks.math': 'rewards': each has weight 0"),
    ("tasks.math.rewards.1.fn=other.accuracy", "tasks.math.rewards': two of them are called 'accuracy'"),
    ("tasks.math.data.fn=my.rows", "tasks.math.data': give exactly one of 'path' and 'fn'"),
    ("tasks.math.data.path=null", "tasks.math.data': give exactly one of 'path' and 'fn'"),
    ("tasks.math.data.kwargs.n=3", "tasks.math.data': 'kwargs' has no effect without 'fn'"),
    ("tasks.math.data={fn: my.rows, split: test}", "tasks.math.data': 'split' is of a hub data set"),
    ("tasks.math.data={fn: my.rows, subset: main}", "tasks.math.data': 'subset' is of a hub data set"),
    ("tasks.math.data.template=Question", "tasks.math.data': 'template' must contain {prompt}"),
    (
        "tasks.math.data.template='{prompt}' tasks.math.data.system=s",
        "tasks.math.data': 'system' has no place in a plain-text 'template'",
    ),
    ("tasks.math.data.overlong=error", "tasks.math.data': 'overlong: error' has no effect without 'max_prompt_tokens'"),
]
# (section, its value instead of SMALL's, words)
OF_SECTIONS: list[tuple[str, Any, str]] = [
    ("engine", "vlm", "'engine.kind': Input should be 'local', 'vllm', 'vllm-server' or 'auto'"),
    ("engine", {"kind": "vllm", "vllm": {"memry": 0.5}}, "'engine.vllm.memry'"),
    ("engine", {"kind": "vllm-server", "server": {"urls": []}}, "'engine.server.urls'"),
    ("base", {}, "'base': give exactly one of 'model' and 'pretrain'"),
    ("base", {"model": "m", "pretrain": PRETRAIN, "steps": 3}, "'base': give exactly one of 'model' and 'pretrain'"),
    ("base", {"model": "m", "steps": 3}, "'base': 'steps' and 'pretrain' belong together"),
    ("base", {"pretrain": PRETRAIN}, "'base': 'steps' and 'pretrain' belong together"),
    (
        "base",
        {"steps": 3, "pretrain": PRETRAIN | {"hidden_size": 30}},
        "'base.pretrain': 'hidden_size' must be an even",
    ),
    (
        "base",
        {"steps": 3, "pretrain": PRETRAIN | {"hidden_size": 12}},
        "'base.pretrain': 'hidden_size' must be an even",
    ),
    ("base", {"steps": 3, "pretrain": PRETRAIN | {"kv_heads": 3}}, "'heads' must be a multiple of 'kv_heads'"),
    ("base", {"steps": 3, "pretrain": PRETRAIN | {"micro_batch_size": 3}}, "multiple of 'micro_batch_size'"),
    (
        "base",
        {"steps": 3, "pretrain": PRETRAIN | {"corpus": {"path": "c", "system": "s"}}},
        "'base.pretrain.corpus': 'system' has no effect here",
    ),
    ("cold_start", SMALL["cold_start"] | {"epochs": 1}, "'cold_start': give exactly one of 'steps' and 'epochs'"),
    ("cold_start", SMALL["cold_start"] | {"steps": None}, "'cold_start': give exactly one of 'steps' and 'epochs'"),
    ("cold_start", SMALL["cold_start"] | {"micro_batch_size": 3}, "'cold_start': 'batch_size' must be a multiple"),
    (
        "cold_start",
        SMALL["cold_start"] | {"data": {"path": "c", "suffix": "!"}},
        "'cold_start.data': 'suffix' has no effect here",
    ),
    (
        "cold_start",
        SMALL["cold_start"] | {"data": {"path": "c", "template": "{prompt}"}},
        "'template' has no effect here",
    ),
    (
        "safety_model",
        SMALL["cold_start"] | {"data": {"path": "c", "max_prompt_tokens": 3}},
        "'safety_model.data': 'max_prompt_tokens'",
    ),
    ("rejection_sampling", REJECTION | {"filters": []}, "'rejection_sampling.filters'"),
    (
        "rejection_sampling",
        REJECTION | {"filters": [{"fn": "format", "weight": 2}]},
        "'rejection_sampling.filters.0': 'weight' has no effect here: a filter",
    ),
    ("rejection_sampling", REJECTION | {"filters": [{"fn": "format"}] * 2}, "two of them are called 'format'"),
    (
        "rejection_sampling",
        REJECTION | {"general": {"path": "g", "suffix": "!"}},
        "'rejection_sampling.general': 'suffix'",
    ),
    (
        "evaluation",
        {"math": {"data": {"path": "t"}, "max_tokens": 8, "k": [2]}},
        "pass@k needs k from 1 to 'samples' (1), got 2",
    ),
    ("evaluation", {"math": {"data": {"path": "t"}, "max_tokens": 8, "k": [0]}}, "pass@k needs k from 1"),
    (
        "evaluation",
        {"math": {"data": {"path": "t"}, "max_tokens": 8, "temperature": 0, "samples": 2}},
        "'samples' must be 1 with temperature: 0",
    ),
    (
        "evaluation",
        {"math": {"data": {"path": "t"}, "max_tokens": 8, "format": {"fn": "format", "weight": 2}}},
        "'evaluation.math.format': 'weight' has no effect here",
    ),
    (
        "evaluation",
        {"math": {"data": {"path": "t"}, "max_tokens": 8, "accuracy": {"fn": "accuracy", "name": "a"}}},
        "'evaluation.math.accuracy': 'name' has no effect here",
    ),
    ("seed", True, "'seed': must be a number"),
]


def contradictions() -> Iterator[tuple[dict[str, Any], str]]:
    for overrides, words in OF_RL:
        tree = copy.deepcopy(SMALL)
        for override in re.split(r" (?=[a-z_.0-9]+=)", overrides):
            apply_override(tree, f"reasoning_rl.{override}")
        yield tree, words
    for section, value, words in OF_SECTIONS:
        yield copy.deepcopy(SMALL) | {section: value}, words


@pytest.mark.parametrize(("tree", "words"), contradictions(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_contradiction_says_what_contradicts_what(tree, words):
    validate(RecipeConfig, SMALL, "the small one is right")
    line = refused(tree)
    assert words in line
    if "'reasoning_rl" not in words and tree["reasoning_rl"] != SMALL["reasoning_rl"]:
        assert "'reasoning_rl" in line


def test_the_list_above_holds_every_refusal_of_the_validators():
    """Each `raise ValueError(...)` in the config files is met by one of the lines."""
    lines = [refused(tree) for tree, _ in contradictions()]
    for file in (
        "grpo/config/algorithm.py",
        "grpo/config/engine.py",
        "grpo/config/data.py",
        "grpo/config/training.py",
        "grpo/config/section.py",
        "stages/recipe/config.py",
    ):
        patterns = raised(ast.parse((REPOSITORY / file).read_text()))
        assert patterns
        for pattern in patterns:
            assert any(re.search(pattern, line) for line in lines), (file, pattern)


def raised(tree: ast.AST) -> list[str]:
    """A pattern for the text of every ValueError that is raised."""
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    texts = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "ValueError"]
    return [
        "".join(
            re.escape(part.value) if isinstance(part, ast.Constant) else ".*"
            for part in (text.values if isinstance(text, ast.JoinedStr) else [text])
        )
        for text in texts
    ]


def test_what_may_stand_together_is_not_refused():
    allowed = [
        "difficulty={reward: accuracy} dynamic_sampling={reward: format}",
        "advantage.combine=normalise_then_sum tasks.math.rewards=[{fn: accuracy}]",
        "checkpoint.every=1000",  # a shortened run keeps its other settings
        "optimizer.warmup_steps=1000",
        "loss.beta=0.1 reference_every=1000",
        "loss.beta=0.1 loss.kl={placement: reward, estimator: k1}",
        "preset=cispo loss.ratio=sequence",
        "preset=gspo loss.beta=0.1 loss.kl.weighted=true",
        "loss.beta=0.1 loss.kl={estimator: k1, weighted: true}",
        "difficulty={reward: accuracy, target: 1}",
        "preset=dapo truncated=mask",
    ]
    for overrides in allowed:
        tree = copy.deepcopy(SMALL)
        for override in re.split(r" (?=[a-z_.0-9]+=)", overrides):
            apply_override(tree, f"reasoning_rl.{override}")
        validate(RecipeConfig, tree, overrides)


def test_a_contradiction_at_the_root_of_a_config_has_no_key_to_name():
    tree = {**{key: RL[key] for key in ("steps", "group_size", "prompts_per_step", "sampling", "optimizer")}}
    line = refused(tree | {"model": "m", "out": "o", "rollout_prompts": 3}, TrainConfig)
    assert line == "config 'c.yaml': 'rollout_prompts' must be a multiple of 'prompts_per_step'"


def test_a_long_value_is_shortened():
    line = refused(with_value(("reasoning_rl", "steps"), ["many"] * 100))
    assert len(line) < 200
    assert "..." in line


def test_names_of_rewards_are_those_of_the_loader():
    for spec in ({"fn": "accuracy"}, {"fn": "accuracy", "name": "mine"}, {"fn": "rewards.format.format_reward"}):
        assert RewardConfig(**spec).label == load_reward(spec).name


# --- through the file and the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [RecipeConfig, TrainConfig, EvalConfig])
def test_from_a_file_and_by_override(tmp_path, model):
    tree = {
        RecipeConfig: FULL,
        TrainConfig: {**RL, "dynamic_sampling": None, "difficulty": None, "model": "m", "out": "o"},
        EvalConfig: FULL["evaluation"]["math"],
    }[model]
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(tree))
    right = read_config(model, file)
    for path, _ in list(settings_of(right))[:: 9 if model is RecipeConfig else 3]:
        if any(isinstance(key, int) for key in path):
            continue
        with pytest.raises(UserError) as caught:
            read_config(model, file, [f"{dotted(path)}z=1"])
        assert f"c.yaml': unknown key '{dotted(path)}z' (did you mean '{path[-1]}'?)" in str(caught.value)


@pytest.mark.parametrize(("override", "words"), [
    ("reasoning_rl.loss.beeta=1", "'reasoning_rl.loss.beeta' (did you mean 'beta'?)"),
    ("reasoning_rl.tasks.math.reward=1", "(did you mean 'rewards'?)"),
    ("reasoning_rl.loss.clip_low=-1", "'reasoning_rl.loss.clip_low'"),
    ("reasoning_rl.group_size=1", "'reasoning_rl.group_size'"),
    ("reasoning_rl.sampling=3", "'reasoning_rl.sampling': must be a section (key: value), got 3"),
    ("reasoning_rl.preset=grpo", "'reasoning_rl.preset'"),
    ("reasoning_rl.reference_every=3", "'reasoning_rl': 'reference_every' without 'loss.beta' > 0"),
    ("reasoning_rl.dynamic_sampling.reward=fmt", "no task has a reward 'fmt' (did you mean 'format'?)"),
    ("runtime.dtype=float8", "'runtime.dtype'"), ("seed=-1", "'seed'"),
    ("evaluation.math.k=[8]", "'samples' (1), got 8"),
    ("base.modle=x", "'base.modle' (did you mean 'model'?)"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["run", "check"])
def test_the_command_line_exits_with_2_and_one_line(tmp_path, monkeypatch, capsys, command, override, words):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(dump_yaml(SMALL))
    assert main([command, "c.yaml", override]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: config 'c.yaml': ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]


def test_check_warns_of_what_a_short_run_does_not_reach():
    """No refusal: a run shortened by `steps` keeps its other settings."""
    tree = copy.deepcopy(SMALL)
    for override in ("optimizer.warmup_steps=40", "loss.beta=0.1", "reference_every=50"):
        apply_override(tree, f"reasoning_rl.{override}")
    found = dict(setting_checks(Subject(RecipeConfig.model_validate(tree), Path("runs"))))
    assert found["steps of cold_start"]() == ""
    with pytest.raises(Warned, match=r"40 steps do not reach optimizer\.warmup_steps=40, reference_every=50"):
        found["steps of reasoning_rl"]()


# --- the resolved config, presets -------------------------------------------------------------------------------------


def round_trip(config: RecipeConfig, folder: Path) -> RecipeConfig:
    """What a run writes as its config.yaml, read again."""
    folder.mkdir(exist_ok=True)
    save_config(config, folder)
    return read_config(RecipeConfig, folder / "config.yaml")


@pytest.mark.parametrize("name", TREES)
def test_the_resolved_config_of_a_run_reads_back_as_itself(name, tmp_path):
    config = RecipeConfig.model_validate(TREES[name])
    again = round_trip(config, tmp_path)
    assert again == config
    assert round_trip(again, tmp_path) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_so_does_one_with_a_preset(preset, tmp_path):
    tree = copy.deepcopy(SMALL)
    tree["reasoning_rl"]["preset"] = preset
    config = RecipeConfig.model_validate(tree)
    assert round_trip(config, tmp_path) == config


DOCUMENTED: dict[str, dict[str, Any]] = {
    "deepseek_r1": {"loss": {"aggregation": "sequence", "clip_low": 10, "clip_high": 10, "beta": 0.001}},
    "dapo": {"loss": {"aggregation": "token", "clip_low": 0.2, "clip_high": 0.28}, "truncated": "penalise"},
    "dr_grpo": {"loss": {"aggregation": "constant"}, "advantage": {"scale": "none"}},
    "gspo": {"loss": {"ratio": "sequence", "aggregation": "sequence", "clip_low": 0.0003, "clip_high": 0.0004}},
    "cispo": {"loss": {"clip": "cispo", "aggregation": "token", "clip_low": None, "clip_high": 4}},
}  # docs/algorithm.md, "Presets"
PLAIN = {key: RL[key] for key in ("steps", "group_size", "prompts_per_step", "sampling", "optimizer")}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_documented_values_and_nothing_else(preset):
    ours = validate(RLConfig, PLAIN | {"preset": preset}, "preset").model_dump()
    written_out = validate(RLConfig, PLAIN | DOCUMENTED[preset], "by hand").model_dump()
    assert ours == written_out | {"preset": preset}
    assert ours != validate(RLConfig, PLAIN, "defaults").model_dump() | {"preset": preset}


OTHERS: dict[str, list[Any]] = {
    "aggregation": ["token", "sequence"], "clip_low": [0.5], "clip_high": [0.5], "beta": [0.5], "truncated": ["mask"],
    "scale": ["batch"], "ratio": ["token"], "clip": ["ppo"],
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_key_beside_the_preset_wins_and_the_rest_stays(preset):
    tree = PLAIN | {"preset": preset}
    for key, value in DOCUMENTED[preset].items():
        for name in value if isinstance(value, dict) else [key]:
            expected = validate(RLConfig, tree, "preset").model_dump()
            section = expected[key] if isinstance(value, dict) else expected
            section[name] = next(other for other in OTHERS[name] if other != section[name])
            beside = {key: {name: section[name]}} if isinstance(value, dict) else {key: section[name]}
            assert validate(RLConfig, tree | beside, "beside").model_dump() == expected


def test_an_override_beside_a_preset_wins_too(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(PLAIN | {"preset": "deepseek_r1"}))
    config = read_config(RLConfig, file, ["loss.beta=0.5"])
    assert (config.loss.beta, config.loss.clip_high) == (0.5, 10)
    assert read_config(RLConfig, file, ["preset=null"]).loss.beta == 0


# --- every setting is used --------------------------------------------------------------------------------------------

VALIDATORS = {"model_validator", "field_validator"}
# Not read as attributes: by their names in a loop, or before there is a typed config.
READ_OTHERWISE = {
    *((("GeneralEvalConfig", name), "stages/recipe/evaluation.py", "getattr(config, name)) for name in GENERAL_METRICS")
      for name in GENERAL_METRICS),
    (("RLConfig", "preset"), "grpo/config/algorithm.py", 'tree.get("preset")'),
    *((("RecipeConfig", key), "stages/recipe/table.py", "getattr(self.config, self.key)") for key in STAGES),
}  # fmt: skip


def reads(tree: ast.AST) -> Iterator[str]:
    """Names of attributes that are read, validators apart: what only they look at is not used."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and any(name_of(item) in VALIDATORS for item in node.decorator_list):
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        yield from reads(node)


def name_of(decorator: ast.expr) -> str:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return target.id if isinstance(target, ast.Name) else ""


def test_every_setting_is_read_by_some_code():
    files = [file for folder in ("grpo", "rewards", "stages") for file in (REPOSITORY / folder).rglob("*.py")]
    used = {name for file in files for name in reads(ast.parse(file.read_text(encoding="utf-8")))}
    written = {(owner(kind, name).__name__, name) for kind in sections() for name in kind.model_fields}
    unused = {(section, name) for section, name in written if name not in used}
    assert unused <= {place for place, _, _ in READ_OTHERWISE}
    for _, file, code in READ_OTHERWISE:
        assert code in (REPOSITORY / file).read_text()
