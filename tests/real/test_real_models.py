"""Real pretrained models: what is sampled is what transformers generates, and a whole step leaves the trained model.

`make test-real`. About 1.1 GB of weights for the larger one, four times that while all of it is trained. One
thread, as every test: two on cores that others use as well took seven times as long.
"""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from real_weights import PACKAGES

import grpo
import grpo.trainer
from grpo.config.data import DataConfig
from grpo.config.yaml import dump_yaml
from grpo.data.prompts import build_prompts
from grpo.data.rows import write_jsonl
from grpo.engines.local.engine import LocalEngine
from grpo.engines.local.trial import tried
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.run import Run
from grpo.types import Sampling
from matrix.trial import what_was_lost
from stages.cli import main
from support.real_models import real_file, real_model

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
QUESTIONS = [
    "What is 2+2?", "Name the capital of France.", "Write one sentence about the sea.", "Count: 1, 2, 3,",
]  # fmt: skip
ROWS = [{"question": f"What is {a}+{a + 1}?", "answer": str(2 * a + 1)} for a in range(2, 6)]
PLAIN = {"template": "Question: {prompt}\nAnswer:"}  # Gemma 3's file is that of a base model
models = pytest.mark.parametrize("name", list(PACKAGES))


def data_of(name: str, file: Path) -> dict[str, Any]:
    return {"path": str(file), **(PLAIN if name == "gemma3" else {})}


@models
@torch.no_grad()
def test_greedy_decoding_is_that_of_generate(name):
    folder = real_model(name)
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), torch.device("cpu"))
    prompts = build_prompts([{"prompt": text} for text in QUESTIONS], DataConfig(**data_of(name, Path("d"))), tokenizer)
    engine = tried(LocalEngine(model, tokenizer, 8), "float32")
    assert engine.reason is None  # our own attention
    groups = engine.generate(prompts, Sampling(1, 24, 0.0), seed=0, step=0)
    for text, group in zip(QUESTIONS, groups, strict=True):
        if name == "gemma3":
            ids = tokenizer(PLAIN["template"].replace("{prompt}", text), return_tensors="pt")["input_ids"]
            assert ids[0, 0] == tokenizer.bos_token_id
        else:
            turns = [{"role": "user", "content": text}]
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        assert list(group.prompt_ids) == ids[0].tolist()
        found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        assert list(group.rollouts[0].completion.token_ids) == found[0, ids.shape[1] :].tolist()


@models
@torch.no_grad()
def test_its_file_is_that_model(name, monkeypatch, tmp_path):
    """The .gguf as the product reads it: the weights of the folder that transformers alone was asked for, its tokens
    (but for blanks before digits, which transformers splits as GPT-2 does), and the answer it is known for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    file, folder = str(real_file(name)), str(real_model(name))
    model, other = load_model(file, torch.device("cpu")), load_model(folder, torch.device("cpu"))
    held = other.state_dict()
    assert held.keys() == model.state_dict().keys()
    assert all(torch.equal(value, held[key]) for key, value in model.state_dict().items())
    tokenizer, known = load_tokenizer(file), load_tokenizer(folder)
    texts = [*QUESTIONS, "naïve ไทย 中文 🙂\n\n\tx_1 != 23.5", "  <|im_end|><end_of_turn> 's DON'T"]
    assert [tokenizer(text)["input_ids"] for text in texts] == [known(text)["input_ids"] for text in texts]
    assert tokenizer.chat_template == known.chat_template
    if name == "smollm2":
        assert tokenizer.convert_ids_to_tokens(tokenizer("x  5")["input_ids"]) == ["x", "ĠĠ", "5"]
    prompts = build_prompts([{"prompt": QUESTIONS[0]}], DataConfig(**data_of(name, Path("d"))), tokenizer)
    ids = torch.tensor([prompts[0].token_ids])
    assert torch.equal(model(ids).logits, other(ids).logits)
    [group] = LocalEngine(model, tokenizer, 1).generate(prompts, Sampling(1, 20, 0.0), seed=0, step=0)
    answer = {"smollm2": "The answer to this classic math problem is 4.", "gemma3": " 2+2=4"}[name]
    assert group.rollouts[0].completion.text.startswith(answer)


@models
def test_check_and_eval(name, tmp_path, capsys):
    folder, file, judged = real_model(name), tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    write_jsonl(file, ROWS)
    write_jsonl(judged, [{"question": f"What is {a}+{a + 20}?", "answer": str(2 * a + 20)} for a in range(2, 6)])
    recipe = {
        "base": {"model": str(folder)},
        "evaluation": {"math": {"data": data_of(name, judged), "max_tokens": 16, "samples": 8}},
        "reasoning_rl": {
            "steps": 1, "group_size": 2, "prompts_per_step": 2,
        "sampling": {"max_tokens": 16},
            "tasks": {"math": {"data": data_of(name, file), "rewards": [{"fn": "accuracy"}]}},
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
    code = main(["check", str(tmp_path / "recipe.yaml")])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "error" not in [line.split()[0] for line in said.splitlines() if line]
    if name == "gemma3":  # the command asks by the chat template, which a base model has not
        found: Any = grpo.evaluate(folder, DataConfig(**data_of(name, file)), max_tokens=16).metrics
    else:
        out = tmp_path / "eval.json"
        assert main(["eval", str(folder), "--data", str(file), "--max-tokens", "16", "--out", str(out)]) == 0
        found = json.loads(out.read_text())
    assert found["n_problems"] == 4
    assert found["engine"] == "local"


@models
@pytest.mark.parametrize("adapter", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_one_step_leaves_the_trained_model(name, adapter, tmp_path):
    """Two prompts with two completions of 16 tokens. A rate that shows in every tensor; the gate's limit is 1e-4."""
    runs: list[Run] = []
    usual = grpo.trainer.set_up

    def set_up(*arguments: Any) -> Run:
        runs.append(usual(*arguments))
        return runs[-1]

    def rising(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(place) for place in range(len(completion_ids))]

    config = {
        "model": str(real_model(name)), "out": str(tmp_path / "run"),
        "steps": 1, "group_size": 2, "prompts_per_step": 2,
        "sampling": {"max_tokens": 16}, "optimizer": {"lr": 1e-5}, "runtime": {"device": "cpu"}, "lora": adapter,
    }  # fmt: skip
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, ROWS)
    with mock.patch("grpo.trainer.set_up", set_up):
        result = grpo.train(config, [rising], DataConfig(**data_of(name, file)))
    assert result.metrics["logprob_mismatch"] < 1e-5
    assert result.metrics["logprob_mismatch_max"] < 1e-3
    assert result.metrics["grad_norm"] > 0
    assert runs[0].learner.fit.share_prompts
    assert what_was_lost(runs.pop().policy, result.model) == ""
