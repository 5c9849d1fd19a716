"""Stage 3 (R1-Dev3): sample the stage-2 model, keep what is right and readable, add general data, SFT from the base."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.checkpoint.identity import reward_identity
from grpo.data.layouts import conversation_rows, read_messages
from grpo.data.prompts import build_prompts, token_ids
from grpo.data.rows import Row, load_rows, read_jsonl, rows_hash, write_jsonl
from grpo.engines.choose import load_for_sampling, sampling_engine
from grpo.errors import UserError
from grpo.model.loading.limits import check_fit
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.scoring.groups import column_names, score
from grpo.scoring.table import Reward
from grpo.system.files import write_text
from grpo.system.fingerprint import digest
from grpo.system.progress import progress
from grpo.system.world import World
from grpo.types import Group, Prompt, Rollout
from rewards.loader import find_reward, is_ours, load_reward, load_rewards
from stages.commands.run import stage_main
from stages.recipe.config import RejectionSamplingConfig
from stages.recipe.ends import check_stops, renders_chat
from stages.recipe.lineage import model_hash
from stages.recipe.parts import Parts
from stages.recipe.sampled import after_prompt, check_sampled, conversation
from stages.recipe.table import StageContext
from stages.recipe.training import train_sft

log = logging.getLogger("grpo")

PROMPTS_AT_A_TIME = 128
ORIGIN = "origin.txt"  # beside the samples: what they follow from


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/, metrics.jsonl, completions/sampled.jsonl (with why each was dropped) and data/."""
    config: RejectionSamplingConfig = context.section
    data = context.folder / "data"
    # First: what is wrong with it need not wait for the samples.
    general = context.write_data("general", conversation_rows(config.general) if config.general else [])
    for number, row in enumerate(general):
        read_messages(row, f"rejection_sampling.general, row {number}")
    rows = context.write_data("prompts", load_rows(config.data))
    if not (data / "reasoning.jsonl").is_file():  # it appears whole, after completions/ did
        check_sampled(context.config, load_tokenizer(context.base))
        if renders_chat(config):
            check_stops(context.init, load_tokenizer(context.init), context.key)
        sample(config, context, rows)
    else:
        World.current().main_finds(lambda: check_origin(data / ORIGIN, _origin(config, context, rows), context))
    World.current().wait()  # the main process has written it
    reasoning = read_jsonl(data / "reasoning.jsonl")
    # Again from the base model, as R1 did.
    numbers = train_sft(context, context.base, reasoning + general, "rejection sampling: training")
    sampled = read_jsonl(context.folder / "completions" / "sampled.jsonl")
    return {
        **numbers,
        "sampled": len(sampled),
        "passed_share": sum(row["dropped"] in (None, *SPARE) for row in sampled) / len(sampled),
        "reasoning_examples": len(reasoning),
        "general_examples": len(general),
        "data_hashes": {"reasoning": rows_hash(reasoning), "general": rows_hash(general)},
    }


SPARE = ("repeated", "enough kept")  # right, but not needed


@dataclass(frozen=True)
class Verdict:
    """A rollout and why it was dropped; None: kept."""

    prompt: Prompt
    rollout: Rollout
    dropped: str | None


def judge(group: Group, filters: Sequence[Reward], keep: int) -> Iterator[Verdict]:
    """The first `keep` different completions that ended by themselves and to which every filter that applies gave 1.0:
    one that failed drops, one that gave None without an error (language, of numbers only) does not."""
    kept: set[str] = set()
    for rollout in group.rollouts:
        text = rollout.completion.text.strip()
        values = {name: rollout.rewards.get(name) for name in (reward.name for reward in filters)}
        failed = next((name for name, value in values.items() if value != 1.0 and _counts(name, value, rollout)), None)
        dropped = None
        if rollout.completion.finish_reason == "length":
            dropped = "cut at max_tokens"
        elif failed is not None:
            dropped = failed
        elif text in kept:
            dropped = "repeated"
        elif len(kept) >= keep:
            dropped = "enough kept"
        else:
            kept.add(text)
        yield Verdict(group.prompt, rollout, dropped)


def _counts(name: str, value: float | None, rollout: Rollout) -> bool:
    return value is not None or name in rollout.errors


def sample(config: RejectionSamplingConfig, context: StageContext, rows: list[Row]) -> None:
    """Writes completions/sampled.jsonl, then data/reasoning.jsonl. Goes on with the parts that are there."""
    filters = load_rewards(config.filters)
    runtime = context.config.runtime
    tokenizer = load_tokenizer(context.init)
    template = load_tokenizer(context.base).chat_template
    prompts = build_prompts(rows, config.data, tokenizer, "reasoning")
    model = load_for_sampling(context.init, context.config.engine, runtime)
    sampling = config.sampling.of(config.group_size)
    setting = "rejection_sampling.sampling.max_tokens"
    longest = check_fit(model, token_ids(prompts), setting, sampling.max_tokens)
    engine = sampling_engine(context.config.engine, model, tokenizer, runtime, name=context.init, longest=longest)
    world = World.current()
    at_a_time = PROMPTS_AT_A_TIME * world.size
    columns = column_names(prompts)

    def sampled(share: list[Prompt]) -> list[Group]:
        groups = engine.generate(share, sampling, seed=context.config.seed, step=0)
        if not groups:  # fewer prompts than processes
            return []
        return score(groups, filters, columns=columns)[0]  # what a filter cannot judge is not kept, and said below

    def training_row(verdict: Verdict) -> Row:
        """The prompt's own columns and the conversation."""
        prompt = verdict.prompt
        columns = {name: value for name, value in prompt.columns.items() if _plain(value)}
        text = after_prompt(prompt, verdict.rollout.completion, tokenizer)
        messages = conversation(prompt, text, context.config, verbatim=tokenizer.chat_template == template)
        return {**columns, "id": prompt.id, "messages": messages}

    origin = _origin(config, context, rows)
    parts = Parts(context.folder / "completions" / "parts", origin)
    done, judged = world.main_finds(parts.read)
    if done:
        log.warning("rejection sampling: going on after %d of %d prompts", done, len(prompts))
    with closing(engine), progress("rejection sampling: sampling", total=len(prompts), done=done) as bar:
        for start in range(done, len(prompts), at_a_time):
            chosen = prompts[start : start + at_a_time]
            scored = world.spread(chosen, sampled)
            verdicts = [verdict for group in scored for verdict in judge(group, filters, config.keep_per_prompt)]
            new = [{"sampled": _record(one), "kept": None if one.dropped else training_row(one)} for one in verdicts]
            parts.add(start, len(chosen), new)
            judged += new
            bar.advance(len(chosen), f"{len(_kept(judged))} of {len(judged)} kept")
    write_jsonl(context.folder / "completions" / "sampled.jsonl", (row["sampled"] for row in judged))
    if not _kept(judged):
        counts = Counter(str(row["sampled"]["dropped"]) for row in judged).most_common()
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counts)
        raise UserError(f"rejection_sampling: none of {len(judged)} samples passed the filters ({reasons})")
    write_text(context.folder / "data" / ORIGIN, origin + "\n")
    write_jsonl(context.folder / "data" / "reasoning.jsonl", _kept(judged))
    parts.drop()


def check_origin(file: Path, origin: str, context: StageContext) -> None:
    """Are the samples that are there those that would be drawn and kept now? Older versions did not say.

    Raises:
        UserError: rows, model or a filter are others, which is not accepted.
    """
    if context.accept_changes or not file.is_file() or file.read_text(encoding="utf-8").strip() == origin:
        return
    raise UserError(
        f"rejection_sampling: the samples in '{context.folder}' were drawn or filtered by something else (the rows of "
        "a data function, or the code of a filter): go on all the same with --accept-changes, or sample anew with "
        "grpo run --from rejection_sampling"
    )


def _origin(config: RejectionSamplingConfig, context: StageContext, rows: Sequence[Row]) -> str:
    """What the samples follow from: with `--accept-changes` a stage may go on with other settings or another model."""
    settings = config.model_dump(mode="json", include={"sampling", "group_size", "filters", "keep_per_prompt", "data"})
    recipe = context.config
    # Of the user's own filters their code too; those that ship belong to the version.
    code = [reward_identity(load_reward(spec)) for spec in config.filters if not is_ours(find_reward(spec)[1])]
    return digest([settings, rows_hash(rows), model_hash(context.init), recipe.seed, recipe.engine.kind, *code])


def _kept(judged: Sequence[Row]) -> list[Row]:
    return [row["kept"] for row in judged if row["kept"] is not None]


def _record(verdict: Verdict) -> Row:
    prompt, rollout = verdict.prompt, verdict.rollout
    return {
        "id": prompt.id,
        "prompt": prompt.messages or prompt.text,
        "completion": rollout.completion.text,
        "finish_reason": rollout.completion.finish_reason,
        "rewards": rollout.rewards,
        "errors": rollout.errors,
        "dropped": verdict.dropped,
    }


def _plain(value: Any) -> bool:
    """Whether JSON can hold it: a row from a function or a parquet file may carry more."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


if __name__ == "__main__":
    stage_main("rejection_sampling")
