"""Near copies of evaluation problems in training data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stages.cli import main
from stages.recipe import leaks
from stages.recipe.config import RecipeConfig
from stages.recipe.leaks import LeakGuard
from stages.recipe.ngrams import Ngrams, units
from stages.recipe.table import StageContext
from support.real_data import needs_data, rows_of

PROBLEM = "A train leaves the station at noon with 120 passengers and stops 3 times before it gets to the next town."
THAI = "รถไฟออกจากสถานีเวลาเที่ยงพร้อมผู้โดยสาร 120 คน และหยุด 3 ครั้งก่อนถึงเมืองถัดไป"


@pytest.mark.parametrize("copy", [
    PROBLEM, PROBLEM.upper().replace(",", " ").replace(" ", "\n"), f"Solve this. {PROBLEM} How long does it take?",
    PROBLEM.replace("leaves", "departs from"), PROBLEM.replace("120", "１２０"),  # full-width digits
])  # fmt: skip
def test_copies_are_found(copy):
    assert Ngrams(["Another problem, about 7 birds.", PROBLEM], 10, 0.5).copied(copy) == PROBLEM


@pytest.mark.parametrize("text", [
    "", PROBLEM.replace("120", "130"),  # the same question about other numbers
    "A train leaves the station at noon with 120 passengers and then, 3 hours later, somebody else gets on too.",
    " ".join(reversed(PROBLEM.split())),
])  # fmt: skip
def test_other_problems_are_not(text):
    assert Ngrams([PROBLEM], 10, 0.5).copied(text) is None


def test_one_run_of_words_is_enough_when_the_share_is_0():
    text = "A train leaves the station at noon with 120 passengers and then, 3 hours later, somebody else gets on too."
    assert Ngrams([PROBLEM], 10, 0.0).copied(text) == PROBLEM


def test_writing_without_spaces_is_compared_by_characters():
    assert Ngrams([THAI], 10, 0.5).copied("โจทย์: " + THAI.replace(" ", "")) == THAI
    assert Ngrams([THAI], 10, 0.5).copied(THAI.replace("120", "90")) is None
    assert units("共有13只鸟 and 2 more") == ["共", "有", "13", "只", "鸟", "and", "2", "more"]


def test_a_short_problem_is_looked_for_whole():
    grams = Ngrams(["What is 12 + 30 + 7?", "2 + 2"], 10, 0.5)
    assert grams.copied("Tell me: what is 12+30+7?") == "What is 12 + 30 + 7?"
    assert grams.copied("What is 12 + 30 + 8, or 7?") is None
    assert grams.copied("2 + 2") is None  # two numbers are no problem of anybody's


def test_it_scales():
    """100,000 rows against 5,000 problems take seconds; here a twentieth of the rows."""
    problems = [" ".join(f"word{(n * 7 + i * i) % 997}" for i in range(60)) for n in range(2500)]
    rows = [" ".join(f"word{(n * 11 + i * 3) % 997}" for i in range(60)) for n in range(5000)]
    start = time.process_time()
    grams = Ngrams(problems, 10, 0.5)
    assert not any(grams.copied(row) for row in rows)
    assert grams.copied(problems[17]) == problems[17]
    assert time.process_time() - start < 15


RECIPE: dict[str, Any] = {
    "evaluation": {"math": {"data": {"path": "test.jsonl"}, "max_tokens": 8}, "decontaminate": {}},
    "base": {"model": "./no-model"},
    "cold_start": {
        "data": {"path": "train.jsonl"}, "steps": 1, "batch_size": 1, "max_tokens": 64, "optimizer": {"lr": 1e-3},
    },
}  # fmt: skip


def test_a_stage_and_grpo_check_refuse_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    near = {"messages": [{"role": "user", "content": f"Please: {PROBLEM}"}, {"role": "assistant", "content": "4"}]}
    other = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": PROBLEM}]}
    Path("test.jsonl").write_text(json.dumps({"question": PROBLEM, "answer": "4"}))
    Path("train.jsonl").write_text(json.dumps(other) + "\n" + json.dumps(near))
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    with pytest.raises(Exception, match="row 2 is nearly the evaluation problem 'a train leaves"):
        LeakGuard(RecipeConfig.model_validate(RECIPE)).check([other, near], Path("train.jsonl"))
    LeakGuard(RecipeConfig.model_validate(RECIPE)).check([other], Path("train.jsonl"))  # an answer is no leak
    main(["check", "recipe.yaml"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "near copies" in line]
    assert lines[0].startswith("error    near copies of evaluation problems in cold_start.data: 1 of 2 rows")
    assert lines[0].endswith("rows 2")
    without = RECIPE | {"evaluation": {"math": RECIPE["evaluation"]["math"]}}
    LeakGuard(RecipeConfig.model_validate(without)).check([other, near], Path("train.jsonl"))  # off unless asked for


def test_the_evaluation_is_read_once_for_all_that_is_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made: list[int] = []

    class Counted(Ngrams):
        def __init__(self, problems: Iterable[str], n: int, share: float) -> None:
            super().__init__(problems, n, share)
            made.append(len(self.problems))

    monkeypatch.setattr(leaks, "Ngrams", Counted)
    row = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "4"}], "answer": "4"}
    Path("test.jsonl").write_text(json.dumps({"question": PROBLEM, "answer": "4"}))
    Path("train.jsonl").write_text(json.dumps(row))
    rl = {
        "tasks": {"a": {"data": {"path": "train.jsonl"}, "rewards": [{"fn": "accuracy"}]}}, "steps": 1,
        "group_size": 2, "prompts_per_step": 1, "sampling": {"max_tokens": 8}, "optimizer": {"lr": 1e-3},
    }  # fmt: skip
    recipe = RECIPE | {"reasoning_rl": rl}
    Path("recipe.yaml").write_text(json.dumps(recipe))
    main(["check", "recipe.yaml"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "near copies" in line]
    assert [line.split()[0] for line in lines] == ["ok", "ok"]
    assert made == [1]
    config = RecipeConfig.model_validate(recipe)
    context = StageContext(config, "cold_start", tmp_path, "", "", {}, LeakGuard(config))
    context.write_data("one", [row])
    Path("test.jsonl").unlink()
    context.write_data("two", [row])
    assert made == [1, 1]


@needs_data
@pytest.mark.parametrize(("train", "test", "least", "most"), [
    ("math_train", "math_test", 9, 150),  # 9 the same; the rest share drawings and phrases
    ("math_train", "math500", 0, 20), ("aime_train_1983_2023", "math500", 6, 10), ("gsm8k_train", "gsm8k_test", 0, 0),
    ("gsm8k_test", "mgsm", 250, 250),
])  # fmt: skip
def test_real_sets(train, test, least, most):
    def texts(name: str) -> list[str]:
        rows = (row for row in rows_of(f"sets/{name}.jsonl") if row.get("lang", "en") == "en")
        return [row.get("question") or row["problem"] for row in rows]

    grams = Ngrams(texts(test), 10, 0.5)
    assert least <= sum(grams.copied(text) is not None for text in texts(train)) <= most
