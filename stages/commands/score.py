"""`grpo score`: reward functions applied to a JSONL of ``{prompt, completion, ...columns}``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo.data.files import kind_of, read_file
from grpo.data.prompts import own_answer
from grpo.data.rows import Row, write_jsonl
from grpo.data.templates import render_chat
from grpo.errors import UNSAFE, UserError
from grpo.model.loading.tokenizer import read_tokenizer
from grpo.scoring.calls import REWARD_TIMEOUT
from grpo.scoring.table import Reward, RewardTable, apply_rewards
from rewards import load_reward
from stages.commands.common import Parser
from stages.recipe.output import check_out_file

EXAMPLES = """\
  grpo score samples.jsonl --reward accuracy --reward format
  grpo score samples.jsonl --reward my_rewards.brevity --out scores.jsonl"""


def score_command(arguments: list[str]) -> int:
    """`grpo score`."""
    parser = Parser(
        "grpo score", "Apply reward functions to a JSONL file of {prompt, completion, ...columns}.", EXAMPLES
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--reward", action="append", required=True, metavar="NAME_OR_PATH", help="may be repeated")
    parser.add_argument("--tokenizer", metavar="DIR", help="for rewards that read token ids or thinking tags")
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")
    chosen = parser.read(arguments)
    score_file(chosen.file, chosen.reward, chosen.tokenizer, chosen.out)
    return 0


def score_file(file: str, rewards: list[str], tokenizer: str | None = None, out: str | None = None) -> None:
    """Print one JSON line a row, in order: ``{"row", "rewards": {name as typed: number or null}, "errors"}``.

    String prompts, also empty or missing ones, give string completions; message prompts give messages. Nothing that
    goes wrong with one row stops the others: it is an entry in the row's `errors`. `completion_ids` come from the
    file's own column, else from `tokenizer` (a folder), else they are empty lists. So does `prefill`, what the chat
    template writes of the answer after message prompts.

    Raises:
        UserError: unreadable file, a line that is no JSON object, no `completion`, an unknown reward or column, or a
            prompt that the chat template refuses.
    """
    if not rewards:
        raise UserError("grpo score: give at least one --reward NAME_OR_PATH")
    target = check_out_file(out) if out is not None else None
    names = list(dict.fromkeys(rewards))
    functions = [replace(load_reward(name), name=name) for name in names]
    rows = _read(Path(file))
    table = _apply(functions, rows, tokenizer)
    lines = list(_lines(table, names))
    if target is not None:
        write_jsonl(target, lines)
        return
    for line in lines:
        sys.stdout.write(_escaped(json.dumps(line, ensure_ascii=False, allow_nan=False)) + "\n")


def _escaped(text: str) -> str:
    """JSON of the same value, whose texts do nothing to a terminal."""
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _read(file: Path) -> list[Row]:
    rows = read_file(file, kind_of(file) or ".jsonl")
    for index, row in enumerate(rows):
        problem = _problem(row)
        if problem:
            raise UserError(f"{file}, row {index}{_line(file, index, len(rows))}: {problem}")
    return rows


def _problem(row: Row) -> str | None:
    if row.get("completion") is None:
        return "no 'completion'"
    for name in ("completion", "prompt"):
        value = row.get(name)
        if not (value is None or isinstance(value, str) or _is_messages(value)) or (
            name == "completion" and value == []
        ):
            return f"'{name}' must be a string or a list of {{role, content}} messages"
    return None


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )


def _line(file: Path, index: int, rows: int) -> str:
    """Of a row in a file with one a line."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    return f" (line {numbers[index]})" if len(numbers) == rows else ""


def _apply(functions: list[Reward], rows: list[Row], tokenizer: str | None) -> RewardTable:
    prompts = [row.get("prompt") or "" for row in rows]
    completions = [_as_completion(prompt, row["completion"]) for prompt, row in zip(prompts, rows, strict=True)]
    reserved = ("prompt", "completion", "completion_ids")
    columns = dict.fromkeys(name for row in rows for name in row if name not in reserved)
    values = {name: [row.get(name) for row in rows] for name in columns}
    values["answer"] = [own_answer(row) for row in rows]
    loaded = None if tokenizer is None else read_tokenizer(tokenizer, f"--tokenizer '{tokenizer}'")
    if loaded is not None:
        values["prefill"] = [_prefill(row, loaded, f"row {index}") for index, row in enumerate(rows)]
    ids = _completion_ids(rows, completions, loaded)
    return apply_rewards(functions, prompts, completions, ids, values, timeout=REWARD_TIMEOUT)


def _as_completion(prompt: Any, completion: Any) -> Any:
    """In the form of the prompt, as TRL has it."""
    if isinstance(prompt, list):
        return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _prefill(row: Row, tokenizer: Any, where: str) -> str | None:
    """What the template writes after a message prompt; the row's own column comes first. A prompt that ends in the
    assistant's words, like one that is text, shows itself what it opened."""
    prompt = row.get("prompt")
    if row.get("prefill") is not None or not isinstance(prompt, list) or not prompt:
        return row.get("prefill")
    if prompt[-1]["role"] == "assistant" or not getattr(tokenizer, "chat_template", None):
        return None
    return render_chat(prompt, tokenizer, where)[1]


def _completion_ids(rows: list[Row], completions: list[Any], tokenizer: Any) -> list[list[int]]:
    if all("completion_ids" in row for row in rows):
        return [row["completion_ids"] for row in rows]
    if tokenizer is None:
        return [[] for _ in rows]
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _lines(table: RewardTable, names: list[str]) -> Iterator[Row]:
    for row in range(table.rows):
        errors = {name: table.errors[row, name] for name in names if (row, name) in table.errors}
        yield {"row": row, "rewards": {name: table.values[name][row] for name in names}, "errors": errors}
