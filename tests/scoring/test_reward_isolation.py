"""A reward that misbehaves in a real training run: the healthy rows are trained on exactly as without it.

What "without it" means: the other run has only the healthy reward, which gives None to the very rows that the broken
one spoils. Advantages of every step and the final weights must be equal bit by bit.
"""

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import grpo
from grpo.errors import UserError
from support.runs import assert_equal, completions, weights

ROWS = [{"question": f"{number}?", "id": str(number), "number": number} for number in range(12)]
CONFIG = {
    "steps": 2, "group_size": 4, "prompts_per_step": 12,  # 48 rows, of which 4 may fail
    "sampling": {"max_tokens": 6}, "optimizer": {"lr": 5e-3}, "runtime": {"device": "cpu", "log_level": "error"},
    "seed": 3,
}  # fmt: skip
SPOILT = 5  # the prompt of which one completion a step is spoilt


class Choice:
    """Which rows are spoilt: of each step the first completion of one prompt, and copies of it."""

    def __init__(self, steps: tuple[int, ...] = (0, 1)) -> None:
        self.steps, self.texts = steps, {}

    def spoils(self, text: str, number: int, step: int) -> bool:
        if number != SPOILT or step not in self.steps:
            return False
        return self.texts.setdefault(step, text) == text


def value(text: str) -> float:
    """A healthy reward: the share of digits and capitals."""
    return sum(char.isdigit() or char.isupper() for char in text) / max(1, len(text))


def healthy(completions: list[Any], **_: Any) -> list[float]:
    return [value(done[-1]["content"]) for done in completions]


def declining(choice: Choice) -> Callable[..., Any]:
    """The healthy reward, None for what is spoilt."""

    def healthy(completions: list[Any], number: list[int], trainer_state: Any, **_: Any) -> list[float | None]:
        texts = [done[-1]["content"] for done in completions]
        step = trainer_state.global_step
        return [None if choice.spoils(t, n, step) else value(t) for t, n in zip(texts, number, strict=True)]

    return healthy


def breaking(choice: Choice, fault: Callable[[list[float]], Any]) -> Callable[..., Any]:
    """0.0 for healthy rows; when a spoilt one is among them, what `fault` makes of the values."""

    def broken(completions: list[Any], number: list[int], trainer_state: Any, **_: Any) -> Any:
        texts = [done[-1]["content"] for done in completions]
        bad = [choice.spoils(t, n, trainer_state.global_step) for t, n in zip(texts, number, strict=True)]
        return fault([float(spoilt) for spoilt in bad]) if any(bad) else [0.0] * len(bad)

    return broken


def breaking_async(choice: Choice, fault: Callable[[list[float]], Any]) -> Callable[..., Any]:
    plain = breaking(choice, fault)

    async def broken(completions: list[Any], number: list[int], trainer_state: Any) -> Any:
        outcome = plain(completions, number, trainer_state)
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    return broken


def train(folder: Path, out: Path, *rewards: Callable[..., Any] | dict[str, Any]) -> list[dict[str, Any]]:
    """One row a completion, in order, of the run with these rewards."""
    grpo.train(CONFIG | {"model": str(folder), "out": str(out)}, list(rewards), ROWS)
    return completions(out)


@pytest.fixture(scope="module")
def reference(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("reference") / "run"
    return out, train(tiny_model_folder, out, declining(Choice()))


def raises(values: list[float]) -> Any:
    raise ValueError("boom")


def leaves(values: list[float]) -> Any:
    raise SystemExit(3)


def with_bad(bad: Any) -> Callable[[list[float]], list[Any]]:
    return lambda values: [bad if spoilt else 0.0 for spoilt in values]


FAULTS: dict[str, tuple[Callable[[list[float]], Any], str]] = {
    "raises": (raises, "ValueError: boom"), "exits": (leaves, "SystemExit: 3"),
    "nan": (with_bad(math.nan), "returned nan"), "infinite": (with_bad(-math.inf), "returned -inf"),
    "text": (with_bad("1.0"), "returned str where a number or None is expected"),
    "list": (with_bad([1.0]), "returned list where a number or None is expected"),
    "too few": (lambda values: values[1:], "values for"),
    "too many": (lambda values: [*values, 0.0], "values for"),
    "none at all": (lambda values: None, "returned NoneType instead of a list of numbers"),
    "one number": (lambda values: 1.0, "returned float instead of a list of numbers"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_healthy_rows_are_trained_on_as_without_the_fault(kind, tiny_model_folder, tmp_path, reference):
    fault, _ = FAULTS[kind]
    make = breaking_async if kind in ("raises", "nan", "too few") else breaking
    rows = train(tiny_model_folder, tmp_path / "run", healthy, make(Choice(), fault))
    compare(rows, reference[1])
    assert_equal(weights(tmp_path / "run"), weights(reference[0]))


def compare(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["completion"] for row in rows] == [row["completion"] for row in expected]
    excluded = [row["reward"] is None for row in rows]
    assert excluded == [row["reward"] is None for row in expected]
    assert 0 < sum(excluded) <= 8  # at least one, and no more than may fail in two steps
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours["advantage"] == theirs["advantage"]
        assert ours["reward"] == theirs["reward"]
        assert ours["rewards"]["healthy"] == pytest.approx(value(ours["completion"]))
        if ours["reward"] is None:
            assert ours["rewards"]["broken"] is None
            assert ours["prompt_id"].partition("@")[0] == str(SPOILT)


def test_siblings_of_a_spoilt_row_are_compared_with_each_other_alone(reference):
    """By hand: (r - mean) / (std + 1e-4) of those that have a reward."""
    group = [row for row in reference[1] if row["step"] == 1 and row["prompt_id"] == str(SPOILT)]
    rewards = torch.tensor([row["reward"] for row in group if row["reward"] is not None])
    assert 0 < len(rewards) < 4
    if len(rewards) > 1:
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        found = [row["advantage"] for row in group if row["reward"] is not None]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
    others = [row for row in reference[1] if row["prompt_id"] != str(SPOILT)]
    assert all(row["reward"] is not None for row in others)


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Rewards have one second instead of ten minutes; what hangs is let go at the end."""
    monkeypatch.setattr("grpo.rollout.source.REWARD_TIMEOUT", 1.0)
    release = threading.Event()
    yield release
    release.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_reward_that_sleeps_for_ever(kind, tiny_model_folder, tmp_path, short_patience):
    expected = train(tiny_model_folder, tmp_path / "expected", declining(Choice((0,))))
    if kind == "sync":
        broken = breaking(Choice((0,)), lambda values: short_patience.wait(120))
    else:
        broken = breaking_async(Choice((0,)), lambda values: asyncio.sleep(120))
    rows = train(tiny_model_folder, tmp_path / "run", healthy, broken)
    compare(rows, expected)
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "expected"))


@pytest.mark.parametrize("kind", ["raises", "nan", "too few"])
def test_a_reward_that_fails_everywhere_stops_the_run_and_says_why(kind, tiny_model_folder, tmp_path):
    fault, words = FAULTS[kind]

    def broken(completions: list[Any]) -> Any:
        return fault([1.0] * len(completions))

    with pytest.raises(UserError, match="'broken'") as caught:
        train(tiny_model_folder, tmp_path / "run", healthy, broken)
    assert words in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()


def test_one_that_only_watches_may_fail_as_it_likes(tiny_model_folder, tmp_path):
    """With weight 0 it has no say: every row is trained on as if it were not there."""

    def broken(completions: list[Any]) -> Any:
        raise ValueError("boom")

    expected = train(tiny_model_folder, tmp_path / "expected", healthy)
    rows = train(tiny_model_folder, tmp_path / "run", healthy, {"fn": broken, "weight": 0.0})
    assert [row["advantage"] for row in rows] == [row["advantage"] for row in expected]
    assert all(row["rewards"]["broken"] is None for row in rows)
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "expected"))


def test_excluded_rows_are_counted_in_the_metrics(reference):
    out, rows = reference
    for line in (out / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        excluded = [row["reward"] is None for row in rows if row["step"] == metrics["step"]]
        assert metrics["excluded_fraction"] == pytest.approx(sum(excluded) / len(excluded))
