"""Demonstrations from a teacher: a served model answers the questions, and what the filters accept is kept.

A data function, for `cold_start.data` or any other section that takes conversations:

    cold_start:
      data:
        fn: stages.teacher.demonstrations
        kwargs:
          endpoint: {model: MODEL, base_url: http://localhost:8000/v1, key_env: NAME}     # NAME: variable of the key
          questions: {path: questions.jsonl, suffix: "\\nReason inside <think> </think>, then box the answer."}
          accept: [{fn: accuracy}, {fn: format}]
          file: teacher.jsonl
          max_tokens: 4096

The teacher is asked once: its answers stay in `file`, which later stages, checks and resumed runs read. Until all are
there each is in `<file>.asked` as soon as it comes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from grpo.config.data import DataConfig, RewardConfig
from grpo.config.file import validate
from grpo.config.section import Section
from grpo.data.prompts import chat_prompts
from grpo.data.rows import Row, load_rows, read_jsonl, rows_hash, write_jsonl
from grpo.errors import UserError
from grpo.evaluation.judging import judge_groups
from grpo.evaluation.kept import Kept, kept_file
from grpo.system.fingerprint import digest
from grpo.system.world import World
from grpo.types import Group, Prompt, Sampling
from rewards.loader import load_rewards
from stages.served.config import EndpointConfig
from stages.served.endpoint import Served, group_of, serve, service_of

log = logging.getLogger("grpo")


OF_ANSWERS = ("accept", "keep_per_prompt", "samples")  # what decides which are kept, not what they are


class TeacherConfig(Section):
    """The arguments of `demonstrations`."""

    endpoint: EndpointConfig
    questions: DataConfig
    file: str = Field(min_length=1)  # where the answers stay
    max_tokens: int = Field(ge=1)
    accept: tuple[RewardConfig, ...] = ()  # an answer is kept when each of them gives 1.0
    samples: int = Field(1, ge=1)  # answers asked of each question
    keep_per_prompt: int = Field(1, ge=1)  # answers kept of each question, the first ones
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    seed: int = Field(0, ge=0)


def demonstrations(**settings: Any) -> list[Row]:
    """Rows with "messages": the question as the data has it, and the teacher's answer.

    Raises:
        UserError: a setting is wrong, `file` was made with others, the endpoint fails, or nothing is accepted.
    """
    config = validate(TeacherConfig, settings, "stages.teacher.demonstrations")
    questions = load_rows(config.questions)
    file, made_with = Path(config.file), _made_with(config, questions)
    if file.exists():
        return _kept_before(file, made_with)
    if World.current().size > 1:
        raise UserError(f"stages.teacher.demonstrations: '{file}' is not there yet: ask the teacher with one process")
    prompts = chat_prompts(questions, config.questions)
    sampling = Sampling(config.samples, config.max_tokens, config.temperature, config.top_p)
    rewards = load_rewards(config.accept)
    kept = Kept(kept_file(file), _made_with(config, questions, *OF_ANSWERS))
    served = serve(config.endpoint, prompts, sampling, config.seed, kept)
    rows = _accepted(_groups(prompts, served), rewards, config.keep_per_prompt)
    log.warning("teacher: %d of %d answers kept, of %d questions", len(rows), len(served.answers), len(prompts))
    if not rows:
        raise UserError(
            f"stages.teacher.demonstrations: none of {len(served.answers)} answers passed 'accept'; they are in "
            f"'{kept.file}', and are not asked for again when 'accept' is another"
        )
    write_jsonl(file, [{**row, "made_with": made_with} for row in rows])
    kept.file.unlink()
    return rows


def teacher(**settings: Any) -> str:
    """Who is asked, and with which key.

    Raises:
        UserError: a setting is wrong.
    """
    config = validate(TeacherConfig, settings, "stages.teacher.demonstrations")
    return f"asks {service_of(config.endpoint)}"


def first_answer(**settings: Any) -> str:
    """What `demonstrations` would do where its file is not there, tried with one request, of the first question.

    Raises:
        UserError: a setting is wrong, or the endpoint fails.
    """
    config = validate(TeacherConfig, settings, "stages.teacher.demonstrations")
    questions = load_rows(config.questions)
    prompts = chat_prompts(questions, config.questions)
    rewards = load_rewards(config.accept)
    once = config.endpoint.model_copy(update={"retries": 0})
    served = serve(once, prompts[:1], Sampling(1, config.max_tokens, config.temperature, config.top_p), config.seed)
    accepted = _accepted(_groups(prompts[:1], served), rewards, 1)
    verdict = "accepted" if accepted else "not accepted, or cut at max_tokens"
    return (
        f"the run will ask {len(prompts)} questions {config.samples} times; one was asked now, one request, and its "
        f"answer is {verdict}"
    )


def _made_with(config: TeacherConfig, questions: Sequence[Row], *but: str) -> str:
    """Hash of all that the rows follow from: not of where the server is, nor of how it is asked. `but`: settings that
    do not count."""
    own = config.model_dump(mode="json", exclude={"file", "endpoint", "questions", *but})
    asked = [config.endpoint.model, config.endpoint.fields, config.questions.system, config.questions.suffix]
    return digest([own, asked, rows_hash(questions)])


def _kept_before(file: Path, made_with: str) -> list[Row]:
    rows = read_jsonl(file)
    if any(row.get("made_with") != made_with for row in rows):
        raise UserError(f"'{file}': these answers were asked with other settings or questions: move the file away")
    return [{key: value for key, value in row.items() if key != "made_with"} for row in rows]


def _groups(prompts: Sequence[Prompt], served: Served) -> list[Group]:
    """The whole answers to each question; one that was cut at the limit is none."""
    return [
        group_of(prompt, [answer for answer in answers if answer.finish_reason == "stop"])
        for prompt, answers in zip(prompts, served.by_prompt(len(prompts)), strict=True)
    ]


def _accepted(groups: Sequence[Group], rewards: Sequence[Any], keep: int) -> list[Row]:
    rows: list[Row] = []
    for group in judge_groups([group for group in groups if group.rollouts], list(rewards)) if rewards else groups:
        good = [r for r in group.rollouts if all(r.rewards.get(reward.name) == 1.0 for reward in rewards)]
        for rollout in good[:keep]:
            answer = {"role": "assistant", "content": rollout.completion.text}
            rows.append({"messages": [*(group.prompt.messages or []), answer]})
    return rows
