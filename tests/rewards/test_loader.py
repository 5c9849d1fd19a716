"""Rewards by name, by import path, and TRL's own, unchanged; and the command `grpo score`."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo.config.data import RewardConfig
from grpo.errors import UserError
from grpo.scoring.groups import score
from grpo.scoring.table import apply_rewards
from grpo.types import Prompt
from rewards import load_reward, load_rewards
from rewards.loader import REGISTRY, find_reward
from rewards.rows import judgeable
from stages.commands.score import score_file
from stages.recipe.preflight import check_reward
from support.chat import assistant, user
from support.command import python
from support.groups import texts_of
from support.models import CHAT_TEMPLATE, THINK_TEMPLATE, make_tokenizer

OWN = """
def starts_with_a(completions, bonus=1.0, **kwargs):
    return [bonus if text.startswith("a") else 0.0 for text in completions]

async def later(completions, answer):
    return [float(text == gold) for text, gold in zip(completions, answer)]

class Counter:
    def __init__(self, letter):
        self.letter = letter
    def __call__(self, completions):
        return [text.count(self.letter) for text in completions]

class Ways:
    @staticmethod
    def plain(completions):
        return [float(len(text)) for text in completions]

    @classmethod
    def scaled(cls, completions, by=1.0):
        return [by * len(text) for text in completions]

value = 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A user's own file in the folder where the command runs, outside of this project."""
    (tmp_path / "my_rewards_file.py").write_text(OWN)
    (tmp_path / "my_broken_file.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    yield tmp_path
    sys.modules.pop("my_rewards_file", None)


def values(reward, completions, prompts=None, **columns):
    table = apply_rewards([reward], prompts or [""] * len(completions), completions, [[]] * len(completions), columns)
    assert table.errors == {}
    return table.values[reward.name]


def test_own_rewards(own_module):
    spec = {"fn": "my_rewards_file.starts_with_a", "weight": 0.5, "kwargs": {"bonus": 3}}
    reward = load_reward(SimpleNamespace(**spec, columns={}, name=None))
    assert (reward.name, reward.weight) == ("starts_with_a", 0.5)
    assert values(reward, ["ab", "b"], bonus=[7, 7]) == [3.0, 0.0]  # the config wins over a column
    counter = {"fn": "my_rewards_file.Counter", "kwargs": {"letter": "a"}, "name": "n"}
    assert values(load_reward(counter), ["banana"]) == [3]
    assert values(load_reward("my_rewards_file.Ways.plain"), ["ab"]) == [2.0]
    assert values(load_reward({"fn": "my_rewards_file.Ways.scaled", "kwargs": {"by": 3}}), ["ab"]) == [6.0]
    assert values(load_reward("my_rewards_file.later"), ["5", "6"], answer=["5", "5"]) == [1.0, 0.0]
    assert values(load_reward(lambda completions: [2] * len(completions)), ["x"]) == [2.0]


@pytest.mark.parametrize(("spec", "message"), [
    ("acuracy", r"reward 'acuracy': no such name \(did you mean 'accuracy'\?\)"),
    ("no_such_module.f", "no module named 'no_such_module'"),
    ("my_rewards_file.Countr", r"has no 'Countr' \(did you mean 'Counter'\?\)"),
    ("my_rewards_file.value", "int is not a function or a class"),
    ("my_rewards_file.Ways.scale", r"class 'my_rewards_file.Ways' has no 'scale' \(did you mean 'scaled'\?\)"),
    ("my_rewards_file.Ways", "instances of this class have no __call__"),
    ("my_broken_file.f", "ZeroDivisionError: division by zero"),
    ({"fn": "accuracy", "kwargs": {"strct": True}}, r"no option 'strct' \(did you mean 'strict'\?\)"),
    ({"fn": "accuracy", "wight": 1}, r"unknown key 'wight' \(did you mean 'weight'\?\)"),
    ({"weight": 1}, "'fn' is missing"), ("my_rewards_file.Counter", "'letter' is required"),
])  # fmt: skip
def test_wrong_specs_name_the_culprit(own_module, spec, message):
    with pytest.raises(UserError, match=message):
        load_reward(spec)


@pytest.mark.parametrize("name", ["rewards", "grpo", "stages"])
def test_a_file_of_the_users_with_a_name_of_ours(tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for path in (f"{name}.starts_with_a", f"{name}.nothing.starts_with_a"):
        with pytest.raises(UserError, match=rf"'{name}\.py' in .* the name is taken by this program: rename it"):
            load_reward(path)
    assert load_reward("rewards.accuracy.accuracy_reward").name == "accuracy_reward"


def test_a_file_of_the_users_that_comes_before_ours(tmp_path):
    """As in a notebook: Python looks in the current folder first."""
    (tmp_path / "rewards.py").write_text("def mine(completions):\n    return [1.0] * len(completions)\n")
    code = "from grpo.system.imports import import_path; import_path('rewards.loader.load_reward')"
    done = python("-c", code, cwd=tmp_path)
    assert "the name is taken by this program: rename it" in done.stderr


def chat_group(*texts, answer):
    return texts_of(Prompt("p", (1,), [user("?")], "?", {"answer": answer}, answer), *texts)


def test_trl_rewards_plug_in_unchanged():
    rewards = load_rewards(
        [{"fn": "trl.rewards.accuracy_reward", "columns": {"solution": "answer"}}, "trl.rewards.think_format_reward"]
    )
    texts = (r"<think>a</think>\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{3}}")
    (scored,), _ = score([chat_group(*texts, answer=r"$\frac{1}{2}$")], rewards, timeout=60)
    assert [r.rewards for r in scored.rollouts] == [
        {"accuracy_reward": 1.0, "think_format_reward": 1.0},
        {"accuracy_reward": 0.0, "think_format_reward": 0.0},
    ]
    assert [r.extra["accuracy_reward"]["solution"] for r in scored.rollouts] == [r"$\frac{1}{2}$"] * 2


def test_builtin_names_in_a_group():
    rewards = load_rewards(["accuracy", "format", {"fn": "language", "kwargs": {"language": "en"}, "weight": 0.1}])
    (scored,), _ = score([chat_group("<think>two plus two</think>The answer is 4", answer="#### 4")], rewards)
    assert scored.rollouts[0].reward == pytest.approx(2.1)


def run_score(tmp_path, capsys, lines, *rewards, **options):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    score_file(str(file), list(rewards), **options)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_score_file(own_module, capsys):
    rows = [
        {"prompt": "", "completion": r"\boxed{5}", "answer": "5"},
        {"completion": "a: nothing", "gold": 5},
        {"prompt": "x", "completion": r"\boxed{5}", "answer": None},
        {"prompt": [{"role": "user", "content": "?"}], "completion": "The answer is 5", "answer": ["4", "5"]},
    ]
    mine = "my_rewards_file.starts_with_a"
    first, second, third, fourth = run_score(own_module, capsys, rows, "accuracy", mine)
    assert first == {"row": 0, "rewards": {"accuracy": 1.0, mine: 0.0}, "errors": {}}
    assert second["rewards"] == {"accuracy": 0.0, mine: 1.0}
    assert third == {"row": 2, "rewards": {"accuracy": None, mine: 0.0}, "errors": {"accuracy": "no gold answer"}}
    assert fourth["rewards"]["accuracy"] == 1.0
    assert "AttributeError" in fourth["errors"][mine]  # a list of messages has no startswith; the others are fine


def test_score_file_writes_to_a_file(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert run_score(tmp_path, capsys, [{"completion": "x", "answer": "1"}], "accuracy", out=str(out)) == []
    assert json.loads(out.read_text()) == {"row": 0, "rewards": {"accuracy": 0.0}, "errors": {}}


@pytest.mark.parametrize(("line", "message"), [
    ("{", "line 2"), ("[1]", "line 2"), ({"prompt": "x"}, r"line 2\): no 'completion'"),
    ({"completion": 5}, r"line 2\): 'completion' must be a string"),
    ({"completion": "x", "prompt": [1]}, "'prompt' must be"),
    ({"completion": [{"role": "assistant", "content": None}]}, "'completion' must be"),
])  # fmt: skip
def test_score_file_bad_lines(tmp_path, capsys, line, message):
    with pytest.raises(UserError, match=message) as error:
        run_score(tmp_path, capsys, [{"completion": "x"}, line], "accuracy")
    assert "rows.jsonl" in str(error.value)


def test_columns_named_like_an_option_stay_out_of_it(tmp_path, capsys):
    row = {"completion": "<think>two</think>The answer is 5", "answer": "5", "language": "en", "strict": "yes"}
    row |= {"opened": "no", "think_tag": "reasoning", "answer_tag": "answer"}
    rewards = ("accuracy", "format", "language", "rewards.accuracy.accuracy_reward")
    (line,) = run_score(tmp_path, capsys, [row], *rewards)
    assert set(line["rewards"].values()) == {1.0}
    assert line["errors"] == {}


def test_score_opens_the_thinking_where_the_template_does(tmp_path, capsys):
    for name, template in {"opens": THINK_TEMPLATE, "plain": CHAT_TEMPLATE, "none": None}.items():
        make_tokenizer(template).save_pretrained(tmp_path / name)
    asked = [user("2+3")]
    rows = [
        {"prompt": asked, "completion": "two</think>5"},
        {"prompt": asked, "completion": "<think>two</think>5"},
        {"prompt": asked, "completion": "<think>two</think>5", "prefill": ""},
        {"prompt": "2+3<think>", "completion": "two</think>5"},
        {"prompt": [*asked, assistant("<think>")], "completion": "two</think>5"},
    ]

    def scores(folder):
        lines = run_score(tmp_path, capsys, rows, "format", tokenizer=str(tmp_path / folder))
        return [line["rewards"]["format"] for line in lines]

    assert scores("opens") == [1.0, 0.0, 1.0, 1.0, 1.0]
    assert scores("plain") == scores("none") == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_score_ends_where_a_reward_hangs(own_module, capsys, monkeypatch):
    (own_module / "my_rewards_file.py").write_text(
        "import threading\ndef hangs(completions):\n    threading.Event().wait(60)\n"
    )
    monkeypatch.setattr("stages.commands.score.REWARD_TIMEOUT", 0.1)
    lines = run_score(own_module, capsys, [{"completion": "x", "answer": "1"}] * 6, "my_rewards_file.hangs", "accuracy")
    assert [line["rewards"]["accuracy"] for line in lines] == [0.0] * 6
    assert all("my_rewards_file.hangs" in line["errors"] for line in lines)


@pytest.mark.parametrize(("reward", "parts"), [
    ("trl.rewards.accuracy_reward", ["'solution'", "rename the column in the file"]),
    ("language", ["'language'", "grpo score", "small function"]),
    ("reward_model", ["'model' is required", "grpo score", "small function"]),
])  # fmt: skip
def test_what_score_users_can_do(tmp_path, capsys, reward, parts):
    with pytest.raises(UserError) as caught:
        run_score(tmp_path, capsys, [{"completion": "x", "answer": "1"}], reward)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", sorted(REGISTRY.keys() - {"reward_model", "gym"}))  # model and package are missing
def test_every_reward_passes_the_check_before_a_run(name):
    """It is called on no rows, with every column that it may take."""
    kwargs = {
        "overlong": {"max_length": 100, "cache": 10}, "cosine_length": {"max_length": 100},
        "judge": {"base_url": "http://localhost/v1", "model": "m"}, "language": {"language": "fr", "detect": True},
        "repetition": {"unit": "tokens"}, "length_range": {"max_tokens": 9},
    }  # fmt: skip
    check_reward(RewardConfig(fn=name, kwargs=kwargs.get(name, {})), Path())


@pytest.mark.parametrize(("name", "kwargs"), [("accuracy", {}), ("cosine_length", {"max_length": 9}), ("length", {})])
def test_prompts_whose_gold_cannot_be_read_are_left_out(name, kwargs, caplog):
    """Of every reward that grades; one that only watches leaves the choice of the rows alone."""
    prompts = [Prompt(str(gold), (1,), None, "?", {"mine": "5"}, gold) for gold in ("4", None, "(((")]
    spec = {"fn": name, "kwargs": kwargs}
    assert judgeable(prompts, [load_reward(spec)], "data") == prompts[:1]
    assert "data: 2 of 3 golds cannot be read: dropped" in caplog.text
    assert judgeable(prompts, [load_reward({**spec, "columns": {"answer": "mine"}})], "data") == prompts
    assert judgeable(prompts, [load_reward({**spec, "weight": 0})], "data") == prompts
    with pytest.raises(UserError, match="data: no row has a gold"):
        judgeable(prompts[1:], [load_reward(spec)], "data")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("accuracy", "rewards.accuracy.accuracy_reward"),
        ("code", "rewards.code.code_reward"),
        ("judge", "rewards.judge.Judge"),
        ("language", "rewards.language.language_consistency"),
    ],
)
def test_public_paths_are_the_built_in_rewards(name, path):
    """What the pages name, and configs and old run folders may hold."""
    kwargs = {"model": "m", "base_url": "http://localhost:1/v1"} if name == "judge" else {}
    assert find_reward({"fn": path, "kwargs": kwargs})[1] is find_reward({"fn": name, "kwargs": kwargs})[1]


def test_the_documented_tests_of_code():
    from rewards import code_tests
    from rewards.code import sets, tests

    homes = {name: sets if hasattr(sets, name) else tests for name in code_tests.__all__}
    assert all(getattr(code_tests, name) is getattr(home, name) for name, home in homes.items())
