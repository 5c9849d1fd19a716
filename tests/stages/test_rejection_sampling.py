"""Rejection sampling keeps what every filter accepts, says why it dropped the rest, and trains from the base."""

import json

import pytest
import torch

from grpo.config.data import DataConfig, EvalConfig, RewardConfig
from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.data.rows import load_rows, read_jsonl
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.supervised import Training
from grpo.supervised.sft import supervised
from grpo.types import Completion, Group, Prompt, Rollout
from rewards.loader import load_reward
from stages import base, cold_start, rejection_sampling
from stages.recipe.config import BaseConfig, ColdStartConfig, EvaluationConfig, RecipeConfig, RejectionSamplingConfig
from stages.recipe.leaks import LeakGuard
from stages.recipe.table import StageContext
from stages.tiny_world import build_tokenizer
from support.files import cut_short
from support.models import word_model
from support.runs import CPU, before

TRAINING = {"steps": 2, "batch_size": 4, "max_tokens": 64, "optimizer": OptimizerConfig(lr=1e-3)}
HERE = __name__


def questions():
    return [{"prompt": "say one", "answer": "one"}, {"prompt": "say two", "answer": "two"}]


def problems():
    return [{"prompt": "say three", "answer": "three"}]


def general():
    return [{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}]


def texts():
    return ["say one say two hello good day user assistant"] * 30


def says_it(completions, answer, **columns):
    return [float(turn[-1]["content"].strip() == gold) for turn, gold in zip(completions, answer, strict=True)]


def never(completions, **columns):
    return [0.0] * len(completions)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base model, and one trained to answer both questions."""
    folder = tmp_path_factory.mktemp("models")
    word_model(texts(), 320, folder / "base")
    rows = [{"prompt": row["prompt"], "completion": row["answer"]} for row in questions()]
    settings = SFTConfig(**{**TRAINING, "steps": 40, "optimizer": OptimizerConfig(lr=1e-2)})
    supervised(str(folder / "base"), rows, Training(settings, folder / "trained", 0, CPU, "supervised"))
    return str(folder / "base"), str(folder / "trained" / "model")


def recipe(**sections):
    evaluation = EvaluationConfig(math=EvalConfig(data=DataConfig(fn=f"{HERE}.problems"), max_tokens=8))
    return RecipeConfig(**{"runtime": CPU, "evaluation": evaluation, "base": BaseConfig(model="unused"), **sections})


def context(config, key, folder, models=("unused", "unused")):
    """The second of the models is what the stage begins with, the first the base."""
    folder.mkdir(exist_ok=True)
    return StageContext(config, key, folder, init=models[1], base=models[0], models={}, guard=lambda: LeakGuard(config))


def rejection(filters, **changes):
    sections = {"data": DataConfig(fn=f"{HERE}.questions"), "general": DataConfig(fn=f"{HERE}.general"),
                "group_size": 4, "sampling": {"temperature": 1.0, "max_tokens": 8}, "filters": filters}  # fmt: skip
    return recipe(rejection_sampling=RejectionSamplingConfig(**{**TRAINING, **sections, **changes}))


def test_it_keeps_the_right_ones_and_trains_from_the_base(models, tmp_path, monkeypatch):
    stage = context(rejection((RewardConfig(fn=f"{HERE}.says_it"),)), "rejection_sampling", tmp_path, models)
    numbers = rejection_sampling.run(stage)
    reasoning = read_jsonl(tmp_path / "data" / "reasoning.jsonl")
    assert [row["messages"][-1]["content"] for row in reasoning] == ["one", "two"]
    assert all(row["answer"] in row["messages"][0]["content"] for row in reasoning)
    sampled = read_jsonl(tmp_path / "completions" / "sampled.jsonl")
    assert len(sampled) == 8
    assert {row["dropped"] for row in sampled} >= {None, "repeated"}
    assert numbers["passed_share"] > 0.5
    assert numbers["general_examples"] == 1
    # Two small steps from the base stay near the base, far from the sampled model.
    ends = [load_model(str(path), torch.device("cpu")).lm_head.weight for path in (tmp_path / "model", *models)]
    assert torch.dist(ends[0], ends[1]) < 0.3 * torch.dist(ends[0], ends[2])
    # Sampling is not repeated when its result is there.
    monkeypatch.setattr(rejection_sampling, "sample", lambda *_: pytest.fail("sampled again"))
    rejection_sampling.run(stage)


def test_nothing_kept_is_an_error_that_says_why(models, tmp_path):
    config = rejection((RewardConfig(fn=f"{HERE}.never", name="readable"),))
    with pytest.raises(UserError, match=r"none of 8 samples passed the filters .*readable"):
        rejection_sampling.run(context(config, "rejection_sampling", tmp_path, models))
    assert not (tmp_path / "data" / "reasoning.jsonl").exists()


def many():
    return [{"prompt": f"say {word}", "answer": word} for word in ("one", "two") for _ in range(3)]


@pytest.mark.parametrize(("spoil", "sampled_again"), [(None, 2), ("damaged", 4), ("other settings", 6)])
def test_rows_already_sampled_are_kept(models, tmp_path, monkeypatch, spoil, sampled_again):
    """Three parts of two prompts, stopped in the third: the files are those of a sampling left alone."""
    monkeypatch.setattr(rejection_sampling, "PROMPTS_AT_A_TIME", 2)

    def sample(name, **changes):
        config = rejection((RewardConfig(fn=f"{HERE}.says_it"),), data=DataConfig(fn=f"{HERE}.many"), **changes)
        stage = context(config, "rejection_sampling", tmp_path / name, models)
        rejection_sampling.sample(config.rejection_sampling, stage, load_rows(config.rejection_sampling.data))

    sample("whole")
    prompts, stop = [], True

    def counted(self, batch, *_, **__):
        prompts.extend(batch)
        if stop and len(prompts) > 4:
            raise KeyboardInterrupt

    before(monkeypatch, LocalEngine, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        sample("cut")
    parts = sorted((tmp_path / "cut" / "completions" / "parts").iterdir())
    assert len(parts) == 2
    stop, changes = False, {}
    if spoil == "damaged":
        cut_short(parts[1])
    elif spoil:
        changes = {"keep_per_prompt": 2}
        sample("whole", **changes)
    prompts.clear()
    sample("cut", **changes)
    assert len(prompts) == sampled_again
    for name in ("completions/sampled.jsonl", "data/reasoning.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut" / "completions" / "parts").exists()


@pytest.mark.parametrize("part", ["data", "general"])
def test_an_evaluation_problem_is_refused_before_anything_is_sampled_or_trained(models, tmp_path, monkeypatch, part):
    monkeypatch.setattr("grpo.supervised.sft.train_on_tokens", lambda *_, **__: pytest.fail("trained"))
    if part == "data":
        monkeypatch.setattr(rejection_sampling, "sampling_engine", lambda *_: pytest.fail("sampled"))
    monkeypatch.setattr(f"{HERE}.problems", questions if part == "data" else general_problem)
    config = rejection((RewardConfig(fn=f"{HERE}.says_it"),))
    with pytest.raises(UserError, match=r"jsonl', row 1 holds the evaluation problem '(say one|hello)'.*: take "):
        rejection_sampling.run(context(config, "rejection_sampling", tmp_path, models))


def general_problem():
    return [{"question": "Hello", "answer": "good day"}]


def test_judge():
    def rollout(text, reason="stop", value=1.0):
        return Rollout(Completion((1,), (0.0,), reason, text), {"says_it": value})

    group = Group(
        Prompt("p", (1,)),
        (rollout("a", "length"), rollout("a", value=0.9), rollout("a"), rollout("a "), rollout("b"), rollout("c")),
    )
    filters = [load_reward({"fn": f"{HERE}.says_it"})]
    verdicts = [verdict.dropped for verdict in rejection_sampling.judge(group, filters, keep=2)]
    assert verdicts == ["cut at max_tokens", "says_it", None, "repeated", None, "enough kept"]


def test_a_filter_that_does_not_apply_drops_nothing():
    """None without an error; one that failed drops."""
    filters = [load_reward({"fn": f"{HERE}.says_it"}), load_reward("language")]

    def dropped(errors, **values):
        rollout = Rollout(Completion((1,), (0.0,), "stop", "a"), values, errors=errors)
        (verdict,) = rejection_sampling.judge(Group(Prompt("p", (1,)), (rollout,)), filters, keep=1)
        return verdict.dropped

    assert dropped({}, says_it=1.0, language=None) is None
    assert dropped({}, says_it=1.0, language=0.0) == "language"
    assert dropped({"language": "no column"}, says_it=1.0, language=None) == "language"
    assert dropped({"says_it": "no gold"}, says_it=None, language=1.0) == "says_it"


def test_cold_start_stage(models, tmp_path):
    data = DataConfig(fn=f"{HERE}.general", system="be kind")
    config = recipe(cold_start=ColdStartConfig(**TRAINING, data=data))
    numbers = cold_start.run(context(config, "cold_start", tmp_path, models[:1] * 2))
    assert numbers["examples"] == 1
    assert list(numbers["data_hashes"]) == ["cold_start"]
    (row,) = read_jsonl(tmp_path / "data" / "sft.jsonl")
    assert row["messages"][0] == {"role": "system", "content": "be kind"}
    assert json.dumps(numbers)  # it goes into a manifest


def pretraining(steps=3):
    settings = {"corpus": DataConfig(fn=f"{HERE}.texts"), "vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 4,
                "kv_heads": 2, "intermediate_size": 64, "max_tokens": 16, "batch_size": 4,
                "optimizer": OptimizerConfig(lr=1e-2)}  # fmt: skip
    return recipe(base=BaseConfig(steps=steps, pretrain=settings))


def test_base_from_scratch_stops_at_both_ends(tmp_path):
    numbers = base.run(context(pretraining(), "base", tmp_path))
    tokenizer, model = load_tokenizer(str(tmp_path / "model")), load_model(str(tmp_path / "model"), torch.device("cpu"))
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id
    assert tokenizer.pad_token_id not in ends
    assert numbers["documents"] == 30
    assert 3 * 4 * 2 <= numbers["tokens"] <= 3 * 4 * 16


def test_every_document_is_a_row_with_its_end():
    tokenizer = build_tokenizer(texts(), 320)
    rows = base.documents(["say one", "hello"], tokenizer, 64)
    assert [tokenizer.decode(row.input_ids) for row in rows] == ["say one<|endoftext|>", "hello<|endoftext|>"]
    assert all(row.labels == row.input_ids for row in rows)
    (cut,) = base.documents(["say one say one say one"], tokenizer, 4)
    assert len(cut.input_ids) == 4


def test_an_existing_base_is_copied(models, tmp_path):
    base.run(context(recipe(base=BaseConfig(model=models[0])), "base", tmp_path))
    one, other = (load_model(path, torch.device("cpu")).state_dict() for path in (models[0], str(tmp_path / "model")))
    assert all(torch.equal(one[name], other[name]) for name in one)
