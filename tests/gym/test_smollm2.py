"""configs/smollm2.yaml, two steps a stage on a random twin, and the demonstrations it begins with: `make test-gym`."""

import json
import re
from pathlib import Path

import pytest

from grpo.config.yaml import load_yaml
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from rewards.gym import gym_reward
from stages.cli import main
from stages.gym import rows
from stages.gym_worked import WORDINGS, WORKED, demonstrations, rewritten
from support.models import make_model
from support.templates import byte_tokenizer

pytestmark = pytest.mark.gym
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASKS = load_yaml((CONFIGS / "smollm2.yaml").read_text(encoding="utf-8"), "smollm2.yaml")["cold_start"]["data"][
    "kwargs"
]["tasks"]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_demonstration_is_right_in_every_line(wording):
    made = demonstrations(TASKS, 80, wordings={wording: 1.0})
    asked = rows(TASKS, 80)
    assert [row["messages"][0]["content"] for row in made] == [row["question"] for row in asked]
    columns = {name: [row[name] for row in asked] for name in ("answer", "task", "metadata", "config")}
    replies = [row["messages"][1]["content"] for row in made]
    assert gym_reward(replies, **columns, strict=True) == [1.0] * 80
    lines = 0
    for reply in replies:
        for left, sign, right, result in re.findall(
            r"(?<![\d+\-*/×])(?<![+\-*/×] )(-?\d+) ([+\-*/]) (\d+) = (-?\d+)", reply
        ):
            first, second = int(left), int(right)
            by_sign = {"+": first + second, "-": first - second, "*": first * second, "/": first / (second or 1)}
            assert by_sign[sign] == int(result), reply
            lines += 1
    assert lines > (10 if wording == "short" else 120)


def test_demonstrations_of_what_is_not_known_are_refused():
    with pytest.raises(UserError, match=r"nothing is known of 'chain_sums'.*chain_sum"):
        demonstrations({"chain_sums": {}}, 4)
    with pytest.raises(UserError, match=r"nothing is known of 'long'"):
        demonstrations({"chain_sum": {}}, 4, wordings={"long": 1})
    assert TASKS.keys() <= WORKED.keys()


def test_solutions_of_gsm8k_are_rewritten(tmp_path):
    row = {"question": "How many?", "answer": "He has 2*3=<<2*3=6>>6 apples.\nIn all <<6+1000=1006>>1,006.\n#### 1,006"}
    write_jsonl(tmp_path / "train.jsonl", [row])
    made = demonstrations({"chain_sum": {}}, 3, gsm8k=str(tmp_path / "train.jsonl"))
    assert len(made) == 4
    reply = "<think>\nHe has 2*3=6 apples.\nIn all 1,006.\n</think>\n\\boxed{1006}"
    assert made[-1]["messages"] == [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": reply}]
    with pytest.raises(UserError, match="no answer that ends"):
        rewritten({"question": "How many?", "answer": "six"})


def twin(folder, template):
    tokenizer = byte_tokenizer(template or "", bos="<|im_start|>", eos="<|im_end|>")
    tokenizer.chat_template = template
    end = tokenizer.eos_token_id
    make_model("llama", vocab_size=len(tokenizer), end=end).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_two_steps_of_every_stage(tmp_path, capsys, monkeypatch):
    model, run = twin(tmp_path / "twin", CHATML), tmp_path / "run"
    (tmp_path / "keep.py").write_text("def every(completions, **columns):\n    return [1.0] * len(completions)\n")
    monkeypatch.syspath_prepend(tmp_path)
    short = [
        "evaluation.math.data.kwargs.n=4", "evaluation.math.samples=2", "evaluation.math.k=[2]",
        "evaluation.sets.greedy.data.kwargs.n=4", "evaluation.sets.greedy.max_tokens=12", "evaluation.every.problems=2",
        "evaluation.math.max_tokens=12", "evaluation.general.data.kwargs.n=8", "evaluation.general.max_tokens=12",
        "cold_start.data.kwargs.n=8", "cold_start.steps=2", "cold_start.batch_size=4", "cold_start.max_tokens=512",
        *(f"{stage}.{key}" for stage in ("reasoning_rl", "helpfulness_rl")
          for key in ("steps=2", "group_size=2", "prompts_per_step=4", "sampling.max_tokens=12",
                      "tasks.gym.data.kwargs.n=8")),
        "helpfulness_rl.tasks.general.data.kwargs.n=8", "helpfulness_rl.tasks.general.last_steps=1",
        "rejection_sampling.data.kwargs.n=8", "rejection_sampling.sampling.max_tokens=24",
        "rejection_sampling.filters=[{fn: keep.every}]",  # a random model is never right
        "rejection_sampling.general.kwargs.n=8", "rejection_sampling.steps=2", "rejection_sampling.batch_size=4",
        "helpfulness_model.data.kwargs.n=8", "helpfulness_model.steps=2", "helpfulness_model.batch_size=4",
        "safety_model.data.kwargs.n=8", "safety_model.steps=2", "safety_model.batch_size=4",
    ]  # fmt: skip
    command = ["run", str(CONFIGS / "smollm2.yaml"), "--out", str(run), f"base.model={model}", "runtime.threads=1"]
    assert main([*command, *short]) == 0, capsys.readouterr().err
    stages = json.loads((run / "summary.json").read_text(encoding="utf-8"))["stages"]
    assert [row["stage"] for row in stages][-1] == "4-helpfulness-rl"
    assert all(row["pass@1"] is not None and row["general"] is not None for row in stages)
