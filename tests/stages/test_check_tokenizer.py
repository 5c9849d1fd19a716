"""`grpo check` shows what the model will read: the ids of a prompt as text, and what was lost on the way to them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers
from transformers import LlamaConfig, Qwen2Config

from stages.cli import main
from stages.tiny_world import build_tokenizer

ROWS = [{"question": f"What is  {a} + 2?\n\nThink.", "answer": str(a + 2)} for a in range(12)]


def model_folder(folder: Path, kind: Any = LlamaConfig, tweak: Any = None, **changes: Any) -> None:
    tokenizer = build_tokenizer([row["question"] for row in ROWS] * 5, 400)
    if tweak is not None:
        tweak(tokenizer)
    tokenizer.save_pretrained(folder)
    kind(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id,
    ).save_pretrained(folder)  # fmt: skip
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def checked(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(folder)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"path": "rows.jsonl"}
    task = {"data": data, "rewards": [{"fn": "accuracy"}]}
    Path("c.yaml").write_text(json.dumps({
        "base": {"model": str(folder / "model")},
        "reasoning_rl": {"steps": 1, "tasks": {"math": task}, "sampling": {"max_tokens": 16}},
    }))  # fmt: skip
    main(["check", "c.yaml"])
    return capsys.readouterr().out


def line(out: str, name: str) -> str:
    (found,) = [line for line in out.splitlines() if line[9:].startswith(name)]
    return found


def test_a_prompt_is_shown_from_its_ids(tmp_path, monkeypatch, capsys):
    """The template's own text was shown, which was healthy whatever the ids were."""
    model_folder(tmp_path / "model", tokenizer_class="LlamaTokenizerFast")
    out = checked(tmp_path, monkeypatch, capsys)
    assert "<|im_start|>user⏎\nWhat is  0 + 2?⏎\n⏎\nThink.<|im_end|>⏎\n<|im_start|>assistant⏎\n" in out
    assert line(out, "texts reasoning_rl.tasks.math").startswith("ok ")
    assert line(out, "tokenizer as it will be saved").endswith("AutoTokenizer reads it as we do")


def test_what_the_tokenizer_loses_is_shown(tmp_path, monkeypatch, capsys):
    def lowercase(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    model_folder(tmp_path / "model", tweak=lowercase)
    out = checked(tmp_path, monkeypatch, capsys)
    name = "texts reasoning_rl.tasks.math"
    assert line(out, name).startswith(f"warning  {name}: the tokenizer changes 12 of 12, row 0: 'start|>user")
    assert "What" not in out.partition("--- reasoning_rl.tasks.math")[2].partition("\n---")[0]


def test_a_type_for_which_transformers_takes_a_class_of_its_own_is_told_of(tmp_path, monkeypatch, capsys):
    model_folder(tmp_path / "model", Qwen2Config)
    text = line(checked(tmp_path, monkeypatch, capsys), "tokenizer as it will be saved")
    assert text.startswith("warning ")
    assert "load the trained model's by PreTrainedTokenizerFast" in text


def test_two_templates_that_differ_are_told_of(tmp_path, monkeypatch, capsys):
    model_folder(tmp_path / "model", chat_template="{{ messages }}")
    assert "chat_template.jinja counts" in line(checked(tmp_path, monkeypatch, capsys), "two chat templates")
