"""A teacher in the trainer: its log-probs, the gradient they give however it is cut, and a run that goes on bitwise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import grpo.run
import support.models
from grpo.checkpoint.identity import differences, identify
from grpo.config.algorithm import DistillConfig
from grpo.config.data import DataConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.training import TrainConfig
from grpo.data.prompts import build_prompts
from grpo.errors import UserError
from grpo.learner.batching import TrainRow, rows_of
from grpo.learner.logprobs import with_logprobs
from grpo.learner.teacher import load_teacher
from grpo.monitoring.alarms import rl_alarms
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from grpo.system.world import World
from support.models import CHAT_TEMPLATE, EOS, VOCABULARY, make_model, make_tokenizer, model_logprobs, save_model
from support.runs import (
    CPU,
    assert_same_run,
    before,
    config_of,
    digits,
    killed_at,
    run,
    task_of,
    weights,
)
from support.runs import rows_of as metrics_of
from support.updates import Trial, assert_same_gradient, assert_same_metrics, constant, gradients

WIDE = {"hidden_size": 48, "intermediate_size": 64, "initializer_range": 0.2}


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider and deeper than the student."""
    return save_model(tmp_path_factory.mktemp("models") / "teacher", seed=5, num_hidden_layers=3, **WIDE)


def scored(trial: Trial, teacher: Path) -> list[TrainRow]:
    """Rows whose rewards are all equal, with the teacher's log-probs."""
    groups = trial.groups(constant)
    config = DistillConfig(model=str(teacher))
    found = load_teacher(config, trial.learner, trial.config, RuntimeConfig(device="cpu"), [])
    return rows_of(with_logprobs(trial.learner, None, groups, trial.config, found))


def test_the_teacher_s_log_probs_are_its_own_at_the_sampling_temperature(teacher_folder):
    model = make_model(seed=5, num_hidden_layers=3, **WIDE)
    for row in scored(Trial(distill="t"), teacher_folder)[:6]:
        right = model_logprobs(model, row.prompt_ids, row.rollout.completion.token_ids, 0.9)
        assert row.rollout.teacher_logprobs == pytest.approx(right.tolist(), abs=1e-5)


@pytest.mark.parametrize("horizon", ["token", "completion"])
def test_the_gradient_is_that_of_the_equation(horizon, teacher_folder):
    """Against autograd through one plain forward per completion. All rewards are equal: they give no gradient."""
    trial = Trial(distill={"model": "t", "horizon": horizon})
    rows, total = scored(trial, teacher_folder), torch.zeros((), dtype=torch.float64)
    found = trial.gradient(rows)
    for row in rows:
        ids, start = row.rollout.completion.token_ids, len(row.prompt_ids)
        table = trial.policy.model(input_ids=torch.tensor([[*row.prompt_ids, *ids]])).logits[0].double() / 0.9
        picked = table.log_softmax(-1)[start - 1 : -1].gather(-1, torch.tensor(ids).unsqueeze(-1)).squeeze(-1)
        gain = torch.tensor(row.rollout.teacher_logprobs) - picked.detach()
        if horizon == "completion":
            gain = torch.stack([gain[place:].sum() for place in range(len(gain))])
        total = total - (gain * picked).sum() / len(ids) / len(rows)
    total.backward()
    assert_same_gradient(found, gradients(trial.policy.model))


def test_the_cut_and_the_order_change_neither_gradient_nor_metrics(teacher_folder):
    rows = scored(Trial(distill="t"), teacher_folder)

    def take(size: int, rows: list[TrainRow]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        trial = Trial(micro=size, distill="t")
        return trial.gradient(rows), trial.update(rows, 1e-2)

    gradient, metrics = take(10_000, rows)
    assert metrics["teacher_kl"] > 0
    assert metrics["applied"] == 1
    for other in (take(60, rows), take(1, rows), take(30, rows[::-1])):
        assert_same_gradient(other[0], gradient)
        assert_same_metrics(other[1], metrics)


def test_a_token_that_the_teacher_has_no_row_for_is_refused(teacher_folder):
    trial = Trial(distill="t")
    teacher = load_teacher(DistillConfig(model=str(teacher_folder)), trial.learner, trial.config, CPU, [])
    rows = rows_of(trial.groups(constant))
    with pytest.raises(UserError, match=r"token \d+ was sampled, and the teacher '.*' has 3"):
        replace(teacher, tokens=3).logprobs(rows)


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several-updates-lora": {
        "rollout_prompts": 4,
        "steps": 8,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "loss": {"aggregation": "token", "distill": {"horizon": "completion", "reward_weight": 0.5}},
    },
}


@pytest.mark.parametrize("name", ["plain", pytest.param("several-updates-lora", marks=pytest.mark.slow)])
def test_an_interrupted_run_is_the_uninterrupted_one(name, tiny_model_folder, teacher_folder, tmp_path):
    """Bitwise; and the teacher itself stays as it is."""
    settings = dict(RUNS[name])
    loss = settings.pop("loss", {"distill": {}})
    loss = {**loss, "distill": {**loss["distill"], "model": str(teacher_folder)}}
    config = config_of(loss=loss, **settings)
    run(tiny_model_folder, tmp_path / "whole", config)
    for step in (3, 5):
        killed_at(step, tiny_model_folder, tmp_path / "cut", config)
    run(tiny_model_folder, tmp_path / "cut", config)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert all(row["teacher_kl"] is not None and row["applied"] for row in metrics_of(tmp_path / "cut"))


@pytest.mark.slow
def test_the_student_becomes_like_its_teacher(tiny_model_folder, teacher_folder, tmp_path):
    """Its rewards are all equal: without the teacher nothing would be learnt."""

    def same(completions: list[str], **_: Any) -> list[float]:
        return [0.5] * len(completions)

    settings = {"steps": 12, "group_size": 8, "prompts_per_step": 4, "optimizer": {"lr": 2e-2}, "checkpoint": {}}
    loss = {"aggregation": "token", "distill": str(teacher_folder)}
    run(tiny_model_folder, tmp_path, config_of(loss=loss, **settings), {"default": task_of(same)})
    kl = [row["teacher_kl"] for row in metrics_of(tmp_path)]
    assert sum(kl[-3:]) < 0.75 * sum(kl[:3])


def test_the_teacher_s_weights_are_part_of_what_a_run_follows_from(teacher_folder, tmp_path):
    def identity(teacher: str, **more: Any) -> dict[str, Any]:
        loss = {"distill": {"model": teacher, **more}}
        config = TrainConfig.of(
            config_of(loss=loss), model="some/model", out="x", seed=1, engine=EngineConfig(), runtime=CPU
        )
        return identify(config, {"default": task_of()}, "local", World())

    first = identity(str(teacher_folder))
    (tmp_path / "elsewhere").symlink_to(teacher_folder)
    assert differences(first, identity(str(tmp_path / "elsewhere"))).matter == []
    other = save_model(tmp_path / "other", seed=6)
    (phrase,) = differences(first, identity(str(other))).matter
    assert phrase.startswith("loss.distill.model: ")
    assert differences(first, identity(str(teacher_folder), reward_weight=1)).matter == [
        "loss.distill.reward_weight: 0.0 -> 1.0"
    ]


def test_equal_rewards_are_no_alarm_where_a_teacher_teaches():
    rows = [{"step": n, "reward": 0.5, "frac_zero_variance": 1.0, "teacher_kl": 0.3} for n in range(1, 30)]
    assert rl_alarms(rows) == {}
    assert "reward is constant" in rl_alarms([{**row, "teacher_kl": None} for row in rows])


# ---- what cannot be scored is refused before anything is loaded


def other_tokenizer(change: str, patch: pytest.MonkeyPatch) -> Any:
    if change == "ids":  # the same tokens, two of them exchanged
        exchanged = {"a": VOCABULARY["b"], "b": VOCABULARY["a"]}
        patch.setattr(support.models, "VOCABULARY", {**VOCABULARY, **exchanged})
    tokenizer = make_tokenizer()
    if change == "added":
        tokenizer.add_tokens(["<more>"])
    if change == "template":
        tokenizer.chat_template = CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|> ")
    if change == "end":
        tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>{% endfor %}", ENDS)
    if change == "none":
        tokenizer.chat_template = None
    return tokenizer


ENDS = "{% if m['role'] == 'assistant' %}</s>{% else %}<|im_end|>{% endif %}{% endfor %}"
REFUSED = {
    "ids": r"'a' is \d+ for the student and \d+ for the teacher, and 2 tokens differ in all",
    "added": "'<more>' is no token for the student and",
    "template": "its chat template writes the prompt '0' otherwise than the student's",
    "end": r"the student's template ends an answer with <\|im_end\|>, the teacher's with </s>",
    "none": "no chat template",
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_teacher_that_reads_otherwise_is_refused_before_anything_is_loaded(
    change, tiny_model_folder, tmp_path, monkeypatch
):
    """Names do not count, tokens and texts do."""
    prompts = build_prompts([{"prompt": "1+1", "id": "0"}], DataConfig(path="d"), make_tokenizer())
    make_model(seed=5, vocab_size=200, end=EOS).save_pretrained(tmp_path / "teacher")
    other_tokenizer(change, monkeypatch).save_pretrained(tmp_path / "teacher")
    loaded: list[Any] = []
    before(monkeypatch, grpo.run, "load_policy", lambda *_, **__: loaded.append(1))
    config = config_of(loss={"distill": str(tmp_path / "teacher")})
    with pytest.raises(UserError, match=REFUSED[change]) as raised:
        run(tiny_model_folder, tmp_path / "out", config, {"default": Task(prompts, [Reward("digits", digits)])})
    assert loaded == []
    assert "\n" not in str(raised.value)


def test_another_size_with_the_same_tokens_is_taken(tiny_model_folder, teacher_folder, tmp_path):
    run(tiny_model_folder, tmp_path, config_of(steps=1, loss={"distill": str(teacher_folder)}))
    assert weights(tmp_path)
