"""`grpo new`: the recipe that fits some rows and a model, written out with what was seen in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig, RewardConfig
from grpo.config.file import validate
from grpo.config.yaml import load_yaml
from grpo.data.conversations import build_examples
from grpo.data.layouts import PROMPT_COLUMNS, read_messages
from grpo.data.preferences import read_judged
from grpo.data.rows import Row, load_rows, renamed
from grpo.errors import UserError
from grpo.system.console import say
from grpo.system.files import write_text
from grpo.system.runtime import quiet
from stages.check.command import CHECKS
from stages.check.sighted import LEAST, LOOKED_AT, Asks, asks, in_capitals, rewards_for, some
from stages.check.subject import BaseModel, Skipped, Subject, Warned, existing_model
from stages.check.weights import weight_checks
from stages.commands.common import Parser
from stages.recipe.config import RecipeConfig
from stages.recipe.preflight import check_reward, check_source

EXAMPLES = """\
  grpo new train.jsonl --model Qwen/Qwen2.5-1.5B-Instruct --out my.yaml
  grpo new train.jsonl --model models/qwen --reward my_rewards.brevity --out my.yaml
  grpo new exercises.csv --model models/qwen --column prompt=Exercise --column answer=Result
  grpo new demonstrations.jsonl --model models/qwen     conversations: a cold start; pairs: a reward model"""
PER_STEP, GROUP, STEPS = 16, 8, 200
WIDTH = 30  # where comments begin
PLAIN_TEXT = re.compile(r"(?:[A-Za-z/]|\.{1,2}/)[A-Za-z0-9_./-]*")


def new_command(arguments: list[str]) -> int:
    """`grpo new`."""
    parser = Parser("grpo new", "Write a recipe for these rows and this model, with what was seen in them.", EXAMPLES)
    parser.add_argument("data", metavar="DATA", help="file, folder or hub name")
    parser.add_argument("--model", required=True, metavar="MODEL", help="folder or hub name")
    parser.add_argument("--reward", action="append", default=[], metavar="FN", help="reward, by name or import path")
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=COLUMN", help="the column to read as prompt, answer, ..."
    )
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: to the screen); never over a file")
    chosen = parser.read(arguments)
    quiet("error")
    if chosen.out and Path(chosen.out).exists():
        raise UserError(f"--out '{chosen.out}': it is there already, and is not written over")
    data = DataConfig(path=chosen.data, columns=_columns(chosen.column))
    check_source(data)
    for name in chosen.reward:
        check_reward(RewardConfig(fn=name), Path())
    rows = load_rows(data)
    if found := in_capitals(rows):
        rows = renamed(rows, found, f"data '{chosen.data}'")
        data = data.model_copy(update={"columns": data.columns | found})
    text = "\n".join(recipe(data, rows, existing_model(chosen.model), chosen.model, chosen.reward)) + "\n"
    check(text)
    if chosen.out is None:
        print(text, end="")
        return 0
    write_text(Path(chosen.out), text)
    say(f"written: {chosen.out}; next: grpo check {chosen.out}")
    return 0


def _columns(words: list[str]) -> dict[str, str]:
    columns = {}
    for word in words:
        name, equals, column = word.partition("=")
        if not (name and equals and column):
            raise UserError(f"--column '{word}': expected NAME=COLUMN, as prompt=Exercise")
        columns[name] = column
    return columns


def check(text: str) -> None:
    """What is written runs as it is: everything that `grpo check` looks at but the weights.

    Raises:
        UserError: it would not.
    """
    subject = Subject(validate(RecipeConfig, load_yaml(text, "grpo new"), "grpo new"), Path("runs/new"))
    for name, one in (pair for checks in CHECKS if checks is not weight_checks for pair in checks(subject)):
        try:
            one()
        except (Warned, Skipped):
            pass
        except UserError as error:
            raise UserError(f"grpo new: no recipe of this would pass grpo check: {name}: {error}") from error


def recipe(data: DataConfig, rows: list[Row], model: BaseModel, name: str, rewards: list[str]) -> Iterator[str]:
    """Its lines."""
    yield f"# Made by grpo new from the {len(rows)} rows of {quoted(data.path)}. What is not here has a default."
    yield line("base:", f"{{model: {quoted(name)}}}", _of_model(model))
    yield ""
    seen = some(rows)
    judged = rewards_for(seen, rewards)
    if not rewards and all(row.get("chosen") is not None and row.get("rejected") is not None for row in seen):
        yield from _reward_model("helpfulness", "preference pairs: a reward model that prefers chosen", data, rows)
    elif not rewards and all(map(_is_judged, seen)):
        yield from _reward_model("safety", "judged answers: a reward model that tells label 1 from 0", data, rows)
    elif judged and not any(name in row for row in seen for name in PROMPT_COLUMNS):
        wanted = f"no column {' | '.join(PROMPT_COLUMNS[:4])}"
        raise UserError(
            f"grpo new: {wanted} in data '{data.path}' (it has: {', '.join(rows[0])}): say which is the prompt by "
            "--column prompt=COLUMN"
        )
    elif judged:
        yield from _prompts(asks(data, seen, judged, model), rows)
    elif all(map(_is_conversation, seen)):
        yield from _conversations(data, rows, seen, model)
    else:
        has = ", ".join(rows[0]) or "nothing"
        raise UserError(
            f"grpo new: nothing in data '{data.path}' to judge an answer by (its columns: {has}): no gold that can be "
            "read, no numbers and target, no tests, no answer of an assistant: give --reward FN, or say which column "
            "holds the golds by --column answer=COLUMN"
        )


def _of_model(model: BaseModel) -> str:
    template = "with" if getattr(model.tokenizer, "chat_template", None) else "without"
    positions = f", {model.positions} positions" if model.positions else ""
    return f"{template} a chat template{positions}"


def _is_conversation(row: Row) -> bool:
    try:
        return bool(read_messages(row, "row"))
    except UserError:
        return False


def _is_judged(row: Row) -> bool:
    try:
        return row.get("answer") is None and bool(read_judged(row, "row"))
    except UserError:
        return False


def _prompts(found: Asks, rows: list[Row]) -> Iterator[str]:
    data, per_step = found.data, min(PER_STEP, len(rows))
    yield "reasoning_rl:"
    passes = STEPS * per_step / len(rows)
    shown = f"{passes:.2g}" if passes < 10 else f"{passes:.0f}"
    yield line("  steps:", STEPS, f"updates: {shown} passes over the {len(rows)} rows")
    yield line("  prompts_per_step:", per_step)
    yield line("  group_size:", GROUP, "completions of each prompt")
    yield line("  sampling:", f"{{max_tokens: {found.max_tokens}}}", "longer completions are cut")
    yield "  data:"
    golds = f"; of the golds {found.gold}" if found.gold else ""
    yield line("    path:", quoted(data.path), f"the prompt is the column {found.column}{golds}")
    if data.columns:
        yield line("    columns:", _renames(data), "{name it is read under: column of the data}")
    opens = "the model's chat template opens <think> itself" if found.opens else ""
    if data.template is not None:
        yield line("    template:", quoted(data.template), "the model has no chat template")
    if data.suffix:
        yield line("    suffix:", quoted(data.suffix), opens)
    dropped = f"; {found.dropped} longer ones are dropped" if found.dropped else ""
    of = f", of {LOOKED_AT} looked at" if len(rows) > LOOKED_AT else ""
    yield line("    max_prompt_tokens:", data.max_prompt_tokens, f"the longest has {found.longest}{dropped}{of}")
    yield "  rewards:"
    for spec, why in zip(found.rewards, found.said, strict=True):
        yield line("    -", spec.fn if spec.weight == 1 else f"{{fn: {spec.fn}, weight: {spec.weight:g}}}", why)
    yield line("  # lora:", "{r: 32, alpha: 64}", "an adapter: optimizer.lr is then 1e-5, and 1e-6 without")
    yield line("  checkpoint:", "{every: 20}", "the same command goes on from the last one")
    yield ""
    yield "# pass@1 after every stage, on problems that are not trained on: take some rows out and name them here."
    yield "# evaluation:"
    yield "#   math:"
    yield f"#     data: {{path: held-out.jsonl{_asked_alike(data)}}}"
    yield f"#     max_tokens: {found.max_tokens}"
    if any(spec.fn == "format" for spec in found.rewards):
        yield "#     format: format"


def _asked_alike(data: DataConfig) -> str:
    told = {"template": data.template, "suffix": data.suffix}
    columns = f", columns: {_renames(data)}" if data.columns else ""
    return columns + "".join(f", {name}: {quoted(text)}" for name, text in told.items() if text)


def _renames(data: DataConfig) -> str:
    return f"{{{', '.join(f'{quoted(name)}: {quoted(column)}' for name, column in data.columns.items())}}}"


def _source(data: DataConfig) -> str:
    """A section `data` on one line."""
    return f"{{path: {quoted(data.path)}, columns: {_renames(data)}}}" if data.columns else quoted(data.path)


def _conversations(data: DataConfig, rows: list[Row], seen: list[Row], model: BaseModel) -> Iterator[str]:
    examples = build_examples(seen, model.tokenizer, f"data '{data.path}'")
    longest = max(len(example.input_ids) for example in examples)
    yield "cold_start:"
    yield line("  data:", _source(data), "conversations: the assistant's turns are trained on")
    yield line("  epochs:", 1, f"passes over the {len(rows)} rows; or steps: N")
    yield line("  batch_size:", min(PER_STEP, len(rows)))
    yield line("  max_tokens:", rounded(longest), f"the longest has {longest}; longer ones are dropped")
    yield line("  # optimizer:", "{lr: 2e-5}", "the default")


def _reward_model(kind: str, of: str, data: DataConfig, rows: list[Row]) -> Iterator[str]:
    yield f"{kind}_model:"
    yield line("  data:", _source(data), of)
    yield line("  epochs:", 1, f"passes over the {len(rows)} rows; or steps: N")
    yield line("  batch_size:", min(PER_STEP, len(rows)))


def rounded(tokens: int) -> int:
    """Up to a multiple of `LEAST`."""
    return -(-tokens // LEAST) * LEAST


def line(key: str, value: Any, comment: str = "") -> str:
    """`key: value`, and the comment where the others have theirs."""
    text = f"{key} {value}"
    return f"{text:<{WIDTH}}{'' if len(text) < WIDTH else '  '}# {comment}" if comment else text


def quoted(value: Any) -> str:
    """A text as YAML, in quotes where it may need them."""
    text = str(value)
    return text if PLAIN_TEXT.fullmatch(text) and text not in ("null", "true", "false") else json.dumps(text)
