"""A teacher that a real vLLM serves: its log-probs are those of a plain forward."""

import pytest
import torch

from grpo.config.algorithm import DistillConfig
from grpo.engines.vllm.teacher import ServedTeacher
from grpo.learner.batching import TrainRow
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.types import Completion, Rollout
from support.models import model_logprobs
from support.runs import config_of, rows_of, run
from support.vllm_runs import save_for_vllm, serving

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def test_its_log_probs_are_those_of_a_plain_forward_and_a_student_learns_from_them(tmp_path):
    folder = save_for_vllm(tmp_path / "teacher", {"repetition_penalty": 1.5}, seed=5)
    student = save_for_vllm(tmp_path / "student", {})
    ids = [tuple(range(20, 24 + number)) for number in range(6)]
    rows = [TrainRow((1, 30 + len(one)), Rollout(Completion(one, (0.0,) * len(one), "stop", ""))) for one in ids]
    model = load_model(str(folder), torch.device("cpu"))
    with serving(folder, tmp_path / "served", 1) as served:
        config = DistillConfig(model=str(folder), urls=tuple(served.urls))
        found = ServedTeacher.of(config, load_tokenizer(str(folder))).logprobs(rows)
        for row, values in zip(rows, found, strict=True):
            right = model_logprobs(model, row.prompt_ids, row.rollout.completion.token_ids)
            assert values == pytest.approx(right.tolist(), abs=1e-4)
        loss = {"aggregation": "token", "distill": config.model_dump()}
        run(student, tmp_path / "out", config_of(steps=3, loss=loss, checkpoint={}))
        assert all(row["teacher_kl"] > 0 and row["applied"] for row in rows_of(tmp_path / "out"))
