r"""Demonstrations that a program writes for some of reasoning-gym's tasks: worked steps in <think>, a boxed answer.

In one wording the result is named at once, in the others it is worked out. A cold start on all of them leaves a policy
that thinks in each of these ways; which of them gives right answers is for RL to find out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.rows import Row, load_rows
from grpo.errors import UserError, nearest
from stages.gym import rows

WORDINGS = ("short", "steps", "told")


def demonstrations(
    tasks: Mapping[str, Mapping[str, Any] | None],
    n: int,
    seed: int = 0,
    wordings: Mapping[str, float] | None = None,
    gsm8k: str | None = None,
) -> list[Row]:
    """`n` conversations in turn over the tasks, on questions of the train split.

    Args:
        tasks: as `stages.gym.rows` takes them; those of `WORKED`.
        seed: which questions, and which wording of each.
        wordings: how often each of `WORDINGS` comes; equally often if not given.
        gsm8k: a file with GSM8K's rows: its solutions in the same form come after them, all of them.

    Raises:
        UserError: a task or wording that is not known.
    """
    weights = dict(wordings or dict.fromkeys(WORDINGS, 1.0))
    for name, known in [*((task, WORKED) for task in tasks), *((wording, WORDINGS) for wording in weights)]:
        if name not in known:
            raise UserError(f"stages.gym_worked: nothing is known of '{name}'{nearest(name, known)}")
    rng = random.Random(f"worked {seed}")
    demonstrated = []
    for row in rows(tasks, n, "train", seed):
        (wording,) = rng.choices(list(weights), list(weights.values()))
        thought = WORKED[row["task"]](row)[WORDINGS.index(wording)]
        demonstrated.append(conversation(row["question"], thought, row["answer"]))
    return demonstrated + ([] if gsm8k is None else [rewritten(row) for row in load_rows(DataConfig(path=gsm8k))])


def conversation(question: str, thought: str, answer: str) -> Row:
    """One question and its demonstration."""
    reply = f"<think>\n{thought}\n</think>\n\\boxed{{{answer}}}"
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


def rewritten(row: Row) -> Row:
    """A row of GSM8K: its solution ends in "#### 42", and shows its calculator's calls in <<1+1=2>>.

    Raises:
        UserError: it is none.
    """
    solution, mark, answer = str(row.get("answer", "")).rpartition("####")
    if not mark or "question" not in row:
        raise UserError("stages.gym_worked: gsm8k: a row has no question, or no answer that ends in '#### ...'")
    parts = solution.split("<<")
    thought = parts[0] + "".join(part.partition(">>")[2] for part in parts[1:])
    return conversation(row["question"], thought.strip(), answer.strip().replace(",", ""))


def chain_sum(row: Row) -> tuple[str, str, str]:
    """a + b - c, from left to right; told: place by place."""
    expression = row["metadata"]["expression"]
    first, *rest = expression.split()
    total, steps, told = int(first), [], []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        after = total + int(sign + term)
        steps.append(f"{total} {sign} {term} = {after}.")
        places = [int(digit) * 10**place for place, digit in enumerate(reversed(term)) if digit != "0"][::-1]
        if len(places) < 2:
            told.append(steps[-1])
        else:
            now, small = total, []
            for part in places:
                then = now + int(f"{sign}{part}")
                small.append(f"{now} {sign} {part} = {then}")
                now = then
            told.append(f"{total} {sign} {term}: {', '.join(small)}.")
        total = after
    return f"{expression} = {total}.", " ".join(steps), " ".join(told)


def products(row: Row) -> tuple[str, str, str]:
    """a * b * c, from left to right; told: tens and ones apart. Of factors with one digit."""
    expression = row["metadata"]["expression"]
    total, *factors = map(int, expression.split(" * "))
    steps, told = [], []
    for factor in factors:
        tens, ones = total - total % 10, total % 10
        steps.append(f"{total} * {factor} = {total * factor}.")
        apart = f"{tens} * {factor} = {tens * factor}, {ones} * {factor} = {ones * factor}, so "
        told.append((apart if tens and ones else "") + steps[-1])
        total *= factor
    return f"{expression} = {total}.", " ".join(steps), " ".join(told)


def leg_counting(row: Row) -> tuple[str, str, str]:
    """Legs times animals, then the sum; told: with the animals' names."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    steps, told, sums, total = [], [], [], 0
    for number, (animal, count) in enumerate(row["metadata"]["animals"].items()):
        legs = count * ANIMALS[animal]
        steps.append(f"{count} * {ANIMALS[animal]} = {legs}.")
        told.append(f"A {animal} has {ANIMALS[animal]} legs, so {count} have {steps[-1]}")
        if number:
            sums.append(f"{total} + {legs} = {total + legs}.")
        total += legs
    return f"They have {total} legs in total.", " ".join(steps + sums), " ".join(told + sums)


WORKED: dict[str, Callable[[Row], tuple[str, str, str]]] = {
    "chain_sum": chain_sum,
    "products": products,
    "leg_counting": leg_counting,
}
