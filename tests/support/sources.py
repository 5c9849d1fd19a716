"""A source of rollouts whose engine costs nothing, and rewards that fail here and there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo.config.training import RLConfig
from grpo.errors import UserError
from grpo.rollout.sampler import PromptSampler, Task
from grpo.rollout.source import RolloutSource
from grpo.scoring.table import Reward
from grpo.system.clock import Clock
from grpo.system.world import World
from grpo.trainer import collect
from grpo.types import Completion, Group, Prompt, Rollout, Sampling
from support.groups import prompt_of


class InstantEngine:
    """Gives each prompt a group at once; notes what was asked."""

    def release(self) -> None:
        """It holds no memory."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int) -> list[Group]:
        self.asked.append([prompt.id for prompt in prompts])
        rollouts = [Rollout(Completion((9,), (0.0,), "stop", str(i), step)) for i in range(sampling.group_size)]
        return [Group(prompt, tuple(rollouts)) for prompt in prompts]


def solved_unless_divisible(prompts: list[str], completions: list[str], number: list[int], **_: Any) -> list[float]:
    """Prompts whose number three divides are sometimes solved, the others always."""
    return [float(n % 3 != 0 or text == "0") for n, text in zip(number, completions, strict=True)]


def source_of(
    count: int = 9, rewards: Sequence[Reward] | None = None, world: World | None = None, **settings: Any
) -> RolloutSource:
    config = RLConfig.model_validate(
        {
            "steps": 20, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 4}, "optimizer": {"lr": 1},
        }
        | settings
    )  # fmt: skip
    prompts = [replace(prompt_of([9], str(i)), columns={"number": i}) for i in range(count)]
    prompts[0] = replace(prompts[0], columns={"number": 0, "rare": "x"})
    tasks = {"default": Task(prompts, rewards or [Reward("accuracy", solved_unless_divisible)])}
    sampler = PromptSampler(tasks, config.steps, 0, config.difficulty)
    return RolloutSource(sampler, tasks, InstantEngine(), config, world or World(), 0, Clock())  # type: ignore[arg-type]


def numbers(groups: list[Group]) -> list[int]:
    return [group.prompt.columns["number"] for group in groups]


def failing_on(*numbers: int) -> Reward:
    """Raises at the first sibling of these prompts."""

    def fn(completions: list[str], number: list[int]) -> list[float]:
        return [float(1 / (n not in numbers or text != "0")) for n, text in zip(number, completions, strict=True)]

    return Reward("flaky", fn)


def judge(world: World, reward: Reward, **settings: Any) -> str:
    """How the first rollout of eight prompts with two siblings ends: with its failed rows, or with its refusal."""
    source = source_of(8, rewards=[reward], world=world, **{"prompts_per_step": 8} | settings)
    try:
        groups = collect(source, 0)
    except UserError as error:
        return str(error)
    return f"{sum(r.reward is None for group in groups for r in group.rollouts)} failed"


def judge_with_failures(world: World) -> dict[str, str]:
    """Failures here and there: of sixteen rows, one may fail. `tests/system/test_processes.py` has two processes."""
    order = numbers(collect(source_of(8, prompts_per_step=8), 0))  # in which the processes take them in turn
    return {
        "none": judge(world, failing_on()),
        "one": judge(world, failing_on(order[1])),
        "one each": judge(world, failing_on(order[0], order[1])),
        "two in one": judge(world, failing_on(order[0], order[2])),
        "all": judge(world, Reward("broken", lambda completions: 1 / 0)),
        "column of one prompt": judge(world, Reward("r", lambda completions, rare: [1.0] * len(completions))),
        "column of none": judge(world, Reward("r", lambda completions, gold: [1.0] * len(completions))),
    }
