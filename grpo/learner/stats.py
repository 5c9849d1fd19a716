"""What an update adds up for its metrics: float64 sums over trained tokens, so that no cut into micro-batches or
processes changes a mean."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from jaxtyping import Float, Int64
from torch import Tensor

from grpo.config.training import RLConfig
from grpo.loss import LossTerms
from grpo.system.world import World

_MAXIMA = ("mismatch_max", "ratio_max", "age_max", "correction_max")
_MINIMA = ("ratio_min",)
_AGREEMENT = ("mismatch", "mismatch_max", "probability_error", "outside", "fresh_tokens")
BAND = math.log(1.25)  # a token whose probability is this much larger or smaller in the engine counts as outside


def _total(values: Tensor) -> float:
    return float(values.double().sum())


@dataclass
class StepStats:
    """Over the trained tokens of a step; `fresh_*` over those drawn by the weights of this rollout."""

    tokens: float = 0.0
    sequences: float = 0.0
    loss: float = 0.0
    clipped: float = 0.0
    dropped: float = 0.0
    kl: float = 0.0
    teacher_kl: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    ratio_max: float = -math.inf
    ratio_min: float = math.inf
    drift: float = 0.0  # k3 of KL(pi_old || pi_theta)
    correction: float = 0.0
    correction_max: float = -math.inf
    corrected: float = 0.0
    age: float = 0.0
    age_max: float = -math.inf
    mismatch: float = 0.0
    mismatch_max: float = -math.inf
    probability_error: float = 0.0  # exp |log pi_gen - log pi_trainer|
    outside: float = 0.0  # tokens beyond the band
    fresh_tokens: float = 0.0
    executed_tokens: float = 0.0  # through the layers, forward and backward: prompts as often as they went, padding too
    flops: float = 0.0

    def add(
        self,
        terms: LossTerms,
        entropy: Float[Tensor, "B T"],
        mask: Float[Tensor, "B T"],
        ages: Int64[Tensor, " B"],
    ) -> None:
        """One micro-batch: its loss terms, entropies, and ages: updates between the weights that drew a
        sequence and those that are trained now."""
        trained = mask.bool()
        ratios = terms.ratio[trained].double()
        self.tokens += _total(mask)
        self.sequences += len(mask)
        self.loss += float(terms.loss.detach())
        self.clipped += _total(terms.clipped)
        self.dropped += _total(terms.dropped)
        self.entropy += _total(entropy * mask)
        self.ratio += float(ratios.sum())
        self.ratio_max = max(self.ratio_max, float(ratios.max()))
        self.ratio_min = min(self.ratio_min, float(ratios.min()))
        self.drift += float((ratios - 1 - ratios.log()).sum())
        self.age += float((ages.unsqueeze(-1) * mask).double().sum())
        self.age_max = max(self.age_max, float(ages.max()))
        if terms.kl is not None:
            self.kl += _total(terms.kl * mask)
        if terms.teacher_kl is not None:
            self.teacher_kl += _total(terms.teacher_kl * mask)
        if terms.correction is not None and terms.corrected is not None:
            weights = terms.correction[trained].double()
            self.correction += float(weights.sum())
            self.correction_max = max(self.correction_max, float(weights.max()))
            self.corrected += _total(terms.corrected)

    def compare(self, gen: Float[Tensor, " N"], trainer: Float[Tensor, " N"]) -> None:
        """Add |log pi_gen - log pi_trainer| of these tokens."""
        if len(gen):
            difference = (gen - trainer).abs()
            self.mismatch += _total(difference)
            self.mismatch_max = max(self.mismatch_max, float(difference.max()))
            self.probability_error += _total(difference.exp())
            self.outside += _total(difference > BAND)
            self.fresh_tokens += len(gen)

    def add_agreement(self, other: StepStats) -> None:
        """Add the engine's agreement as measured elsewhere, on other tokens."""
        for name in _AGREEMENT:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, max(mine, theirs) if name in _MAXIMA else mine + theirs)

    def pack_agreement(self) -> dict[str, float]:
        """Keyword arguments that give the agreement again; JSON."""
        return {name: getattr(self, name) for name in _AGREEMENT}

    def over(self, world: World) -> StepStats:
        """Of all processes together."""
        if world.size == 1:
            return self
        everyone = world.gather(self)
        merge = dict.fromkeys(_MAXIMA, max) | dict.fromkeys(_MINIMA, min)
        return StepStats(
            **{f.name: merge.get(f.name, math.fsum)([getattr(each, f.name) for each in everyone]) for f in fields(self)}
        )

    def metrics(self, config: RLConfig) -> dict[str, float | None]:
        """Means over trained tokens; null (None, or not finite) where there are none."""

        def mean(value: float) -> float | None:
            return value / self.tokens if self.tokens else None

        corrected = config.correction is not None
        return {
            "loss": self.loss,
            "kl": mean(self.kl) if config.loss.kl_in_loss else None,
            **({} if config.loss.distill is None else {"teacher_kl": mean(self.teacher_kl)}),
            "clip_fraction": mean(self.clipped),
            "entropy": mean(self.entropy),
            "ratio": mean(self.ratio),
            "ratio_min": self.ratio_min,
            "ratio_max": self.ratio_max,
            "policy_drift": mean(self.drift),
            "staleness": mean(self.age),
            "staleness_max": self.age_max,
            "correction": mean(self.correction) if corrected else None,
            "correction_max": self.correction_max,
            "correction_cut": mean(self.corrected) if corrected else None,
            "off_policy_dropped": self.dropped / self.sequences if self.sequences else None,
            "trained_tokens": self.tokens,
            "executed_tokens": self.executed_tokens,
            "update_flops": self.flops or None,
            **self.agreement(),
        }

    def agreement(self) -> dict[str, float | None]:
        """Those of engine and trainer, over the fresh tokens."""

        def fresh(value: float) -> float | None:
            return value / self.fresh_tokens if self.fresh_tokens else None

        return {
            "logprob_mismatch": fresh(self.mismatch),
            "logprob_mismatch_max": self.mismatch_max,
            "logprob_mismatch_outside": fresh(self.outside),
            "token_mult_prob_error": fresh(self.probability_error),
        }
