"""From rows to prompts: which column, which answer, which template, and what a bad file is told."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from grpo.config.data import DataConfig
from grpo.data.golds import last_boxes, read_gold
from grpo.data.prompts import build_prompts, canonical_answer
from grpo.data.rows import load_rows, read_jsonl, rows_hash, write_jsonl
from grpo.errors import UserError
from rewards.accuracy.extraction import read_golds
from rewards.accuracy.reward import grade
from support.chat import assistant, user
from support.models import BOS, CHAT_TEMPLATE, THINK_TEMPLATE, VOCABULARY, make_tokenizer

PATH = DataConfig(path="d.jsonl")
PLAIN = DataConfig(path="d.jsonl", template="Question: {prompt}\nAnswer:")


def built(row: dict[str, Any], data: DataConfig = PATH, template: str | None = CHAT_TEMPLATE) -> Any:
    (prompt,) = build_prompts([row], data, make_tokenizer(template))
    return prompt


def refused(function: Callable[..., Any], *arguments: Any, says: Sequence[str]) -> None:
    """A line that says all of this."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    assert [words for words in says if words not in str(caught.value)] == []


@pytest.mark.parametrize(("row", "content"), [
    ({"prompt": "a", "question": "b", "problem": "c"}, "a"), ({"question": "b", "problem": "c"}, "b"),
    ({"problem": "c", "messages": [user("d")]}, "c"),
    ({"messages": [user("d")]}, "d"), ({"prompt": None, "question": "b"}, "b"),
    ({"prompt": [user("e")], "question": "b"}, "e"),
])  # fmt: skip
def test_prompt_columns_in_the_order_listed(row, content):
    assert built(row).messages == [user(content)]


@pytest.mark.parametrize(("row", "answer"), [
    ({"answer": "1", "gold": "2", "solution": "3"}, "1"), ({"gold": "2", "solution": "3"}, "2"),
    ({"solution": "3"}, "3"), ({"answer": None, "solution": "3"}, "3"),
    ({"answer": "She has 3 + 4 = <<3+4=7>>7.\n#### 7"}, "7"), ({"answer": "#### 1,234 "}, "1,234"),
    ({"answer": "first #### 3 then\n#### 4"}, "4"),
    ({"solution": r"so $\boxed{1}$, no: \boxed{\frac{1}{2}}."}, r"\frac{1}{2}"),
    ({"solution": r"\boxed{\text{a {nested} one}}"}, r"\text{a {nested} one}"),
    ({"answer": "42", "solution": r"\boxed{7}"}, "42"), ({"answer": "033"}, "033"),  # AIME writes three digits
    ({"answer": 33}, 33), ({"answer": 0}, 0),  # not "no answer"
    ({"answer": ["1/2", "0.5"]}, ["1/2", "0.5"]), ({"answer": " 5 "}, "5"), ({"answer": ""}, ""),
    ({"question": "x"}, None),
])  # fmt: skip
def test_answers(row, answer):
    assert canonical_answer(row) == answer


@pytest.mark.parametrize(("text", "found"), [
    (r"\boxed{1}", "1"), (r"\boxed{1} and \boxed{", "1"),  # the last balanced one
    (r"\boxed{{}", None), ("none", None), (r"\boxed{}", None), (r"\boxed{\sqrt{2}} cm", r"\sqrt{2}"),
])  # fmt: skip
def test_the_last_balanced_box(text, found):
    assert last_boxes(text) == found


@pytest.mark.parametrize(("text", "found"), [
    ("3 + 4 = 7, not \\boxed{8}\n#### 7\n", "7"),  # GSM8K's form
    ("#### 7\nso \\boxed{8}.", "8"),  # a heading, or a thought on the way
    ("#### Step 3\n\\boxed{8}", "8"), ("\\boxed{8}\n#### Final remarks", "8"), ("#### 7\nNo box.", "7"),
    ("all on one line #### 7", "7"), (r"\boxed{1} and \boxed{-2}.", "1, -2"), ("####", "####"),
])  # fmt: skip
def test_data_and_rewards_read_a_gold_alike(text, found):
    assert read_gold(text) == canonical_answer({"answer": text}) == found
    assert read_golds(text) == [found]


@pytest.mark.parametrize(("text", "found"), [
    ("Therefore, x = 7.", "x = 7"), ("Hence $x=7$", "$x=7$"), ("So 7.5", "7.5"), ("Thus \\frac{1}{2}.", r"\frac{1}{2}"),
    ("So many words", "So many words"), ("Therefore the answer is 7.", "Therefore the answer is 7."),
    ("inf", r"\infty"), ("-Infinity", r"-\infty"), ("inflation", "inflation"),
    ("proof", ""), ("notfound", ""), ("See solution.", ""), ("Proof by hand", "Proof by hand"),
])  # fmt: skip
def test_golds_of_a_few_words(text, found):
    assert read_gold(text) == canonical_answer({"answer": text}) == found


@pytest.mark.parametrize("cell", ["None", "N/A", "n/a", "NA", "<NA>", "null", "NULL", " NaN ", float("nan"), None])
def test_what_tables_write_for_nothing_is_no_gold(cell):
    assert canonical_answer({"answer": cell}) is None
    assert read_golds(cell) == read_golds([cell]) == []
    row = {"question": "Q", "answer": cell, "solution": r"so \boxed{7}"}
    assert built(row).columns["answer"] == canonical_answer(row) == "7"
    assert built({"question": "Q", "answer": "none"}).answer == "none"  # in words, which may be right


@pytest.mark.parametrize(
    ("gold", "right"), [("Therefore, x = 7.", "7"), ("inf", r"\infty"), (float("-inf"), r"-\infty")]
)
def test_golds_of_a_few_words_are_judged_by(gold, right):
    assert (grade(rf"\boxed{{{right}}}", gold), grade(r"\boxed{8}", gold)) == (1.0, 0.0)


def test_columns_come_through_unchanged_and_answer_is_added():
    row = {"question": "q", "solution": r"\boxed{4}", "level": 3, "tags": ["a", None], "id": 17}
    before = json.loads(json.dumps(row))
    prompt = built(row)
    assert row == before
    assert prompt.columns == {**before, "answer": "4"}
    assert (prompt.answer, prompt.id, prompt.task) == ("4", "17", "default")
    gsm = built({"question": "q", "answer": "3+4\n#### 7"})
    assert gsm.columns["answer"] == "3+4\n#### 7"  # the row's own column stays; the canonical gold is beside it
    assert gsm.answer == "7"
    assert "answer" not in built({"question": "q"}).columns


def test_the_models_own_chat_template_with_system_and_suffix():
    prompt = built({"question": "2+2"}, DataConfig(path="d", system="be brief", suffix=" box it"))
    text = "<s><|system|>be brief<|im_end|><|user|>2+2 box it<|im_end|><|assistant|>"
    assert prompt.text == text
    assert make_tokenizer().decode(list(prompt.token_ids)) == text
    assert prompt.messages == [{"role": "system", "content": "be brief"}, user("2+2 box it")]


def test_exactly_one_bos_with_a_chat_template():
    """The template writes it and the tokenizer would write another."""
    ids = built({"question": "2+2"}).token_ids
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    bare = built({"question": "2+2"}, template=CHAT_TEMPLATE.removeprefix("<s>")).token_ids
    assert bare[0] == VOCABULARY["<|user|>"]  # a template without one means none


def test_exactly_one_bos_with_a_plain_template():
    """Gemma and Llama write BOS through the tokenizer; without it a base model is out of its depth."""
    assert built({"question": "2+2"}, PLAIN).token_ids.count(BOS) == 1
    assert built({"question": "2+2"}, PLAIN).token_ids[0] == BOS
    own = DataConfig(path="d", template="<s>Question: {prompt}\nAnswer:")
    assert built({"question": "2+2"}, own).token_ids == built({"question": "2+2"}, PLAIN).token_ids


def test_a_plain_template():
    prompt = built({"question": "2+2 {prompt}"}, DataConfig(path="d", template="Q: {prompt}!\n<think>", suffix="?"))
    assert prompt.text == "Q: 2+2 {prompt}?!\n<think>"
    assert prompt.messages is None
    assert prompt.prefill == "!\n<think>"
    refused(built, {"messages": [user("x")]}, PLAIN, says=["messages"])


def test_prefill_when_the_template_opens_the_thinking():
    prompt = built({"question": "2+2"}, template=THINK_TEMPLATE)
    assert prompt.prefill.endswith("<think>\n")
    assert prompt.text.endswith("<|assistant|><think>\n")
    assert "<think>" not in built({"question": "2+2"}).prefill


def test_a_final_assistant_turn_is_what_is_to_be_learnt_not_a_part_of_the_prompt():
    turns = [user("a"), assistant("b"), user("c"), assistant("d")]
    row = {"messages": list(turns)}
    assert built(row).messages == turns[:3]
    assert row["messages"] == turns


@pytest.mark.parametrize(("row", "part"), [
    ({"text": "x"}, "no column prompt | question | problem | messages (it has: text)"), ({}, "it has: nothing"),
    ({"prompt": 3}, "'prompt' must be a string or a list"), ({"messages": []}, "'messages' must be"),
    ({"messages": [{"from": "human", "text": "x"}]}, "needs the strings 'role' and 'content'"),
    ({"messages": ["x"]}, "needs the strings 'role' and 'content'"),
    ({"messages": [{"role": "user", "content": None}]}, "needs the strings 'role' and 'content'"),
    ({"prompt": [{"role": "user", "content": ["x"]}]}, "needs the strings 'role' and 'content'"),
    ({"messages": [assistant("x")]}, "before the assistant's"),
])  # fmt: skip
def test_rows_without_a_prompt_are_named(row, part):
    refused(build_prompts, [{"prompt": "ok"}, row], PATH, make_tokenizer(), says=["d.jsonl", "row 1", part])


def test_a_model_without_a_chat_template_is_told_what_to_do():
    refused(built, {"question": "x"}, PATH, None, says=["chat template", "data.template"])


def test_a_template_that_refuses_a_conversation_is_one_line():
    """As Gemma's: no system message, and no two user turns in a row."""
    check = "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    gemma = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages %}" + check)
    words = ["data 'd.jsonl', row 0", "chat template refuses", "System role not supported"]
    refused(built, {"question": "x"}, DataConfig(path="d.jsonl", system="be brief"), gemma, says=words)


def test_an_empty_prompt():
    refused(built, {"prompt": ""}, DataConfig(path="d.jsonl", template="{prompt}"), says=["row 0", "empty"])


def test_overlong_prompts_are_dropped_and_counted_or_refused(caplog):
    rows = [{"question": "1" * n} for n in (1, 30, 2, 40)]
    tight = DataConfig(path="d.jsonl", template="{prompt}", max_prompt_tokens=10)
    with caplog.at_level(logging.WARNING, "grpo"):
        kept = build_prompts(rows, tight, make_tokenizer())
    assert [p.text for p in kept] == ["1", "11"]
    assert "2 of 4 prompts are over 10 tokens" in caplog.text
    strict, none = tight.model_copy(update={"overlong": "error"}), tight.model_copy(update={"max_prompt_tokens": 0})
    refused(build_prompts, rows, strict, make_tokenizer(), says=["2 of 4", "max_prompt_tokens"])
    refused(build_prompts, rows, none, make_tokenizer(), says=["4 of 4"])


def test_exactly_at_the_limit_is_kept():
    whole = built({"question": "123"})
    limit = len(whole.token_ids)
    assert built({"question": "123"}, DataConfig(path="d", max_prompt_tokens=limit)) == whole


def ids_of(rows: list[dict[str, Any]]) -> list[str]:
    return [p.id for p in build_prompts(rows, PATH, make_tokenizer())]


def test_ids_are_unique_and_stable():
    """Equal ids would draw equal samples."""
    assert ids_of([{"question": "a", "id": "x"}, {"question": "b", "id": "x"}, {"question": "c", "id": 3}])[0] == "x"
    for ids in (["x", "x", "x"], ["x", "x", "x#1"], ["x#1", "x", "x"], ["x#1", "x#1", "x", "x"]):
        unique = ids_of([{"question": str(i), "id": name} for i, name in enumerate(ids)])
        assert len(set(unique)) == len(unique), unique
    by_content = ids_of([{"question": "a"}, {"question": "b"}, {"question": "a"}])
    assert len(set(by_content)) == 3
    assert by_content[:2] == ids_of([{"question": "a"}, {"question": "b"}])
    assert ids_of([{"question": "a", "unique_id": "test/7.json"}]) == ["test/7.json"]
    assert ids_of([{"question": "a", "id": 0}]) == ["0"]
    assert ids_of([{"question": "a", "id": None, "unique_id": "u"}]) == ["u"]


# --- sources


def write(file: Path, *lines: str) -> DataConfig:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DataConfig(path=str(file))


def test_jsonl_with_blank_lines_thai_and_a_limit(tmp_path):
    lines = ['{"question": "สอง", "answer": 1}', "", '{"question": "b"}', "  ", '{"question": "c"}']
    data = write(tmp_path / "d.jsonl", *lines)
    assert load_rows(data) == [{"question": "สอง", "answer": 1}, {"question": "b"}, {"question": "c"}]
    assert len(load_rows(data.model_copy(update={"limit": 2}))) == 2


@pytest.mark.parametrize(("lines", "part"), [
    (['{"a": 1}', "{oops}"], "line 2: not valid JSON"),
    (['{"a": 1}', "", '{"a": '], "line 3: not valid JSON"),
    (['{"a": 1}', "[1]"], "line 2: expected a JSON object, got list"), (["", " "], "no rows"),
])  # fmt: skip
def test_bad_jsonl_names_file_and_line(tmp_path, lines, part):
    refused(load_rows, write(tmp_path / "d.jsonl", *lines), says=["d.jsonl", part])


def test_files_that_are_not_there_or_not_what_they_say(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}\n')
    (tmp_path / "fake.parquet").write_bytes(b"not a parquet file")
    for name, words in {
        "none.jsonl": "no such file", "none.parquet": "no such file", "": "several kinds", "latin.jsonl": "not UTF-8",
        "fake.parquet": "fake.parquet",
    }.items():  # fmt: skip
        refused(load_rows, DataConfig(path=str(tmp_path / name)), says=[words])


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"messages": [user("a")], "answer": "1", "n": 2},
        {"messages": [user("b")], "answer": None, "n": 3},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    data = DataConfig(path=str(tmp_path / "d.parquet"))
    assert load_rows(data) == rows
    first, second = build_prompts(load_rows(data), data, make_tokenizer())
    assert (first.messages, first.answer, second.answer) == (rows[0]["messages"], "1", None)


def test_a_function_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "own_rows.py").write_text(
        "def rows(n, start=0):\n    return [{'question': str(start + i)} for i in range(n)]\n"
        "def texts():\n    yield 'a'\n    yield 'b'\n"
        "def none():\n    return []\n"
        "def broken():\n    raise KeyError('column')\n"
        "def nothing():\n    return None\n"
    )
    (tmp_path / "bad_module.py").write_text("import not_installed_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    data = DataConfig(fn="own_rows.rows", kwargs={"n": 3, "start": 5})
    assert load_rows(data) == [{"question": "5"}, {"question": "6"}, {"question": "7"}]
    assert load_rows(DataConfig(fn="own_rows.texts")) == [{"text": "a"}, {"text": "b"}]
    for fn, kwargs, parts in [
        ("own_rows.rosw", {}, ["own_rows.rosw", "did you mean 'rows'"]),
        ("own_rowz.rows", {}, ["no module named 'own_rowz'"]), ("rows", {}, ["package.module.name"]),
        ("bad_module.rows", {}, ["not_installed_at_all"]), ("own_rows.rows", {"m": 3}, ["own_rows.rows", "m"]),
        ("own_rows.rows", {}, ["own_rows.rows", "n"]), ("own_rows.none", {}, ["no rows"]),
        ("own_rows.broken", {}, ["own_rows.broken", "KeyError"]), ("own_rows.nothing", {}, ["own_rows.nothing"]),
        ("own_rows.sys", {}, ["own_rows.sys"]),
    ]:  # fmt: skip
        refused(load_rows, DataConfig(fn=fn, kwargs=kwargs), says=parts)


def test_the_sets_people_use(tmp_path):
    """The exact fields of GSM8K, MATH-500 and AIME."""
    gsm = {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"}
    answer = r"\left( 3, \frac{\pi}{2} \right)"
    math500 = {"problem": "p", "solution": rf"thus \boxed{{{answer}}}", "answer": answer}
    math500["unique_id"] = "test/precalculus/807.json"
    aime = {"id": 60, "problem": "p", "solution": "long", "answer": "204", "year": "2024"}
    prompts = build_prompts([gsm, math500, aime], PATH, make_tokenizer())
    assert [p.answer for p in prompts] == ["4", answer, "204"]
    assert [p.id for p in prompts[1:]] == ["test/precalculus/807.json", "60"]


def test_rows_written_are_read_again_and_hashed_by_content(tmp_path):
    rows = [{"a": "ก", "b": [1, None]}, {"a": "line\nbreak  "}]
    write_jsonl(tmp_path / "x" / "r.jsonl", rows)
    assert read_jsonl(tmp_path / "x" / "r.jsonl") == rows
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["r.jsonl"]
    assert rows_hash(rows) == rows_hash([{"b": [1, None], "a": "ก"}, rows[1]])
    assert rows_hash(rows) != rows_hash(rows[::-1])
    assert rows_hash(rows) != rows_hash(rows[:1])
