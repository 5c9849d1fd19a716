"""`grpo check --sample`: tiny models that know what they write, so that what is said of them is known too."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grpo.config.file import validate
from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.types import Completion, Group, Prompt, Rollout
from stages.check.prospect import judged, sentence, together
from stages.check.sample import batch_of, draw, draw_missing, drawn_and_trained, duration, plan_sample, sample_stage
from stages.cli import main
from stages.recipe.config import RecipeConfig
from support.models import EOS, IM_END, VOCABULARY, make_model, make_tokenizer

RECIPE: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1},
    "base": {"model": "model"},
    "reasoning_rl": {
        "steps": 50, "group_size": 8, "prompts_per_step": 4, "sampling": {"max_tokens": 16},
        "tasks": {"math": {"data": {"path": "train.jsonl"}, "rewards": [{"fn": "accuracy"}, {"fn": "format"}]}},
    },
}  # fmt: skip
SURE = 12.0  # of a logit beside zeros: 1 in 2,000 draws is another


def answering(folder: Path, answers: str) -> None:
    """A model that writes \\boxed{a} and ends, whatever it is asked: a is one of the `answers`, by chance."""
    model = make_model("qwen2", hidden_size=96, num_hidden_layers=1, end=[EOS, IM_END], tie_word_embeddings=False)
    size = len(VOCABULARY)
    ids = [VOCABULARY[token] for token in ("<|assistant|>", *"\\boxed{")]
    follows = [*zip(ids, [[i] for i in ids[1:]], strict=False), (ids[-1], [VOCABULARY[digit] for digit in answers])]
    follows += [(VOCABULARY[digit], [VOCABULARY["}"]]) for digit in answers] + [(VOCABULARY["}"], [IM_END])]
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # what is written follows from the last token alone
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:size, :size] = torch.eye(size)
        for token, nexts in follows:
            model.lm_head.weight[nexts, token] = 2 * SURE / 96**0.5
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


@pytest.fixture
def sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is said of a model with these answers to rows with these golds."""
    monkeypatch.chdir(tmp_path)

    def sample(answers: str, golds: str, **settings: Any) -> str:
        answering(tmp_path / "model", answers)
        write_jsonl(tmp_path / "train.jsonl", [{"question": f"say {i}", "answer": a} for i, a in enumerate(golds)])
        tree = copy.deepcopy(RECIPE)
        tree["reasoning_rl"] |= settings
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        sample_stage(plan_sample(validate(RecipeConfig, tree, "c"), Path("runs/c"), 8, None, None))
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
        return capsys.readouterr().out

    return sample


def test_of_a_policy_that_is_right_half_the_time_nothing_is_said(sampled):
    text = sampled("47", "4" * 8)
    assert "this can learn: 100% of the groups teach" in text
    assert "reasoning_rl from model" in text
    assert " 10, 10, 10" in text  # tokens, the end token included
    assert "the stage's 50 steps: about " in text


@pytest.mark.parametrize(("answers", "golds", "said"), [
    ("4", "47" * 4, "siblings are nearly alike"),  # as cold as can be
    ("4", "7" * 8, "next to nothing is right (0.0% of the completions) and 0% of the groups teach: take easier rows"),
    ("4", "4" * 8, "nearly all is right already (100.0%) and 0% of the groups teach: take harder rows"),
])  # fmt: skip
def test_a_policy_that_can_learn_nothing_is_told_why(answers, golds, said, sampled):
    assert said in sampled(answers, golds)


def test_completions_that_are_cut_are_said_first(sampled):
    text = sampled("47", "4" * 8, sampling={"max_tokens": 6})
    assert "100% of the completions are cut at the limit" in text


def test_nothing_of_a_masked_completion_teaches(sampled):
    text = sampled("47", "4" * 8, truncated="mask", sampling={"max_tokens": 9})  # the box, but not the end
    row = next(line for line in text.splitlines() if "groups that teach" in line)
    assert row.split()[-1] == "0.0"


@pytest.mark.slow
def test_it_is_the_first_rollout_of_the_run(tmp_path, monkeypatch, capsys):
    """Bit for bit, with every option that the stage's rules depend on."""
    monkeypatch.chdir(tmp_path)
    answering(tmp_path / "model", "47")
    rows = [{"question": f"say {i}", "answer": a} for i, a in enumerate("4777" * 4)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    tree = copy.deepcopy(RECIPE)
    tree["reasoning_rl"] |= {"steps": 1, "loss": {"beta": 0.1}, "truncated": "penalise", "inner_epochs": 2}
    (tmp_path / "c.yaml").write_text(dump_yaml(tree))
    assert main(["run", "c.yaml"]) == 0
    metrics = json.loads((tmp_path / "runs/c/2-reasoning-rl/metrics.jsonl").read_text().splitlines()[0])
    capsys.readouterr()
    assert main(["check", "c.yaml", "--sample", "4"]) == 0
    text = capsys.readouterr().out
    assert "reasoning_rl from runs/c/0-base/model" in text
    cells = {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in text.splitlines() if line.split()}
    assert cells["reward"] == f"{metrics['reward']:.3g}"
    assert cells["accuracy"] == f"{metrics['reward/accuracy']:.3g}"
    assert float(cells["groups that teach, %"]) == pytest.approx(100 * (1 - metrics["frac_zero_variance"]))
    assert float(cells["entropy, nats a token"]) == pytest.approx(metrics["entropy"], rel=0.3)  # by what was drawn


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {"dynamic_sampling": {"reward": "accuracy", "max_draws": 3}},
    {"loss": {"beta": 0.1, "kl": {"placement": "reward"}}},
    {"advantage": {"combine": "normalise_then_sum"}, "difficulty": {"reward": "accuracy"}},
    {"rollout_prompts": 8, "inner_epochs": 2, "lora": {"r": 2, "alpha": 4, "targets": ["q_proj"]}},
    {"preset": "dapo", "gradient_checkpointing": True},
    {"loss": {"entropy_bonus": 0.01}, "prompts_per_step": 16},  # more than are drawn
], ids=str)  # fmt: skip
def test_every_option_of_a_stage_is_measured(settings, sampled):
    text = sampled("47", "4747" * 4, **settings)
    assert "this can learn: 100% of the groups teach" in text
    cost = next(line for line in text.splitlines() if line.startswith("a step: "))
    assert "update" in cost
    assert ("1.0 draws a rollout" in cost) == ("dynamic_sampling" in settings)


@pytest.mark.slow
def test_a_task_of_a_small_share_is_seen_and_not_counted(sampled):
    """In three rollouts, with pass rates, which know the prompts of the last two only."""
    task = RECIPE["reasoning_rl"]["tasks"]["math"]
    tasks = {name: {**task, "share": share} for name, share in (("math", 0.999), ("rare", 0.001))}
    text = sampled("47", "4" * 12, tasks=tasks, difficulty={"reward": "accuracy"}, prompts_per_step=3)
    assert next(line.split() for line in text.splitlines() if "prompts" in line) == ["prompts", "8", "1", "8"]


@pytest.mark.slow
def test_an_engine_that_samples_one_step_ahead_is_closed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answering(tmp_path / "model", "47")
    write_jsonl(tmp_path / "train.jsonl", [{"question": f"say {i}", "answer": "4"} for i in range(8)])
    ahead = {**RECIPE, "engine": {"ahead": True}}
    ahead["reasoning_rl"] = {**RECIPE["reasoning_rl"], "correction": {}}
    (tmp_path / "c.yaml").write_text(dump_yaml(ahead))
    assert main(["check", "c.yaml", "--sample", "8"]) == 0
    assert "this can learn: 100% of the groups teach" in capsys.readouterr().out


# ---- what is not drawn


@pytest.mark.parametrize(("arguments", "said"), [
    (["--sample", "0"], "--sample 0: at least one prompt"),
    (["--stage", "reasoning_rl"], "--stage is for --sample N"),
    (["--init", "model"], "--init is for --sample N"),
    (["--sample", "4", "--stage", "cold_start"], "--stage cold_start: no stage of RL in this config"),
    (["--sample", "4", "--init", "elsewhere/gone/model"], "elsewhere/gone/model"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_a_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(dump_yaml(RECIPE))
    assert main(["check", "c.yaml", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_is_still_to_be_made_is_asked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "tiny.yaml", "--sample", "4"]) == 2
    assert "not finished in 'runs/tiny': run the stages before, or name a model with --init" in capsys.readouterr().err
    (tmp_path / "model").mkdir()
    answering(tmp_path / "model", "4")
    assert main(["check", "tiny.yaml", "--sample", "4", "--stage", "helpfulness_rl", "--init", "model"]) == 2
    assert "needs the model of stage helpfulness_model, which is not finished" in capsys.readouterr().err


def test_nothing_is_drawn_where_the_run_would_refuse_to_begin(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answering(tmp_path / "model", "4")
    (tmp_path / "c.yaml").write_text(dump_yaml(RECIPE))
    assert main(["check", "c.yaml", "--sample", "4"]) == 2
    assert "--sample: nothing was drawn, for the errors above" in capsys.readouterr().err


# ---- the numbers


def group(task: str, number: int, values: Sequence[dict[str, float | None]]) -> Group:
    made = [
        Rollout(Completion((1, 2), (-0.1, -0.3), "stop", "x"), value, sum(v for v in value.values() if v is not None))
        for value in values
    ]
    return Group(Prompt(f"{task}-{number}", (1,), task=task), tuple(made))


def section(**settings: Any) -> Any:
    tree = copy.deepcopy(RECIPE)
    tasks = tree["reasoning_rl"]["tasks"]
    tasks["chat"] = {**tasks["math"], "rewards": [{"fn": "reward_model", "kwargs": {"model": "m"}, "name": "kind"}]}
    tree["reasoning_rl"] |= settings
    return validate(RecipeConfig, tree, "c").reasoning_rl


RIGHT, WRONG, UNTIDY = ({"accuracy": a, "format": f} for a, f in ((1.0, 1.0), (0.0, 1.0), (0.0, 0.0)))


def test_what_teaches_goes_by_the_rules_of_the_stage():
    mixed, formal, same = [RIGHT, WRONG], [UNTIDY, WRONG], [WRONG, WRONG]
    groups = [group("math", i, values) for i, values in enumerate([mixed, formal, same])]
    groups += [group("chat", 0, [{"kind": 0.2}, {"kind": 0.4}])]
    math, chat = judged(groups, section())
    assert ([g.prompt.id for g in math.teaching], [g.prompt.id for g in math.formal]) == (
        ["math-0", "math-1"],
        ["math-1"],
    )
    assert math.shares == [0.5, 0.0, 0.0]
    assert (len(chat.teaching), chat.formal, chat.shares) == (1, [], [])
    everything = together([math, chat])
    assert (len(everything.teaching), everything.shares, everything.entropy) == (3, math.shares, pytest.approx(0.2))
    dynamic = section(dynamic_sampling={"reward": "accuracy", "max_draws": 3})
    math, chat = judged(groups, dynamic)
    assert [g.prompt.id for g in math.teaching] == ["math-0"]  # the rest is drawn again, whatever else differs
    assert (math.redrawn, chat.redrawn) == (True, False)
    draws, trained = drawn_and_trained([math, chat], 3)
    assert (draws, trained) == (pytest.approx(0.75 * 3 + 0.25), pytest.approx(1.0))


def test_the_update_that_is_measured_has_every_task_in_its_part():
    """Before: the groups of the first task came first, and often alone."""
    mixed, same, kinds = [RIGHT, WRONG], [WRONG, WRONG], [{"kind": 0.2}, {"kind": 0.4}]
    groups = [group("math", i, mixed if i % 2 else same) for i in range(16)]
    groups += [group("chat", i, kinds if i % 2 else kinds[:1] * 2) for i in range(16)]

    def parts(tasks, wanted, max_draws=1, everything=False):
        batch = batch_of(tasks, wanted, max_draws, everything)
        return [sum(g.prompt.task == name for g in batch) for name in ("math", "chat")], batch

    tasks = judged(groups, section())
    of_each, batch = parts(tasks, 8.0)
    assert of_each == [4, 4]
    assert [g.prompt.id for g in batch[:4]] == ["math-1", "math-5", "math-9", "math-13"]
    assert parts(tasks, 100.0)[0] == [8, 8]  # more than there are
    assert parts(tasks, 16.0, everything=True)[0] == [8, 8]
    few = judged([*groups[:16], *(group("chat", i, kinds[:1] * 2) for i in range(16))], section())
    assert parts(few, 4.0)[0] == [4, 0]
    assert parts(judged([g for g in groups if not int(g.prompt.id[5:]) % 2], section()), 8.0) == ([0, 0], [])
    dynamic = judged(groups, section(dynamic_sampling={"reward": "accuracy", "max_draws": 4}))
    assert parts(dynamic, 12.0, max_draws=4)[0] == [8, 4]  # math is drawn until all teach


def test_all_is_what_the_shares_draw():
    """Before: of each task of a small share a prompt was among all, in four prompts of a hundredth nearly a sixth."""
    shares, drawn = {"math": 0.97, "a": 0.01, "b": 0.01, "chat": 0.01}, []

    def generate(chosen, step):
        drawn.append((dict(chosen), step))
        return [group(name, i, [RIGHT, WRONG]) for name, many in chosen.items() for i in range(many)]

    source = SimpleNamespace(
        tasks={name: SimpleNamespace(share=share) for name, share in shares.items()},
        begin=lambda: None,
        generate=generate,
        reward=lambda groups, step: groups,
    )
    config = SimpleNamespace(rollout_prompts=None, prompts_per_step=16, updates_per_rollout=1)
    run: Any = SimpleNamespace(source=source, config=config)
    groups = draw(run, 4)
    assert [g.prompt.task for g in groups] == ["math"] * 4
    apart = draw_missing(run, groups)
    assert sorted(g.prompt.task for g in apart) == ["a", "b", "chat"]
    many = draw(run, 400)
    counts = [sum(g.prompt.task == name for g in many) for name in shares]
    assert all(abs(count - 400 * share) <= 1 for count, share in zip(counts, shares.values(), strict=True))
    assert draw_missing(run, many) == []
    draw_missing(run, [group("math", i, [RIGHT]) for i in range(40)])
    assert drawn[-1] == ({"a": 1, "b": 1, "chat": 1}, 2)  # of the last rollout: what was drawn for others is forgotten

    kinds = [group("chat", 0, [{"kind": 0.5}] * 2)]
    math, chat = judged([*groups, *kinds], section(), apart={"chat"})
    assert (math.apart, chat.apart, len(chat.groups)) == (False, True, 1)
    assert (len(together([math, chat]).groups), together([math, chat]).weighted) == (4, math.weighted)


def test_a_reward_that_gives_the_same_for_all_is_named():
    groups = [group("chat", i, [{"kind": 0.5}] * 2) for i in range(8)] + [group("math", 0, [RIGHT, WRONG])]
    assert sentence(judged(groups, section()), section()).startswith(
        "task 'chat': 'kind' gave every completion the same"
    )


def test_one_task_of_two_may_teach_nothing():
    groups = [group("chat", i, [{"kind": 0.5}, {"kind": 0.1 * i}]) for i in range(8)]
    groups += [group("math", i, [WRONG, WRONG]) for i in range(8)]
    text = sentence(judged(groups, section()), section())
    assert text.startswith("this can learn: 44% of the groups teach; 'math' can't: next to nothing is right (0.0% of")
    assert sentence(judged(groups[:15], section()), section()) == "this can learn: 47% of the groups teach"  # by chance


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "about 0.4 seconds"), (119, "about 119 seconds"), (1500, "about 25 minutes"), (9000, "about 2.5 hours"),
    (200000, "about 2.3 days"),
])  # fmt: skip
def test_a_duration_is_said_in_a_unit_that_suits_it(seconds, text):
    assert duration(seconds) == text
