"""Reward models learn, say how well on held-out prompts, and score at use what they were trained on."""

import random
from types import SimpleNamespace

import pytest
import torch

from grpo.config.data import RewardConfig
from grpo.config.engine import RuntimeConfig
from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.data.conversations import response_text
from grpo.data.templates import turn_end
from grpo.errors import UserError
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.supervised import Training
from grpo.supervised.reward_model import Pairwise, Pointwise, split_held_out, train_reward_model
from grpo.supervised.reward_reader import load_reward_model, read_rewards, response_ids
from rewards.loader import load_reward
from rewards.preference import RewardModel
from stages.recipe.training import task_rewards
from support.chat import assistant, user
from support.models import word_model
from support.runs import CPU

SETTINGS = SFTConfig(steps=25, batch_size=16, micro_batch_size=8, max_tokens=64, optimizer=OptimizerConfig(lr=1e-2))
WORDS = ["apple", "pear", "plum", "cherry", "grape", "melon", "lemon", "fig", "date", "kiwi"]


def message(text):
    return [assistant(text)]


def asked(number):
    return [user(f"name {WORDS[number % 10]} and {WORDS[number // 10 % 10]}")]


def answered(number, last):
    return message(f"<think>{random.Random(number).choice(WORDS)}</think>{WORDS[number % 10]} {last}")


PAIRS = [{"prompt": asked(n), "chosen": answered(n, "please"), "rejected": answered(n + 1, "bah")} for n in range(60)]
LABELS = [
    {"prompt": asked(n), "completion": answered(n, "please" if n % 2 else "bah"), "label": float(n % 2)}
    for n in range(60)
]


def training(out):
    return Training(SETTINGS, out, 0, CPU, "reward model")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = [" ".join(WORDS) + " name and please bah user assistant"] * 5
    return word_model(texts, 330, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def pairwise(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairwise")
    return out, train_reward_model(Pairwise, model, PAIRS, "answer", training(out))


def test_pairwise_learns_and_scores_as_trained(pairwise):
    out, numbers = pairwise
    assert numbers["accuracy"] >= 0.8
    assert numbers["held_out"] == 6
    reward = RewardModel(str(out / "model"), part="answer", squash="none")
    chosen = reward(prompts=[row["prompt"] for row in PAIRS], completions=[row["chosen"] for row in PAIRS])
    rejected = reward(prompts=[row["prompt"] for row in PAIRS], completions=[row["rejected"] for row in PAIRS])
    assert sum(a > b for a, b in zip(chosen, rejected, strict=True)) >= 54
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 25


def test_pointwise_learns_the_label(model, tmp_path):
    numbers = train_reward_model(Pointwise, model, LABELS, "response", training(tmp_path))
    assert numbers["accuracy"] >= 0.8
    reward = RewardModel(str(tmp_path / "model"))
    good, bad = reward(prompts=[asked(3), asked(3)], completions=[answered(3, "please"), answered(3, "bah")])
    assert 1 >= good > 0.5 > bad >= 0


def test_an_answer_model_reads_only_the_answer(pairwise):
    out, _ = pairwise
    reward = RewardModel(str(out / "model"), part="answer")
    texts = ("<think>plum</think>fig", "<think>bah bah</think>fig")
    one, other = reward(prompts=[asked(1)] * 2, completions=list(map(message, texts)))
    assert one == other
    whole = RewardModel(str(out / "model"), part="response")
    one, other = whole(prompts=[asked(1)] * 2, completions=list(map(message, texts)))
    assert one != other


def test_scores_do_not_depend_on_the_batch(pairwise):
    """Right padding: the score is read at the last real token, the end token."""
    out, _ = pairwise
    tokenizer = load_tokenizer(str(out / "model"))
    model = load_reward_model(str(out / "model"), tokenizer, torch.device("cpu"))
    end, text = turn_end(tokenizer)
    answers = enumerate(PAIRS[:7])
    rows = [response_ids(tokenizer, row["prompt"], message("plum " * n), "answer", end) for n, row in answers]
    assert all(ids[-1] == end for ids in rows)
    assert text == "<|im_end|>"
    together, alone = (read_rewards(model, rows, tokenizer.pad_token_id, size) for size in (7, 1))
    assert together == pytest.approx(alone, abs=1e-5)


def test_equal_responses_get_equal_scores(pairwise):
    """To the bit, whatever else is in the call: rounding is no reason to prefer one of them."""
    out, _ = pairwise
    reward = RewardModel(str(out / "model"), part="answer", squash="none", batch_size=3)
    for others in range(12):
        texts = ["fig"] * 5 + ["plum " * n for n in range(others)]
        values = reward(prompts=["name fig"] * len(texts), completions=texts)
        assert len(set(values[:5])) == 1


def test_it_applies_where_it_is_told_to(pairwise):
    out, _ = pairwise
    reward = load_reward({"fn": "reward_model", "kwargs": {
        "model": str(out / "model"), "part": "answer",
        "applies_to": {"column": "kind", "values": ["helpful", "lookalike"]}}})  # fmt: skip
    kinds = ["helpful", "harmful", "lookalike"]
    values = reward.fn(prompts=["name fig"] * 3, completions=["fig"] * 3, kind=kinds)
    assert values[1] is None
    assert values[0] == values[2]
    assert 0 < values[0] < 1
    with pytest.raises(UserError, match="no column 'kind'"):
        reward.fn(prompts=["name fig"], completions=["fig"])


def test_it_runs_where_the_policy_does(pairwise):
    kwargs = {"model": "{run}/model"}
    task = SimpleNamespace(rewards=[RewardConfig(fn="reward_model", kwargs=kwargs)])
    runtime = RuntimeConfig(device="mps")  # not here: so it was asked for
    context = SimpleNamespace(folder=pairwise[0] / "stage", config=SimpleNamespace(runtime=runtime))
    (reward,) = task_rewards(task, context)
    with pytest.raises(UserError, match="device=mps"):
        reward.fn(prompts=["name fig"], completions=["fig"])
    task.rewards[0].kwargs["device"] = "cpu"  # the task's own wish comes first
    (reward,) = task_rewards(task, context)
    assert len(reward.fn(prompts=["name fig"], completions=["fig"])) == 1


def test_response_text():
    assert response_text("<think>a</think> b ", "answer") == "b"
    assert response_text(message("<think>a</think> b"), "response") == "<think>a</think> b"
    assert response_text("no thinking", "answer") == "no thinking"
    assert response_text("<think>a thought that was cut", "answer") == ""
    assert response_text("a thought that was cut", "answer", "<think>\n") == ""
    assert response_text("a</think> b", "answer", "<think>\n") == "b"
    assert response_text("a", "response", "<think>\n") == "a"


def test_no_prompt_is_on_both_sides():
    rows = [{"prompt": f"p{n % 20}", "label": n} for n in range(100)]
    training, held = split_held_out(rows, seed=1)
    assert len(held) == 10
    assert len(training) == 90
    assert not {row["prompt"] for row in training} & {row["prompt"] for row in held}


def test_bad_rows_are_named(model, tmp_path):
    rows = [PAIRS[0], {"prompt": "a", "chosen": "b"}]
    with pytest.raises(UserError, match="row 1: column 'rejected' is missing"):
        train_reward_model(Pairwise, model, rows, "answer", training(tmp_path))
    with pytest.raises(UserError, match="row 0: label 'maybe'"):
        train_reward_model(Pointwise, model, [{**LABELS[0], "label": "maybe"}], "response", training(tmp_path))
    with pytest.raises(UserError, match="device 'gpu'; use auto, cpu, cuda, mps"):
        RewardModel("x", device="gpu")
    with pytest.raises(UserError, match="part 'all'"):
        RewardModel("x", part="all")


def test_pairs_that_are_the_same_to_the_model_are_left_out_and_said(model, tmp_path, caplog):
    """The answers differ in their thinking only, which the model of `answer` does not read."""
    told = [{"prompt": asked(n), "chosen": message(f"<think>{n}</think>fig"), "rejected": "fig"} for n in range(5)]
    short = Training(SETTINGS.model_copy(update={"steps": 1}), tmp_path, 0, CPU, "reward model")
    with caplog.at_level("WARNING", "grpo"):
        numbers = train_reward_model(Pairwise, model, [*PAIRS[:20], *told], "answer", short)
    assert "in 5 of 25 pairs 'chosen' and 'rejected' are the same to the model: left out" in caplog.text
    assert numbers["examples"] + numbers["held_out"] == 20
    with pytest.raises(UserError, match="in every pair 'chosen' and 'rejected' are the same"):
        train_reward_model(Pairwise, model, told, "answer", short)


def test_several_turns_are_read_whole(model, tmp_path):
    """Only the last message was: the same model came of pairs with other questions."""
    turns = [user("name fig"), assistant("fig"), user("name pear")]
    row = {"chosen": [*turns, assistant("pear please")], "rejected": [*turns, assistant("plum bah")]}
    tokenizer = load_tokenizer(model)
    end = turn_end(tokenizer)[0]
    read = Pairwise.read(row, "row 0")
    ids = response_ids(tokenizer, read["prompt"], read["chosen"], "response", end)
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) + "pear please"
    assert ids == [*tokenizer(text, add_special_tokens=False)["input_ids"], end]
