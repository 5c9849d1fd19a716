"""Data sets -> Prompts: JSONL, parquet, hub names or a function; the model's own chat template or a plain-text one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo.config.sections import DataConfig
from grpo.data.conversations import as_turns, render
from grpo.data.golds import read_gold
from grpo.errors import UserError
from grpo.system.files import write_lines
from grpo.system.imports import import_path
from grpo.types import Message, Prompt

log = logging.getLogger("grpo")

PROMPT_COLUMNS = ("prompt", "question", "problem", "messages")
ANSWER_COLUMNS = ("answer", "gold", "solution")
ID_COLUMNS = ("id", "unique_id")
Row = dict[str, Any]


def load_rows(data: DataConfig) -> list[Row]:
    """All rows of a data source, as plain dicts, cut to `limit`."""
    if data.fn is not None:
        rows = _rows_from_function(data.fn, data.kwargs)
    else:
        assert data.path is not None
        rows = _rows_from_path(data.path, data)
    if not rows:
        raise UserError(f"data '{data.path or data.fn}': no rows")
    return rows[: data.limit]


def _rows_from_function(path: str, kwargs: dict[str, Any]) -> list[Row]:
    function = import_path(path, "data function")
    try:
        rows = list(function(**kwargs))
    except UserError:
        raise
    except Exception as error:  # the user's own code: whatever it raises, its name and its arguments are said
        raise UserError(f"data function '{path}' with {kwargs}: {type(error).__name__}: {error}") from error
    return [row if isinstance(row, dict) else {"text": row} for row in rows]


def _rows_from_path(path: str, data: DataConfig) -> list[Row]:
    file = Path(path)
    if file.is_dir():
        raise UserError(f"data '{path}': a folder; give a .jsonl or .parquet file")
    if file.suffix == ".jsonl" or file.suffix == ".json":
        return read_jsonl(file)
    if file.suffix == ".parquet":
        if not file.is_file():
            raise UserError(f"data '{path}': no such file")
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"data '{path}': not a parquet file: {str(error).splitlines()[0]}") from error
    return _rows_from_hub(path, data)


def _rows_from_hub(name: str, data: DataConfig) -> list[Row]:
    import datasets

    try:
        return list(datasets.load_dataset(name, data.subset, split=data.split))
    except Exception as error:  # the hub library raises many types; each means the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        message = f"data '{name}': neither a .jsonl/.parquet file nor a data set the hub gives: "
        raise UserError(f"{message}{type(error).__name__}: {reason}") from error


def read_jsonl(file: Path) -> list[Row]:
    """One JSON object a line; blank lines skipped; a bad line is a `UserError` naming it."""
    if not file.is_file():
        raise UserError(f"data '{file}': no such file")
    rows = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"data '{file}', line {number}: expected a JSON object, got {type(row).__name__}")
                rows.append(row)
    except json.JSONDecodeError as error:
        raise UserError(f"data '{file}', line {number}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"data '{file}': not UTF-8 text") from error
    return rows


def write_jsonl(file: Path, rows: Iterable[Row]) -> None:
    """Rows to a file that appears whole or not at all. Of several processes the main one writes."""
    write_lines(file, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def rows_hash(rows: Iterable[Row]) -> str:
    """Hash of the content, independent of the order of keys."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def canonical_answer(row: Row) -> Any:
    """The gold of a row: `grpo.data.golds.read_gold` of a text, else the column as it is."""
    column = next((name for name in ANSWER_COLUMNS if row.get(name) is not None), None)
    if column is None:
        return None
    value = row[column]
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


def _build(row: Row, data: DataConfig, tokenizer: Any, task: str, where: str) -> Prompt:
    column = next((name for name in PROMPT_COLUMNS if row.get(name) is not None), None)
    if column is None:
        raise UserError(f"{where}: no column {' | '.join(PROMPT_COLUMNS)} (it has: {', '.join(row) or 'nothing'})")
    value = row[column]
    answer = canonical_answer(row)
    columns = dict(row)
    if answer is not None and columns.get("answer") is None:
        columns["answer"] = answer
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
    identity = next((row[name] for name in ID_COLUMNS if row.get(name) is not None), None)
    if identity is None:
        identity = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Prompt(str(identity), tuple(ids), messages, text, columns, answer, task, prefill)


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


def render_chat(messages: list[Message], tokenizer: Any, where: str = "chat template") -> tuple[str, str]:
    """(full prompt text, what the template wrote to open the assistant's turn, ``<think>`` included if it opens it)."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "the model has no chat template: set data.template to a plain-text one such as 'Q: {prompt}\\nA:'"
        )
    text = render(tokenizer, messages, open_answer=True, where=where)
    without = render(tokenizer, messages, open_answer=False, where=where)
    return text, text[len(without) :] if text.startswith(without) else ""
