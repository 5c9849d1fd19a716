r"""The named sets of `grpo eval`: where each lies on the hub, how its rows become a question with a gold, what judges.

The same row functions read the hub's columns and the original files (`olympiadbench=FILE`). Questions ask for the
answer in the form that its judge reads: ``\boxed{}``, or a fenced program.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.data.rows import Row
from grpo.errors import UserError, shorten
from rewards.code.sets import humaneval_row, livecodebench_row, mbpp_row
from rewards.countdown import row_problem

BOX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
LETTER = "\nPlease reason step by step, and put the letter of your answer within \\boxed{}."
CODE = "\nPlease reason step by step, and write the whole program in a ```python block at the end."
ASK = {
    "en": "Please reason step by step, and put your final answer within \\boxed{}.",
    "es": "Razona paso a paso y pon tu respuesta final dentro de \\boxed{}.",
    "fr": "Raisonne étape par étape et mets ta réponse finale dans \\boxed{}.",
    "de": "Denke Schritt für Schritt nach und schreibe deine endgültige Antwort in \\boxed{}.",
    "ru": "Рассуждай шаг за шагом и запиши окончательный ответ в \\boxed{}.",
    "zh": "请逐步推理，并将最终答案放在 \\boxed{} 中。",
    "ja": "段階を追って考え、最終的な答えを \\boxed{} の中に書いてください。",
    "th": "โปรดคิดทีละขั้นตอน แล้วใส่คำตอบสุดท้ายไว้ใน \\boxed{}",
    "sw": "Fikiria hatua kwa hatua, kisha andika jibu lako la mwisho ndani ya \\boxed{}.",
    "bn": "ধাপে ধাপে চিন্তা করুন এবং চূড়ান্ত উত্তরটি \\boxed{} এর মধ্যে লিখুন।",
    "te": "దశలవారీగా ఆలోచించి, మీ చివరి సమాధానాన్ని \\boxed{} లో రాయండి.",
}
MBPP_TEST = range(11, 511)  # task_id of its test part (arXiv:2108.07732, section 2.1)
RowFunction = Callable[[Row], Row | None]


def whole_number(row: Row) -> Row:
    """AIME and AMC: "025" and 27.0 are whole numbers."""
    number = float(row["answer"])
    return {**row, "answer": str(int(number)) if number.is_integer() else str(row["answer"])}


def olympiadbench(row: Row) -> Row:
    """`final_answer` is a list; `solution` holds prose without a box."""
    question = "\n".join(text for text in (row.get("context"), row["question"]) if text)
    return {**row, "question": question, "answer": row["final_answer"]}


def mgsm(language: str | None) -> RowFunction:
    """One language of a file that may hold all of them, or (None) all, each asked in its own."""

    def read(row: Row) -> Row | None:
        code = row.get("lang", language)
        if code not in ASK:
            codes = ", ".join(ASK)
            raise UserError(f"no language to ask in ('lang' is {code!r}): use mgsm-th=FILE or another of {codes}")
        if language not in (code, None):
            return None
        answer = row["answer_number"] if row.get("answer_number") is not None else row["answer"]
        return {**row, "question": f"{row['question']}\n{ASK[code]}", "answer": str(answer), "language": code}

    return read


LETTERS = "ABCDEFGHIJ"


def with_choices(row: Row, choices: Sequence[Any], right: int) -> Row:
    """The choices below the question as A, B, ...; the answer as a letter."""
    if not 0 <= right < len(choices) <= len(LETTERS) or any(choice in (None, "") for choice in choices):
        raise ValueError(f"answer {right} of the choices {shorten(repr(choices))}: ten at most, one of them right")
    lines = [f"{letter}. {str(choice).strip()}" for letter, choice in zip(LETTERS, choices, strict=False)]
    question = row["question"] if "question" in row else row["Question"]
    return {**row, "question": "\n".join([question.strip(), *lines]), "answer": LETTERS[right]}


def mmlu(row: Row) -> Row:
    """MMLU of any subject, and MMLU-Pro: `choices`, `options` or columns A to D; the answer as a place or a letter."""
    choices = row.get("options") or ([row[letter] for letter in "ABCD"] if "A" in row else row["choices"])
    answer = str(row["answer"]).strip()
    return with_choices(row, choices, LETTERS.index(answer) if answer in [*LETTERS] else int(answer))


def gpqa(row: Row) -> Row:
    """The right answer is among three wrong ones, in an order that only the texts decide."""
    right = row["Correct Answer"]
    wrong = [row[f"Incorrect Answer {number}"] for number in (1, 2, 3)]

    def place(choice: Any) -> bytes:
        return hashlib.blake2b(f"{row['Question']}\n{choice}".encode(), digest_size=8).digest()

    choices = sorted([right, *wrong], key=place)
    return with_choices(row, choices, choices.index(right))


def ifeval(row: Row) -> Row:
    """The prompt as it is; what judges it reads the columns `instruction_id_list` and `kwargs`."""
    return {"prompt": row["prompt"], **{name: row[name] for name in ("key", "instruction_id_list", "kwargs")}}


def mbpp(row: Row) -> Row | None:
    """The 500 test problems (257 of the sanitised file), also of a file that holds all."""
    return mbpp_row(row) if int(row["task_id"]) in MBPP_TEST else None


def countdown(row: Row) -> Row:
    """In any form that the reward's own mapper reads."""
    numbers, target = row_problem(row)
    question = (
        f"Using the numbers {', '.join(map(str, numbers))}, each exactly once, and +, -, *, / and parentheses, "
        f"write an expression that equals {target}."
    )
    others = {name: value for name, value in row.items() if name != "numbers"}  # which is read before "nums"
    return {**others, "question": question, "nums": numbers, "target": target}


@dataclass(frozen=True)
class EvalSet:
    """One named set."""

    hub: dict[str, Any] = field(default_factory=dict)  # path, subset, split; empty: files only
    row: RowFunction = dict  # columns that `grpo.data.prompts` understands stay as they are
    suffix: str = BOX
    accuracy: str = "accuracy"  # the reward that judges; empty: none ships


SETS: dict[str, EvalSet] = {
    "gsm8k": EvalSet({"path": "openai/gsm8k", "subset": "main", "split": "test"}),
    "math500": EvalSet({"path": "HuggingFaceH4/MATH-500", "split": "test"}),
    "aime24": EvalSet({"path": "HuggingFaceH4/aime_2024", "split": "train"}, whole_number),
    "aime25": EvalSet({"path": "math-ai/aime25", "split": "test"}, whole_number),
    "amc23": EvalSet({"path": "math-ai/amc23", "split": "test"}, whole_number),
    "minerva": EvalSet({"path": "math-ai/minervamath", "split": "test"}),
    "olympiadbench": EvalSet(
        {"path": "Hothan/OlympiadBench", "subset": "OE_TO_maths_en_COMP", "split": "train"}, olympiadbench
    ),
    "mgsm": EvalSet(row=mgsm(None), suffix=""),
    **{
        f"mgsm-{code}": EvalSet({"path": "juletxara/mgsm", "subset": code, "split": "test"}, mgsm(code), "")
        for code in ASK
    },
    "mmlu_stem": EvalSet({"path": "TIGER-Lab/MMLU-STEM", "split": "test"}, mmlu, LETTER),
    "mmlu": EvalSet({"path": "cais/mmlu", "subset": "all", "split": "test"}, mmlu, LETTER),
    "mmlu_pro": EvalSet({"path": "TIGER-Lab/MMLU-Pro", "split": "test"}, mmlu, LETTER),
    "gpqa": EvalSet({"path": "Idavidrein/gpqa", "subset": "gpqa_diamond", "split": "train"}, gpqa, LETTER),
    "humaneval": EvalSet({"path": "openai/openai_humaneval", "split": "test"}, humaneval_row, CODE, "code"),
    "mbpp": EvalSet({"path": "google-research-datasets/mbpp", "subset": "full", "split": "test"}, mbpp, CODE, "code"),
    "livecodebench": EvalSet(row=livecodebench_row, suffix=CODE, accuracy="code"),
    "ifeval": EvalSet({"path": "google/IFEval", "split": "train"}, ifeval, "", ""),
    "countdown": EvalSet({"path": "Jiayi-Pan/Countdown-Tasks-3to4", "split": "train"}, countdown, BOX, "countdown"),
}


def read_rows(name: str, rows: Iterable[Row]) -> list[Row]:
    """The rows of a named set as questions with golds.

    Raises:
        UserError: a row without the set's columns, with what it has; no rows of this set.
    """
    read: list[Row] = []
    for number, row in enumerate(rows):
        try:
            mapped = SETS[name].row(row)
        except KeyError as error:
            raise UserError(f"--data {name}: row {number} has no column {error} (it has: {', '.join(row)})") from error
        except (TypeError, ValueError, IndexError, AttributeError, zlib.error) as error:
            raise UserError(f"--data {name}: row {number}: {type(error).__name__}: {error}") from error
        if mapped is not None:
            read.append(mapped)
    if not read:
        raise UserError(f"--data {name}: none of the rows belongs to this set")
    return read
