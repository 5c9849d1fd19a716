"""Every public set that is at hand: its rows are read as prompts with golds, or what stands in the way is named."""

from collections.abc import Callable

import pytest

from benchmarks.real_data import data_folder
from grpo.config.data import DataConfig
from grpo.data.layouts import read_prompt
from grpo.data.prompts import canonical_answer
from grpo.data.rows import load_rows
from grpo.errors import UserError
from rewards.accuracy.reward import gold_is_parseable
from support.real_data import needs_data

# How many golds of a set cannot be read; of the others the prompts alone are.
GOLDS = {"gsm8k_train": 0, "gsm8k_test": 0, "math500": 0, "math_test": 0, "math_train": 2, "aime24": 0, "aime25": 0,
         "aime_train_1983_2023": 0, "amc23": 0, "minerva_math": 0, "olympiadbench": 0, "mgsm": 0}  # fmt: skip
PROMPTS = ("humaneval", "mbpp_sanitized", "xstest", "ifeval", "self_instruct_seed")
REFUSED = {
    "mmlu_stem": "column 'choices' is no part",  # but for the questions that name what is to choose from
    "svamp": "no column prompt", "mbpp": "no column prompt", "advbench_harmful_behaviors": "no column",
    "mt_bench": "no column prompt", "countdown_cd3_test": "no column prompt",
}  # fmt: skip
RENAMED = {"mbpp": {"prompt": "text"}, "advbench_harmful_behaviors": {"prompt": "goal"}}


def rows_of(name: str, **columns: str):
    folder = data_folder()
    assert folder is not None
    return load_rows(DataConfig(path=str(folder / "sets" / f"{name}.jsonl"), columns=columns))


def unreadable(rows, reads: Callable[..., object]) -> list[str]:
    said = []
    for number, row in enumerate(rows):
        try:
            reads(row, f"row {number}")
        except UserError as error:
            said.append(str(error))
    return said


@needs_data
@pytest.mark.parametrize("name", [*GOLDS, *PROMPTS])
def test_sets(name):
    rows = rows_of(name)
    context = [row for row in rows if row.get("context")]  # OlympiadBench's, which `grpo eval` puts before the question
    assert len(unreadable(rows, read_prompt)) == len(context)
    if name in GOLDS:
        golds = [canonical_answer(row) for row in rows]
        assert sum(gold is None for gold in golds) == GOLDS[name]
        some = golds[:: max(1, len(golds) // 50)]
        unparseable = [gold for gold in some if gold is not None and not gold_is_parseable(gold)]
        assert unparseable == []


@needs_data
@pytest.mark.parametrize("name", REFUSED)
def test_sets_that_need_a_word(name):
    says = REFUSED[name]
    rows = rows_of(name)
    said = unreadable(rows, read_prompt)
    assert all(says in line for line in said)
    assert len(said) == (2997 if name == "mmlu_stem" else len(rows))
    if name in RENAMED:
        assert unreadable(rows_of(name, **RENAMED[name]), read_prompt) == []
