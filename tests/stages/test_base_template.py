"""base.chat_template and base.template_kwargs: part of the model from the base stage on, and of its lineage."""

import json

import pytest
from transformers import AutoTokenizer

from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from stages.cli import main
from stages.commands.run import stage_command
from stages.recipe.config import RecipeConfig
from stages.recipe.lineage import stage_settings
from support.chat import assistant, user
from support.models import CHAT_TEMPLATE, EOS, IM_END, make_model, make_tokenizer

TEMPLATE = CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|>{% if not thinking %}<think></think>{% endif %}")
SFT = {"steps": 1, "batch_size": 1, "max_tokens": 200, "optimizer": {"lr": 0.001}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model without a chat template, a template, demonstrations with a reasoning, a config."""
    make_model("qwen3", end=[EOS, IM_END]).save_pretrained(tmp_path / "plain")
    make_tokenizer(None).save_pretrained(tmp_path / "plain")
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    rows = [{"messages": [user("two?"), assistant("<think>one and one</think>2")]}]
    write_jsonl(tmp_path / "cold.jsonl", rows)
    write_jsonl(tmp_path / "q.jsonl", [{"question": "two?", "answer": "2"}, {"question": "one?", "answer": "1"}])
    rl = {"steps": 1, "group_size": 2, "data": "q.jsonl", "rewards": "accuracy", "sampling": {"max_tokens": 4}}
    base = {"model": "plain", "chat_template": "chat.jinja", "template_kwargs": {"thinking": True}}
    tree = {"base": base, "cold_start": {"data": {"path": "cold.jsonl"}, **SFT}, "reasoning_rl": rl}
    tree["runtime"] = {"device": "cpu", "threads": 1}
    (tmp_path / "c.yaml").write_text(dump_yaml(tree))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_stage_keeps_them(folder, capsys):
    assert main(["check", "c.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "--- cold_start.data, row 0: what is trained of it" in shown
    assert "\n<think>one and one</think>2<|im_end|>\n" in shown
    assert main(["run", "c.yaml", "--out", "run"]) == 0
    for stage in ("0-base", "1-cold-start", "2-reasoning-rl"):
        tokenizer = AutoTokenizer.from_pretrained(folder / "run" / stage / "model")
        asked = {"tokenize": False, "add_generation_prompt": True}
        assert tokenizer.apply_chat_template([user("two?")], **asked).endswith("<|assistant|>")
        assert tokenizer.apply_chat_template([user("two?")], thinking=False, **asked).endswith("<think></think>")
    record = json.loads((folder / "run" / "0-base" / "stage.json").read_text())
    assert record["settings"]["base.template_kwargs.thinking"] is True
    assert record["inputs"]["chat.jinja"]
    capsys.readouterr()
    (folder / "chat.jinja").write_text(TEMPLATE + " ")
    assert main(["run", "c.yaml", "--out", "run"]) == 2
    assert "was made from something else" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "problem"), [
    ("base.template_kwargs.thinking=false", "row 0, message 1: the generation prompt closes the thought"),
    ("base.template_kwargs={thinkin: true}", "the chat template reads no 'thinkin'"),
    ("base.chat_template=none.jinja", "chat template 'none.jinja': no such file"),
    ("base.chat_template=null", "the model has no chat template"),
])  # fmt: skip
def test_check_and_run_refuse_alike(folder, change, problem, capsys):
    assert main(["check", "c.yaml", change]) == 2
    assert problem in capsys.readouterr().out
    assert main(["run", "c.yaml", "--out", "run", change]) == 2
    errors = capsys.readouterr().err
    assert problem in errors
    assert "Traceback" not in errors


def test_a_stage_that_skips_the_base_stage_says_that_it_would_miss_them(folder):
    arguments = ["c.yaml", "--out", "run", "--init", "plain"]
    with pytest.raises(UserError, match="become part of the model in the base stage, which is not finished in 'run'"):
        stage_command("cold_start", arguments)
    assert main(["run", "c.yaml", "--out", "run", "--until", "base"]) == 0
    assert stage_command("cold_start", ["c.yaml", "--out", "run"]) == 0


def test_runs_without_them_stay_what_they_were(folder):
    tree = {"base": {"model": "plain"}, "cold_start": {"data": {"path": "cold.jsonl"}, **SFT}}
    settings = stage_settings(RecipeConfig.model_validate(tree), "base")
    assert not [key for key in settings if "template" in key]
