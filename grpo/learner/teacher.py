"""The teacher of on-policy distillation: a model beside the policy, which scores what the policy samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from grpo.config.algorithm import DistillConfig
from grpo.config.engine import RuntimeConfig
from grpo.config.training import RLConfig
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.learner.learner import Learner
from grpo.model.fit import fit_of
from grpo.model.loading.device import inference_dtype, pick_device
from grpo.model.loading.limits import check_fit, embeddings
from grpo.model.loading.weights import load_model


@dataclass(frozen=True)
class Teacher:
    """Its log-probs, at the student's sampling temperature, of rows packed as the student's are."""

    name: str
    scorer: Learner
    tokens: int  # that it has embeddings for

    def sampled_at(self, temperature: float) -> None:
        self.scorer.sampled_at(temperature)

    def logprobs(self, rows: Sequence[TrainRow]) -> list[tuple[float, ...]]:
        """
        Raises:
            UserError: the student sampled a token that the teacher does not have.
        """
        highest = max((token for row in rows for token in row.rollout.completion.token_ids), default=0)
        if highest >= self.tokens:
            raise UserError(
                f"loss.distill: token {highest} was sampled, and the teacher '{self.name}' has {self.tokens}: the "
                "student's padding rows of embeddings were never trained; start from a model in which they are"
            )
        return self.scorer.logprobs(rows)


def load_teacher(
    config: DistillConfig,
    learner: Learner,
    settings: RLConfig,
    runtime: RuntimeConfig,
    prompts: Iterable[Sequence[int]],
) -> Teacher:
    """The teacher on the policy's device, frozen, whole in every process; it shares the `learner`'s micro-batches.

    Raises:
        UserError: it cannot be loaded, is no causal model, or has no positions for the longest completion.
    """
    model = load_model(config.model, pick_device(runtime), inference_dtype(runtime)).requires_grad_(False)
    try:
        check_fit(model, prompts, "sampling.max_tokens", settings.sampling.max_tokens)
        fit = fit_of(model, settings.sampling.temperature)
    except UserError as error:
        raise UserError(f"loss.distill: the teacher '{config.model}': {error}") from error
    scorer = replace(learner, model=model, optimizer=None, fit=fit, sharded=False, dropout=False, checkpointing=False)
    return Teacher(config.model, scorer, embeddings(model))
