"""Students and teachers looked at before anything is computed: tokens, templates, and who is there to teach."""

from __future__ import annotations

from typing import Any

from grpo.config.algorithm import DistillConfig
from grpo.data.baked import give_template
from grpo.data.conversations import build_examples
from grpo.data.prompts import build_prompts
from grpo.errors import UserError, nearest
from grpo.model.loading.files import local_folder
from grpo.model.loading.path import check_model
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.teacher import check_same_prompts, check_same_tokens
from stages.recipe.ahead import RUN, Ahead
from stages.recipe.config import BaseConfig, RecipeConfig
from stages.recipe.sampled import QUESTION
from stages.recipe.table import STAGES, active_parents, lineage_of
from stages.tiny_world.tokenizer import build_tokenizer

ANSWER = "<think>\nI add the two numbers.\n</think>\n\n\\boxed{5}"


def check_student(config: RecipeConfig, ahead: Ahead) -> None:
    """
    Raises:
        UserError: the student's chat template cannot write what it is to learn.
    """
    tokenizer = _tokenizer(config.student_base, ahead)
    if tokenizer is not None:
        turns = [{"role": "user", "content": QUESTION["prompt"]}, {"role": "assistant", "content": ANSWER}]
        build_examples([{"messages": turns}], tokenizer, "what the student would learn")


def check_distill(config: RecipeConfig, key: str, distill: DistillConfig, ahead: Ahead) -> None:
    """
    Raises:
        UserError: there is no such teacher, or it reads other tokens or prompts than the model of stage `key`.
    """
    teacher: Any = None
    if RUN in distill.model:
        made = {STAGES[parent].folder: parent for parent in active_parents(STAGES[key], config)}
        folder = distill.model.partition(RUN)[2].strip("/").partition("/")[0]
        if folder not in made:
            absent = f"stage {key} does not start from, or after, one that makes '{folder}'{nearest(folder, made)}"
            raise UserError(f"'{distill.model}': {absent}")
        if made[folder] in ("helpfulness_model", "safety_model"):
            raise UserError(f"'{distill.model}': a reward model gives scores, no tokens")
        teacher = _tokenizer(getattr(config, lineage_of(made[folder])), ahead)
    else:
        check_model(distill.model)
        teacher = _existing(distill.model)
    student = _tokenizer(getattr(config, lineage_of(key)), ahead)
    if teacher is None or student is None:
        return
    check_same_tokens(student, teacher, distill.model)
    for task in getattr(config, key).tasks.values():
        data = task.data.model_copy(update={"max_prompt_tokens": None, "columns": {}})
        check_same_prompts(student, teacher, build_prompts([QUESTION], data, student), distill.model)


def _tokenizer(base: BaseConfig | None, ahead: Ahead) -> Any:
    """The tokenizer that a base model will have, its template included; None: not to be had before its stage."""
    assert base is not None
    if base.model is not None:
        found = _existing(base.model)
        return found and give_template(found, base.chat_template, base.template_kwargs)
    assert base.pretrain is not None
    texts = [row.get("text") for row in ahead.rows(base.pretrain.corpus) or ()]
    whole = [text for text in texts if isinstance(text, str)]
    return build_tokenizer(whole, base.pretrain.vocab_size) if texts and len(whole) == len(texts) else None


def _existing(model: str) -> Any:
    return None if local_folder(model) is None else load_tokenizer(model)
