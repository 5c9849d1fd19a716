"""The settings of the algorithm: advantages, loss, correction, and the presets; with what cannot be combined."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from grpo.config.section import Section, below, changed
from grpo.config.stepwise import MayChange

Preset = Literal["deepseek_r1", "dapo", "dr_grpo", "gspo", "cispo", "dppo", "maxrl", "scalerl"]

# Published settings; a key given beside `preset` wins over the preset's.
PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2501.12948 and its Nature article: clip 10, KL 0.001 to a reference that is refreshed.
    "deepseek_r1": {"loss": {"aggregation": "sequence", "clip_low": 10, "clip_high": 10, "beta": 0.001}},
    # arXiv 2503.14476. Its dynamic sampling needs the name of a reward: `dynamic_sampling: {reward: accuracy}`.
    "dapo": {"loss": {"aggregation": "token", "clip_low": 0.2, "clip_high": 0.28}, "truncated": "penalise"},
    # arXiv 2503.20783: neither the length nor the spread of a group is divided by.
    "dr_grpo": {"loss": {"aggregation": "constant"}, "advantage": {"scale": "none"}},
    # arXiv 2507.18071, section 5.1.
    "gspo": {"loss": {"ratio": "sequence", "aggregation": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}},
    # MiniMax-M1, arXiv 2506.13585; the bound is that of ScaleRL, arXiv 2510.13786.
    "cispo": {"loss": {"clip": "cispo", "aggregation": "token", "clip_low": None, "clip_high": 4}},
    # arXiv 2602.04879, with the bounds of its total-variation runs.
    "dppo": {"loss": {"clip": "dppo", "aggregation": "token", "clip_low": 0.15, "clip_high": 0.15}},
    # arXiv 2602.02710: the gradient is of whole completions, so their length is not divided by.
    "maxrl": {"loss": {"aggregation": "constant"}, "advantage": {"scale": "mean"}},
    # arXiv 2510.13786. Its prompts that never come back need the name of a reward:
    # `difficulty: {reward: accuracy, low: null, retire: 0.9}`.
    "scalerl": {
        "loss": {"clip": "cispo", "aggregation": "prompt", "clip_low": None, "clip_high": 4},
        "advantage": {"scale": "batch"},
    },
}


def with_preset(tree: Any) -> Any:
    """The config's dict with its preset's settings below the ones given."""
    name = tree.get("preset") if isinstance(tree, dict) else None
    return below(PRESETS[name], tree) if isinstance(name, str) and name in PRESETS else tree


class AdvantageConfig(Section):
    scale: Literal["group", "batch", "mean", "none"] = "group"  # mean: MaxRL; none: Dr. GRPO
    epsilon: float = Field(1e-4, ge=0)  # added to the standard deviation, as TRL
    # Smallest standard deviation divided by: a solved group is not blown up by a continuous reward's small differences.
    std_floor: float = Field(0.0, ge=0)
    # Several rewards: their weighted sum is normalised, or each is normalised by itself and then weighted and summed.
    combine: Literal["sum_then_normalise", "normalise_then_sum"] = "sum_then_normalise"

    @model_validator(mode="after")
    def _no_effect(self) -> AdvantageConfig:
        divisor = {"none": "nothing", "mean": "the mean reward"}.get(self.scale)
        for name in changed(self, ("epsilon", "std_floor")) if divisor else ():
            raise ValueError(f"'{name}' has no effect with scale: {self.scale}, which divides by {divisor}; remove one")
        if self.combine == "normalise_then_sum" and self.scale == "none":
            raise ValueError("'combine: normalise_then_sum' with scale: none normalises nothing; remove one")
        return self


class KLConfig(Section):
    """KL(pi_theta || pi_ref) as estimator x placement x weighting (Schulman, "Approximating KL divergence")."""

    estimator: Literal["k1", "k2", "k3"] = "k3"
    placement: Literal["loss", "reward"] = "loss"
    # By the ratio pi_theta / pi_old, differentiated. With token ratios that makes the gradient exact, also off-policy.
    weighted: bool = False

    @model_validator(mode="after")
    def _possible(self) -> KLConfig:
        if self.placement == "reward" and self.weighted:
            raise ValueError("'weighted' is for a KL in the loss; in the reward the policy gradient weights it")
        if self.placement == "loss" and self.estimator == "k1" and not self.weighted:
            raise ValueError(
                "unweighted k1 in the loss has zero expected gradient: use k2, k3, weighted: true, or placement: reward"
            )
        return self


class DistillConfig(Section):
    """On-policy distillation: each token's advantage is log(pi_teacher / pi_old), minus its reverse KL."""

    text_is: ClassVar = "model"  # `distill: some/teacher`
    model: str  # the teacher, a folder or hub name; it has the student's tokens
    urls: tuple[str, ...] = ()  # of the vLLM servers that have it; none: it is loaded beside the policy
    horizon: Literal["token", "completion"] = "token"  # what a token answers for: itself, or also all after it
    reward_weight: float = Field(0.0, ge=0)  # of the rewards' advantage beside it; 0: rewards are only watched


class LossConfig(Section):
    ratio: Literal["token", "sequence"] = "token"  # sequence: GSPO's, the geometric mean over the tokens
    # cispo: the ratio is a detached weight, clipped, and no token loses its gradient. dppo: the bounds are of the
    # difference of probabilities, pi_theta - pi_old, not of the ratio.
    clip: Literal["ppo", "cispo", "dppo"] = "ppo"
    clip_low: float | None = Field(0.2, gt=0)  # ratio >= 1 - clip_low; no lower bound when 1 or more, or None
    clip_high: Annotated[float, Field(gt=0), MayChange()] = 0.2  # ratio <= 1 + clip_high
    dual_clip: float | None = Field(None, gt=1)  # a negative advantage counts at most this many times
    # GRPO, DAPO, each prompt one vote (ScaleRL), Dr. GRPO
    aggregation: Literal["sequence", "token", "prompt", "constant"] = "sequence"
    beta: Annotated[float, Field(ge=0), MayChange()] = 0.0  # weight of the KL to the reference; 0 loads no reference
    kl: KLConfig = KLConfig()
    entropy_bonus: float = Field(0.0, ge=0)  # weight of the mean entropy over trained tokens
    # Sequences with a negative advantage that the policy has moved away from by more than this mean log-ratio get no
    # gradient (off-policy sequence masking, DeepSeek-V3.2, arXiv 2512.02556).
    off_policy_mask: float | None = Field(None, gt=0)
    distill: DistillConfig | None = None  # a teacher gives the advantages

    @model_validator(mode="after")
    def _possible(self) -> LossConfig:
        if self.distill is not None and self.ratio == "sequence":
            raise ValueError("'distill' gives each token its own advantage, which ratio: sequence would mix: use token")
        if self.distill is not None and self.off_policy_mask is not None:
            raise ValueError("'off_policy_mask' is for sequences with one advantage, not for 'distill'; remove one")
        if self.clip == "cispo" and self.dual_clip is not None:
            raise ValueError(
                "'dual_clip' has no effect with clip: cispo, whose weights are bounded by clip_high; remove it"
            )
        if self.clip == "dppo" and self.ratio == "sequence":
            raise ValueError("'clip': dppo bounds the probability of each token: use ratio: token, or another clip")
        if self.clip == "dppo" and max(self.clip_low or 0, self.clip_high) >= 1:
            raise ValueError(
                "with clip: dppo 'clip_low' and 'clip_high' bound a difference of probabilities, which is below 1: "
                "the paper has 0.15 (clip_low: null for no lower bound)"
            )
        if self.beta == 0 and self.kl != KLConfig():
            raise ValueError("'kl' has no effect with beta: 0; set beta or remove kl")
        if self.ratio == "sequence" and self.kl.weighted and self.kl.estimator == "k1":
            raise ValueError(
                "'kl': k1 weighted by a sequence ratio has 1/|o| of the KL's gradient, as a geometric mean has of a "
                "product's: use ratio: token, another estimator, or placement: reward"
            )
        return self

    @property
    def kl_in_loss(self) -> bool:
        return self.beta > 0 and self.kl.placement == "loss"

    @property
    def kl_in_reward(self) -> bool:
        return self.beta > 0 and self.kl.placement == "reward"


class CorrectionConfig(Section):
    """Importance correction of engine mismatch and staleness: the policy loss times stopgrad(pi_old / pi_gen)."""

    # sequence: the product over the tokens; geometric: their geometric mean, which does not grow with the length
    level: Literal["token", "sequence", "geometric"] = "token"
    mode: Literal["clip", "mask"] = "clip"  # beyond the bounds: cut to them (TIS), or no gradient (MIS)
    low: float = Field(0.0, ge=0, lt=1)
    high: float = Field(2.0, gt=1)


class DynamicSamplingConfig(Section):
    """DAPO (arXiv 2503.14476, eq. 11): groups whose `reward` is equal for all siblings are replaced by new ones."""

    reward: str  # name of the reward that judges
    max_draws: int = Field(4, ge=1)  # of a whole rollout's prompts; then it is filled up with what was drawn


class DifficultyConfig(Section):
    """Prompts chosen by their running pass rate: the mean of `reward` over their samples, the newer weighing more."""

    reward: str
    low: float | None = Field(0.0, ge=0, le=1)  # prompts at or below it rest; None: none does
    high: float = Field(1.0, ge=0, le=1)  # prompts at or above it rest
    rest_epochs: int = Field(1, ge=1)  # epochs sat out before they are tried again: the policy changes
    retire: float | None = Field(None, gt=0, le=1)  # prompts solved that often in one group never come back (ScaleRL)
    target: float | None = Field(None, ge=0, le=1)  # curriculum: prompts nearest to this rate come first in an epoch

    @model_validator(mode="after")
    def _range(self) -> DifficultyConfig:
        low, top = self.low or 0.0, min(self.high, self.retire or 1.0)
        if self.low is not None and self.low >= self.high:
            raise ValueError("'low' must be below 'high'")
        if self.retire is not None and self.low is not None and self.low >= self.retire:
            raise ValueError("'low' must be below 'retire'")
        if self.retire is not None and self.retire <= self.high < 1:
            raise ValueError("'high' has no effect: what reaches 'retire' never comes back; lower it or remove one")
        if self.target is not None and not low <= self.target <= top:
            raise ValueError("'target' lies outside 'low' and 'high', where prompts rest, or beyond 'retire'")
        return self


class LoraConfig(Section):
    """A low-rank adapter (arXiv 2106.09685) is trained, the weights under it stay."""

    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = "all-linear"  # module names, or a regular expression, or all-linear
    rank_stabilised: bool = False  # alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732)
    bias: Literal["none", "all", "lora_only"] = "none"

    @field_validator("targets", mode="before")
    @classmethod
    def _some_names(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n for n in names):
            raise ValueError("must be all-linear, a regular expression, or a list of module names")
        return value
