"""The files `completions/step-000001.jsonl`, ...: what was sampled for each rollout, and what it earned."""

from pathlib import Path

from grpo.data.rows import write_jsonl
from grpo.system.files import must_write
from grpo.types import Group


def save_completions(out: Path, step: int, groups: list[Group]) -> None:
    """What was sampled, with rewards: one line a completion."""
    rows = [
        {
            "step": step + 1,
            "task": group.prompt.task,
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text if group.prompt.messages is None else group.prompt.messages,
            "completion": rollout.completion.text,
            "version": rollout.completion.version,
            "finish_reason": rollout.completion.finish_reason,
            "rewards": rollout.rewards,
            "reward": rollout.reward,
            "excluded": rollout.excluded,
            "errors": rollout.errors,
            "extra": rollout.extra,
            "advantage": rollout.advantage,
        }
        for group in groups
        for rollout in group.rollouts
    ]
    file = out / "completions" / f"step-{step + 1:06d}.jsonl"
    with must_write(file, lambda: sum(len(str(row)) for row in rows)):
        write_jsonl(file, rows)


def drop_completions(out: Path, done: int) -> None:
    """Remove what was sampled after the first `done` steps: a run that goes on from there samples it again."""
    for file in (out / "completions").glob("step-*.jsonl"):
        if file.stem > f"step-{done:06d}":
            file.unlink()
