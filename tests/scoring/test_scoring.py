"""Isolation of reward functions, on plain rows and on groups."""

import asyncio
import functools
import re
import threading
import time

import pytest

from grpo.errors import UserError
from grpo.scoring.groups import Exclusions, column_names, score
from grpo.scoring.job import HANGS
from grpo.scoring.table import Reward, TrainerState, apply_rewards
from grpo.types import Completion, Group, Prompt, Rollout


def group(*texts: str, messages: bool = False, **columns: object) -> Group:
    chat = [{"role": "user", "content": "2+3?"}] if messages else None
    prompt = Prompt("p", (1, 2), chat, "2+3=", dict(columns), columns.get("answer"), prefill="<think>")
    return Group(prompt, tuple(Rollout(Completion((7, 8), (0.0, 0.0), "stop", text)) for text in texts))


def table(fn, n=3, weight=1.0, **options):
    texts = [f"c{i}" for i in range(n)]
    columns = {"answer": list(range(n))}
    return apply_rewards([Reward("r", fn, weight)], [""] * n, texts, [[i] for i in range(n)], columns, **options)


def lengths(completions, **kwargs):
    return [float(len(text)) for text in completions]


def bad_row(action):
    """A reward that misbehaves when it sees c1."""

    def fn(completions):
        return [action() if text == "c1" else 1.0 for text in completions]

    return fn


def raises(error=ValueError):
    raise error("boom")


def test_weighted_sum_of_what_applies():
    sparse = Reward("sparse", lambda completions: [None if text == "a" else 2.0 for text in completions])
    watch = Reward("watch", lambda completions: [100.0] * len(completions), 0.0)
    (scored,), stats = score([group("a", "bb")], [Reward("length", lengths, 0.5), sparse, watch])
    assert [rollout.reward for rollout in scored.rollouts] == [0.5, 3.0]
    assert scored.rollouts[0].rewards == {"length": 1.0, "sparse": None, "watch": 100.0}
    assert (stats.rows, stats.excluded, stats.errors) == (2, 0, {})


def test_siblings_stay_on_their_rows():
    groups = [group("a", "bbb", answer="x"), group("cc", "d", answer="y")]
    seen = {}

    def fn(completions, answer, **kwargs):
        seen.update(zip(completions, answer, strict=True))
        return [len(text) for text in completions]

    scored, _ = score(groups, [Reward("r", fn)])
    assert [[r.reward for r in g.rollouts] for g in scored] == [[1, 3], [2, 1]]
    assert seen == {"a": "x", "bbb": "x", "cc": "y", "d": "y"}


@pytest.mark.parametrize(("fn", "error"), [
    (bad_row(raises), "ValueError: boom"), (bad_row(lambda: float("nan")), "returned nan"),
    (bad_row(lambda: float("inf")), "returned inf"),
    (bad_row(lambda: "1.0"), "returned str where a number or None is expected"),
    (bad_row(lambda: 10**400), "not one number"), (bad_row(lambda: raises(SystemExit)), "SystemExit"),
    (lambda completions: [1.0 for text in completions if text != "c1"], "returned 0 values for 1 completions"),
    (lambda completions: None if "c1" in completions else [1.0] * len(completions), "returned NoneType"),
])  # fmt: skip
def test_a_bad_row_is_alone(fn, error):
    result = table(fn)
    assert result.values["r"] == [1.0, None, 1.0]
    assert list(result.errors) == [(1, "r")]
    assert error in result.errors[1, "r"]
    assert [result.total(row, [Reward("r", fn)]) for row in range(3)] == [1.0, None, 1.0]


def test_none_is_no_error_but_excludes_when_nothing_else_applies():
    result = table(bad_row(lambda: None))
    assert result.errors == {}
    assert result.total(1, [Reward("r", lengths)]) is None


@pytest.fixture
def hang():
    """Does not return before the end of the test."""
    release = threading.Event()
    yield lambda: release.wait(30)
    release.set()


def test_a_hanging_row_is_left_behind_in_bounded_time(hang):
    start = time.monotonic()
    result = table(bad_row(hang), timeout=0.2)
    assert time.monotonic() - start < 5
    assert result.values["r"] == [1.0, None, 1.0]
    assert result.errors[1, "r"] == "did not return within 0.2 s"


def test_hanging_everywhere_stops_after_a_few_rows(hang):
    calls = []
    with pytest.raises(UserError, match=r"reward 'r' failed on 2 completions, where 1 may; .*not return within 0.1 s"):
        table(lambda completions: calls.append(1) or hang(), n=10, timeout=0.1, max_failed=1)
    assert len(calls) == 3  # the batch, then two single rows


def test_hanging_everywhere_ends_also_without_a_share(hang):
    calls = []
    result = table(lambda completions: calls.append(1) or hang(), n=10, timeout=0.1)
    assert len(calls) == 1 + HANGS
    assert len(result.errors) == 10
    assert "not called" in result.errors[9, "r"]


def test_rows_that_answer_between_hangs_are_all_asked(hang):
    result = table(lambda completions: [float(text[1:]) % 2 or hang() for text in completions], n=8, timeout=0.1)
    assert result.values["r"] == [None, 1.0] * 4


def test_what_a_function_declines_is_no_failure():
    def fn(completions, log_error):
        log_error(0, "unreadable")
        return [None, float("nan"), 1.0]

    result = table(fn)
    assert set(result.errors) == {(0, "r"), (1, "r")}
    assert result.failed == {(1, "r")}


def test_async_rewards_run_at_the_same_time_and_inside_a_running_loop():
    started = []

    async def waits_for_all(completions):
        started.append(1)
        while len(started) < 4:
            await asyncio.sleep(0.01)
        return [1.0] * len(completions)

    async def notebook():
        return apply_rewards([Reward(str(i), waits_for_all) for i in range(4)], [""], ["x"], [[]], {}, timeout=30)

    result = asyncio.run(notebook())
    assert result.values == {str(i): [1.0] for i in range(4)}


def test_async_failures_are_isolated():
    class Judge:
        async def __call__(self, completions, **kwargs):
            if "c1" in completions:
                await asyncio.sleep(30)
            return [1.0] * len(completions)

    result = table(Judge(), timeout=0.2)
    assert result.values["r"] == [1.0, None, 1.0]


def test_an_async_function_that_blocks_the_loop_does_not_block_the_next():
    release = threading.Event()

    async def blocks(completions):
        release.wait(60)
        return [1.0]

    async def works(completions):
        return [1.0] * len(completions)

    assert table(blocks, n=1, timeout=0.1).errors
    assert table(works, timeout=20).values["r"] == [1.0] * 3
    release.set()


def test_only_the_arguments_that_are_named():
    def picky(completion_ids, answer, *, scale=2):
        return [len(ids) + gold * scale for ids, gold in zip(completion_ids, answer, strict=True)]

    assert table(picky).values["r"] == [1.0, 3.0, 5.0]
    assert table(functools.partial(picky, scale=0)).values["r"] == [1.0, 1.0, 1.0]


def test_kwargs_gets_what_trl_passes():
    seen = {}

    def fn(**kwargs):
        seen.update(kwargs)
        return [0.0] * 3

    table(fn, trainer_state=TrainerState(5, 10))
    assert seen.keys() == {
        "prompts", "completions", "completion_ids", "answer", "trainer_state", "log_extra", "log_metric",
    }  # fmt: skip
    assert seen["trainer_state"].global_step == 5


def test_columns_are_renamed_and_missing_ones_are_named():
    def fn(completions, solution):
        return [float(gold) for gold in solution]

    result = apply_rewards([Reward("r", fn, columns={"solution": "answer"})], [""], ["x"], [[]], {"answer": ["4"]})
    assert result.values["r"] == [4.0]
    with pytest.raises(UserError, match="reward 'r' needs 'solution', which the data does not have"):
        table(fn)
    with pytest.raises(UserError, match="no column 'gold'"):
        apply_rewards([Reward("r", fn, columns={"solution": "gold"})], [""], ["x"], [[]], {})


def test_functions_cannot_spoil_each_others_input():
    def vandal(completions, **kwargs):
        for messages in completions:
            messages[0]["content"] = "spoilt"
        completions.clear()
        return [0.0, 0.0]

    def honest(completions, **kwargs):
        return [float(len(messages[0]["content"])) for messages in completions]

    (scored,), _ = score([group("a", "bb", messages=True)], [Reward("v", vandal), Reward("h", honest)])
    assert [rollout.rewards["h"] for rollout in scored.rollouts] == [1.0, 2.0]


def test_logs_of_a_failed_call_are_dropped():
    def fn(completions, log_extra, log_metric, log_error):
        log_extra("upper", [text.upper() for text in completions])
        log_metric("count", len(completions))
        if len(completions) > 1:
            log_error(0, "judged together")
            raise ValueError
        if completions == ["c2"]:
            log_error(0, "unreadable")
        return [1.0]

    result = table(fn)
    assert result.extra == {"r": {"upper": ["C0", "C1", "C2"]}}
    assert result.metrics == {"r": {"count": [1.0, 1.0, 1.0]}}
    assert result.errors == {(2, "r"): "unreadable"}
    assert result.values["r"] == [1.0, 1.0, None]


def test_healthy_rows_are_scored_as_without_the_broken_reward():
    groups = [group(*"abcdefghijkl")]
    broken = Reward("broken", lambda completions: [1 / (text != "c") and 0.0 for text in completions])
    (alone,), _ = score(groups, [Reward("length", lengths)])
    (both,), stats = score(groups, [Reward("length", lengths), broken])
    assert [r.reward for r in both.rollouts if r.reward is not None] == [r.reward for r in alone.rollouts[1:]]
    assert both.rollouts[2].reward is None
    assert (stats.excluded, stats.errors) == (1, {"broken": 1})
    assert re.fullmatch(r"broken: ZeroDivisionError: division by zero \(.*test_scoring.py:\d+\)", stats.first_error)


def test_why_a_row_is_excluded():
    _, stats = score([group("c0", "c1")], [Reward("r", bad_row(raises))])
    assert stats.excluded == 1
    assert stats.reason[0] == "r"
    assert stats.reason[1].startswith("ValueError: boom (")
    _, stats = score([group("c0", "c1")], [Reward("r", lambda completions: [None, None])])
    assert (stats.excluded, stats.reason) == (2, ("r", "every reward is None: none applies"))
    watch = Reward("watch", bad_row(raises), 0.0)  # of weight 0: it excludes nothing, however often it fails
    _, stats = score([group("c0", "c1")], [watch, Reward("r", lengths)], max_failed=0)
    assert (stats.excluded, stats.errors, stats.reason) == (0, {"watch": 1}, None)


def judged(task: str, *rewards: float | None) -> Group:
    return Group(
        Prompt("p", (1,), task=task), tuple(Rollout(Completion((7,), (0.0,), "stop", ""), {}, r) for r in rewards)
    )


def test_the_share_is_that_of_a_task_over_all_draws_of_the_rollout():
    exclusions = Exclusions(reasons={"math": ("r", "boom")})
    good, bad = [judged("math", *[1.0] * 9)], [judged("math", *[None] * 2), judged("other", *[1.0] * 90)]
    for groups in (good, good, bad):
        exclusions.draw(groups)
        exclusions.judge(groups)
        exclusions.check(lambda mine: [None, mine])
    assert (exclusions.limit("math"), exclusions.limit("other")) == (2, 9)
    exclusions.draw(bad)
    exclusions.judge(bad)
    line = r"^task 'math': no reward from 'r' on 4 of 22 completions, more than 10% of the rollout; first error: boom$"
    with pytest.raises(UserError, match=line):
        exclusions.check(lambda mine: [None, mine])  # another process saw nothing wrong


def test_which_columns_there_are_does_not_depend_on_the_rows_at_hand():
    def fn(completions, hint):
        return [0.0 if value is None else 1.0 for value in hint]

    whole = [group("a"), group("b", hint="x")]
    names = column_names(g.prompt for g in whole)
    assert names == ("answer", "hint", "prefill")
    scored, _ = score(whole[:1], [Reward("r", fn)], columns=names)
    assert scored[0].rollouts[0].reward == 0.0
    with pytest.raises(UserError, match="needs 'hint'"):
        score(whole[:1], [Reward("r", fn)])


def test_user_errors_of_a_reward_pass_through_and_names_are_unique():
    def refuses(completions):
        raise UserError("unknown language")

    with pytest.raises(UserError, match="unknown language"):
        table(refuses)
    with pytest.raises(UserError, match="two rewards are named 'r'"):
        apply_rewards([Reward("r", lengths), Reward("r", lengths)], [], [], [], {})


def test_no_rows_are_no_problem():
    assert table(lengths, n=0).values == {"r": []}
