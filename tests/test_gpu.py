"""What only a CUDA device can show; `pytest -m gpu` where there is one."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grpo.advantages import assign_advantages
from grpo.checkpoint.store import load_checkpoint, save_checkpoint
from grpo.config.algorithm import AdvantageConfig
from grpo.config.engine import RuntimeConfig
from grpo.config.training import CheckpointConfig, RLConfig
from grpo.engines.local.engine import LocalEngine
from grpo.learner.batching import TrainRow, rows_of
from grpo.learner.gate import MISMATCH_LIMIT
from grpo.learner.learner import Learner
from grpo.learner.make import make_learner
from grpo.learner.update import update
from grpo.model.attention import shared_attention
from grpo.model.fit import fit_of
from grpo.model.logprobs import token_logprobs
from grpo.model.packing import make_input
from grpo.model.policy import load_policy
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from grpo.types import Prompt, Sampling, TrainState
from support import runs
from support.models import make_model
from support.runs import config_of, run

pytestmark = pytest.mark.gpu


def gpu_config(**changes: object) -> RLConfig:
    settings = {
        "group_size": 8,
        "prompts_per_step": 4,
        "sampling": {"max_tokens": 12},
        "optimizer": {"lr": 1e-3},
        "loss": {"beta": 0.01},
        "micro_batch_tokens": 4096,
        "checkpoint": {},
    }
    return config_of(**settings | changes)


def variety(completions: list[str], **columns: object) -> list[float]:
    return [len(set(text)) / 10 for text in completions]


PROMPTS = [Prompt(f"p{i}", tuple(range(4, 8 + i)), text=f"p{i}") for i in range(4)]
TASKS = {"default": Task(PROMPTS, [Reward("variety", variety)])}


def learner_of(folder: Path, dtype: str, **changes: object) -> tuple[Learner, list[TrainRow]]:
    """A learner, and rows to train on."""
    runtime = RuntimeConfig(device="cuda", dtype=dtype)
    policy = load_policy(str(folder), runtime)
    learner = make_learner(policy, gpu_config(**changes), runtime)
    groups = LocalEngine(learner.model, policy.tokenizer, 512).generate(PROMPTS, Sampling(8, 12), seed=0, step=0)
    judged = [replace(g, rollouts=tuple(replace(r, reward=i % 3) for i, r in enumerate(g.rollouts))) for g in groups]
    return learner, rows_of(assign_advantages(judged, AdvantageConfig(), {}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_run_trains_and_agrees_with_its_engine(tiny_model_folder, tmp_path, dtype):
    run(tiny_model_folder, tmp_path, gpu_config(), TASKS, runtime=RuntimeConfig(device="cuda", dtype=dtype))
    rows = runs.rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 7))
    # float16 begins with a scale of 65536, which may be too high for the first steps
    assert all(row["applied"] == 1.0 for row in rows if dtype != "float16")
    assert rows[-1]["applied"] == 1.0
    limit = 1e-4 if dtype == "float32" else 5e-2
    assert max(row["logprob_mismatch"] for row in rows) < limit


def test_fp16_an_overflow_moves_nothing_and_lowers_the_scale(tiny_model_folder):
    learner, rows = learner_of(tiny_model_folder, "float16", loss={})
    config, scaler = gpu_config(loss={}), learner.accelerator.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**40})
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    stats = update(learner, rows, config, 1e-3, limit=MISMATCH_LIMIT["float16"])
    assert (stats["applied"], scaler.get_scale()) == (0.0, 2.0**39)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.tensors().items())
    assert not learner.optimizer_state()["optimizer"]["state"]
    scaler.load_state_dict(scaler.state_dict() | {"scale": 256.0})
    stats = update(learner, rows, config, 1e-3, limit=MISMATCH_LIMIT["float16"])
    assert stats["applied"] == 1.0
    assert 0 < stats["grad_norm"] < 50  # unscaled
    assert not all(torch.equal(tensor, before[name]) for name, tensor in learner.tensors().items())


def test_fp16_a_checkpoint_keeps_the_scale(tiny_model_folder, tmp_path):
    learner, rows = learner_of(tiny_model_folder, "float16", loss={})
    scaler = learner.accelerator.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**40})
    update(learner, rows, gpu_config(loss={}), 1e-3, limit=MISMATCH_LIMIT["float16"])
    saved = save_checkpoint(tmp_path, CheckpointConfig(every=1, keep=1), TrainState(step=1), learner, None)
    other, _ = learner_of(tiny_model_folder, "float16", loss={})
    load_checkpoint(saved, other, None)
    assert other.accelerator.scaler.state_dict() == scaler.state_dict()
    assert other.accelerator.scaler.get_scale() == 2.0**39


def test_bf16_keeps_updates_of_1e_6(tiny_model_folder, tmp_path):
    """fp32 masters under autocast: an update that bf16 weights would round away moves the weights."""
    runtime = RuntimeConfig(device="cuda", dtype="bfloat16")
    before = {name: tensor.cpu().clone() for name, tensor in load_policy(str(tiny_model_folder), runtime).export()}
    config = gpu_config(optimizer={"lr": 1e-6}, steps=1, loss={"beta": 0.0})
    result = run(tiny_model_folder, tmp_path, config, TASKS, runtime=runtime)
    after = {name: tensor.cpu() for name, tensor in load_policy(str(result.model), runtime).export()}
    moved = [float((after[name] - before[name]).abs().max()) for name in before]
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert max(moved) == pytest.approx(1e-6, rel=0.1)


def test_engine_gives_the_same_tokens_in_any_batch(tiny_model_folder):
    policy = load_policy(str(tiny_model_folder), RuntimeConfig(device="cuda"))
    learner = make_learner(policy, gpu_config(), RuntimeConfig(device="cuda"))
    sampling = Sampling(8, 12)
    groups = LocalEngine(learner.model, policy.tokenizer, 512).generate(PROMPTS, sampling, seed=0, step=0)
    alone = LocalEngine(learner.model, policy.tokenizer, 8).generate(PROMPTS[2:3], sampling, seed=0, step=0)
    assert [r.completion.token_ids for r in groups[2].rollouts] == [r.completion.token_ids for r in alone[0].rollouts]


SEQUENCES = [
    ((prompt, *range(10, 10 + 17 * prompt)), tuple(range(9 + sibling, 9 + sibling + 7 * sibling * prompt + 1)))
    for prompt in (1, 2, 3)
    for sibling in range(3)
]


@pytest.mark.parametrize("kind", ["qwen2", "mistral-window", "gemma2"])
def test_shared_prompts_are_scored_and_trained_as_padded_rows_are(kind):
    """FlexAttention, forward and backward, in fp32; windows that cut something off; capped scores."""
    found = []
    for share_prompts in (True, False):
        model = make_model(kind, seed=1, head_dim=16).to("cuda")
        if kind == "gemma2":
            model.set_attn_implementation("eager")  # SDPA leaves the cap out
        fit = fit_of(model, 0.9)
        assert fit.share_prompts
        rows = make_input(SEQUENCES, torch.device("cuda"), share_prompts=share_prompts)
        with shared_attention(model) if share_prompts else nullcontext():
            logprobs = token_logprobs(model, rows, fit.shape).logprobs
            (logprobs * torch.linspace(-1, 1, len(logprobs), device="cuda")).sum().backward()
        found.append((logprobs.detach(), [p.grad for p in model.parameters()]))
    (ours, our_grads), (theirs, their_grads) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(our_grads, their_grads, strict=True):
        assert float((mine - other).norm() / other.norm()) <= 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_updates_share_prompts(tiny_model_folder, checkpointing):
    learner, rows = learner_of(tiny_model_folder, "bfloat16", gradient_checkpointing=checkpointing)
    assert learner.fit.share_prompts
    assert update(learner, rows, gpu_config(loss={}), 1e-3, limit=MISMATCH_LIMIT["float16"])["applied"] == 1.0
