"""The curve of an RL run: held-out problems asked of its policy on the way, by the run's own engine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo.config.data import MOST_TOKENS, CurveConfig, EvalConfig
from grpo.data.prompts import build_prompts, token_ids
from grpo.data.rows import Row, load_rows
from grpo.engines.draws import stream_key
from grpo.errors import UserError
from grpo.evaluation.judging import check_golds, judge_groups
from grpo.evaluation.metrics import Judges, math_metrics, problem_row
from grpo.model.loading.limits import check_fit, room
from grpo.system import stopping
from grpo.system.world import World
from grpo.types import Group, Prompt, RolloutEngine, Sampling

log = logging.getLogger("grpo")

SETTINGS = ("unjudged_problems", "samples_per_problem", "format_required")  # the same at every point
SECONDS, N_PROBLEMS = "seconds/evaluation", "eval/n_problems"


class Curve:
    """The problems, how they are asked, and what judges the answers; a part of them is the same whatever the seed."""

    def __init__(self, config: EvalConfig, every: CurveConfig, judges: Judges, problems: Sequence[Prompt]):
        self.config, self.every, self.judges, self.problems = config.of_curve(every), every.steps, judges, problems
        chosen = sorted(range(len(problems)), key=lambda place: stream_key("curve", problems[place].id))
        self.prompts = [problems[place] for place in sorted(chosen[: every.problems])]
        tokens = config.max_tokens or MOST_TOKENS
        self.sampling = Sampling(self.config.samples, tokens, config.temperature, config.top_p)
        self.blank: dict[str, Any] = {**dict.fromkeys(self._named(math_metrics([], self.config, judges))), SECONDS: 0.0}
        # Ids of those that the first point could not judge, in no point: all are of the same ones. None: no point yet.
        self.left_out: list[str] | None = None

    @classmethod
    def of(
        cls, config: EvalConfig, every: CurveConfig, judges: Judges, tokenizer: Any, rows: list[Row] | None = None
    ) -> Curve:
        """Of the problems of `config.data`, or of these `rows`.

        Raises:
            UserError: there are none, or none with a gold.
        """
        rows = load_rows(config.data) if rows is None else rows
        if not rows:
            raise UserError("evaluation: no problems")
        check_golds(rows, judges.accuracy, str(config.data.path or config.data.fn))
        return cls(config, every, judges, build_prompts(rows, config.data, tokenizer, task="evaluation"))

    def fit(self, model: Any) -> int:
        """Tokens of the longest sequence. A `max_tokens` that is not set is that of the last model's evaluation.

        Raises:
            UserError: the model has no positions for it.
        """
        tokens = self.config.max_tokens or room(model, token_ids(self.problems), MOST_TOKENS)
        self.sampling = replace(self.sampling, max_tokens=tokens)
        return check_fit(model, token_ids(self.problems), "evaluation: max_tokens", tokens)

    def due(self, step: int, last: int, updates: int) -> bool:
        """At the boundary after `step` of `last` steps: a multiple of `every` was among the rollout's `updates`."""
        return step % self.every < updates or step == last

    def measure(self, engine: RolloutEngine, seed: int, rows: int | None = None) -> dict[str, Any]:
        """What the weights that the engine has are worth. The draws are those of the evaluation of a finished model:
        the same at every point, so that points differ by the weights alone.

        Where one of the point's problems cannot be judged, a judge being away, its values are None, and that is said:
        what is left would be of other problems. The run goes on.

        Raises:
            Stopped: a signal came. Several processes heed it together, after each `rows` completions at the latest.
        """
        groups = judge_groups(self._asked(engine, seed, rows), self.judges.rewards())
        unjudged = [group.prompt.id for group in groups if not _judged(group)]
        text = f"evaluation: {len(unjudged)} of {len(groups)} problems could not be judged, such as '%s': %s"
        if self.left_out is None and len(unjudged) < len(groups):
            self.left_out = unjudged
            if unjudged:
                log.warning(text, unjudged[0], "they are left out of this point of the curve and of all after it")
        lost = [name for name in unjudged if name not in (self.left_out or ())]
        if lost:
            log.warning(text, lost[0], "this point of the curve has no value, and can be no best checkpoint")
            return {**{name: None for name in self.blank if name != SECONDS}, N_PROBLEMS: len(groups) - len(unjudged)}
        asked = [group for group in groups if group.prompt.id not in (self.left_out or ())]
        return self._named(math_metrics([problem_row(group, self.judges) for group in asked], self.config, self.judges))

    def _asked(self, engine: RolloutEngine, seed: int, rows: int | None) -> list[Group]:
        """A sample does not depend on what else is sampled. One process heeds a signal at once, and asks for all."""
        world, groups, part = World.current(), list[Group](), len(self.prompts)
        if world.size > 1 and rows is not None:
            part = max(world.size, rows // self.sampling.group_size)
        for start in range(0, len(self.prompts), part):
            groups += world.spread(
                self.prompts[start : start + part],
                lambda own: engine.generate(own, self.sampling, seed=seed, step=0),
            )
            stopping.check(world)
        return groups

    @staticmethod
    def _named(metrics: dict[str, Any]) -> dict[str, Any]:
        return {f"eval/{name}": value for name, value in metrics.items() if name not in SETTINGS}


def _judged(group: Group) -> bool:
    """Wholly: where a judge is away for some of the samples, they are not wrong for that."""
    missing = [rollout for rollout in group.rollouts if rollout.rewards["accuracy"] is None]
    return len(missing) < len(group.rollouts) and not any("accuracy" in rollout.errors for rollout in missing)
