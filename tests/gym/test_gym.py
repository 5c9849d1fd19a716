"""Rows and rewards of reasoning-gym's tasks, with the package itself: `make test-gym`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.config.data import DataConfig
from grpo.config.yaml import dump_yaml
from grpo.data.rows import load_rows, write_jsonl
from grpo.errors import UserError
from rewards.gym import gym_reward
from rewards.loader import load_reward
from stages.cli import main
from stages.gym import rows
from support.models import CHAT_TEMPLATE, EOS, IM_END, make_model, make_tokenizer

pytestmark = pytest.mark.gym
MIXED = {"chain_sum": {"max_terms": 3, "max_digits": 3}, "gsm_symbolic": {}, "spell_backward": {"max_word_len": 5}}


def columns(some):
    return {name: [row[name] for row in some] for name in ("answer", "task", "metadata", "config")}


def scores(some, texts, **options):
    return gym_reward(texts, **columns(some), **options)


@pytest.fixture(scope="module")
def mixed():
    return rows(MIXED, 60)


def test_tasks_come_in_turn_and_fewer_are_the_first_of_more(mixed):
    assert [row["task"] for row in mixed[:6]] == list(MIXED) * 2
    assert rows(MIXED, 7) == mixed[:7]
    shared = rows(MIXED, 30, share={"chain_sum": 3, "gsm_symbolic": 1, "spell_backward": 1})
    assert [sum(row["task"] == name for row in shared) for name in MIXED] == [18, 6, 6]


def test_a_question_is_of_one_split_whatever_it_was_drawn_with(mixed):
    def asked(split, **other):
        return {
            row["question"]
            for row in rows({"count_bits": {"max_n": 900}, **other.pop("more", {})}, split=split, **other)
        }

    train = asked("train", n=600) | asked("train", n=300, seed=1) | asked("train", n=100, seed=7, more={"gcd": {}})
    test = asked("test", n=100) | asked("test", n=150, seed=1) | asked("test", n=90, seed=600, more={"gcd": {}})
    assert not train & test
    assert not {text.casefold() for text in train} & {
        text.casefold() for text in test
    }  # as the check for leaks compares
    assert len(asked("train", n=300, seed=1)) == 300  # none twice
    assert asked("train", n=50) != asked("train", n=50, seed=1)


def test_a_task_with_too_few_questions_says_how_many():
    with pytest.raises(UserError, match=r"'count_bits' has only (\d+) different questions of split test") as error:
        rows({"count_bits": {"max_n": 200}}, 1000, "test")
    few = int(str(error.value).split("only ")[1].split()[0])
    assert 25 < few < 60
    assert len(rows({"count_bits": {"max_n": 200}}, few, "test")) == few


def test_the_same_rows_in_a_process_with_another_hash_seed():
    """Five tasks draw from sets: their questions would differ."""
    tasks = {name: {} for name in ("isomorphic_strings", "ransom_note", "word_ladder", "list_functions", "acre")}
    code = f"import json; from stages.gym import rows; print(json.dumps(rows({tasks!r}, 10)))"
    env = {**os.environ, "PYTHONHASHSEED": "11", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert json.loads(other) == rows(tasks, 10)


def test_rows_are_plain_data(mixed):
    assert json.loads(json.dumps(mixed)) == mixed
    config = DataConfig(fn="stages.gym.rows", kwargs={"tasks": MIXED, "n": 60})
    assert load_rows(config) == mixed


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"tasks": {"chain_sums": {}}, "n": 3}, "there is no task 'chain_sums'.*chain_sum"),
        ({"tasks": {"chain_sum": {"max_term": 3}}, "n": 3}, "'chain_sum' has no option 'max_term'.*max_terms"),
        ({"tasks": {"chain_sum": {"seed": 3}}, "n": 3}, "no option 'seed'"),
        ({"tasks": {"chain_sum": {"min_terms": 9, "max_terms": 3}}, "n": 3}, "task 'chain_sum': AssertionError"),
        ({"tasks": {"chain_sum": {}}, "n": 3, "split": "dev"}, "split is train or test, not 'dev'"),
        ({"tasks": {"chain_sum": {}}, "n": 3, "share": {"gcd": 1}}, "in share"),
        ({"tasks": {}, "n": 3}, "give tasks"),
        ({"tasks": {"countdown": {}}, "n": 3}, "'countdown': its scorer gives its own gold .* only 0.01"),
        ({"tasks": {"simple_integration": {}}, "n": 3}, "gives its own gold .* only 0"),
        ({"tasks": {"bitwise_arithmetic": {}}, "n": 3}, "gives its own gold .* only 0"),
        ({"tasks": {"game_of_life_halting": {}}, "n": 3}, "gives 'No idea.' 1, too"),
        ({"tasks": {"complex_arithmetic": {}}, "n": 3}, "gives 'nan' 1, too, where the gold is"),
        ({"tasks": {"coin_flip": {}}, "n": 30}, "gives '0' 1, too, where the gold is '0\\.\\d+'"),
        ({"tasks": {"arc_agi": {}}, "n": 3}, "gives its own gold .* only 0.05"),
        ({"tasks": {"graph_color": {}}, "n": 3}, "the gold None cannot be said in a box"),
        ({"tasks": {"time_intervals": {}}, "n": 3}, "hold the day"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(kwargs, said):
    with pytest.raises(UserError, match=said) as error:
        rows(**kwargs)
    assert "\n" not in str(error.value)


def test_only_what_the_scorer_calls_right_is_paid(mixed):
    sums = [row for row in mixed if row["task"] == "chain_sum"][:1] * 5
    gold = sums[0]["answer"]
    texts = [rf"\boxed{{{gold}}}", rf"\boxed{{{gold}.0}}", f"The answer is {gold}.", rf"\boxed{{{gold}1}}", gold]
    assert scores(sums, texts) == [1, 1, 1, 0, 0]
    assert scores(sums, texts, strict=True) == [1, 1, 0, 0, 0]
    assert scores(sums, texts, threshold=0.0)[3] == len(gold) / (len(gold) + 1)
    assert scores(sums[:1], [rf"<think>\boxed{{{gold}}}"]) == [0]
    messages = [[{"role": "assistant", "content": texts[0]}]]
    assert load_reward({"fn": "gym", "kwargs": {"strict": True}}).fn(messages, **columns(sums[:1])) == [1]


@pytest.mark.parametrize(
    ("task", "written"),
    [
        ("spell_backward", r"\boxed{\text{%s}}"),
        ("family_relationships", r"\boxed{\textbf{%s}}"),
        ("gcd", r"\boxed{$%s$}"),
        ("prime_factorization", r"\boxed{%s}"),
        ("fraction_simplification", r"\boxed{%s}"),
        ("group_anagrams", r"\boxed{%s}"),
        ("sudoku", r"\boxed{%s}"),
        ("knights_knaves", r"\boxed{\text{%s}}"),
    ],
)
def test_golds_as_a_box_has_them(task, written):
    row = rows({task: {}}, 1)
    latex = written % row[0]["answer"].replace(" × ", r" \times ")
    assert scores(row, [latex], strict=True) == [1]


def test_an_entry_that_is_at_fault_has_no_score_and_a_reason(mixed):
    row, said = dict(mixed[0]), {}
    for change, reason in (
        ({"answer": None}, "task 'chain_sum': the gold None cannot be said in a box"),
        ({"task": "chain"}, "reasoning-gym: there is no task 'chain' (did you mean"),
        ({"config": {"terms": 3}}, "reasoning-gym: task 'chain_sum' has no option 'terms'"),
        ({"task": "futoshiki", "config": None}, "task 'futoshiki': its scorer gives its own gold '1' only 0"),
    ):
        changed = {**row, "answer": "1", **change}
        assert scores([changed, row], [r"\boxed{1}"] * 2, log_error=said.__setitem__) == [None, 0]
        assert said[0].startswith(reason)


def test_the_command_line_tries_rows_and_reward_and_scores_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_model("qwen3", end=[EOS, IM_END]).save_pretrained("model")
    make_tokenizer(CHAT_TEMPLATE).save_pretrained("model")
    data = {"fn": "stages.gym.rows", "kwargs": {"tasks": {"chain_sum": {"max_digits": 2}}, "n": 12}}
    judge = {"fn": "gym", "kwargs": {"strict": True}}
    held_out = {**data, "kwargs": {**data["kwargs"], "split": "test"}}
    config = {
        "evaluation": {"math": {"data": held_out, "max_tokens": 40, "accuracy": judge}},
        "base": {"model": "model"},
        "reasoning_rl": {
            "steps": 2, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 40},
            "optimizer": {"lr": 1e-3}, "tasks": {"sums": {"data": data, "rewards": [judge]}},
        },
    }  # fmt: skip
    Path("recipe.yaml").write_text(dump_yaml(config), encoding="utf-8")
    main(["check", "recipe.yaml"])
    said = capsys.readouterr().out
    assert "ok       leaks reasoning_rl.tasks.sums.data: no evaluation problem among 12 rows" in said
    assert "ok       rewards tried reasoning_rl.tasks.sums: gym 1 0 0 0" in said
    assert main(["check", "recipe.yaml", "reasoning_rl.tasks.sums.data.kwargs.tasks.chain_sum.max_digit=2"]) != 0
    assert "'chain_sum' has no option 'max_digit' (did you mean 'max_digits'?)" in capsys.readouterr().out
    made = rows(**data["kwargs"])
    scored = [{**row, "prompt": row["question"], "completion": rf"\boxed{{{row['answer']}}}"} for row in made]
    write_jsonl(Path("rows.jsonl"), scored)
    assert main(["score", "rows.jsonl", "--reward", "gym"]) == 0
    assert [json.loads(line)["rewards"] for line in capsys.readouterr().out.splitlines()] == [{"gym": 1.0}] * 12


HOSTILE = [
    "9" * 5_000,
    "٣" * 50,
    "1e999999999",
    "-1e999999999",
    "nan",
    "inf",
    "(" * 100_000,
    "[" * 100_000,
    "a " * 100_000,
    "__import__('os').system('touch FILE')",
    "open('FILE', 'w')",
    "[x for x in range(10**12)]",
    "9**9**9**9",
    "R999999999 " * 3,
    "\x00",
    "½",
]
TRICKED = ["circuit_logic", "string_insertion", "n_queens", "binary_matrix", "spiral_matrix", "number_sorting"]
TRICKED += ["chain_sum", "power_function", "decimal_arithmetic", "rotate_matrix", "quantum_lock", "pool_matrix"]


def test_hostile_answers_score_nothing_and_end(tmp_path):
    row = rows(dict.fromkeys(TRICKED), len(TRICKED))
    row.append({"task": "coin_flip", "config": {}, "answer": "1", "metadata": {}})  # 10**999999999 never ends
    texts = [text.replace("FILE", str(tmp_path / "made")) for text in HOSTILE]
    pairs = [(one, rf"\boxed{{{text}}}") for one in row for text in texts]
    assert set(scores([one for one, _ in pairs], [text for _, text in pairs])) == {0}
    assert not (tmp_path / "made").exists()
    assert scores(row, [rf"\boxed{{{one['answer']}}}" for one in row]) == [1] * len(row)
