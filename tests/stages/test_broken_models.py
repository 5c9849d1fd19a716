"""Each broken model of `support.broken` is refused by every command for the same reason, before anything computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import grpo
from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from grpo.supervised import Training
from grpo.supervised.sft import supervised
from stages.cli import main
from support.adapters import adapter_of
from support.broken import BROKEN, broken_model
from support.runs import CPU

ROWS = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(4)]
TALKS = [{"prompt": row["question"], "completion": row["answer"]} for row in ROWS]
RL = {
    "steps": 1, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 4}, "optimizer": {"lr": 1e-3},
}  # fmt: skip


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize("case", BROKEN)
def test_every_command_says_the_same(case, tmp_path, monkeypatch, capsys):
    from grpo.config.training import SFTConfig

    monkeypatch.chdir(tmp_path)
    model, cause = broken_model(case, Path("model")), BROKEN[case][2]
    write_jsonl(Path("rows.jsonl"), ROWS)
    data = {"path": "rows.jsonl"}
    task = {"data": data, "rewards": [{"fn": "accuracy"}]}
    recipe = {"base": {"model": model}, "reasoning_rl": RL | {"tasks": {"sums": task}}}
    Path("c.yaml").write_text(dump_yaml(recipe))

    assert main(["check", "c.yaml"]) == 2
    errors = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    said = next(line for line in errors if line.startswith("error    weights of model: "))
    assert re.search(cause, said), said

    for words in (["run", "c.yaml"], ["eval", model, "--data", "rows.jsonl", "--max-tokens", "4"]):
        assert main(words) == 2
        captured = capsys.readouterr().err
        assert "Traceback" not in captured
        assert re.search(cause, last_line(captured)), captured
    assert not list(Path("runs").rglob("model"))  # nothing was made of it

    with pytest.raises(UserError, match=cause):
        grpo.train({"model": model, "out": "out", **RL}, ["accuracy"], ROWS)
    settings = SFTConfig(steps=1, batch_size=2, max_tokens=64, optimizer={"lr": 1e-3})
    with pytest.raises(UserError, match=cause):
        supervised(model, TALKS, Training(settings, Path("sft"), 0, CPU, "SFT"))


def test_a_random_judge_is_refused_before_anything_computes(tmp_path, monkeypatch, capsys):
    """A causal LM as a reward model: in check, and at the start of a run."""
    from support.models import EOS, IM_END, save_model

    monkeypatch.chdir(tmp_path)
    save_model(Path("model"), end=[EOS, IM_END])
    write_jsonl(Path("rows.jsonl"), ROWS)
    task = {"data": {"path": "rows.jsonl"}, "rewards": [{"fn": "reward_model", "kwargs": {"model": "model"}}]}
    recipe = {"base": {"model": "model"}, "reasoning_rl": RL | {"tasks": {"sums": task}}}
    Path("c.yaml").write_text(dump_yaml(recipe))
    text = "reward model 'model': it is no reward model, score.weight is missing from its files"
    assert main(["check", "c.yaml"]) == 2
    assert text in capsys.readouterr().out
    assert main(["run", "c.yaml"]) == 2
    assert text in capsys.readouterr().err
    assert not list(Path("runs").rglob("model"))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"target_modules": ["lm_head"]}, "changes a layer that shares its weight with another"),
        ({"lora_bias": True, "target_modules": ["o_proj"]}, "Impossible to merge LoRA with `lora_bias=True`"),
        ({"alora_invocation_tokens": [5, 6]}, "aLoRA does not support safe merging"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_before_a_run_begins(settings, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = adapter_of("qwen2", tmp_path, **settings)
    write_jsonl(Path("rows.jsonl"), ROWS)
    task = {"data": {"path": "rows.jsonl"}, "rewards": [{"fn": "accuracy"}]}
    Path("c.yaml").write_text(dump_yaml({"base": {"model": model}, "reasoning_rl": RL | {"tasks": {"sums": task}}}))
    assert main(["check", "c.yaml"]) == 2
    assert text in capsys.readouterr().out
    assert main(["run", "c.yaml"]) == 2
    captured = capsys.readouterr()
    assert text in last_line(captured.err)
    assert "base.model: " in last_line(captured.err)  # by the first look at the config
    assert not Path("runs").exists()
