"""The named sets: columns of the hub and of the original files become questions with golds that the judge can read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grpo.config.data import DataConfig
from grpo.data.prompts import canonical_answer
from grpo.data.rows import load_rows
from grpo.errors import UserError
from rewards.accuracy.compare import vote
from rewards.accuracy.reward import accuracy_reward, gold_is_parseable
from rewards.loader import load_reward
from stages.cli import main
from stages.commands.eval import data_settings, named_set
from stages.commands.eval_sets import ASK, SETS, read_rows
from support.real_data import needs_data, rows_of

FILES = {
    "gsm8k": ("gsm8k_test", 1319), "math500": ("math500", 500), "aime24": ("aime24", 30), "aime25": ("aime25", 30),
    "amc23": ("amc23", 40), "minerva": ("minerva_math", 272), "olympiadbench": ("olympiadbench", 675),
    "mgsm": ("mgsm", 2750), "mgsm-th": ("mgsm", 250), "mgsm-en": ("mgsm", 250), "mmlu_stem": ("mmlu_stem", 3018),
    "mmlu": ("mmlu_stem", 3018),
}  # fmt: skip
# Golds in prose or program text, such as "$f(x)=ax+b$, where $b$ is ..." and "np.arcsin(10/13)".
UNREADABLE = {"minerva": 4, "olympiadbench": 3}


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_golds_of_the_original_files(name):
    """Every gold can be read but a few, and is right when it is boxed."""
    rows = read_rows(name, rows_of(f"sets/{FILES[name][0]}.jsonl"))
    assert len(rows) == FILES[name][1]
    some = rows if name in UNREADABLE else rows[:: max(1, len(rows) // 60)]
    golds = [canonical_answer(row) for row in some]
    readable = [gold for gold in golds if gold_is_parseable(gold)]
    assert len(golds) - len(readable) <= UNREADABLE.get(name, 0)
    golds = readable
    boxed = [f"\\boxed{{{gold[0] if isinstance(gold, list) else gold}}}" for gold in golds]
    assert [gold for gold, score in zip(golds, accuracy_reward(boxed, golds), strict=True) if score != 1.0] == []
    for row in some:
        asked = next(row[key] for key in ("prompt", "question", "problem") if row.get(key))
        assert (asked + SETS[name].suffix).count("\\boxed{}") == 1


def test_whole_numbers():
    for name, answer, gold in (("aime24", "025", "25"), ("aime25", 70, "70"), ("amc23", 27.0, "27")):
        assert read_rows(name, [{"problem": "?", "answer": answer}])[0]["answer"] == gold


def test_multiple_choice():
    row = {"question": "Which?", "choices": ["red", "green", "blue", "grey"], "answer": 2}
    [read] = read_rows("mmlu_stem", [row])
    assert (read["question"], read["answer"]) == ("Which?\nA. red\nB. green\nC. blue\nD. grey", "C")
    assert accuracy_reward([r"\boxed{C}", r"\boxed{(C) blue}", r"\boxed{B}"], ["C"] * 3) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(("name", "row", "letter"), [
    ("mmlu", {"question": "Which?", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 3}, "D"),
    ("mmlu", {"question": "Which?", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "D"}, "D"),
    ("mmlu", {"question": "Which?", "choices": [1, 2.5, "c", "d"], "answer": "3"}, "D"),
    ("mmlu_pro", {"question": "Which?", "options": list("abcdefghij"), "answer": "J", "answer_index": 9}, "J"),
    ("mmlu_pro", {"question": "Which?", "options": list("abc"), "answer": "C"}, "C"),
])  # fmt: skip
def test_choices_of_all_subjects(name, row, letter):
    [read] = read_rows(name, [row])
    assert read["answer"] == letter
    assert read["question"].splitlines()[-1].startswith(f"{'D' if letter == 'D' else letter}. ")
    assert SETS[name].suffix.count("\\boxed{}") == 1


@pytest.mark.parametrize("spoilt", [{"answer": 4}, {"answer": -1}, {"answer": "E"}, {"choices": ["a", None, "c", "d"]}])
def test_choices_that_do_not_fit_are_refused(spoilt):
    row = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 3, **spoilt}
    with pytest.raises(UserError, match=r"--data mmlu: row 0: ValueError: answer .* of the choices"):
        read_rows("mmlu", [row])


def test_gpqa_in_its_own_csv(tmp_path):
    file = tmp_path / "gpqa_diamond.csv"
    file.write_text(
        "Pre-Revision Question,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,ID\n"
        'q,"Which, ""of""\nthese?",5,4,"3, 2",1e5,rec1\n'
    )
    config = DataConfig(**{key: value for key, value in data_settings(f"gpqa={file}").items() if key == "path"})
    [read] = read_rows("gpqa", load_rows(config))
    assert f"\n{read['answer']}. 5" in read["question"]
    assert read["question"].startswith('Which, "of"\nthese?\nA. ')


def test_programs_of_livecodebench():
    row = {
        "question_content": "Add.", "starter_code": "class Solution:\n    def add(self, a, b):",
        "metadata": '{"func_name": "add"}',
        "public_test_cases": '[{"input": "1\\n2", "output": "3", "testtype": "functional"}]',
        "private_test_cases": "[]",
    }  # fmt: skip
    [read] = read_rows("livecodebench", [row])
    assert "def add(self, a, b):" in read["prompt"]
    assert load_reward(SETS["livecodebench"].accuracy).fn(
        completions=["```python\nclass Solution:\n    def add(self, a, b): return a + b\n```"], tests=[read["tests"]]
    ) == [1.0]
    with pytest.raises(UserError, match="--data livecodebench: row 0"):
        read_rows("livecodebench", [row | {"private_test_cases": "junk"}])
    with pytest.raises(UserError, match="needs a file: livecodebench=FILE"):
        data_settings("livecodebench")


@needs_data
def test_ifeval_has_rows_and_no_judge(capsys):
    rows = read_rows("ifeval", rows_of("sets/ifeval.jsonl"))
    assert len(rows) == 541
    assert set(rows[0]) == {"prompt", "key", "instruction_id_list", "kwargs"}
    assert main(["eval", "MODEL", "--data", "ifeval"]) == 2
    assert "no judge ships for this set; name a function of yours: eval.accuracy.fn=PATH" in capsys.readouterr().err


def test_gpqa_is_shuffled_by_its_texts_alone():
    rows = [
        {"Question": f"Q{n}", "Correct Answer": " yes\n"} | {f"Incorrect Answer {i}": f"no {i}" for i in (1, 2, 3)}
        for n in range(200)
    ]
    read = read_rows("gpqa", rows)
    assert read == read_rows("gpqa", rows[::-1])[::-1]
    for row in read:
        assert f"\n{row['answer']}. yes" in row["question"]
    counts = [sum(row["answer"] == letter for row in read) for letter in "ABCD"]
    assert min(counts) > 30


def test_languages():
    rows = [{"lang": "th", "question": "ถาม", "answer": "5"}, {"lang": "de", "question": "Frage", "answer": "1,000"}]
    [thai] = read_rows("mgsm-th", rows)
    assert thai == {"lang": "th", "language": "th", "question": f"ถาม\n{ASK['th']}", "answer": "5"}
    assert [row["language"] for row in read_rows("mgsm", rows)] == ["th", "de"]
    [hub] = read_rows("mgsm-th", [{"question": "ถาม", "answer": None, "answer_number": 5}])
    assert (hub["answer"], hub["language"]) == ("5", "th")
    with pytest.raises(UserError, match="none of the rows belongs"):
        read_rows("mgsm-fr", rows)
    with pytest.raises(UserError, match="'lang' is None"):
        read_rows("mgsm", [{"question": "?", "answer": "1"}])


def test_countdown():
    for row in ({"input": "30,100,93", "output": "23"}, {"nums": [30, 100, 93], "target": 23}):
        [read] = read_rows("countdown", [row])
        assert (read["nums"], read["target"]) == ([30, 100, 93], 23)
        assert "30, 100, 93" in read["question"]
        assert "equals 23" in read["question"]


@pytest.mark.parametrize("numbers", [[30, 100, 93], "30,100,93", ["30", 100.0, 93]])
def test_countdown_reads_what_its_reward_reads(numbers):
    rows = read_rows("countdown", [{"numbers": numbers, "target": "23"}, {"nums": [1, 2], "output": 3}])
    columns = {name: [row.get(name) for row in rows] for name in ("numbers", "nums", "target") if name in rows[0]}
    solutions = [r"\boxed{30+93-100}", r"\boxed{1+2}"]
    assert load_reward("countdown").fn(completions=solutions, **columns) == [1.0, 1.0]
    with pytest.raises(UserError, match=r"row 0: .*a row needs numbers, nums or input, and target or output"):
        read_rows("countdown", [{"question": "?", "answer": 1}])


def test_a_row_of_another_set_is_named():
    good = {"question": "?", "choices": ["a", "b"], "answer": 0}
    with pytest.raises(UserError, match=r"mmlu_stem: row 1 has no column 'choices' \(it has: question, answer\)"):
        read_rows("mmlu_stem", [good, {"question": "?", "answer": 1}])
    with pytest.raises(UserError, match="row 0: ValueError: could not convert"):
        read_rows("aime24", [{"problem": "?", "answer": "many"}])


def test_names_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("{}")
    assert named_set("mgsm-th") == "mgsm-th"
    assert named_set("olympiadbench=rows.jsonl") == "olympiadbench"
    assert named_set("rows.jsonl") is None
    assert data_settings("mmlu_stem=rows.jsonl") == {"path": "rows.jsonl", "suffix": SETS["mmlu_stem"].suffix}
    assert data_settings("gpqa")["subset"] == "gpqa_diamond"
    with pytest.raises(UserError, match="mgsm=FILE"):
        data_settings("mgsm")


@needs_data
@pytest.mark.usefixtures("only_sandbox")
def test_programs_and_countdown_are_judged():
    """The golds of the sets with a judge of their own."""
    for name, file, count in (("humaneval", "humaneval", 164), ("mbpp", "mbpp", 500), ("mbpp", "mbpp_sanitized", 257)):
        rows = read_rows(name, rows_of(f"sets/{file}.jsonl"))
        assert len(rows) == count
        some: Sequence[Any] = rows[:2]
        programs = [f"```python\n{row['reference']}\n```" for row in some]
        assert load_reward("code").fn(completions=programs, tests=[row["tests"] for row in some]) == [1.0, 1.0]
    [row] = read_rows("countdown", [{"input": "30,100,93", "output": "23"}])
    columns = {"target": [row["target"]], "nums": [row["nums"]]}
    assert load_reward("countdown").fn(completions=[r"\boxed{30+93-100}"], **columns) == [1.0]


def test_equal_answers_vote_together():
    assert vote("1/2") == vote("0.5") == vote(r"\frac{1}{2}") == vote(r"$\dfrac12$") == vote("50%")
    assert vote("1,000") == vote("1000.0")
    assert vote(r"x + 1") == vote("x+1")
    assert len({vote(text) for text in ("1/3", "0.33", "x", "y", "2x", "(1, 2)", "9" * 500)}) == 7
