"""Evaluation problems, and near copies of them, in training data."""

import json
import time
from functools import cache
from pathlib import Path

import pytest

from grpo.data.rows import load_rows, read_jsonl, write_jsonl
from grpo.errors import UserError
from stages.cli import main
from stages.recipe import leaks
from stages.recipe.config import RecipeConfig
from stages.recipe.leaks import LeakGuard
from stages.recipe.ngrams import Ngrams, units
from stages.recipe.planning import plan_stage
from stages.recipe.table import STAGES, StageContext
from support.chat import assistant, user
from support.real_data import needs_data, rows_of


def sum_keys(row):
    """Stands in for a world's `leak_check`."""
    return {"".join(str(row.get("question", "")).split())}


def check(recipe, rows):
    guard = LeakGuard(RecipeConfig.model_validate(recipe))
    return guard.without(guard.leaks(rows), rows, "data/a.jsonl")


def test_leaks_are_found_by_key(recipe):
    rows = [{"question": "1+1"}, {"question": "4 + 4"}]
    check(recipe, rows)  # another text
    recipe["evaluation"]["leak_check"] = f"{__name__}.sum_keys"
    with pytest.raises(UserError, match=r"'data/a.jsonl', row 2 holds the evaluation problem '4\+4': take it out"):
        check(recipe, rows)


@pytest.mark.parametrize("row", [
    {"question": " 4+4"},
    {"prompt": [user("4+4")], "chosen": "8", "rejected": "9"}, {"messages": [user(" 4+4"), assistant("8")]},
    {"messages": [{"role": "system", "content": "be brief"}, user("Hi"), assistant("Hello"), user("4+4")]},
    {"messages": [user("Hi"), assistant("Hello"), user("4+4"), assistant("8")]},
    {"conversations": [{"from": "human", "value": "4+4"}, {"from": "gpt", "value": "8"}]},
    {"instruction": "4+4", "response": "8"}, {"instruction": "4+4", "input": "", "output": "8"},
    {"prompt": "4+4", "completion": "8"},
    {"messages": [user("4+4\nThink, then BOX it."), assistant("8")]},  # evaluation.math.data.suffix
    {"messages": [user("Q: 4+4\nA:"), assistant("8")]},  # the template of another section
    {"instruction": "Q: 4+4 !\nA:", "response": "8"},  # with its suffix
])  # fmt: skip
def test_leaks_are_found_in_every_form_of_a_row(recipe, row):
    recipe["evaluation"]["math"]["data"]["suffix"] = "\nThink, then box it."
    task = recipe["reasoning_rl"]["tasks"]["math"]
    task["data"] = {**task["data"], "template": "Q: {prompt}\nA:", "suffix": " !"}
    with pytest.raises(UserError, match=r"row 2 holds the evaluation problem '.*4\+4.*'"):
        check(recipe, [{"question": "2+2"}, row])


def test_an_answer_is_no_leak(recipe):
    """What a model or a teacher wrote may name any problem; a row of another stage's form is that stage's to refuse."""
    rows = [
        {"messages": [user("Why?"), assistant("4+4")]}, {"instruction": "Why?", "response": "4+4"},
        {"text": "4+4 is 8"}, {"messages": "4-4"},
    ]  # fmt: skip
    check(recipe, rows)


def test_leaks_by_key_are_found_in_conversations(recipe):
    rows = [{"conversations": [{"from": "human", "value": "4 +4"}, {"from": "gpt", "value": "8"}]}]
    recipe["evaluation"]["leak_check"] = f"{__name__}.message_keys"
    with pytest.raises(UserError, match=r"row 1 holds the evaluation problem '4\+4'"):
        check(recipe, rows)


def message_keys(row):
    return sum_keys(row) - {""} | {sum_keys({"question": turn["content"]}).pop() for turn in row.get("messages", [])}


def test_a_stage_refuses_its_data_before_it_trains(recipe, tmp_path):
    config = RecipeConfig.model_validate(recipe)
    context = StageContext(config, "cold_start", tmp_path, "", "", {}, cache(lambda: LeakGuard(config)))
    with pytest.raises(UserError, match=r"sft\.jsonl"):
        context.write_data("sft", [{"question": "4+4"}])
    assert (tmp_path / "data" / "sft.jsonl").is_file()  # to look at


# --- near copies

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


@pytest.fixture
def near_copies(recipe, tmp_path, monkeypatch, capsys):
    """What `grpo check` says of near copies, in a recipe that looks for them."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("test.jsonl"), [{"question": PROBLEM, "answer": "4"}])
    recipe["evaluation"]["decontaminate"] = {}
    recipe["base"]["model"] = "./no-model"

    def lines():
        Path("recipe.yaml").write_text(json.dumps(recipe))
        main(["check", "recipe.yaml"])
        return [line for line in capsys.readouterr().out.splitlines() if "near copies" in line]

    return lines


def test_a_stage_and_grpo_check_refuse_them(recipe, near_copies):
    del recipe["reasoning_rl"]
    near = {"messages": [user(f"Please: {PROBLEM}"), assistant("4")]}
    other = {"messages": [user("Hello"), assistant(PROBLEM)]}
    write_jsonl(Path("train.jsonl"), [other, near])
    with pytest.raises(UserError, match="row 2 is nearly the evaluation problem 'a train leaves"):
        check(recipe, [other, near])
    check(recipe, [other])  # an answer is no leak
    (line,) = near_copies()
    assert line.startswith("error    near copies of evaluation problems in cold_start.data: 1 of 2 rows")
    assert line.endswith("rows 2")
    del recipe["evaluation"]["decontaminate"]
    check(recipe, [other, near])  # off unless asked for


def test_the_evaluation_is_read_once_for_all_that_is_trained_on(recipe, near_copies, tmp_path, monkeypatch):
    made = []

    class Counted(Ngrams):
        def __init__(self, problems, n, share):
            super().__init__(problems, n, share)
            made.append(len(self.problems))

    monkeypatch.setattr(leaks, "Ngrams", Counted)
    row = {"messages": [user("Hello"), assistant("4")], "answer": "4"}
    write_jsonl(Path("train.jsonl"), [row])
    assert [line.split()[0] for line in near_copies()] == ["ok", "ok"]
    assert made == [1]
    config = RecipeConfig.model_validate(recipe)
    context = StageContext(config, "cold_start", tmp_path, "", "", {}, cache(lambda: LeakGuard(config)))
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


# --- all of them, and what is done about them


def test_every_leak_is_listed(recipe):
    rows = [{"question": "4+4" if n in (1, 4, 5, 6, 9) else f"{n}+1"} for n in range(12)]
    line = r"row 2 holds .*; row 5 holds .*; row 6 holds .*; 5 of 12 rows in all: 2, 5-7, 10: take them out of the"
    with pytest.raises(UserError, match=line):
        check(recipe, rows)


@pytest.fixture
def dropping(recipe, tmp_path):
    """A stage of a recipe that drops what it may not train on, and its config."""
    write_jsonl(Path(recipe["evaluation"]["math"]["data"]["path"]), [{"question": "4+4"}, {"question": PROBLEM}])
    recipe["evaluation"]["decontaminate"] = {"action": "drop"}
    config = RecipeConfig.model_validate(recipe)
    return StageContext(config, "cold_start", tmp_path, "", "", {}, cache(lambda: LeakGuard(config)))


def test_dropped_rows_are_counted_and_kept_aside(dropping, tmp_path, caplog):
    rows = [{"question": "1+1"}, {"question": "4+4"}, {"question": f"Please: {PROBLEM}"}, {"question": "2+2"}]
    assert dropping.write_data("sft", rows) == [rows[0], rows[3]]
    assert "2 of 4 rows hold evaluation problems: dropped" in caplog.text
    assert read_jsonl(tmp_path / "data" / "sft.jsonl") == [rows[0], rows[3]]
    assert [row["row"] for row in read_jsonl(tmp_path / "data" / "sft.leaks.jsonl")] == [2, 3]
    assert leaks.left_out(tmp_path / "data") == {"sft": 2}
    assert dropping.write_data("sft", rows[:1]) == rows[:1]
    assert leaks.left_out(tmp_path / "data") == {}
    with pytest.raises(UserError, match=r"'.*sft.jsonl', row 1 holds .*: nothing would be left to train on"):
        dropping.write_data("sft", rows[1:2])


def test_a_run_drops_and_its_manifest_counts(pipeline, recipe):
    recipe["evaluation"]["decontaminate"] = {"action": "drop"}
    questions = ["2+2", "4+4", "3+3"]
    write_jsonl(Path(recipe["cold_start"]["data"]["path"]), [{"question": text} for text in questions])

    def stage(context):
        (context.folder / "model").mkdir(exist_ok=True)
        if context.key != "cold_start":
            return {}
        return {"rows": len(context.write_data("rows", load_rows(context.section.data)))}

    pipeline.stage = stage
    pipeline.go(until="cold_start")
    assert pipeline.manifest("cold_start")["training"] == {"rows": 2, "decontaminated": {"rows": 1}}


def test_what_decides_which_rows_are_dropped_is_part_of_a_stage_only_where_it_drops(recipe, tmp_path):
    def made() -> str:
        return plan_stage(RecipeConfig.model_validate(recipe), STAGES["cold_start"], tmp_path / "run").lineage.hash

    evaluation = recipe["evaluation"]
    before = made()
    evaluation["decontaminate"] = {"ngram": 8}
    assert made() == before
    evaluation["decontaminate"] = {"ngram": 8, "action": "drop"}
    dropping = made()
    evaluation["decontaminate"]["ngram"] = 9
    assert len({before, dropping, made()}) == 3
    evaluation["decontaminate"]["ngram"] = 8
    write_jsonl(Path(evaluation["math"]["data"]["path"]), [{"question": "5+5"}])
    assert made() != dropping


def test_grpo_check_lists_what_would_be_dropped(recipe, near_copies):
    recipe["evaluation"]["decontaminate"] = {"action": "drop"}
    del recipe["reasoning_rl"]
    near = {"messages": [user(f"Please: {PROBLEM}"), assistant("4")]}
    write_jsonl(Path("train.jsonl"), [near, {"messages": [user("Hello"), assistant("4")]}, near])
    (line,) = near_copies()
    assert line.startswith("warning  near copies of evaluation problems in cold_start.data: dropped: 2 of 3 rows")
    assert line.endswith("rows 1, 3")
