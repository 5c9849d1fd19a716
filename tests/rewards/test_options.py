"""`kwargs` of a reward: taken, of the right type, or refused when the config is read; factories; TRL's own rewards."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl.rewards

import grpo
from grpo.config.data import RewardConfig
from grpo.errors import UserError
from grpo.scoring.groups import score
from grpo.scoring.table import apply_rewards
from grpo.types import Completion, Group, Prompt, Rollout
from rewards import load_reward
from rewards.loader import REGISTRY, find_reward
from rewards.rows import judgeable
from stages.recipe.preflight import check_reward
from support.chat import user
from support.documents import text as page_of

HERE = __name__


def brevity(completions: list[str], max_words: int = 10, **columns: Any) -> list[float]:
    return [float(len(text.split()) <= max_words) for text in completions]


def unannotated(completions, most=10, names=(), **columns):
    return [most] * len(completions)


def reading(completions, **kwargs):
    return [kwargs["threshold"] + kwargs.get("bonus", 0)] * len(completions)


def handing_on(completions, **kwargs):
    return [helper(**kwargs)] * len(completions)


def helper(threshold=0.0, **_):
    return threshold


def deaf(completions, **kwargs):
    return [0.0] * len(completions)


class Asked:
    def __init__(self, least: float, **more: Any) -> None:
        self.least, self.most = least, more.get("most", 1.0)

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        return [self.least] * len(completions)


class Wrong(Asked):
    def __init__(self, least: float = 0.0) -> None:
        raise ValueError("no such file: 'words.txt'")


def get_factory(letter, count=1):
    def counted(completions, **kwargs):
        return [float(text.count(letter) >= count) for text in completions]

    return counted


def get_nothing(letter="a"):
    return 3


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


wrapped = wrapping(brevity)
instance = Asked(0.5)
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ("brevity", {"max_wordz": 2}, r"kwargs: no option 'max_wordz' \(did you mean 'max_words'\?\)"),
    ("wrapped", {"max_wordz": 2}, r"did you mean 'max_words'"),
    ("instance", {"least": 2}, r"no option 'least'"),
    ("reading", {"treshold": 1}, r"no option 'treshold' .*names none"),
    ("handing_on", {"treshold": 1}, r"no option 'treshold'"),
    ("deaf", {"anything": 1}, r"no option 'anything'"),
    ("Asked", {"least": 1, "mots": 2}, r"no option 'mots'"),
    ("Asked", {}, r"'least' is required"),
    ("Asked", {"least": "ten"}, r"'least' must be float, not 'ten'"),
    ("Wrong", {}, r"cannot be made: ValueError: no such file: 'words.txt' \(.*test_options.py:\d+\)"),
    ("brevity", {"max_words": "ten"}, r"'max_words' must be int, not 'ten'"),
    ("brevity", {"max_words": True}, r"'max_words' must be int, not True"),
    ("brevity", {"max_words": [3]}, r"'max_words' must be int, not \[3\]"),
    ("unannotated", {"most": "ten"}, r"'most' must be float or null, not 'ten'"),
    ("brevity", {"prompts": ["x"]}, r"'prompts' is what the completions are judged with"),
    ("deaf", {"log_extra": 1}, r"'log_extra' is what the completions are judged with"),
    ("get_factory", {"letter": "a", "cuont": 1}, r"no option 'cuont' \(did you mean 'count'"),
    ("get_nothing", {}, r"takes no completions, and returns int"),
    ("trl.rewards.get_soft_overlong_punishment", {"max_completion_len": 5}, r"'soft_punish_cache' is required"),
    ("trl.rewards.get_soft_overlong_punishment", {"max_completion_len": "5", "soft_punish_cache": 2}, "must be int"),
    ("stages.tiny_world.general_oracle", {"anything": 1}, r"no option 'anything'"),
    ("format", {"opened": "no"}, r"reward 'format': opened is true, false or auto, not 'no'"),
    ("rewards.format.format_reward", {"opened": "no"}, r"opened is true, false or auto, not 'no'"),
    ("tag_count", {"opened": "off"}, r"opened is true, false or auto"),
    ("repetition", {"ngram_size": 0}, r"ngram_size is a whole number from 1 on"),
]  # fmt: skip


def path_of(name: str) -> str:
    return name if "." in name or name in REGISTRY else f"{HERE}.{name}"


@pytest.mark.parametrize(("name", "kwargs", "words"), REFUSED)
def test_what_is_refused_when_the_config_is_read(name, kwargs, words):
    with pytest.raises(UserError, match=words) as error:
        load_reward({"fn": path_of(name), "kwargs": kwargs})
    assert "\n" not in str(error.value)
    if "made" not in words and "returns" not in words:  # nothing is called before a run
        with pytest.raises(UserError, match=words):
            check_reward(RewardConfig(fn=path_of(name), kwargs=kwargs), Path())


def test_nothing_is_computed_before(tiny_model_folder, tmp_path):
    config = {"model": str(tiny_model_folder), "out": str(tmp_path / "run"), "steps": 1, "group_size": 2,
              "prompts_per_step": 1, "sampling": {"max_tokens": 3}, "optimizer": {"lr": 1e-4}}  # fmt: skip
    for spec in ({"fn": "format", "kwargs": {"opened": "no"}}, {"fn": brevity, "kwargs": {"max_wordz": 1}}):
        with pytest.raises(UserError, match=r"opened|max_words"):
            grpo.train(config, [spec], [{"question": "?", "answer": "1"}])
    assert not (tmp_path / "run").exists()


TAKEN: list[tuple[str, dict[str, Any], list[float]]] = [
    ("brevity", {"max_words": 1}, [1.0, 0.0]), ("wrapped", {"max_words": 1}, [1.0, 0.0]),
    ("unannotated", {"most": 2.5}, [2.5, 2.5]), ("unannotated", {"most": 2, "names": ["a"]}, [2.0, 2.0]),
    ("reading", {"threshold": 1, "bonus": 2}, [3.0, 3.0]), ("handing_on", {"threshold": 2}, [2.0, 2.0]),
    ("Asked", {"least": 1, "most": 2}, [1.0, 1.0]), ("instance", {}, [0.5, 0.5]),
    ("get_factory", {"letter": "a"}, [1.0, 1.0]), ("get_factory", {"letter": "a", "count": 2}, [0.0, 1.0]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "expected"), TAKEN)
def test_what_is_taken(name, kwargs, expected):
    reward = load_reward({"fn": path_of(name), "kwargs": kwargs})
    assert reward.name == name
    assert apply_rewards([reward], ["", ""], ["a", "a a"], [[1], [1]], {}).values[name] == expected


def test_a_made_reward_is_made_once():
    made = []

    def get_reward(letter: str) -> Callable[..., list[float]]:
        made.append(letter)
        return lambda completions: [1.0] * len(completions)

    reward = load_reward({"fn": get_reward, "kwargs": {"letter": "a"}})
    for _ in range(2):
        apply_rewards([reward], [""], ["x"], [[]], {})
    assert made == ["a"]


def test_columns_that_no_function_takes():
    for fn in (deaf, Asked, "accuracy"):
        with pytest.raises(UserError, match="columns: the function takes no 'solutoin'"):
            find_reward({"fn": fn, "columns": {"solutoin": "answer"}, "kwargs": {"least": 1} if fn is Asked else {}})
    with pytest.raises(UserError, match="'max_words' is given by both 'columns' and 'kwargs'"):
        find_reward({"fn": brevity, "columns": {"max_words": "limit"}, "kwargs": {"max_words": 3}})
    assert load_reward({"fn": reading, "columns": {"threshold": "limit"}}).columns == {"threshold": "limit"}


def test_a_hidden_column_is_said(caplog):
    prompts = [Prompt("p", (1,), None, "?", {"max_words": 7, "language": "en", "strict": True}, "5")]
    specs = [{"fn": brevity, "kwargs": {"max_words": 2}}, {"fn": "language", "kwargs": {"language": "th"}}, "accuracy"]
    judgeable(prompts, [load_reward(spec) for spec in specs], "data")
    assert [record.message for record in caplog.records] == [
        "data: reward 'brevity' is given its 'max_words' by kwargs, not by the column",
        "data: reward 'language' is given its 'language' by kwargs, not by the column",
    ]


def test_an_object_that_keeps_a_function_as_its_fn_is_called_itself():
    class Halved:
        def __init__(self, fn):
            self.fn, self.name, self.weight = fn, "inner", 7.0

        def __call__(self, completions, **kwargs):
            return [0.5 * value for value in self.fn(completions, **kwargs)]

    reward = load_reward(Halved(brevity))
    assert (reward.name, reward.weight) == ("Halved", 1.0)
    assert apply_rewards([reward], [""], ["a"], [[]], {}).values == {"Halved": [0.5]}
    assert load_reward(functools.partial(brevity, max_words=3)).name == "brevity"


# ---- TRL's own

THOUGHT = r"<think>half</think>\boxed{\frac{1}{2}}"
CASES: dict[str, tuple[dict[str, Any], list[float | None]]] = {
    "think_format_reward": ({}, [1.0, 0.0]),
    "accuracy_reward": ({"columns": {"solution": "answer"}}, [1.0, 0.0]),
    "reasoning_accuracy_reward": (
        {"columns": {"solution": "answer"}, "kwargs": {"reasoning_delimiters": ["</think>"]}}, [1.0, 0.0]),
    "get_soft_overlong_punishment": ({"kwargs": {"max_completion_len": 5, "soft_punish_cache": 4}}, [-0.5, -1.0]),
    "get_cosine_scaled_reward": ({"kwargs": {"max_len": 6}, "columns": {"solution": "answer"}}, [0.75, -0.5]),
    "get_repetition_penalty_reward": ({"kwargs": {"ngram_size": 1}}, [-2 / 3, -5 / 6]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_of_trls_rewards_plugs_in(name):
    spec, expected = CASES[name]
    rows = [Completion((7,) * 3, (0.0,) * 3, "stop", THOUGHT), Completion((7,) * 6, (0.0,) * 6, "stop", r"\boxed{3}")]
    prompt = Prompt("p", (1,), [user("?")], "?", {"answer": r"$\frac{1}{2}$"}, r"$\frac{1}{2}$")
    reward = load_reward({"fn": f"trl.rewards.{name}", **spec})
    (scored,), _ = score([Group(prompt, tuple(map(Rollout, rows)))], [reward], timeout=60)
    found = [rollout.rewards[name] for rollout in scored.rollouts]
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(found, expected, strict=True)), found


def test_there_is_no_other_of_trls_rewards():
    assert set(CASES) == {name for name in dir(trl.rewards) if name.endswith(("_reward", "_punishment"))}


def test_documented():
    assert "trl.rewards.get_soft_overlong_punishment" in page_of("rewards.md")
