"""Texts beyond the positions that a model has: none is trained on or sampled, whatever kind its positions are."""

import json

import pytest

import grpo
from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from grpo.supervised import Training
from grpo.supervised.sft import supervised
from stages.cli import main
from support.models import save_model
from support.runs import CPU, config_of, run


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # rotary and learnt
def test_what_is_beyond_the_positions_is_refused_before_compute(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("grpo.engines.local.engine.LocalEngine.generate", None)  # nothing is sampled
    folder = save_model(tmp_path / "model", kind)
    long = config_of(sampling={"max_tokens": 600})
    with pytest.raises(
        UserError, match=r"^sampling.max_tokens=600 after a prompt of \d+ tokens is more than the model's"
    ):
        run(folder, tmp_path / "rl", long)
    row = {"prompt": "ab", "completion": "abc " * 300}
    section = SFTConfig(steps=1, batch_size=1, max_tokens=2048, optimizer=OptimizerConfig(lr=1e-2))
    with pytest.raises(UserError, match=r"SFT: a row of \d+ tokens is more than the model's 512 positions") as caught:
        supervised(str(folder), [row], Training(section, tmp_path / "sft", 3, CPU, "SFT"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*/metrics.jsonl"))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_evaluation_fits_itself_to_the_model_and_what_is_asked_for_is_refused(
    kind, tmp_path, capsys, caplog, monkeypatch
):
    """Before: 2048 tokens were sampled where the model knew 48, and a warning said that they were no use."""
    folder = str(save_model(tmp_path / "model", kind, max_position_embeddings=48))
    write_jsonl(tmp_path / "set.jsonl", [{"question": "1+1?", "answer": "2"}])
    command = ["eval", folder, "--data", str(tmp_path / "set.jsonl"), "--out", str(tmp_path / "eval.json")]
    assert main([*command, "runtime.threads=1"]) == 0
    (said,) = (line for line in caplog.messages if "positions" in line)
    tokens = json.loads((tmp_path / "eval.json").read_text())["max_tokens"]
    assert f"evaluation: max_tokens={tokens}, all that the model has positions for after the prompts" in said
    assert 20 < tokens < 48
    rows = [{"question": "1+1?", "answer": "2"}]
    assert grpo.evaluate(folder, rows)["max_tokens"] == tokens
    monkeypatch.setattr("grpo.engines.local.engine.LocalEngine.generate", None)  # nothing is sampled
    assert main([*command, f"--max-tokens={tokens + 1}", "runtime.threads=1"]) == 2
    assert f"max_tokens={tokens + 1} after a prompt of" in capsys.readouterr().err
    assert main([*command, f"eval.max_tokens={tokens + 1}"]) == 2
    with pytest.raises(UserError, match=rf"set it to at most {tokens}$"):
        grpo.evaluate(folder, rows, max_tokens=tokens + 1)
