"""No evaluation problem may be in the training data of any stage: checked on the rows that each stage wrote."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from grpo.data import PROMPT_COLUMNS, Row, load_rows, read_jsonl
from grpo.errors import UserError
from grpo.imports import import_path
from stages.config import EvaluationConfig

log = logging.getLogger("grpo")

KeysOf = Callable[[Any], Iterable[Any]]


def question_part(row: Row) -> Row:
    """What a row asks, without what a model or a teacher answered: a sampled answer may name any numbers."""
    kept = {name: row[name] for name in (*PROMPT_COLUMNS, "text", "operation", "operands") if row.get(name) is not None}
    for name, value in kept.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            kept[name] = [message for message in value if message.get("role") == "user"]
    return kept


def question_text(row: Row) -> str | None:
    """The question, lower case and with single spaces: what two copies of it share."""
    value = next((row[name] for name in PROMPT_COLUMNS if row.get(name) is not None), None)
    if isinstance(value, list):
        value = next((message["content"] for message in value if message.get("role") == "user"), None)
    return " ".join(value.casefold().split()) if isinstance(value, str) else None


def check_leaks(config: EvaluationConfig, data: Path) -> int:
    """Compare every `data`/*.jsonl with the evaluation's problems; returns how many rows were compared.

    Raises:
        UserError: a training row holds an evaluation problem, by its text or by a key of `leak_check`.
    """
    files = sorted(data.glob("*.jsonl"))
    if not files:
        return 0
    problems = load_rows(config.math.data)
    general = load_rows(config.general.data) if config.general else []
    questions = {question_text(row) for row in [*problems, *general]} - {None}
    keys_of: KeysOf = import_path(config.leak_check, "evaluation.leak_check") if config.leak_check else lambda _: ()
    keys = {key for row in problems for key in keys_of(question_part(row))}
    checked = 0
    for file in files:
        for number, row in enumerate(read_jsonl(file), 1):
            found = sorted(map(str, keys.intersection(keys_of(question_part(row)))))
            text = question_text(row)
            if found or text in questions:
                problem = found[0] if found else text
                raise UserError(f"training data '{file}', row {number} holds the evaluation problem {problem!r}")
            checked += 1
    log.debug("no evaluation problem among %d rows in %s", checked, data)
    return checked
