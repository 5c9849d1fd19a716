"""Low-rank adapters: nothing at the start, every option felt, the base never touched, the reference exact."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import grpo.learner.learner
from grpo.config.algorithm import LoraConfig
from grpo.config.engine import RuntimeConfig
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.learner.batching import rows_of as sequences_of
from grpo.learner.learner import Learner
from grpo.learner.logprobs import with_ref_logprobs
from grpo.learner.make import make_learner
from grpo.learner.update import update
from grpo.model.adapter import add_adapter
from grpo.model.adapter_targets import target_names
from grpo.model.loading.tokenizer import end_token_ids
from grpo.model.loading.weights import load_model
from grpo.model.policy import Policy, load_policy
from grpo.model.reference import Reference
from grpo.types import Sampling
from support.groups import random_prompts
from support.models import farthest, make_model, make_tokenizer, model_logprobs, move, save_model
from support.runs import (
    CPU,
    LEARNING,
    assert_equal,
    assert_learnt,
    assert_same_run,
    before,
    completions,
    config_of,
    killed_at,
    rows_of,
    run,
    weights,
)
from support.train import backward

KINDS = ["qwen2", "qwen3", "llama", "mistral", "gemma2", "gpt2"]
WITH_BIAS = ["qwen2", "gpt2"]
SEQUENCE = ([20, 31, 15, 60], [33, 12, 70, 41, 9])  # a prompt and a completion


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig.model_validate({"r": 4, "alpha": 12} | settings)


def policy_of(kind: str = "qwen2", *, moved: bool = True, tied: bool | None = None, **settings: Any) -> Policy:
    """An adapted random model; `moved`: as if it had been trained."""
    policy = Policy(add_adapter(plain_model(kind, tied), lora(**settings)), make_tokenizer(), torch.device("cpu"))
    if moved:
        move(policy.model, 0.1, seed=1)
    return policy


def plain_model(kind: str, tied: bool | None = None) -> Any:
    return make_model(kind, **{} if tied is None else {"tie_word_embeddings": tied})


def trained(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in policy.model.named_parameters() if p.requires_grad}


def frozen(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in policy.model.named_parameters() if not p.requires_grad}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def cloned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def logprobs(model: Any) -> torch.Tensor:
    return model_logprobs(model, *SEQUENCE)


def assert_same_model(ours: Any, theirs: Any) -> None:
    """The same log-probs up to rounding: one adds the adapter to the weights, the other to the output."""
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), rtol=0, atol=2e-5)


# ---- what an adapter is


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_the_policy_is_the_base_model_exactly(kind):
    policy = policy_of(kind, moved=False, r=8, alpha=100)
    base = make_model(kind)
    assert torch.equal(logprobs(policy.model), logprobs(base))
    assert_equal(dict(policy.export()), base.state_dict())


@pytest.mark.parametrize("rank_stabilised", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_export_is_the_base_plus_scaled_b_a(kind, rank_stabilised):
    """By hand: W + s B A, s = alpha / r or alpha / sqrt(r); transposed in GPT-2, whose layers keep (in, out)."""
    policy = policy_of(kind, rank_stabilised=rank_stabilised)
    base, exported = make_model(kind).state_dict(), dict(policy.export())
    assert list(exported) == list(base)
    scale = 12 / (math.sqrt(4) if rank_stabilised else 4)
    changed = set()
    for name, a in trained(policy).items():
        if ".lora_A." not in name:
            continue
        b = trained(policy)[name.replace("lora_A", "lora_B")]
        delta = scale * (b @ a)
        layer = name.removeprefix("base_model.model.").partition(".lora_A.")[0] + ".weight"
        changed.add(layer)
        expected = base[layer] + (delta.T if kind == "gpt2" else delta)
        torch.testing.assert_close(exported[layer], expected, rtol=0, atol=1e-6)
        assert not torch.equal(exported[layer], base[layer])
    assert len(changed) == (2 * 4 if kind == "gpt2" else 2 * 7)
    assert all(torch.equal(exported[name], base[name]) for name in base if name not in changed)


EMBEDDINGS = {"targets": ["embed_tokens", "lm_head"]}


@pytest.mark.parametrize(
    ("kind", "tied", "settings"),
    [*((kind, None, {}) for kind in KINDS), ("llama", False, EMBEDDINGS), ("gemma2", False, EMBEDDINGS)],
)
def test_the_export_has_the_adapted_models_logprobs(kind, tied, settings):
    """Also with adapted embeddings, which may be where they are not tied; gemma2 scales them."""
    policy, plain = policy_of(kind, tied=tied, **settings), plain_model(kind, tied)
    assert float((logprobs(plain) - logprobs(policy.model)).abs().max()) > 0.1
    plain.load_state_dict(dict(policy.export()))
    assert_same_model(plain, policy.model)


def test_alpha_and_rank_change_the_model_by_what_they_say():
    def effect(**settings: Any) -> torch.Tensor:
        policy = policy_of(**settings)
        name = "model.layers.0.mlp.up_proj.weight"
        return dict(policy.export())[name] - make_model().state_dict()[name]

    torch.testing.assert_close(effect(alpha=24), 2 * effect(alpha=12))
    torch.testing.assert_close(effect(rank_stabilised=True), 2 * effect())  # sqrt(4) = 2
    assert torch.linalg.matrix_rank(effect(r=2), rtol=1e-4) == 2
    assert torch.linalg.matrix_rank(effect(r=8), rtol=1e-4) == 8


def test_a_is_drawn_from_the_runs_seed_alone(tiny_model_folder):
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        return trained(load_policy(str(tiny_model_folder), CPU, lora(), seed))

    first = drawn(3)
    torch.randn(5)  # what else was drawn in the process does not matter
    state = torch.get_rng_state()
    assert same(drawn(3), first)
    assert torch.equal(torch.get_rng_state(), state)  # nor does it disturb others
    assert not same(drawn(4), first)
    a = [tensor for name, tensor in first.items() if "lora_A" in name]
    assert all(tensor.std() > 0 for tensor in a)
    assert len({tuple(tensor[0, :5].tolist()) for tensor in a}) == len(a)  # each layer its own


# ---- targets


def adapted_layers(**settings: Any) -> set[str]:
    names = trained(policy_of(moved=False, **settings))
    return {name.removeprefix("base_model.model.model.").partition(".lora_")[0] for name in names}


def test_targets_are_a_list_a_regex_or_all_linear():
    attention = {f"layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qkvo"}
    mlp = {f"layers.{i}.mlp.{n}_proj" for i in (0, 1) for n in ("gate", "up", "down")}
    assert adapted_layers() == attention | mlp
    assert adapted_layers(targets=["q_proj", "k_proj", "v_proj", "self_attn.o_proj"]) == attention
    assert adapted_layers(targets=["model.layers.1.mlp.up_proj"]) == {"layers.1.mlp.up_proj"}
    q_and_v = {"layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"}
    assert adapted_layers(targets=r".*layers\.0\.self_attn\.[qv]_proj") == q_and_v
    assert adapted_layers(targets=r".*self_attn.*") == attention  # the rotary embedding it fits too is no layer


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_all_linear_is_peft_s(kind):
    import peft

    theirs = peft.get_peft_model(make_model(kind), peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert set(theirs.base_model.targeted_module_names) == set(target_names(make_model(kind), "all-linear"))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_prj"], r"'lora.targets': 'q_prj' fits no layer .* q_proj, k_proj, .*down_proj"),
        (["q_proj", "query"], r"'query' fits no layer .* q_proj"),  # not only the names that fit
        (["self_attn"], r"'self_attn' fits no layer .* q_proj"),  # it exists, and cannot be adapted
        ("q_proj", r"'q_proj' fits no layer .* q_proj"),  # a regular expression is for the whole name
        (".*[", r"not a regular expression"),
        (["lm_head"], r"'lm_head' shares its weight"),
        (".*embed_tokens", r"'model.embed_tokens' shares its weight"),
    ],
)
def test_targets_that_fit_nothing_stop_before_the_first_step(targets, message, tiny_model_folder, tmp_path):
    config = config_of(lora={"r": 4, "alpha": 8, "targets": targets})
    with pytest.raises(UserError, match=message) as error:
        run(tiny_model_folder, tmp_path / "run", config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_model_with_nothing_to_train_is_refused():
    policy = policy_of()
    policy.model.requires_grad_(False)
    with pytest.raises(UserError, match="nothing would be learnt"):
        make_learner(policy, config_of(), CPU)


# ---- bias


@pytest.mark.parametrize("kind", WITH_BIAS)
def test_which_biases_train(kind):
    def biases(bias: str) -> set[str]:
        policy = policy_of(kind, moved=False, bias=bias, targets=[r"q_proj" if kind == "qwen2" else "c_fc"])
        return {name for name in trained(policy) if name.endswith(".bias")}

    every = {name for name, _ in make_model(kind).named_parameters() if name.endswith(".bias")}
    assert biases("none") == set()
    assert {name.removeprefix("base_model.model.").replace(".base_layer", "") for name in biases("all")} == every
    assert len(biases("lora_only")) == 2  # of the adapted layer, in two blocks
    assert biases("lora_only") < biases("all")


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_a_bias_that_the_model_has_not_is_an_error(bias):
    with pytest.raises(UserError, match=f"'lora.bias: {bias}' has no effect"):
        policy_of("llama", bias=bias)


# ---- the reference


def scores(learner: Learner, groups: Any) -> list[tuple[float, ...]]:
    return learner.logprobs(sequences_of(groups))


def groups_of(policy: Policy) -> Any:
    engine = LocalEngine(policy.model, policy.tokenizer, 512)
    groups = engine.generate(random_prompts(3), Sampling(4, 8, 1.0), seed=1, step=0)
    return [
        replace(g, rollouts=tuple(replace(r, reward=float(i), advantage=i - 1.5) for i, r in enumerate(g.rollouts)))
        for g in groups
    ]


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
@pytest.mark.parametrize("kind", WITH_BIAS)
def test_the_reference_is_the_starting_model_whatever_is_trained(kind, bias):
    """Also with a trained bias, where switching the adapter off would not give it back."""
    policy = policy_of(kind, moved=False, bias=bias)
    learner = make_learner(policy, config_of(), CPU)
    groups = groups_of(policy)
    start, reference = scores(learner, groups), Reference.of(policy)
    move(policy.model, 0.1, seed=1)
    moved = scores(learner, groups)
    assert moved != start
    found = with_ref_logprobs(learner, groups, sequences_of(groups), reference)
    assert [r.ref_logprobs for g in found for r in g.rollouts] == start
    assert scores(learner, groups) == moved  # and the policy is back
    with policy.model.disable_adapter():
        assert (scores(learner, groups) == start) == (bias == "none")


def test_a_refreshed_reference_is_a_full_copy_of_the_policy(tiny_model_folder, tmp_path, monkeypatch):
    """A run whose reference log-probs are compared, at every step, with those of a whole copied model."""
    copies: list[Any] = []
    refresh, score = Reference.replace_by, with_ref_logprobs

    def refreshing(self: Reference, policy: Policy) -> None:
        refresh(self, policy)
        copies.append(copy.deepcopy(policy.model))

    def comparing(learner: Learner, groups: Any, rows: Any, reference: Reference) -> Any:
        if not copies:
            copies.append(copy.deepcopy(learner.model))
        found = score(learner, groups, rows, reference)
        expected = replace(learner, model=copies[-1]).logprobs(rows)
        assert [r.rollout.ref_logprobs for r in sequences_of(found)] == expected
        return found

    monkeypatch.setattr(Reference, "replace_by", refreshing)
    monkeypatch.setattr("grpo.learner.logprobs.with_ref_logprobs", comparing)
    settings = {"loss": {"beta": 0.05}, "reference_every": 3, "steps": 8, "lora": {"r": 4, "alpha": 8, "bias": "all"}}
    run(tiny_model_folder, tmp_path, config_of(**settings))
    assert len(copies) == 3
    kl = {row["step"]: row["kl"] for row in rows_of(tmp_path)}
    assert all((abs(kl[step]) < 1e-9) == (step in (1, 4, 7)) for step in kl), kl


# ---- training


@pytest.fixture
def policies(monkeypatch):
    """The live policies of the runs of a test."""
    seen: list[Policy] = []

    def loading(*args: Any) -> Policy:
        seen.append(load_policy(*args))
        return seen[-1]

    monkeypatch.setattr("grpo.run.load_policy", loading)
    return seen


def test_only_the_adapter_has_gradients_and_only_it_moves():
    policy = policy_of("gpt2", bias="lora_only")
    config = config_of(sampling={"max_tokens": 8}, optimizer={"lr": 1e-2, "weight_decay": 0.1})
    learner = make_learner(policy, config, CPU)
    start, base = cloned(trained(policy)), cloned(frozen(policy))
    groups = groups_of(policy)
    backward(learner, sequences_of(groups), config)
    grads = {name for name, p in policy.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert grads == set(start)
    policy.model.zero_grad(set_to_none=True)
    update(learner, sequences_of(groups), config, 1e-2)
    assert all(not torch.equal(tensor, start[name]) for name, tensor in trained(policy).items())
    assert_equal(frozen(policy), base)


@pytest.mark.parametrize(
    "settings", [{}, {"bias": "all", "dropout": 0.2}, {"bias": "lora_only", "targets": ["q_proj"]}]
)
def test_a_run_changes_the_adapter_and_saves_it_merged_and_apart(settings, tiny_model_folder, tmp_path, policies):
    """The base is bitwise what it was; model/ is plain transformers; adapter/ on the original base is the same."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = config_of(steps=3, loss={"beta": 0.05}, lora={"r": 4, "alpha": 8, **settings})
    run(tiny_model_folder, tmp_path, config)
    start = load_policy(str(tiny_model_folder), CPU, config.lora, 1)
    live = policies[0]
    assert_equal(frozen(live), frozen(start))
    assert all(not torch.equal(tensor, trained(start)[name]) for name, tensor in trained(live).items())

    original = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(merged) is type(original)
    assert {file.name for file in (tmp_path / "model").iterdir()} >= {"model.safetensors", "generation_config.json"}
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert weights(tmp_path).keys() == weights(tiny_model_folder, ".").keys()
    assert float((logprobs(merged) - logprobs(original)).abs().max()) > 1e-3
    assert_same_model(merged, live.model)
    assert_same_model(PeftModel.from_pretrained(original, tmp_path / "adapter").eval(), live.model)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(saved) == len(trained(live))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_on_every_architecture(kind, tmp_path):
    from peft import PeftModel

    policy = policy_of(kind, bias="all" if kind in WITH_BIAS else "none", rank_stabilised=True)
    policy.save(tmp_path / "model")
    assert_same_model(load_model(str(tmp_path / "model"), torch.device("cpu")), policy.model)
    assert_same_model(PeftModel.from_pretrained(make_model(kind), tmp_path / "adapter").eval(), policy.model)
    exported = dict(policy.export())
    assert all(torch.equal(exported[name], tensor) for name, tensor in weights(tmp_path).items())


def test_it_learns_a_toy_reward(tmp_path):
    model = save_model(tmp_path / "start")  # wide: the output layer, which stays, must tell tokens apart
    run(model, tmp_path, config_of(**LEARNING, lora={"r": 8, "alpha": 16}))
    assert_learnt(tmp_path)


RUNS = {
    "plain": {},
    "kl-refresh-bias": {"loss": {"beta": 0.05}, "reference_every": 3, "lora": {"r": 4, "alpha": 8, "bias": "all"}},
    "dropout-several-updates": {"rollout_prompts": 4, "lora": {"r": 4, "alpha": 8, "dropout": 0.3}},
}


@pytest.mark.parametrize("name", list(RUNS))
def test_an_interrupted_run_is_the_uninterrupted_one(name, tiny_model_folder, tmp_path):
    """Bitwise; and the checkpoints hold what is trained, not the base."""
    config = config_of(**{"lora": {"r": 4, "alpha": 8}} | RUNS[name])
    run(tiny_model_folder, tmp_path / "whole", config)
    cut = tmp_path / "cut"
    killed_at(4, tiny_model_folder, cut, config)
    checkpoint = cut / "checkpoints" / "step-000004"
    names = trained(load_policy(str(tiny_model_folder), CPU, config.lora)).keys()
    for file in checkpoint.glob("[mr]*.safetensors"):  # the model; the reference too, where it was refreshed
        assert load_file(file).keys() == names
    assert (checkpoint / "reference.safetensors").exists() == (config.reference_every is not None)
    base_bytes = (tiny_model_folder / "model.safetensors").stat().st_size
    assert (checkpoint / "model.safetensors").stat().st_size < base_bytes / 2
    torch.manual_seed(99)  # a new process has other random numbers
    run(tiny_model_folder, cut, config)
    assert_same_run(cut, tmp_path / "whole")
    saved = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (cut, tmp_path / "whole")]
    assert_equal(*saved)


@pytest.mark.parametrize(
    ("changed", "message"), [({"r": 1}, "another shape"), ({"targets": ["q_proj"]}, "other trained parameters")]
)
def test_a_checkpoint_of_another_adapter_is_refused(changed, message, tiny_model_folder, tmp_path):
    settings = {"r": 4, "alpha": 8}
    killed_at(2, tiny_model_folder, tmp_path, config_of(lora=settings))
    with pytest.raises(UserError, match=r"lora\.(r: 4 -> 1|targets: all-linear -> \['q_proj'\])"):
        run(tiny_model_folder, tmp_path, config_of(lora=settings | changed))
    with pytest.raises(UserError, match=message):  # and what cannot be accepted
        run(tiny_model_folder, tmp_path, config_of(lora=settings | changed), accept_changes=True)


# ---- dropout


def test_dropout_acts_in_updates_only(tiny_model_folder, tmp_path, monkeypatch):
    """pi_old is the policy that sampled, without dropout: the gate stays quiet, and the ratio shows the dropout."""
    modes: list[tuple[str, bool]] = []

    def scoring(model: Any, *_: Any, **__: Any) -> None:
        modes.append(("scoring" if torch.is_inference_mode_enabled() else "update", dropping(model)))

    before(monkeypatch, grpo.learner.learner, "token_logprobs", scoring)
    before(monkeypatch, LocalEngine, "generate", lambda self, *_, **__: modes.append(("engine", dropping(self.model))))
    settings = {"r": 8, "alpha": 64}
    for name, dropout in (("without", 0.0), ("with", 0.5)):
        modes.clear()
        config = config_of(steps=4, loss={"beta": 0.05}, lora=settings | {"dropout": dropout})
        run(tiny_model_folder, tmp_path / name, config)
        assert set(modes) == {("engine", False), ("scoring", False), ("update", dropout > 0)}
    plain, dropped = rows_of(tmp_path / "without"), rows_of(tmp_path / "with")
    assert completions(tmp_path / "with")[:8] == completions(tmp_path / "without")[:8]
    assert plain[0]["logprob_mismatch"] == pytest.approx(dropped[0]["logprob_mismatch"], abs=1e-6)
    assert all(row["logprob_mismatch_max"] < 1e-4 for row in dropped)
    assert dropped[0]["ratio_max"] == pytest.approx(1)  # B is 0 still: there is nothing to drop
    assert all(row["ratio_min"] < 0.99 and row["ratio_max"] > 1.01 for row in dropped[1:])
    assert all(row["ratio_min"] == row["ratio_max"] == 1 for row in plain)
    assert not same(weights(tmp_path / "with"), weights(tmp_path / "without"))


def dropping(model: Any) -> bool:
    """Whether any dropout of the model is on; the model's own never is."""
    on = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.training}
    assert all("lora_dropout" in name for name in on)
    return bool(on)


# ---- the engine


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_samples_from_the_adapted_model_without_merging(kind, monkeypatch):
    from peft.tuners.lora import Linear

    def merging(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("merged")

    monkeypatch.setattr(Linear, "merge", merging)
    policy = policy_of(kind)
    base = cloned(frozen(policy))
    assert end_token_ids(policy.model, policy.tokenizer) == end_token_ids(make_model(kind), policy.tokenizer)
    groups = LocalEngine(policy.model, policy.tokenizer, 512).generate(
        random_prompts(3), Sampling(3, 10, 0.8), seed=1, step=0
    )
    assert farthest(groups, policy.model, 0.8) <= 2e-5
    assert_equal(frozen(policy), base)


def test_half_precision_computes_over_full_precision_adapters(tiny_model_folder, tmp_path, policies):
    config = config_of(steps=2, loss={"beta": 0.05}, lora={"r": 4, "alpha": 8})
    run(tiny_model_folder, tmp_path, config, runtime=RuntimeConfig(device="cpu", dtype="bfloat16"))
    assert all(p.dtype == torch.float32 for p in policies[0].model.parameters())
    assert 1e-6 < rows_of(tmp_path)[0]["logprob_mismatch"] < 0.1
