"""What a run goes on with that is not what it was begun with: rows of a data function, code that a reward uses."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from grpo.checkpoint.identity import differences
from grpo.checkpoint.reward_state import reward_state
from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.errors import UserError
from grpo.supervised import Training
from grpo.supervised.reward_model import Pairwise, train_reward_model
from grpo.supervised.sft import supervised
from grpo.supervised.training import StepLog
from support.models import word_model
from support.runs import CPU

WORDS = ["one", "two", "three", "four", "five", "six"]
TALKS = [{"prompt": f"say {word}", "completion": f"{word} and {word} again"} for word in WORDS]
PAIRS = [{"prompt": f"say {word}", "chosen": f"{word} again", "rejected": "and"} for word in WORDS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = [f"{row['prompt']} {row['completion']} user assistant" for row in TALKS]
    return word_model(texts, 340, tmp_path_factory.mktemp("model") / "model")


def training(out, accept_changes=False):
    settings = SFTConfig(
        steps=4, batch_size=2, max_tokens=64, optimizer=OptimizerConfig(lr=1e-3), checkpoint={"every": 2}
    )
    return Training(settings, out, 0, CPU, "it", accept_changes)


KINDS = {
    "sft": (TALKS, "completion", supervised),
    "reward model": (
        PAIRS,
        "chosen",
        lambda model, rows, told: train_reward_model(Pairwise, model, rows, "answer", told),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_of_a_data_function_are_noticed_by_every_supervised_training(kind, model, tmp_path, monkeypatch):
    """Before: it went on with them and said nothing. RL noticed."""
    rows, column, work = KINDS[kind]

    def killed(self, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        plain = StepLog.on_log
        patch.setattr(
            StepLog,
            "on_log",
            lambda self, args, state, *rest, **more: (
                killed(self) if state.global_step == 3 else plain(self, args, state, *rest, **more)
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            work(model, rows, training(tmp_path))
    for number in range(len(rows)):  # one of a reward model's is held out
        other = [*rows]
        other[number] = {**rows[number], column: "six six"}
        with pytest.raises(UserError, match=r"step-000002' was made with something else \(rows: \w+ -> \w+\)"):
            work(model, other, training(tmp_path))
    assert work(model, rows, training(tmp_path))["steps"] == 4


def test_other_rows_may_be_accepted(model, tmp_path, caplog):
    supervised(model, TALKS, training(tmp_path))
    supervised(model, TALKS[::-1], training(tmp_path, accept_changes=True))
    assert "going on with changes: rows:" in caplog.text


MODULE = """
import functools
import attack_helpers
from attack_helpers import imported
LIMIT = 1
TABLE = {{"one": lambda text: {table}}}

def helper(text):
    return len(text) + {helper}

@functools.lru_cache
def remembered(text):
    return {remembered}

def by_module(completions, **_):
    return [attack_helpers.scale(text) * attack_helpers.FACTOR for text in completions]

def by_name(completions, **_):
    return [imported(text) for text in completions]

def inside(completions, **_):
    from attack_inside import deep
    return [deep(text) for text in completions]

def cached(completions, **_):
    return [remembered(text) for text in completions]

def by_table(completions, **_):
    return [TABLE["one"](text) for text in completions]

def looked_up(completions, **_):
    return [globals()["hel" + "per"](text) for text in completions]

class Base:
    def based(self, text):
        return helper(text)

class Judge(Base):
    def __call__(self, completions, **_):
        return [self.based(text) for text in completions]

def with_object(completions, judge=Judge(), **_):
    return judge(completions)

judge = Judge()
"""
HELPERS = "import json, pathlib\nimport attack_deep\nFACTOR = {factor}\n"
HELPERS += "READ = json.loads(pathlib.Path('v.json').read_text())\n"
HELPERS += "def scale(text):\n    return attack_deep.K * {scale}\ndef imported(text):\n    return {imported}\n"
WHOLE = {
    "table": 1,
    "helper": 1,
    "remembered": 1,
    "factor": 1,
    "scale": 1,
    "imported": 1,
    "deep": 1,
    "inside": 1,
    "read": 1,
}
EDITS = [
    *[(name, part) for name in ("by_module", "by_name") for part in ("factor", "scale", "imported", "deep", "read")],
    *[("inside", "inside"), ("cached", "remembered"), ("by_table", "table"), ("looked_up", "helper")],
    *[("judge", "helper"), ("with_object", "helper"), ("judge", "deep")],
]  # fmt: skip


def written(parts, comment=""):
    """The modules of a reward, anew in a folder, and what a process that imports them says of each reward."""
    files = {
        "attack_reward": MODULE.format(**parts), "attack_helpers": HELPERS.format(**parts),
        "attack_deep": f"K = {parts['deep']}\n", "attack_inside": f"def deep(text):\n    return {parts['inside']}\n",
    }  # fmt: skip
    for name, text in files.items():
        Path(f"{name}.py").write_text(text + comment)
    Path("v.json").write_text(str(parts["read"]))
    sys.path.insert(0, ".")
    importlib.invalidate_caches()
    module = importlib.import_module("attack_reward")
    names = {name for name, _ in EDITS}
    state = {name: reward_state(getattr(module, name)) for name in names}
    for name in files:
        sys.modules.pop(name, None)
    shutil.rmtree("__pycache__", ignore_errors=True)
    sys.path.remove(".")
    return state


def test_an_edited_helper_constant_or_module_of_a_reward_is_noticed(tmp_path, monkeypatch):
    """Before: only what the reward's own module held in names that the reward itself read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    whole = written(WHOLE)
    assert written(WHOLE) == whole
    assert written(WHOLE, "# a comment\n") == whole
    unnoticed = [(name, part) for name, part in EDITS if written({**WHOLE, part: 2})[name] == whole[name]]
    assert unnoticed == []


def test_a_checkpoint_of_another_way_to_tell_states_goes_on():
    old = {"states": True, "tasks.t.rewards.r.state.global.x": "1", "tasks.t.rewards.r.source": "s"}
    now = {"states": 2, "tasks.t.rewards.r.state.module.m": "2", "tasks.t.rewards.r.source": "s"}
    assert differences(old, now).matter == []
