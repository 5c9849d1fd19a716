"""Weight decay: matrices alone, in RL as in SFT and reward models; and optimizer states of before that was so."""

import torch

from grpo.config.training import OptimizerConfig
from grpo.learner.make import make_learner
from grpo.model.policy import Policy
from grpo.supervised.training import make_optimizer
from support.models import make_model, move, policy_of
from support.runs import CPU, assert_equal, config_of

DECAY = {"lr": 1e-2, "weight_decay": 0.5}


def learner_of(policy: Policy, **optimizer):
    return make_learner(policy, config_of(optimizer={**DECAY, **optimizer}), CPU)


def stepped(optimizer, model, gradient=0.0) -> None:
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, gradient * (number + 1))
    optimizer.step()


def test_vectors_are_spared_in_rl_and_in_sft():
    """Without a gradient what moves is decay."""
    policy, model = policy_of("qwen2"), make_model("qwen2")
    for one in (policy.model, model):
        move(one, 0.1, seed=3)  # biases are 0 at the start
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stepped(learner_of(policy).optimizer, policy.model)
    stepped(make_optimizer(model, OptimizerConfig(**DECAY), 10)[0], model)
    for trained in (policy.model, model):
        moved = {name for name, p in trained.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {name for name, p in before.items() if p.ndim >= 2}
        torch.testing.assert_close(trained.model.embed_tokens.weight, before["model.embed_tokens.weight"] * (1 - 5e-3))


def test_without_decay_there_is_one_group_as_before():
    assert len(learner_of(policy_of("qwen2"), weight_decay=0.0).optimizer.param_groups) == 1
    assert len(learner_of(policy_of("qwen2")).optimizer.param_groups) == 2


def test_an_optimizer_state_of_before_is_taken_up():
    """There all parameters were in one group. Each gets its own moments; and back, where decay is given up."""
    policy = policy_of("qwen2")
    old = torch.optim.AdamW(policy.model.parameters(), lr=1e-2, weight_decay=0.5, betas=(0.9, 0.999))
    for _ in range(2):
        stepped(old, policy.model, 0.1)
    wanted = {name: old.state[p]["exp_avg"].clone() for name, p in policy.model.named_parameters()}
    state = {"optimizer": old.state_dict(), "scaler": {}}
    for decay in (0.5, 0.0):  # the second: of two groups, into one
        learner = learner_of(policy, weight_decay=decay)
        learner.load_optimizer_state(state)
        assert_equal({n: learner.optimizer.state[p]["exp_avg"] for n, p in policy.model.named_parameters()}, wanted)
        groups = learner.optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == ([0.5, 0.0] if decay else [0.0])
        assert all(float(entry["step"]) == 2 for entry in learner.optimizer.state.values())
        state = learner.optimizer_state()
    learner = learner_of(policy)
    learner.load_optimizer_state(state)  # of one group again
    assert_equal({n: learner.optimizer.state[p]["exp_avg"] for n, p in policy.model.named_parameters()}, wanted)
