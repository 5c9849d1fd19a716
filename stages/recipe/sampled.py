"""A sampled completion as a conversation to train on, and whether the base's chat template can write it.

After the chat template that it was sampled with it is trained as it was sampled: told to the template again, what the
model wrote of channels or tags around its response would be doubled, or refused.

A completion to a plain-text template (R1-Zero's "User: ... Assistant: <think>") leaves that template: the question is
the row's own, and the tags around the answer go, unless what is judged afterwards wants them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from grpo.config.data import RewardConfig
from grpo.data.baked import give_template
from grpo.data.conversations import build_examples
from grpo.data.layouts import read_prompt
from grpo.data.prompts import as_messages, build_prompts
from grpo.data.said import VERBATIM
from grpo.model.loading.tokenizer import decoded, load_tokenizer
from grpo.types import Completion, Message, Prompt
from stages.recipe.config import RecipeConfig, RejectionSamplingConfig

QUESTION = {"prompt": "What is 2 + 3?"}


def after_prompt(prompt: Prompt, completion: Completion, tokenizer: Any) -> str:
    """The completion's text with the blank that it begins with, which some tokenizers lose when it is decoded alone."""
    before = decoded(tokenizer, prompt.token_ids)
    whole = decoded(tokenizer, [*prompt.token_ids, *completion.token_ids]).removeprefix(before)
    blank = whole.partition(completion.text)[0]
    return blank + completion.text if blank.isspace() else completion.text


def conversation(prompt: Prompt, text: str, recipe: RecipeConfig, *, verbatim: bool = True) -> list[Message]:
    """The question and the answer, a stop text left out. `verbatim`: the base has the chat template that the prompt was
    written with; else a `<think>` that the prompt opened is part of the answer."""
    config = recipe.rejection_sampling
    assert config is not None
    for stop in config.sampling.stop:
        text = text.removesuffix(stop)
    if verbatim and prompt.messages is not None:
        return [*prompt.messages, {"role": "assistant", "content": text, VERBATIM: True}]
    opened = prompt.prefill[prompt.prefill.find("<think>") :] if "<think>" in prompt.prefill else ""
    question, answer = prompt.messages, opened + text
    if question is None:
        where = f"rejection_sampling.data, prompt '{prompt.id}'"
        question = as_messages(read_prompt(prompt.columns, where, as_text=True)[1], config.data, where)
        answer = _untagged(answer, config, recipe)
    return [*question, {"role": "assistant", "content": answer}]


def _untagged(answer: str, config: RejectionSamplingConfig, recipe: RecipeConfig) -> str:
    """Without the tags around what comes after the thinking, where the evaluation doesn't ask for them too."""
    tag = answer_tag(config.filters) or "answer"
    math = recipe.evaluation.math
    if math is not None and tag == answer_tag(filter(None, (math.format, math.accuracy))):
        return answer
    thinking, closed, rest = answer.rpartition("</think>")
    blank = rest[: len(rest) - len(rest.lstrip())]
    return thinking + closed + blank + re.sub(rf"</?{re.escape(tag)}>", "", rest).strip()


def answer_tag(judges: Iterable[RewardConfig]) -> str | None:
    """The tag that these rewards want around an answer."""
    found = [spec.kwargs.get("answer_tag") or ("answer" if spec.kwargs.get("strict") == "answer" else None)
             for spec in judges]  # fmt: skip
    return next(filter(None, found), None)


def check_sampled(recipe: RecipeConfig, tokenizer: Any = None) -> None:
    """An answer as the model would write it can be trained: else all sampling is for nothing.
    `tokenizer`: the base's; None: that of the model it is given as.

    Raises:
        UserError: it cannot, and why.
    """
    config = recipe.rejection_sampling
    assert config is not None
    if tokenizer is None:
        base = recipe.base
        tokenizer = give_template(load_tokenizer(base.model or ""), base.chat_template, base.template_kwargs)
    where = "what would be sampled"
    data = config.data.model_copy(update={"max_prompt_tokens": None, "columns": {}})
    (prompt,) = build_prompts([QUESTION], data, tokenizer)
    opening = "" if "<think>" in prompt.prefill else "<think>"
    text = f"{opening}\nI add the two numbers.\n</think>\n\n\\boxed{{5}}"
    build_examples([{"id": prompt.id, "messages": conversation(prompt, text, recipe)}], tokenizer, where)
