"""Data sets -> Prompts: JSONL, parquet, hub names or a function; the model's own chat template or a plain-text one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.golds import read_gold
from grpo.data.layouts import as_turns
from grpo.data.rows import Row
from grpo.data.templates import render_chat
from grpo.errors import UserError
from grpo.types import Group, Message, Prompt

log = logging.getLogger("grpo")

PROMPT_COLUMNS = ("prompt", "question", "problem", "messages")
ANSWER_COLUMNS = ("answer", "gold", "solution")
ID_COLUMNS = ("id", "unique_id")


def first_present(row: Row, names: Iterable[str]) -> tuple[str | None, Any]:
    """The first of these columns that holds something, and what it holds."""
    return next(((name, row[name]) for name in names if row.get(name) is not None), (None, None))


def canonical_answer(row: Row) -> Any:
    """The gold of a row: `grpo.data.golds.read_gold` of a text, else the column as it is."""
    _, value = first_present(row, ANSWER_COLUMNS)
    return read_gold(value) if isinstance(value, str) else value


def build_prompts(rows: list[Row], data: DataConfig, tokenizer: Any, task: str = "default") -> list[Prompt]:
    """Render, tokenise and filter. Over-long prompts are dropped and counted, or refused, as `data.overlong` says."""
    source = data.path or data.fn or task
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        prompt = _build(row, data, tokenizer, task, f"data '{source}', row {number}")
        name = prompt.id
        while name in seen:  # equal ids would draw equal samples
            seen[prompt.id] += 1
            name = f"{prompt.id}#{seen[prompt.id]}"
        seen[name] = 0
        prompts.append(replace(prompt, id=name))
    limit = data.max_prompt_tokens
    kept = [prompt for prompt in prompts if limit is None or len(prompt.token_ids) <= limit]
    if len(kept) < len(prompts):
        message = f"data '{source}': {len(prompts) - len(kept)} of {len(prompts)} prompts are over {limit} tokens"
        if data.overlong == "error" or not kept:
            raise UserError(f"{message}; raise max_prompt_tokens or set overlong: drop")
        log.warning("%s: dropped", message)
    return kept


def _read_row(row: Row, where: str) -> tuple[str, Any, Row, Any]:
    """(the column that holds the prompt, the prompt, the row with its canonical answer, that answer)."""
    column, value = first_present(row, PROMPT_COLUMNS)
    if column is None:
        raise UserError(f"{where}: no column {' | '.join(PROMPT_COLUMNS)} (it has: {', '.join(row) or 'nothing'})")
    answer = canonical_answer(row)
    columns = dict(row)
    if answer is not None and columns.get("answer") is None:
        columns["answer"] = answer
    return column, value, columns, answer


def _build(row: Row, data: DataConfig, tokenizer: Any, task: str, where: str) -> Prompt:
    column, value, columns, answer = _read_row(row, where)
    if data.template is not None:
        if not isinstance(value, str):
            raise UserError(f"{where}: '{column}' holds messages, but 'template' wants a string")
        text = data.template.replace("{prompt}", value + data.suffix)
        prefill = data.template.rsplit("{prompt}", 1)[1]
        messages = None
    else:
        messages = as_messages(value, data, where, column)
        text, prefill = render_chat(messages, tokenizer, where)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # a chat template has written its own BOS
    if not ids:
        raise UserError(f"{where}: '{column}' is empty")
    bos = tokenizer.bos_token_id
    if data.template is not None and ids[0] != bos and tokenizer("")["input_ids"][:1] == [bos]:
        ids = [bos, *ids]  # a model that expects a BOS gets one before plain text too
    _, identity = first_present(row, ID_COLUMNS)
    if identity is None:
        identity = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Prompt(str(identity), tuple(ids), messages, text, columns, answer, task, prefill)


def chat_prompts(rows: list[Row], data: DataConfig) -> list[Prompt]:
    """Messages for the server to render.

    Raises:
        UserError: a row without a prompt, or a plain-text template or token limit, which is for a tokenizer here.
    """
    if data.template is not None or data.max_prompt_tokens is not None:
        name = "template" if data.template is not None else "max_prompt_tokens"
        raise UserError(f"eval.data.{name} has no effect on openai:MODEL: its server renders the prompts; remove it")
    prompts = []
    for number, row in enumerate(rows):
        where = f"data '{data.path or data.fn or 'rows'}', row {number}"
        column, value, columns, answer = _read_row(row, where)
        messages = as_messages(value, data, where, column)
        prompts.append(Prompt(str(number), (), messages, None, columns, answer, "evaluation"))
    return prompts


def with_problem_ids(groups: Sequence[Group]) -> list[Group]:
    """The groups under ids that models with different templates share: the row's own, else a hash of the question."""
    seen: Counter[str] = Counter()
    named = []
    for group in groups:
        _, name = first_present(group.prompt.columns, ID_COLUMNS)
        if name is None:
            _, question = first_present(group.prompt.columns, PROMPT_COLUMNS)
            text = json.dumps(question, sort_keys=True, default=str)
            name = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        seen[str(name)] += 1
        repeated = seen[str(name)] - 1
        named.append(replace(group, prompt=replace(group.prompt, id=f"{name}#{repeated}" if repeated else str(name))))
    return named


def as_messages(value: Any, data: DataConfig, where: str, column: str) -> list[Message]:
    """A string becomes a user message (with `system` and `suffix`); messages lose a final assistant turn."""
    if isinstance(value, str):
        system = [{"role": "system", "content": data.system}] if data.system else []
        return [*system, {"role": "user", "content": value + data.suffix}]
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: '{column}' must be a string or a list of {{role, content}} messages")
    messages = as_turns(value, "user", where)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise UserError(f"{where}: '{column}' has no message before the assistant's")
    return messages


def longest_prompt(prompts: Iterable[Prompt]) -> int:
    """In tokens."""
    return max((len(prompt.token_ids) for prompt in prompts), default=0)
