"""Texts beyond the positions that a model has: nothing is trained on them, whatever kind its positions are."""

import pytest

from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.errors import UserError
from grpo.supervised import Training
from grpo.supervised.sft import supervised
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
