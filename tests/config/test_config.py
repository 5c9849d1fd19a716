"""Configs are strict: whatever is wrong is one line that names the file, the key's path and what was meant."""

from pathlib import Path

import pytest

from grpo.config.data import EvalConfig
from grpo.config.file import apply_override, read_config
from grpo.config.training import RLConfig, TrainConfig
from grpo.errors import UserError
from stages.recipe.config import RecipeConfig, RLStageConfig
from support.recipes import SHIPPED

GOOD = """
steps: 4
group_size: 4
prompts_per_step: 2
sampling: {max_tokens: 8}
optimizer: {lr: 1e-6}
"""


def read(tmp_path: Path, text: str = GOOD, *overrides: str, model=RLConfig):
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return read_config(model, file, overrides)


def error(tmp_path: Path, text: str = GOOD, *overrides: str, model=RLConfig) -> str:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, *overrides, model=model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_and_values(tmp_path):
    config = read(tmp_path)
    assert (config.optimizer.lr, config.optimizer.beta2) == (1e-6, 0.999)
    assert (config.loss.beta, config.loss.aggregation, config.advantage.scale) == (0.0, "sequence", "group")
    assert config.updates_per_rollout == 1
    assert read(tmp_path, GOOD + "rollout_prompts: 32\n").updates_per_rollout == 16
    sampling = config.sample_settings()
    assert (sampling.group_size, sampling.max_tokens, sampling.temperature, sampling.top_p) == (4, 8, 1.0, 1.0)


@pytest.mark.parametrize("number", ["1e-6", "1E-6", "1.0e-6", "+1e-6", "0.000001", "1.e-6", ".1e-5"])
def test_numbers_as_people_write_them(tmp_path, number):
    """YAML 1.1 reads 1e-6 as a string."""
    assert read(tmp_path, GOOD.replace("1e-6", number)).optimizer.lr == pytest.approx(1e-6)
    assert read(tmp_path, GOOD, f"optimizer.lr={number}").optimizer.lr == pytest.approx(1e-6)


def test_numbers_in_lists_and_kwargs_too(tmp_path):
    text = "data: {fn: a.b, kwargs: {x: 1e-3, y: [2e2, 1e5x, 'e'], name: 1.5e}}\nmax_tokens: 4\n"
    config = read(tmp_path, text, model=EvalConfig)
    assert config.data.kwargs == {"x": 1e-3, "y": [200.0, "1e5x", "e"], "name": "1.5e"}


@pytest.mark.parametrize("section", ["tasks.math.reward", "tasks.math.rewards.0.fun", "tasks.math.data.pth"])
def test_unknown_keys_below_dicts_and_lists(tmp_path, section):
    text = GOOD + "tasks: {math: {data: {path: x.jsonl}, rewards: [{fn: accuracy}]}}\n"
    message = error(tmp_path, text, f"{section}=1", model=RLStageConfig)
    assert f"unknown key '{section}'" in message
    assert "did you mean '" + {"reward": "rewards", "fun": "fn", "pth": "path"}[section.rsplit(".", 1)[1]] in message


@pytest.mark.parametrize(("text", "parts"), [
    (GOOD + "group_sise: 4\n", ["c.yaml", "unknown key 'group_sise'", "did you mean 'group_size'"]),
    (GOOD + "loss: {betta: 0.1}\n", ["'loss.betta'", "did you mean 'beta'"]),
    (GOOD + "zzz: 1\n", ["'zzz'", "one of:", "prompts_per_step"]),
    (GOOD.replace("max_tokens", "max_token"), ["sampling.max_token"]),
    (GOOD.replace("steps: 4", ""), ["'steps' is missing"]),
    (GOOD + "steps: 5\n", ["c.yaml, line 7", "'steps'", "twice"]),
    ("optimizer:\n  lr: 1\n  lr: 2\n", ["line 3", "'lr'", "twice"]),
    ("a: [1, 2\nb: 3\n", ["c.yaml, line", "not valid YAML"]), ("a: b: c\n", ["line 1", "not valid YAML"]),
    ("\tsteps: 1\n", ["line 1", "not valid YAML"]),
    ("- 1\n- 2\n", ["c.yaml", "expected sections", "list"]), ("just text\n", ["expected sections"]),
    ("", ["expected sections", "the file is empty"]),
    ("a: \x01\n", ["c.yaml", "not valid YAML"]), ("{[1, 2]: 3}\n", ["c.yaml", "line 1"]),
    ("a: 2026-02-30\n", ["c.yaml"]),  # PyYAML makes dates, and this is none
    ("a: !!python/object:os.system {}\n", ["not valid YAML"]), ("a: *nothing\n", ["not valid YAML"]),
    ("1: 2\n", ["c.yaml", "1"]),
])  # fmt: skip
def test_a_wrong_file_is_one_line(tmp_path, text, parts):
    message = error(tmp_path, text)
    for part in parts:
        assert part in message


def test_a_config_that_is_not_text_or_not_there(tmp_path):
    (tmp_path / "b.yaml").write_bytes(b"steps: \xff\xfe\n")
    with pytest.raises(UserError, match=r"b\.yaml"):
        read_config(RLConfig, tmp_path / "b.yaml")
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="no such file"):
            read_config(RLConfig, path)


@pytest.mark.parametrize(("override", "parts"), [
    ("group_size=1", ["'group_size'", "greater than or equal to 2", "got 1"]),
    ("group_size=four", ["'group_size'", "integer", "'four'"]), ("group_size=2.5", ["'group_size'", "2.5"]),
    ("group_size=null", ["'group_size'"]), ("group_size=[4]", ["'group_size'"]),
    ("group_size=true", ["'group_size'"]),  # YAML's yes, on and true would be read as 1
    ("steps=yes", ["'steps'"]), ("loss.beta=on", ["'loss.beta'"]),
    ("loss.beta=.nan", ["'loss.beta'"]), ("optimizer.lr=.inf", ["'optimizer.lr'"]),
    ("loss.aggregation=mean", ["'loss.aggregation'", "'sequence'", "'mean'"]),
    ("group_size", ["'group_size'", "key.path=value"]), ("=3", ["'=3'", "key.path=value"]), ("", ["key.path=value"]),
    ("steps.more=3", ["'steps' is a single value"]), ("steps.more.yet=3", ["'steps' is a single value"]),
    ("los.beta=3", ["unknown key 'los'", "did you mean 'loss'"]), ("loss.betta=3", ["unknown key 'loss.betta'"]),
    ("optimizer..lr=3", ["optimizer."]), ("steps=[1", ["override 'steps=[1'", "not valid YAML"]),
    ("steps={a: 1, a: 2}", ["override", "twice"]),
])  # fmt: skip
def test_a_wrong_override_is_one_line(tmp_path, override, parts):
    message = error(tmp_path, GOOD, override)
    for part in parts:
        assert part in message


def test_overrides_reach_nested_keys_and_lists():
    tree = {"a": {"b": 1}, "tasks": {"m": {"rewards": [{"fn": "x"}, {"fn": "y"}]}}, "empty": None}
    apply_override(tree, "a.b=2e-3")
    apply_override(tree, "a.c.d=[1, two]")
    apply_override(tree, "tasks.m.rewards.1.weight=0.5")
    apply_override(tree, "tasks.m.rewards.0={fn: z}")
    apply_override(tree, "empty.x=a=b")
    apply_override(tree, "none=")
    assert tree == {
        "a": {"b": 0.002, "c": {"d": [1, "two"]}},
        "tasks": {"m": {"rewards": [{"fn": "z"}, {"fn": "y", "weight": 0.5}]}},
        "empty": {"x": "a=b"},
        "none": None,
    }


@pytest.mark.parametrize("index", ["2", "-1", "x", "1e0"])
def test_a_wrong_list_index_is_named(index):
    tree = {"rewards": [{"fn": "x"}, {"fn": "y"}]}
    with pytest.raises(UserError, match=rf"'rewards\.{index}' must be a list index below 2"):
        apply_override(tree, f"rewards.{index}.weight=1")


def test_configs_are_frozen(tmp_path):
    config = read(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3


def test_a_config_of_a_training_needs_a_folder(tmp_path):
    assert "'out' is missing" in error(tmp_path, GOOD + "model: m\n", model=TrainConfig)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_config_loads(file):
    config = read_config(RecipeConfig, file)
    assert read_config(RecipeConfig, file, ["seed=7"]).seed == 7
    for kind in ("local", "vllm", "vllm-server", "auto"):  # the other settings of the section stay
        for name in (f"engine={kind}", f"engine.kind={kind}"):
            assert read_config(RecipeConfig, file, [name]).engine == config.engine.model_copy(update={"kind": kind})
    assert read_config(RecipeConfig, file, ["engine.max_rows=64"]).engine.kind == config.engine.kind
    with pytest.raises(UserError, match="did you mean 'runtime'"):
        read_config(RecipeConfig, file, ["runtim.threads=1"])
