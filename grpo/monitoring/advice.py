"""What a stage of GRPO lives on, in numbers, and what they say in one sentence: `grpo check --sample` asks before the
stage, the alarms during it."""

from collections.abc import Iterable
from dataclasses import dataclass

from grpo.config.training import OVERLONG, RLConfig

RIGHT = {"accuracy", "code", "countdown", "gym"}  # rewards that give 1 for a right answer
FORM = ("format", "tag_count", "reasoning_steps", "language", "length", "repetition", OVERLONG)
LEARNED = ("reward_model", "RewardModel", "judge", "Judge")  # what can be fooled
FEW = 0.3  # share of groups that teach; below, most of what is sampled is thrown away and a step's gradient is noise
# Share of right completions beyond which so few groups of 8 are mixed even by chance: 1 - 0.95^8 = 0.34.
EASY, HARD = 0.95, 0.05
SHARP = 0.15  # nats a token; long SFT leaves 0.05 to 0.07, and siblings that differ in a word or two
FORMAL = 1 / 3  # of the groups that teach: more by form alone is worth a word, as it is normalised like answers
CUT = 0.5  # share of completions cut at the limit; a cut one nearly never holds the answer


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """Shares of one rollout's groups and completions. What is not measured, or has no meaning here, is None."""

    teaching: float  # groups with something to learn from: advantages that are not 0
    form: float = 0.0  # groups in which form alone differs (format, language, length); they are among those that teach
    right: float | None = None  # completions: pass@1
    entropy: float | None = None  # nats a token
    truncated: float = 0.0  # completions
    constant: tuple[str, ...] = ()  # the rewards' names, when none of them differs between any two completions
    dynamic: bool = False  # dynamic sampling is on


def right_reward(rewards: Iterable[tuple[str, str, float]], config: RLConfig) -> str | None:
    """Of a task's rewards, each as (name, name or path of its function, weight), the name of the first with a say that
    gives 1 for a right answer: by what it is called, or because the stage's options go by it."""
    named = {part.reward for part in (config.dynamic_sampling, config.difficulty) if part is not None}
    for name, path, weight in rewards:
        function = path.rpartition(".")[2].removesuffix("_reward")
        if weight and (name in named or {name, function} & RIGHT or "accuracy" in f"{path} {name}"):
            return name
    return None


def is_form(name: str, path: str) -> bool:
    """Whether a reward judges how a completion is written, whatever it answers."""
    return path.rpartition(".")[2] in FORM or "format" in f"{path} {name}"


def hopeless(prospect: Prospect) -> str | None:
    """Why the stage can't work on this, and what would help; None: it can."""
    teach = f"{prospect.teaching:.0%} of the groups teach"
    if prospect.truncated >= CUT:
        return (
            f"{prospect.truncated:.0%} of the completions are cut at the limit, and those nearly never hold an answer: "
            "raise sampling.max_tokens, or see whether the model knows its end token and template"
        )
    if prospect.right is not None and prospect.right <= HARD and prospect.teaching - prospect.form < FEW:
        form = f" ({prospect.form:.0%} by form alone)" if prospect.form else ""
        return (
            f"next to nothing is right ({prospect.right:.1%} of the completions) and {teach}{form}: take easier rows, "
            "or more or another cold start"
        )
    if prospect.teaching >= FEW:
        return None
    if prospect.right is None and prospect.constant:
        names = " and ".join(f"'{name}'" for name in prospect.constant)
        return f"{names} gave every completion the same: see what the reward judges, or give another one"
    if prospect.right is not None and prospect.right >= EASY:
        return f"nearly all is right already ({prospect.right:.1%}) and {teach}: take harder rows, or leave it"
    if prospect.entropy is not None and prospect.entropy < SHARP:
        though = f", though {prospect.right:.0%} of the completions are right" if prospect.right is not None else ""
        return (
            f"siblings are nearly alike ({prospect.entropy:.2g} nats a token) and {teach}{though}: take fewer SFT "
            "steps before, a higher sampling.temperature or a larger group_size"
        )
    if prospect.dynamic:
        return f"{teach}, and each draw of dynamic_sampling costs as much: take rows that are solved now and then"
    return f"{teach}: set dynamic_sampling, which draws others in the place of the rest, or a larger group_size"


def advice(prospect: Prospect) -> str:
    """One sentence."""
    much = prospect.form > FORMAL * prospect.teaching
    form = f", {prospect.form:.0%} by form alone: see what of it differs, and whether that is to be learnt" * much
    return hopeless(prospect) or f"this can learn: {prospect.teaching:.0%} of the groups teach{form}"
