"""Out of memory, and a loss that is not finite: the update does what it can, or moves nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from grpo.errors import UserError
from grpo.learner import update as updates
from grpo.learner.batching import rows_of
from grpo.learner.memory import out_of_memory
from grpo.model.logprobs import token_logprobs
from grpo.model.packing import ModelInput
from support.runs import assert_equal
from support.train import backward
from support.updates import assert_untouched, gradients, rollout_groups, setup, snapshot, update_config, varied


def prepared(**settings: Any) -> Any:
    """(config, learner, rows of different lengths)."""
    config = update_config(**settings)
    policy, learner = setup(config)
    return config, learner, rows_of(rollout_groups(policy, config, varied))


def limited_memory(monkeypatch: pytest.MonkeyPatch, tokens: int, error: Exception) -> list[int]:
    """A machine on which a forward of more than so many tokens fails, when others have succeeded before it."""
    sizes: list[int] = []

    def scores(model: Any, rows: ModelInput, *arguments: Any, **options: Any) -> Any:
        sizes.append(rows.token_ids.numel())
        if sizes[-1] > tokens and len(sizes) > 1:
            raise error
        return token_logprobs(model, rows, *arguments, **options)

    monkeypatch.setattr("grpo.learner.learner.token_logprobs", scores)
    return sizes


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
])  # fmt: skip
def test_out_of_memory_halves_the_micro_batches_and_the_gradient_stays(error, monkeypatch, caplog):
    config, learner, rows = prepared(micro=160, beta=0.0, aggregation="token")
    assert sum(row.length for row in rows) > 160  # several forwards: the first may succeed, and must not count twice
    backward(learner, rows, config)
    expected = gradients(learner.model)
    sizes = limited_memory(monkeypatch, 45, error)
    with caplog.at_level("WARNING", "grpo"):
        backward(learner, rows, config)
    halved = gradients(learner.model)
    assert sizes[0] > 45
    assert any(size > 45 for size in sizes[1:])
    assert max(sizes[-3:]) <= 45
    monkeypatch.undo()
    assert learner.micro_batch_tokens == 40
    backward(learner, rows, config)  # in the smaller micro-batches from the beginning
    assert_equal(gradients(learner.model), halved)
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert torch.stack([(expected[name] - halved[name]).norm() for name in expected]).norm() <= 1e-6 * whole
    assert [record.message.split(":")[1].strip() for record in caplog.records] == [
        "out of memory with micro_batch_tokens 160",
        "out of memory with micro_batch_tokens 80",
    ]
    caplog.clear()
    limited_memory(monkeypatch, 45, error)
    backward(learner, rows, config)
    assert caplog.text == ""  # said once: it goes on with what it found out


def test_not_even_one_row_fits(monkeypatch):
    config, learner, rows = prepared(micro=20)
    assert max(row.length for row in rows) > 20
    before = snapshot(learner)
    limited_memory(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(UserError, match=r"step 5: out of memory with micro_batch_tokens 20: lower sampling.max_tokens"):
        updates.update(learner, rows, config, 1e-2, version=4, step=4)
    assert_untouched(learner, before)


def test_sharded_weights_are_not_tried_again(monkeypatch):
    config, learner, rows = prepared(micro=100)
    limited_memory(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(type(learner), "batches", lambda self, rows: [list(rows)[:4], list(rows)[4:]])
    with pytest.raises(UserError, match="micro_batch_tokens 100: lower it"):
        backward(replace(learner, sharded=True), rows, config)


def test_other_errors_are_not_taken_for_it():
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))


def test_a_loss_that_is_not_finite_moves_nothing_even_with_a_finite_gradient(monkeypatch):
    config, learner, rows = prepared()
    before = snapshot(learner)
    plain = updates.accumulate_gradients

    def infinite(*arguments: Any, **options: Any) -> Any:
        sums = plain(*arguments, **options)
        sums.loss = math.inf
        return sums

    monkeypatch.setattr(updates, "accumulate_gradients", infinite)
    stats = updates.update(learner, rows, config, 1e-2)
    assert stats["applied"] == 0.0
    assert math.isnan(stats["grad_norm"] or 0.0)
    assert_untouched(learner, before)
