"""Whether a run has found what its reward pays for rather than what was asked: pure functions over the rows of the
metrics and some of the completions, one line of advice for each cause.

What can be fooled is a reward model or a judge that is optimised; what cannot, or not by the same trick, are rules, a
judge of weight 0 that only watches, and held-out problems (`evaluation.every`).
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, product

from grpo.config.training import HELD_OUT
from grpo.monitoring.advice import LEARNED, is_form
from grpo.monitoring.alarms import BEGIN, NOW, SIGMAS, Rows, column, standard_error
from grpo.rollout.sampler import Task
from grpo.types import Group, Prompt

FELL = 0.05  # of where it was: less is not worth a word, however sure
LONGER = 1.5  # times where it was
SPREAD, GAINED = 0.5, 0.4  # shares of different prompts: a phrase that is in half of the answers, and nearly was not
PIECE = 16  # characters of a phrase: three words or so, in writing without spaces more
PROMPTS, LONGEST = 32, 4_000  # of a step, and characters of a completion, in which phrases are looked for
ENOUGH = 32  # completions, of as many prompts, before shares of them are compared
NO_BETTER = "and no rule says that the answers got better"
Text = tuple[str, str]  # prompt, completion


@dataclass(frozen=True)
class Voices:
    """Columns of metrics.jsonl, by what they can say."""

    optimised: tuple[str, ...]  # rewards that can be fooled; where there is none, the sum of all
    rules: tuple[str, ...]  # what says whether the answers are good
    form: tuple[str, ...] = ()  # what else explains that a run rises

    @property
    def learned(self) -> bool:
        return self.optimised != ("reward",)


def voices_of(tasks: Iterable[Task], right: Iterable[str]) -> Voices:
    """`right`: the columns of rewards that say what is right."""
    rewards = {f"reward/{reward.name}": reward for task in tasks for reward in task.rewards}
    learned = tuple(name for name, of in rewards.items() if of.weight and of.path.rpartition(".")[2] in LEARNED)
    if learned:
        return Voices(learned, tuple(name for name in rewards if name not in learned))
    rules = (*right, *(name for name, reward in rewards.items() if not reward.weight))
    form = tuple(name for name, of in rewards.items() if is_form(of.name, of.path))
    return Voices(("reward",), tuple(dict.fromkeys(rules)), form)


@dataclass(frozen=True)
class Said:
    """One completion a prompt, of the run's first steps and of its latest. Kept in memory: a run that goes on after a
    stop compares with what it says then."""

    voices: Voices
    first: list[list[Text]] = field(default_factory=list)
    latest: deque[list[Text]] = field(default_factory=lambda: deque(maxlen=NOW))

    def add(self, groups: Sequence[Group]) -> None:
        """What was sampled for a step. Of it counts what the optimised rewards judge."""
        judged = {name.removeprefix("reward/") for name in self.voices.optimised}
        texts = []
        for group in groups:
            rollout = group.rollouts[0]
            if not self.voices.learned or any(rollout.rewards.get(name) is not None for name in judged):
                texts.append((_question(group.prompt), _short(rollout.completion.text)))
        if texts:
            (self.first if len(self.first) < BEGIN else self.latest).append(texts[:PROMPTS])

    def spread(self) -> tuple[str, float, float] | None:
        """`spreading` of what is there; None too while that is too little."""
        first, latest = [*chain(*self.first)], [*chain(*self.latest)]
        return spreading(first, latest) if len(self.latest) == NOW and len(latest) >= ENOUGH else None


def hacking_alarms(rows: Rows, said: Said) -> dict[str, str]:
    """Cause -> what is wrong and what to do."""
    voices = said.voices
    rows = _since_all_are_there(rows, voices)
    advice = {"the reward is gamed": _gamed(rows, voices)}
    # A reward of the user's own, and nothing else, is its own rule.
    judged = len(rows) >= 2 * BEGIN and (voices.learned or voices.rules)
    if judged and not any(_rose(rows, name) for name in (*voices.rules, *voices.form, HELD_OUT)):
        advice["length drifts"] = _drifts(rows, voices)
        if rows[-1]["step"] % NOW == 0:  # it takes a while to look
            advice["one phrase spreads"] = _spreads(said)
    return {cause: text for cause, text in advice.items() if text}


def _since_all_are_there(rows: Rows, voices: Voices) -> Rows:
    """Those from which on all tasks of now take part: one that joins changes every mean."""
    names = (*voices.optimised, *voices.rules, *voices.form)
    joined = [
        next(place for place, row in enumerate(rows) if row.get(name) is not None)
        for name in names
        if column(rows[-NOW:], name)
    ]
    return rows[max(joined, default=0) :]


def _windows(rows: Rows, name: str) -> tuple[float, float, float] | None:
    """Means of the first and of the latest rows, and the standard error of their difference; None: too few rows."""
    values = column(rows, name)
    first, latest = values[:BEGIN], values[-BEGIN:]
    if len(values) < 2 * BEGIN:
        return None
    return sum(first) / BEGIN, sum(latest) / BEGIN, standard_error(first, latest)


def _rose(rows: Rows, name: str) -> bool:
    """Whether there is a sign of it."""
    if name == HELD_OUT:
        points = column(rows, name)
        return len(points) > 1 and points[-1] > points[0]
    found = _windows(rows, name)
    return found is not None and found[1] - found[0] > found[2]


def _fell(rows: Rows, name: str) -> tuple[float, float] | None:
    """From what to what; None: it did not, or it may be noise."""
    if name == HELD_OUT:
        points = [row for row in rows if row.get(HELD_OUT) is not None and row.get(f"{HELD_OUT}_ci95") is not None]
        best = max(points, key=lambda row: row[f"{HELD_OUT}_ci95"][0], default=None)
        if best is None or points[-1][f"{HELD_OUT}_ci95"][1] >= best[f"{HELD_OUT}_ci95"][0]:
            return None
        return best[HELD_OUT], points[-1][HELD_OUT]
    found = _windows(rows, name)
    if found is None or found[0] - found[1] <= max(SIGMAS * found[2], FELL * abs(found[0])):
        return None
    return found[0], found[1]


def _gamed(rows: Rows, voices: Voices) -> str | None:
    for name, rule in product(voices.optimised, (*voices.rules, HELD_OUT)):
        up, down = _windows(rows, name), _fell(rows, rule)
        if up is not None and down is not None and up[1] - up[0] > SIGMAS * up[2]:
            return (
                f"'{_named(name)}' rose from {up[0]:.3g} to {up[1]:.3g} while '{_named(rule)}' fell from {down[0]:.3g} "
                f"to {down[1]:.3g}: {_remedy(voices)}"
            )
    return None


def _drifts(rows: Rows, voices: Voices) -> str | None:
    found = _windows(rows, "completion_length")
    if found is None or found[1] < LONGER * found[0] or found[1] - found[0] <= SIGMAS * found[2]:
        return None
    return f"{found[0]:.0f} tokens at the beginning, {found[1]:.0f} now, {NO_BETTER}: {_remedy(voices)}"


def _spreads(said: Said) -> str | None:
    found = said.spread()
    if found is None:
        return None
    phrase, before, now = found
    return f"{phrase!r} was in {before:.0%} of the answers and is in {now:.0%}, {NO_BETTER}: {_remedy(said.voices)}"


def _named(name: str) -> str:
    return {"reward": "reward", HELD_OUT: "held-out pass@1"}.get(name, name.removeprefix("reward/"))


def _remedy(voices: Voices) -> str:
    less = "take fewer steps of it (last_steps) or give rules more weight" if voices.learned else "stop earlier"
    return f"read completions/ for what is paid, and {less}, or raise loss.beta"


def spreading(first: Sequence[Text], latest: Sequence[Text]) -> tuple[str, float, float] | None:
    """(phrase, share of the first completions, share of the latest) of the one that spread most; None: none spread far.
    What stands in its own prompt is no phrase of the completion's."""
    counts = Counter(piece for text in latest for piece in _pieces(text))
    spread: dict[str, tuple[float, float]] = {}
    for piece, count in counts.items():
        if count >= SPREAD * len(latest):
            before = sum(piece in completion and piece not in prompt for prompt, completion in first) / len(first)
            if count / len(latest) - before >= GAINED:
                spread[piece] = (before, count / len(latest))
    if not spread:
        return None
    most = max(spread, key=lambda piece: (spread[piece][1] - spread[piece][0], piece))
    return _joined(most, set(spread)), *spread[most]


def _joined(piece: str, spread: set[str]) -> str:
    """With the pieces that overlap with it, as far as they go."""
    phrase, left = piece, spread - {piece}
    while after := min((other for other in left if other[:-1] == phrase[1 - PIECE :]), default=""):
        phrase, left = phrase + after[-1], left - {after}
    while before := min((other for other in left if other[1:] == phrase[: PIECE - 1]), default=""):
        phrase, left = before[0] + phrase, left - {before}
    return phrase


def _pieces(text: Text) -> set[str]:
    prompt, completion = text
    pieces = {completion[start : start + PIECE] for start in range(len(completion) - PIECE + 1)}
    return {piece for piece in pieces if piece not in prompt}


def _question(prompt: Prompt) -> str:
    messages = [str(message.get("content")) for message in prompt.messages or ()]
    return _short("\n".join([*messages, prompt.text or ""]))


def _short(text: str) -> str:
    """In one line; of a long one its beginning and its end, where answers stand."""
    half = LONGEST // 2
    text = text if len(text) <= LONGEST else f"{text[:half]}\n{text[-half:]}"
    return " ".join(text.split())
