"""The frozen types that flow through the loop: Prompt -> Group of Rollouts. (Then `grpo.learner.batching.TrainBatch`.)

A `Group` is one prompt with all its sampled siblings, so rewards can never land on another prompt's rows.
Token ids go in and token ids come out; text is never tokenised again for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # importing torch takes seconds, and a config error should not
    import torch

Message = dict[str, Any]  # {"role": ..., "content": ...}, and what else a template reads
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """One question, as the model and the reward functions see it.

    >>> Prompt(id="gsm8k-17", token_ids=(1, 2, 3), text="2+3=", columns={"answer": "5"}, answer="5")
    """

    id: str  # stable across runs: seeds the sampling
    token_ids: tuple[int, ...]  # what the engine is given, template included
    messages: list[Message] | None = None  # conversational prompts
    text: str | None = None  # plain-text prompts
    columns: dict[str, Any] = field(default_factory=dict)  # the row's own columns, unchanged, plus `answer`
    answer: Any = None  # canonical gold, None when the data has none
    task: str = "default"  # which of the stage's tasks (data + rewards) it belongs to
    prefill: str = ""  # what the template already wrote of the answer, e.g. "<think>\n"


@dataclass(frozen=True)
class Completion:
    """What the engine sampled. The end token, when there is one, is the last of `token_ids`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # log pi_gen of each token, at the sampling temperature
    finish_reason: FinishReason  # "length": cut at the limit
    text: str
    version: int = 0  # optimizer updates behind the weights that drew it


@dataclass(frozen=True)
class Rollout:
    """A completion and what it earned. `reward` None: excluded (a reward failed, or none applies)."""

    completion: Completion
    rewards: dict[str, float | None] = field(default_factory=dict)
    reward: float | None = None
    advantage: float = 0.0
    old_logprobs: tuple[float, ...] | None = None  # log pi_old of its tokens, by the trainer; None: not needed
    ref_logprobs: tuple[float, ...] | None = None  # log pi_ref; None when beta = 0
    teacher_logprobs: tuple[float, ...] | None = None  # log pi_teacher; None without `loss.distill`
    excluded: str | None = None  # why it has no reward
    errors: dict[str, str] = field(default_factory=dict)  # of the rewards that could not judge it, by name
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)  # by log_extra, per reward and column; JSON


@dataclass(frozen=True)
class Group:
    """One prompt and its siblings."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.prompt.token_ids

    def tell(self, heard: Heard | None) -> None:
        """Of all its completions at once, where they come so."""
        if heard is not None:
            for sibling, rollout in enumerate(self.rollouts):
                heard(self.prompt, sibling, rollout)


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Log-probs are always those of this distribution."""

    group_size: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()  # texts that end a completion; their tokens are part of it


@runtime_checkable  # the tests check the arguments of what takes one
class PolicyWeights(Protocol):
    """The only way to a policy's weights: full tensors, one at a time, as a Hugging Face checkpoint has them or under
    their names in the model, or the adapter in peft's format."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def export(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def save_adapter(self, folder: Path) -> None: ...


Heard = Callable[[Prompt, int, Rollout], None]  # of one completion, and which sibling it is


class RolloutEngine(Protocol):
    """Samples groups. `seed` and `step` seed every token together with the prompt's id and the sibling's index.
    `heard` is called for each completion, as soon as the engine knows it."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int, heard: Heard | None = None
    ) -> list[Group]: ...

    def sync(self, policy: PolicyWeights) -> None: ...

    def release(self) -> None: ...  # memory that the trainer needs, until the next `sync`

    def close(self) -> None: ...


@dataclass
class TrainState:
    """What the loop carries from step to step besides tensors."""

    step: int = 0  # optimizer updates done: also the version of the policy
    tokens: int = 0  # completion tokens sampled
    skipped: int = 0  # updates not applied: nothing to train, or a non-finite gradient
    nonfinite: int = 0  # of them, those whose gradient was not finite
    nonfinite_run: int = 0  # one after the other, up to now
    seconds: float = 0.0
    saved_step: int = 0  # of the last checkpoint
    score: float | None = None  # of this checkpoint, by `checkpoint.best`; None: not asked for, or saved for a signal
    evaluated: int = -1  # the step whose policy was last evaluated on held-out problems; -1: none was
    left_out: list[str] | None = None  # of them, the ids that are in no point (`grpo.evaluation.curve`); None: no point
    reference_step: int = 0  # the step whose weights the reference holds; 0: the model the run started from
    source: dict[str, Any] = field(default_factory=dict)  # see `grpo.rollout.source.SourceState`
    rng: list[dict[str, Any]] = field(default_factory=list)  # of each process, see `grpo.checkpoint.pack`
    identity: dict[str, Any] = field(default_factory=dict)  # see `grpo.checkpoint.identity`
