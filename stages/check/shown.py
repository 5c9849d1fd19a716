"""Prompts and completions as `grpo check` prints them: whole, with the characters that nobody sees made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from grpo.data.conversations import build_examples
from grpo.data.encoding import IGNORE
from grpo.data.rows import Row
from grpo.model.loading.tokenizer import decoded
from stages.check.prompts import Rendered
from stages.check.subject import BaseModel
from stages.check.synthetic import GOLD, WRONG, texts, written_head

MOST = 1600  # characters; longer ones lose their middle
NAMED = {"\t": "→", "\r": "␍", "\u00a0": "⍽", "\ufeff": "␂"}


def show(rendered: Rendered) -> str:
    """The first prompt in full, and what its rewards are given: the synthetic gold solution after what the prompt has
    written of the answer."""
    path, prompt = rendered.asked.path, rendered.prompts[0]
    title = f"--- {path}, row {rendered.numbers[0]}: the prompt, {len(prompt.token_ids)} tokens"
    lines = [title, visible(decoded(rendered.model.tokenizer, prompt.token_ids))]  # what the model reads
    if rendered.asked.rewards:
        made, head = texts(rendered, 0, 1), written_head(prompt, rendered.tags)
        kind, of = (GOLD, "the gold solution") if GOLD in made else (WRONG, "an answer in the required format")
        before = f", after {head!r} of the prompt" if head else ""
        lines += [f"--- what its format reward reads of {of}{before}", visible(head + made[kind])]
    return "\n".join(lines)


def show_trained(path: str, rows: Sequence[Row], model: BaseModel) -> str:
    """What of the first conversation is trained, read from its labels."""
    examples = build_examples(rows[:1], model.tokenizer, path)  # a template that rewrites history takes several
    parts: list[list[int]] = [[]]
    for label in (label for example in examples for label in [*example.labels, IGNORE]):
        parts[-1].append(label) if label != IGNORE else parts.append([])
    trained = [visible(decoded(model.tokenizer, part)) for part in parts if part]
    count, total = sum(map(len, parts)), sum(len(example.labels) for example in examples)
    title = f"--- {path}, row 0: what is trained of it, {count} of {total} tokens"
    return "\n".join([title, *trained])


def visible(text: str) -> str:
    """Line ends as ⏎, blanks at the end of a line as ·, tabs as →, other unseen characters as \\uXXXX."""
    if len(text) > MOST:
        cut = f"\n[... {len(text) - MOST} characters ...]\n"
        return visible(text[: MOST // 2]) + cut + visible(text[-(MOST // 2) :])
    lines = []
    for line in text.split("\n"):
        bare = line.rstrip(" ")
        lines.append("".join(map(_character, bare)) + "·" * (len(line) - len(bare)))
    return "⏎\n".join(lines)


def _character(char: str) -> str:
    if char in NAMED:
        return NAMED[char]
    return char if unicodedata.category(char)[0] != "C" else f"\\u{ord(char):04x}"
