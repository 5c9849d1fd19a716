"""Prompts and completions as `grpo check` prints them: whole, with the characters that nobody sees made visible."""

from __future__ import annotations

import unicodedata

from grpo.model.loading.tokenizer import decoded
from stages.check.prompts import Rendered
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
