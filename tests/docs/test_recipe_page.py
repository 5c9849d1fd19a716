"""The recipes that the README and docs/recipe.md show: they are what they say, and run."""

from pathlib import Path
from typing import Any

import pytest

from grpo.config.file import validate
from grpo.config.training import LR, LR_LORA, LR_SFT, SFTConfig
from grpo.config.yaml import load_yaml
from grpo.data.rows import write_jsonl
from stages.cli import main
from stages.recipe.config import RecipeConfig
from support.documents import README, blocks, text
from support.models import EOS, IM_END, make_model, make_tokenizer

PAGE = README.parent / "docs" / "recipe.md"


def recipe(block: str) -> Any:
    return validate(RecipeConfig, load_yaml(block, "block"), "block")


def test_the_short_recipe_says_what_the_long_one_does():
    short, long, _ = blocks(PAGE, "yaml")
    assert recipe(short) == recipe(long)
    assert len(short.splitlines()) <= 10


def test_the_student_s_sections_stand_beside_a_recipe_with_stage_3():
    sampled = {"data": "train.jsonl", "filters": "accuracy"}
    _, long, student = (load_yaml(block, "block") for block in blocks(PAGE, "yaml"))
    config = validate(RecipeConfig, {**long, "rejection_sampling": sampled, **student}, "block")
    assert config.student_rl is not None
    assert config.student_rl.loss.distill is not None
    assert config.student_rl.loss.distill.model == "{run}/3-rejection-sampling/model"


def test_the_numbers_of_the_page():
    defaults = {name: field.default for name, field in SFTConfig.model_fields.items()}
    assert f"{LR:g}, {LR_LORA:g}, {LR_SFT:g}".replace("e-0", "e-") == "1e-6, 1e-5, 2e-5"
    for words in ("1e-6 in RL, 1e-5 with `lora`, 2e-5 in", f"{defaults['max_tokens']} of an example", "batches of 16"):
        assert words in text(PAGE)
    assert defaults["batch_size"] == 16


@pytest.mark.parametrize("page", [README, PAGE], ids=lambda file: file.name)
def test_the_shortest_recipe_passes_the_check_and_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (block, *_) = blocks(page, "yaml")
    assert len(block.strip().splitlines()) <= 10
    Path("my.yaml").write_text(block.replace("my_rewards", "readme_rewards"))
    Path("readme_rewards.py").write_text(next(code for code in blocks(README, "python") if "# my_rewards.py" in code))
    make_model("qwen3", end=[EOS, IM_END], max_position_embeddings=2048).save_pretrained("path/to/your/model")
    make_tokenizer().save_pretrained("path/to/your/model")
    write_jsonl(Path("train.jsonl"), [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(20)])
    capsys.readouterr()
    assert main(["check", "my.yaml"]) == 0, capsys.readouterr().out
    small = ["steps=2", "group_size=2", "prompts_per_step=2", "sampling.max_tokens=8"]
    assert main(["run", "my.yaml", "runtime.threads=1", *(f"reasoning_rl.{name}" for name in small)]) == 0
    assert "No pass@1" in capsys.readouterr().out
