"""Data sets -> Prompts: JSONL, parquet, hub names or a function; the model's own chat template or a plain-text one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.golds import read_gold
from grpo.data.layouts import PROMPT_COLUMNS, SPOKEN, read_prompt
from grpo.data.rendering import encodable
from grpo.data.rows import Row, first_present, is_nothing
from grpo.data.templates import check_rendered, render_chat, row_variables
from grpo.data.turns import Template, as_told
from grpo.errors import UserError
from grpo.types import Group, Message, Prompt

log = logging.getLogger("grpo")

ANSWER_COLUMNS = ("answer", "gold", "solution")
GOLD_COLUMNS = ("answer", "gold", "final_answer", "expected_answer", "ground_truth", "reward_model", "solution")
ID_COLUMNS = ("id", "unique_id")


def own_answer(row: Row) -> Any:
    """The gold of a row as its column has it; of verl's rows the `ground_truth` inside `reward_model`."""
    for name in GOLD_COLUMNS:  # a solution last: beside a final answer it is prose
        value: Any = row.get(name)
        if name == "reward_model":
            value = value.get("ground_truth") if isinstance(value, dict) else None
        if name in ("ground_truth", "reward_model"):
            value = _alternatives(value)
        if not is_nothing(value):
            return value.tolist() if hasattr(value, "tolist") else value
    return None


def _alternatives(value: Any) -> Any:
    """Skywork's golds are lists of texts, as JSON in a text."""
    if not (isinstance(value, str) and value.startswith('["') and value.endswith('"]')):
        return value
    try:
        listed = json.loads(value)
    except ValueError:
        return value
    return listed if all(isinstance(item, str) for item in listed) else value


def canonical_answer(row: Row) -> Any:
    """The gold of a row: `grpo.data.golds.read_gold` of a text, else the column as it is."""
    value = own_answer(row)
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


def _with_answer(row: Row) -> tuple[Row, Any]:
    """(the row with its canonical answer where it has no `answer`, that answer)."""
    answer = canonical_answer(row)
    missing = answer is not None and is_nothing(row.get("answer"))
    return {**row, "answer": answer} if missing else dict(row), answer


def _build(row: Row, data: DataConfig, tokenizer: Any, task: str, where: str) -> Prompt:
    column, value = read_prompt(row, where, as_text=data.template is not None)
    columns, answer = _with_answer(row)
    if data.template is not None:
        text = encodable(data.template.replace("{prompt}", f"{value}{data.suffix}"), where)
        prefill = data.template.rsplit("{prompt}", 1)[1]
        messages = None
    else:
        messages = as_messages(value, data, where)
        text, prefill = chat_text(messages, row, tokenizer, where)
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


def chat_text(messages: list[Message], row: Row, tokenizer: Any, where: str) -> tuple[str, str]:
    """(the prompt as the tokenizer's chat template writes it, what that opens the answer with)."""
    variables = row_variables(row, where)
    shown = messages
    if tokenizer.chat_template and any(message.get(name) for message in messages for name in SPOKEN):
        shown = as_told(Template(tokenizer, variables), messages, variables, where)
    text, prefill = render_chat(shown, tokenizer, where, **variables)
    check_rendered(messages, text, where, **variables)
    return text, prefill


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
        messages = as_messages(read_prompt(row, where)[1], data, where)
        if variables := row_variables(row, where):
            raise UserError(f"{where}: column '{next(iter(variables))}' would not reach a served model")
        encodable(json.dumps(messages, ensure_ascii=False), where)
        prompts.append(Prompt(str(number), (), messages, None, *_with_answer(row), "evaluation"))
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


def as_messages(value: str | list[Message], data: DataConfig, where: str) -> list[Message]:
    """The prompt with the config's `suffix` after its last message, and `system` before it where it has none."""
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if data.suffix:
        last = messages[-1]
        if last["role"] != "user":
            raise UserError(f"{where}: 'suffix' goes after a user's message, but the last one is of: {last['role']}")
        messages = [*messages[:-1], {**last, "content": last["content"] + data.suffix}]
    if data.system and messages[0]["role"] not in ("system", "developer"):
        messages = [{"role": "system", "content": data.system}, *messages]
    return messages


def token_ids(prompts: Iterable[Prompt]) -> Iterator[Sequence[int]]:
    """Of each prompt."""
    return (prompt.token_ids for prompt in prompts)
