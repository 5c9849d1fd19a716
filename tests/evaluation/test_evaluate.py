"""Evaluation, on hand-made completions and on a random model."""

import json
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from grpo.config.data import DataConfig, EvalConfig
from grpo.data.prompts import with_problem_ids
from grpo.errors import UserError
from grpo.evaluation.evaluate import GeneralEval, evaluate, judge_groups
from grpo.evaluation.metrics import Judges, general_metrics, math_metrics, problem_row
from grpo.evaluation.result import read_result, template_hash
from grpo.scoring.groups import score
from grpo.scoring.table import Reward
from grpo.types import Completion, Group, Prompt, Rollout
from rewards.accuracy.reward import extract_answer
from stages.tiny_world import build_tokenizer, model_config
from support.models import make_model

KEYS = {
    "model", "data", "n_problems", "samples_per_problem", "pass@1", "pass@1_ci95", "format_rate",
    "language_consistency", "truncation_rate", "no_answer_rate", "mean_tokens", "temperature", "top_p",
    "max_tokens", "seed", "engine", "template_hash", "data_hash", "seconds",
}  # fmt: skip
ROWS = [{"question": f"What is {a} + 2?", "answer": str(a + 2)} for a in range(5)]


def right(completions: list[str], answer: list[Any], **_: Any) -> list[float | None]:
    """1.0 when the text ends in the gold; does not judge a gold of None."""
    pairs = zip(completions, answer, strict=True)
    return [None if gold is None else float(_text(text).endswith(str(gold))) for text, gold in pairs]


def formatted(completions: list[str], **_: Any) -> list[float]:
    return [float(_text(text).startswith("A:")) for text in completions]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def last_word(text: str) -> str | None:
    return text.split()[-1] if text.split() else None


def judges(**options: Any) -> Judges:
    return Judges(Reward("right", right), Reward("formatted", formatted), extract_answer=last_word, **options)


def test_a_thinking_that_the_template_opened_and_that_never_ends_has_no_answer():
    """Nor in the rate of answers, nor among the votes."""
    prompt = Prompt("1", (1,), columns={"answer": "5"}, answer="5", prefill="<|a|>\n<think>\n", text="q")
    completions = [Completion((1,), (0.0,), "length", text) for text in (r"\boxed{5} or", r"4</think>\boxed{5}")]
    rewards = {"accuracy": 0.0, "formatted": 1.0}
    done = Group(prompt, tuple(Rollout(completion, rewards) for completion in completions))
    row = problem_row(done, Judges(Reward("accuracy", right), extract_answer=extract_answer))
    assert row["no_answer"] == 1
    assert row["votes"][0] == [None, "5"]


def config(**options: Any) -> EvalConfig:
    return EvalConfig.model_validate({"data": {"path": "set.jsonl"}, "max_tokens": 6, **options})


def group(number: int, gold: str | None, *texts: str) -> Group:
    prompt = Prompt(id=str(number), token_ids=(1,), text="q", columns={"answer": gold}, answer=gold)
    completions = [Completion((1, 2), (0.0, 0.0), "length" if not text else "stop", text) for text in texts]
    return Group(prompt, tuple(Rollout(completion) for completion in completions))


def measure(groups: list[Group], judge: Judges, **options: Any) -> dict[str, Any]:
    judged, _ = score(groups, judge.rewards())
    return math_metrics([problem_row(item, judge) for item in judged], config(**options), judge)


def test_metrics_by_hand():
    groups = [
        group(1, "5", "A: 5", "A: 5", "5", "A: 7"),  # two right in the format, one right outside of it
        group(2, "6", "A: 1", "A: 1", "A: 6", ""),
    ]
    metrics = measure(groups, judges(), samples=4, k=(1, 2, 4))
    assert metrics["pass@1"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert metrics["pass@2"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert metrics["pass@4"] == 1.0
    assert metrics["maj@4"] == 0.5  # 5 wins the first vote, 1 the second
    assert metrics["format_rate"] == pytest.approx(6 / 8)
    assert metrics["truncation_rate"] == metrics["no_answer_rate"] == pytest.approx(1 / 8)
    assert metrics["mean_tokens"] == 2
    assert metrics["language_consistency"] is None
    low, high = metrics["pass@1_ci95"]
    assert low < metrics["pass@1"] < high


def test_the_format_need_not_be_required():
    metrics = measure([group(1, "5", "5", "A: 5")], judges(require_format=False), samples=2)
    assert (metrics["pass@1"], metrics["format_rate"], metrics["format_required"]) == (1.0, 0.5, False)


def test_a_gold_that_cannot_be_judged_is_left_out_and_counted():
    metrics = measure([group(1, "5", "A: 5"), group(2, None, "A: 5")], judges())
    assert (metrics["n_problems"], metrics["unjudged_problems"], metrics["pass@1"]) == (1, 1, 1.0)
    with pytest.raises(UserError, match="no problem can be judged"):
        measure([group(2, None, "A: 5")], judges())


def failing(completions: list[str], answer: list[Any], **_: Any) -> list[float]:
    """Raises on a text that ends in 7, NaN on one that ends in 8."""
    if any(_text(text).endswith("7") for text in completions):
        raise ValueError("boom")
    return [float("nan") if _text(text).endswith("8") else 1.0 for text in completions]


def test_what_the_judge_fails_on_is_wrong_and_said(caplog):
    judge = Judges(Reward("failing", failing))
    groups = [group(1, "5", "A: 5"), group(2, "6", "A: 7"), group(3, "6", "A: 8"), group(4, None, "A: 7")]
    with caplog.at_level("WARNING", "grpo"):
        judged = judge_groups(groups, judge.rewards())
    metrics = math_metrics([problem_row(item, judge) for item in judged], config(), judge)
    assert metrics["n_problems"] == 3  # the gold of the fourth is null
    assert metrics["pass@1"] == pytest.approx(1 / 3)
    assert "accuracy failed on 3 of 4 completions" in caplog.text
    assert "count as wrong" in caplog.text
    assert "boom" in caplog.text


def test_a_judge_that_declines_leaves_the_problem_out():
    def declines(completions: list[str], log_error: Any, **_: Any) -> list[None]:
        for row in range(len(completions)):
            log_error(row, "cannot read the gold")
        return [None] * len(completions)

    judge = Judges(Reward("declines", declines))
    judged = judge_groups([group(1, "?", "A: 5")], judge.rewards())
    assert problem_row(judged[0], judge)["judged"] is False


def test_general_metrics_are_over_the_prompts_they_apply_to():
    rows = [{"safety": 1.0, "helpfulness": None}, {"safety": 0.0, "helpfulness": None}]
    metrics = general_metrics(rows)
    assert metrics["safety"] == 0.5
    assert metrics["safety_ci95"][0] < 0.5 < metrics["safety_ci95"][1]
    assert metrics["helpfulness"] is metrics["helpfulness_ci95"] is metrics["over_refusal_ci95"] is None


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = build_tokenizer([row["question"] for row in ROWS], 300)
    return Qwen2ForCausalLM(model_config(len(tokenizer), hidden_size=32, layers=2)).eval(), tokenizer


def test_a_model_in_memory(tiny, tmp_path):
    general = GeneralEval(config().data.model_copy(update={"fn": f"{__name__}.requests", "path": None}), 4, rules())
    settings = config(samples=2, k=(2,))
    results = [evaluate(tiny, settings, judges=judges(), rows=ROWS, general=general, seed=1) for _ in range(2)]
    metrics = results[0].metrics
    assert metrics.keys() >= KEYS | {"pass@2", "maj@2", "helpfulness", "helpfulness_ci95"}
    assert metrics["n_problems"] == 5
    assert metrics["helpfulness"] == 1.0
    assert metrics["safety"] is None
    assert results[0].completions == results[1].completions  # the seed decides
    results[0].write(tmp_path / "eval.json")
    assert json.loads((tmp_path / "eval.json").read_text()).items() >= metrics.items()
    assert read_result(tmp_path / "eval.json")[0] == metrics
    problems = [json.loads(line) for line in (tmp_path / "eval.problems.jsonl").read_text().splitlines()]
    assert [row["part"] for row in problems] == ["math"] * 5 + ["general"] * 2
    assert "votes" not in problems[0]
    assert len((tmp_path / "eval.completions.jsonl").read_text().splitlines()) == 12


def test_general_prompts_alone(tiny):
    data = config().data.model_copy(update={"fn": f"{__name__}.requests", "path": None})
    result = evaluate(tiny, config(), judges=judges(), rows=[], general=GeneralEval(data, 4, rules()))
    assert result.metrics.keys() >= KEYS | {"helpfulness", "helpfulness_ci95"}
    measured = {name for name in KEYS | {"helpfulness", "safety"} if result.metrics.get(name) is not None}
    assert not measured & {"n_problems", "pass@1", "pass@1_ci95", "format_rate", "truncation_rate", "mean_tokens"}
    assert result.metrics["helpfulness"] == 1.0
    assert len(result.problems) == len(result.completions) == 2
    with pytest.raises(UserError, match="no rows"):
        evaluate(tiny, config(), judges=judges(), rows=[])


def requests() -> list[dict[str, str]]:
    return [{"prompt": "Hello"}, {"prompt": "Thanks"}]


def rules() -> dict[str, Reward]:
    def always(completions: list[Any], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    def never(completions: list[Any], **_: Any) -> list[None]:
        return [None] * len(completions)

    return {"general": Reward("x", always), "helpfulness": Reward("x", always), "safety": Reward("x", never)}


def test_greedy_does_not_depend_on_the_seed(tiny):
    runs = [evaluate(tiny, config(temperature=0), judges=judges(), rows=ROWS, seed=seed) for seed in (1, 2)]
    assert runs[0].completions == runs[1].completions


LONG = {"question": "What is 1 + 2? " * 54, "answer": "3"}  # of 512 positions there remain a few


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # rotary and learnt
@pytest.mark.parametrize("general", [False, True])
def test_more_tokens_than_the_model_has_positions_are_refused_before_sampling(kind, general, tiny, monkeypatch):
    monkeypatch.setattr("grpo.engines.local.engine.LocalEngine.generate", None)
    model = (make_model(kind, vocab_size=len(tiny[1])), tiny[1])
    text = rf"evaluation: {'general.' * general}max_tokens=600 after a prompt of \d+ tokens .* 512 .* at most 4\d\d"
    monkeypatch.setattr("grpo.evaluation.evaluate.load_rows", lambda _: ROWS)
    asked = GeneralEval(DataConfig(path="general.jsonl"), 600, {}) if general else None
    own = config() if general else config(max_tokens=600)
    with pytest.raises(UserError, match=text):
        evaluate(model, own, judges=judges(), rows=ROWS[:1], general=asked)
    if not general:
        endless = {"question": "What is 1 + 2? " * 90, "answer": "3"}
        with pytest.raises(UserError, match=r"after a prompt of \d+ tokens is more .* 512 positions.*; shorten the"):
            evaluate(model, config(max_tokens=None), judges=judges(), rows=[*ROWS[:1], endless])


def test_without_max_tokens_an_evaluation_fits_itself_to_the_model(tiny, caplog):
    message = [{"role": "user", "content": LONG["question"]}]
    length = len(tiny[1].apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"])
    room = 512 - length
    assert 0 < room < 40
    with caplog.at_level("WARNING", "grpo"):
        fitted = evaluate(tiny, config(max_tokens=None), judges=judges(), rows=[LONG])
        assert f"evaluation: max_tokens={room}, all that the model has positions for" in caplog.text
        caplog.clear()
        asked = evaluate(tiny, config(max_tokens=room), judges=judges(), rows=[LONG])
        less = evaluate(tiny, config(max_tokens=None), judges=judges(), rows=[LONG], most=3)
        assert not caplog.text
    assert fitted["max_tokens"] == asked["max_tokens"] == room
    assert fitted.completions == asked.completions
    assert less["max_tokens"] == 3
    assert max(row["tokens"] for row in less.completions) <= 3


def test_data_without_golds_is_refused(tiny):
    rows = [{"question": "1+1", "label": "2"}]
    with pytest.raises(UserError, match=r"no column answer \| gold \| solution.*question, label"):
        evaluate(tiny, config(), judges=judges(), rows=rows)


def test_the_template_hash_follows_what_renders_the_prompt(tiny):
    data = [config(data={"path": "x", **more}).data for more in ({}, {"suffix": "!"}, {"system": "s"})]
    assert len({template_hash(tiny[1], item) for item in data}) == 3


def test_rates_count_each_thing_by_itself():
    """Cut with an answer, ended without one, and tokens that differ: no rate stands for another."""
    texts = [("A: 5", 9, "length"), ("", 1, "stop"), ("A: 7", 4, "stop"), ("A: 5", 2, "stop")]
    completions = [Completion((1,) * n, (0.0,) * n, end, text) for text, n, end in texts]
    prompt = Prompt(id="1", token_ids=(1,), text="q", columns={"answer": "5"}, answer="5")
    unjudged = group(2, None, "", "", "", "")  # counts in none of them
    metrics = measure([Group(prompt, tuple(map(Rollout, completions))), unjudged], judges(), samples=4, k=(4,))
    assert (metrics["truncation_rate"], metrics["no_answer_rate"], metrics["format_rate"]) == (1 / 4, 1 / 4, 3 / 4)
    assert (metrics["mean_tokens"], metrics["pass@1"]) == ((9 + 1 + 4 + 2) / 4, 1 / 2)


def test_wrong_answers_that_are_equal_vote_together():
    """5 is right and has two of five votes; 7 has three, in three spellings."""
    groups = [group(1, "5", "A: 5", "A: 5", "A: 7", "A: 7.0", "A: +7")]
    spelt = measure(groups, judges(), samples=5, k=(5,))
    equal = measure(groups, judges(vote=float), samples=5, k=(5,))
    assert (spelt["maj@5"], equal["maj@5"]) == (1.0, 0.0)
    assert equal["maj@5_ci95"][0] == 0.0
    assert equal["pass@5_ci95"][1] == 1.0


def test_counts_that_a_server_did_not_give():
    judged, _ = score([group(1, "5", "A: 5", "A: 6")], judges().rewards())
    assert problem_row(judged[0], judges(), [3, 4])["tokens"] == 7
    row = problem_row(judged[0], judges(), [3, None])
    assert math_metrics([row], config(samples=2), judges())["mean_tokens"] is None


def test_ids_are_those_of_the_question():
    """So that models with different templates can be compared; equal questions stay apart."""

    def of(template: str, **columns: Any) -> Group:
        return Group(Prompt(template, (1,), text=template, columns=columns), ())

    one = with_problem_ids([of("a", question="2+2"), of("a#1", question="2+2"), of("a", id=7, question="2+2")])
    two = with_problem_ids([of("b", question="2+2"), of("b#1", question="2+2"), of("b", id=7, question="2+2")])
    ids = [item.prompt.id for item in one]
    assert ids == [item.prompt.id for item in two]
    assert (len(set(ids)), ids[2]) == (3, "7")
