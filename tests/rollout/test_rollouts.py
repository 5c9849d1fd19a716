"""Dynamic sampling, difficulty and the over-long penalty: what is drawn again, what rests, what is kept for later."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from grpo.config.algorithm import DifficultyConfig
from grpo.rollout.difficulty import PassRates
from grpo.rollout.dynamic import Pool, pack_group, teaches, unpack_group
from grpo.scoring.shaping import overlong_penalty, penalise_overlong
from grpo.system.world import World
from grpo.trainer import collect
from grpo.types import Completion, Group, Prompt, Rollout
from support.groups import group_of, prompt_of
from support.sources import judge_with_failures, numbers, source_of


def named(prompt: Prompt, rewards: Sequence[float | None]) -> Group:
    """A group judged by a reward `accuracy`, and by a `language` that always differs."""
    group = group_of(prompt, rewards)
    rollouts = tuple(
        replace(r, rewards={"accuracy": value, "language": i / 10})
        for i, (r, value) in enumerate(zip(group.rollouts, rewards, strict=True))
    )
    return replace(group, rollouts=rollouts)


def test_a_group_teaches_by_the_named_reward_alone():
    prompt = prompt_of([9])
    assert teaches(named(prompt, [1.0, 0.0]), "accuracy")
    assert not teaches(named(prompt, [1.0, 1.0]), "accuracy")  # though the language differs
    assert teaches(named(prompt, [1.0, None, 0.0]), "accuracy")
    assert not teaches(named(prompt, [1.0, None]), "accuracy")
    assert not teaches(named(prompt, [None, None]), "accuracy")
    judged = named(prompt, [1.0, 0.0, 0.0])
    excluded = replace(judged, rollouts=(replace(judged.rollouts[0], reward=None), *judged.rollouts[1:]))
    assert not teaches(excluded, "accuracy")  # by another reward that failed


def test_the_pool_keeps_the_surplus_and_fills_up_with_what_it_has():
    good, bad = ([named(prompt_of([9], f"{kind}{i}"), values) for i in range(3)] for kind, values in
                 (("good", [1.0, 0.0]), ("bad", [0.0, 0.0])))  # fmt: skip
    pool = Pool({"default": 2}, "accuracy", {"default"}, [])
    pool.add([bad[0], good[0]])
    assert pool.missing() == ["default"]
    assert [g.prompt.id for g in pool.take()[0]] == ["good0", "bad0"]  # the bound was reached: filled up
    pool.add([good[1], good[2], bad[1]])
    assert pool.missing() == []
    chosen, surplus = pool.take()
    assert [g.prompt.id for g in chosen] == ["good0", "good1"]
    assert [g.prompt.id for g in surplus] == ["good2"]
    assert (pool.drawn, pool.informative) == (5, 3)
    assert [g.prompt.id for g in Pool({"default": 2}, "accuracy", {"default"}, surplus).take()[0]] == ["good2"]


def test_a_task_without_the_reward_is_taken_as_it_is():
    groups = [named(prompt_of([9], str(i), "other"), [0.0, 0.0]) for i in range(2)]
    pool = Pool({"other": 2}, "accuracy", {"default"}, [])
    pool.add(groups)
    assert pool.missing() == []


def test_leftovers_of_a_task_that_has_no_share_now_wait():
    group = named(prompt_of([9], "a", "late"), [1.0, 0.0])
    chosen, surplus = Pool({"default": 0}, "accuracy", {"default", "late"}, [group]).take()
    assert (chosen, surplus) == ([], [group])


def test_packed_groups_come_back_equal():
    prompt = Prompt("a", (1, 2), text="t", columns={"x": [1]}, answer="5", task="t")
    repeated = replace(prompt, id="a@1")
    rollout = Rollout(Completion((3, 4), (-0.1, -1 / 3), "length", "ab", 7), {"r": 0.5, "s": None}, 0.5)
    for group in (Group(prompt, (rollout,)), Group(repeated, (rollout,))):
        assert unpack_group(json.loads(json.dumps(pack_group(group))), {("t", "a"): prompt}) == group


def test_dynamic_sampling_draws_until_full_and_keeps_what_is_over():
    source = source_of(dynamic_sampling={"reward": "accuracy", "max_draws": 9})
    drawn = []
    for step in range(8):
        groups = collect(source, step)
        assert len(groups) == 2
        assert all(number % 3 == 0 for number in numbers(groups))
        drawn += numbers(groups)
    # three of nine prompts teach: nothing that teaches is lost or used twice before its next epoch
    assert all(len(set(drawn[i : i + 3])) == 3 for i in range(0, 15, 3))
    assert len({tuple(batch) for batch in source.engine.asked}) > 8  # type: ignore[attr-defined]
    assert source.metrics["draws"] >= 1
    assert 0 <= source.metrics["informative_fraction"] <= 1


def test_dynamic_sampling_stops_at_its_bound():
    source = source_of(dynamic_sampling={"reward": "accuracy", "max_draws": 1})
    seen = [numbers(collect(source, step)) for step in range(9)]
    assert all(len(step) == 2 for step in seen)
    assert any(number % 3 for step in seen for number in step)  # filled up
    assert len(source.engine.asked) <= 9  # type: ignore[attr-defined]


def test_a_source_goes_on_where_it_was_leftovers_included():
    settings = {"dynamic_sampling": {"reward": "accuracy"}, "difficulty": {"reward": "accuracy", "target": 0.5}}
    whole = source_of(**settings)
    expected = [collect(whole, step) for step in range(12)]
    cut = source_of(**settings)
    found, with_leftovers = [], 0
    for step in range(12):
        with_leftovers += bool(cut.leftovers)
        state = json.loads(json.dumps(cut.state().pack()))
        cut = source_of(**settings)
        cut.load_state(state)
        found.append(collect(cut, step))
    assert found == expected
    assert with_leftovers > 0


def test_leftovers_are_not_kept_for_a_rollout_that_samples_otherwise():
    """Their prompts are drawn again before all others: nothing that teaches is lost."""
    settings = {"dynamic_sampling": {"reward": "accuracy", "max_draws": 9}}
    plain, step = source_of(**settings), 0
    while not plain.leftovers:
        collect(plain, step)
        step += 1
    left = [group.prompt.id for group in plain.leftovers]
    lengths = [{"from_step": 0, "value": 4}, {"from_step": step, "value": 8}]
    source = source_of(**settings, sampling={"max_tokens": lengths})
    for before in range(step):
        collect(source, before)
    assert source.leftovers == []
    assert source.metrics["leftovers"] == 0
    collect(source, step)
    asked = next(ids for ids in source.engine.asked[::-1] if left[0] in ids)  # type: ignore[attr-defined]
    assert asked[: len(left)] == left


def test_the_share_of_failures_is_that_of_the_whole_rollout():
    found = judge_with_failures(World())
    assert [found[case] for case in ("none", "one", "column of one prompt")] == ["0 failed", "1 failed", "0 failed"]
    for case in ("one each", "two in one"):
        assert re.fullmatch(f"reward 'flaky' failed {BY_ZERO}", found[case])
    assert re.fullmatch(f"reward 'broken' failed {BY_ZERO}", found["all"])
    assert found["column of none"].startswith("reward 'r' needs 'gold', which the data does not have")


BY_ZERO = r"on 2 completions, where 1 may; the last error: ZeroDivisionError: division by zero \(\S*sources.py:\d+\)"


# --- difficulty


def rates(**settings: Any) -> PassRates:
    return PassRates(DifficultyConfig(reward="accuracy", **settings))


def test_the_running_rate_by_hand():
    table = rates()
    table.observe("a", named(prompt_of([9]), [1.0, 0.0, 0.0, None]), 0)
    assert table.rates == {"a": pytest.approx(1 / 3)}
    table.observe("a", named(prompt_of([9]), [1.0, 1.0]), 1)
    assert table.rates == {"a": pytest.approx(2 / 3)}
    table.observe("b", named(prompt_of([9]), [None, None]), 0)
    assert "b" not in table.rates


def test_solved_and_hopeless_prompts_rest_and_come_back():
    table = rates(low=0.1, high=0.9, rest_epochs=2)
    for name, values in (("easy", [1.0, 1.0]), ("hard", [0.0, 0.0]), ("fit", [1.0, 0.0])):
        table.observe(name, named(prompt_of([9]), values), 3)
    names = ["easy", "hard", "fit", "new"]
    assert [table.arrange(names, epoch) for epoch in (4, 5)] == [[2, 3], [2, 3]]
    assert table.arrange(names, 6) == [0, 1, 2, 3]
    assert table.metrics(5) == {"pass_rate": 0.5, "resting": 2.0}
    assert table.metrics(6)["resting"] == 0.0


def test_retired_prompts_never_come_back():
    """At 0.9 of one group, whatever the running rate; hopeless ones, with `low: null`, do not rest at all."""
    table = rates(low=None, retire=0.9)
    groups = {"solved": [1.0] * 9 + [0.0], "nearly": [1.0] * 8 + [0.0] * 2, "hard": [0.0, 0.0]}
    for name, values in groups.items():
        table.observe(name, named(prompt_of([9]), values), 0)
    names = list(groups)
    for epoch in (1, 2, 10**6):
        assert table.arrange(names, epoch) == [1, 2]
    assert table.metrics(5) == {"pass_rate": pytest.approx(1.7 / 3), "resting": 1.0, "retired": 1.0}
    table.observe("solved", named(prompt_of([9]), [0.0, 1.0]), 1)  # a group drawn before, or when all were retired
    assert table.arrange(names, 2) == [1, 2]
    table.observe("nearly", named(prompt_of([9]), [1.0, 1.0]), 1)  # its running rate is below 0.9
    assert table.arrange(names, 2) == [2]
    again = rates(low=None, retire=0.9)
    again.load_state(json.loads(json.dumps(table.state())))
    assert again.arrange(names, 2) == [2]


def test_when_all_rest_the_retired_still_do_unless_there_are_no_others(caplog):
    table = rates(retire=0.9)
    table.observe("a", named(prompt_of([9]), [1.0, 1.0]), 0)
    table.observe("b", named(prompt_of([9]), [0.0, 0.0]), 0)
    with caplog.at_level(logging.WARNING, "grpo"):
        assert table.arrange(["a", "b"], 1) == [1]
        assert table.arrange(["a"], 1) == [0]
    first, second = (record.getMessage() for record in caplog.records)
    assert "every prompt's pass rate on 'accuracy' is out of range" in first
    assert "every prompt's pass rate on 'accuracy' was 0.9 or more" in second


def test_a_prompt_that_comes_to_be_solved_rests_though_its_running_rate_stays_below_one():
    table = rates()
    for values in ([1.0, 0.0], [1.0, 1.0], [1.0, 1.0]):
        table.observe("a", named(prompt_of([9]), values), 0)
    assert table.rates["a"] == 0.875
    assert table.arrange(["a", "b"], 1) == [1]


def test_a_group_belongs_to_the_epoch_it_was_drawn_in():
    """Three prompts, two a rollout: the second rollout takes the last of the first epoch and the first of the next."""
    sampler = source_of(count=3, difficulty={"reward": "accuracy"}).sampler
    sampler.next({"default": 2}, 0)
    last, first = sampler.next({"default": 2}, 1)
    sampler.observe([named(last, [1.0, 1.0])], 1)
    assert list(sampler.rates["default"].rests.values()) == [1]  # it sits out the second epoch
    sampler.observe([named(first, [1.0, 1.0])], 1)
    assert max(sampler.rates["default"].rests.values()) == 2


def test_when_all_rest_none_does(caplog):
    table = rates()
    table.observe("a", named(prompt_of([9]), [1.0, 1.0]), 0)
    with caplog.at_level(logging.WARNING, "grpo"):
        assert table.arrange(["a"], 1) == [0]
    assert "every prompt's pass rate on 'accuracy' is out of range" in caplog.text


def test_the_curriculum_begins_nearest_to_its_target():
    table = rates(low=0.0, high=1.0, target=0.5)
    for name, values in (("q", [1, *[0] * 9]), ("h", [1, 0]), ("t", [1, 1, 1, 0, 0, 0, 0, 0, 0, 0])):
        table.observe(name, named(prompt_of([9]), [float(v) for v in values]), 0)
    assert [["q", "h", "t", "new"][i] for i in table.arrange(["q", "h", "t", "new"], 1)] == ["h", "new", "t", "q"]


def test_the_sampler_leaves_out_what_rests():
    source = source_of(count=8, difficulty={"reward": "accuracy"})
    first = [number for step in range(4) for number in numbers(collect(source, step))]
    assert sorted(first) == list(range(8))
    # Those always solved rest in the second epoch.
    assert all(number % 3 == 0 for number in numbers(collect(source, 4)))


# --- over-long completions


@pytest.mark.parametrize(("tokens", "expected"), [(1, 0.0), (15, 0.0), (16, -0.2), (18, -0.6), (20, -1.0)])
def test_the_overlong_penalty_by_hand(tokens, expected):
    # limit 20, the last five tokens: -1/5 for each
    assert overlong_penalty(tokens, truncated=False, limit=20, zone=5) == pytest.approx(expected)
    assert overlong_penalty(tokens, truncated=True, limit=20, zone=5) == -1.0


def test_the_penalty_is_a_reward_of_its_own():
    group = group_of(prompt_of([9]), [1.0, None, 0.5], [(9,) * 4, (9,) * 4, (9,)])
    (found,) = penalise_overlong([group], 4, 2)
    assert [r.reward for r in found.rollouts] == [0.0, None, 0.5]
    assert [r.rewards["overlong"] for r in found.rollouts] == [-1.0, -1.0, 0.0]
    assert penalise_overlong([group], 4, None) == [group]
