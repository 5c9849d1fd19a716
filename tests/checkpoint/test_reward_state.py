"""A reward that judges otherwise than the one a checkpoint was made with is noticed, whatever makes the difference."""

import functools
import json
import re
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo.checkpoint.identity import STATES, differences, identify
from grpo.checkpoint.reward_state import reward_state
from grpo.config.engine import EngineConfig
from grpo.config.training import TrainConfig
from grpo.errors import UserError
from grpo.scoring.table import Reward
from grpo.system.world import World
from rewards import load_reward
from support.command import python
from support.runs import CPU, config_of, digits, killed_at, run, task_of

MODULE = """
import functools
import math

LIMIT = {limit}
WORDS = ["a", "b"]
cache = {{{limit}: 1}}

def helper(text):
    return len(text) + {helper}

def deeper(text):
    return helper(text)

def reward(completions, scale={default}, **columns):
    return [scale * deeper(text) + math.floor(LIMIT) + len(WORDS) for text in completions]

class Options:
    def __init__(self, most):
        self.most = most

class Graded:
    not_compared = ("calls",)

    def __init__(self, most, calls=0):
        self.options, self.calls, self.cache = Options(most), calls, {{}}
        self.names = {{"x", "y", "z"}}

    def __call__(self, completions, **columns):
        return [self.options.most] * len(completions)

def get_reward(bonus):
    def made(completions, **columns):
        return [bonus] * len(completions)
    return made
"""


def module(folder: Path, limit: float = 1, helper: int = 0, default: float = 1.0) -> Any:
    """Anew, as the next process has it."""
    import importlib.util

    file = folder / f"my_states_{len(list(folder.iterdir()))}.py"
    file.write_text(MODULE.format(limit=limit, helper=helper, default=default))
    spec = importlib.util.spec_from_file_location("my_states", file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["my_states"] = made
    spec.loader.exec_module(made)
    return made


def identity(fn: Any) -> dict[str, Any]:
    config = TrainConfig.of(config_of(), model="m", out="x", seed=1, engine=EngineConfig(), runtime=CPU)
    task = task_of()
    return identify(config, {"default": type(task)(task.prompts, [Reward("r", fn)])}, "local", World())


def bound(*arguments: Any, **keywords: Any) -> Any:
    return lambda m: functools.partial(m.reward, *arguments, **keywords)


CHANGES: list[tuple[Any, Any, str]] = [
    (lambda m: m.Graded(1), lambda m: m.Graded(2), "self.options"),
    (lambda m: m.get_reward(1), lambda m: m.get_reward(2), "closure.bonus: 1 -> 2"),
    (bound(names=["a"]), bound(names=["b"]), "kwargs.names"),
    (bound(by={"a": 1}), bound(by={"a": 2}), "kwargs.by"),
    (bound(["a"]), bound(["b"]), "argument.0"),
    (lambda m: m.Graded(1).__call__, lambda m: m.Graded(2).__call__, "self.options"),
    (lambda m: m.Graded(np.zeros(2)), lambda m: m.Graded(np.ones(2)), "self.options"),
    (lambda m: m.Graded(torch.zeros(2)), lambda m: m.Graded(torch.zeros(3)), "self.options"),
    (lambda m: m.Graded(re.compile("a")), lambda m: m.Graded(re.compile("b")), "self.options"),
    (lambda m: m.Graded(Decimal(1)), lambda m: m.Graded(Decimal(2)), "self.options"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "words"), CHANGES)
def test_a_changed_state_is_told(before, after, words, tmp_path):
    old = identity(before(module(tmp_path)))
    assert differences(old, identity(before(module(tmp_path)))).matter == []
    (line,) = differences(old, identity(after(module(tmp_path)))).matter
    assert line.startswith(f"tasks.default.rewards.r.state.{words}")


@pytest.mark.parametrize(("changed", "words"), [
    ({"limit": 2}, "state.global.LIMIT: 1 -> 2"), ({"helper": 1}, "state.global.deeper"), ({"default": 2.0}, "source"),
])  # fmt: skip
def test_what_a_function_reads_of_its_module_is_told(changed, words, tmp_path):
    old = identity(module(tmp_path).reward)
    lines = differences(old, identity(module(tmp_path, **changed).reward)).matter
    assert any(words in line for line in lines), lines


def test_what_changes_no_verdict_is_free(tmp_path):
    first, second = (identity(module(tmp_path).Graded(1, calls)) for calls in (0, 5))
    assert differences(first, second).matter == []
    m = module(tmp_path)
    one, other = m.Graded(threading.Lock()), m.Graded(threading.Lock())
    other.cache["x"] = 1
    assert reward_state(one) == reward_state(other)


def test_it_is_the_same_in_the_next_process(tmp_path):
    """Sets of texts have another order there."""
    code = (
        "import sys, json; sys.path.insert(0, '.')\n"
        "import my_states, functools\n"
        "from grpo.checkpoint.reward_state import reward_state\n"
        "fns = [my_states.Graded({'p', 'q', 'r'}), my_states.reward, my_states.get_reward({'b', 'c'})]\n"
        "print(json.dumps([reward_state(fn) for fn in fns]))"
    )
    (tmp_path / "my_states.py").write_text(MODULE.format(limit=1, helper=0, default=1.0))
    outputs = {python("-c", code, cwd=tmp_path).stdout for _ in range(3)}
    assert len(outputs) == 1
    assert json.loads(outputs.pop())


def test_what_contains_itself_ends(tmp_path):
    m = module(tmp_path)
    graded = m.Graded(1)
    graded.itself, graded.list = graded, []
    graded.list.append(graded.list)
    assert reward_state(graded)


def test_a_checkpoint_from_before_states_goes_on(tmp_path):
    now = identity(module(tmp_path).Graded(1))
    old = {key: value for key, value in now.items() if ".state" not in key and key != STATES}
    assert differences(old, now).matter == []


def test_options_of_a_shipped_judge_are_compared_and_its_address_is_not():
    def judge(**options: Any) -> dict[str, Any]:
        base = {"base_url": "http://localhost:1/v1", "model": "m"}
        return reward_state(load_reward({"fn": "judge", "kwargs": base | options}).fn)

    assert judge() == judge(base_url="http://localhost:2/v1", retries=1)
    assert judge() != judge(model="n")
    assert judge() != judge(extra_body={"a": 1})


class Weighted:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [self.weight * value for value in digits(completions)]


def test_a_run_does_not_go_on_with_an_instance_of_another_state(tiny_model_folder, tmp_path):
    def task(weight: float) -> Any:
        made = task_of()
        return {"default": type(made)(made.prompts, [Reward("r", Weighted(weight))])}

    killed_at(5, tiny_model_folder, tmp_path, config_of(), task(1.0))
    with pytest.raises(UserError, match=r"rewards\.r\.state\.self\.weight: 1\.0 -> 2\.0"):
        run(tiny_model_folder, tmp_path, config_of(), task(2.0))
    run(tiny_model_folder, tmp_path, config_of(), task(1.0))
