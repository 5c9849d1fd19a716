"""What rewards say beside their values: log_metric in metrics.jsonl, log_extra and errors in completions/, one line."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo.errors import UserError
from grpo.rollout import dynamic
from grpo.scoring.faults import KINDS, Faults, Logged
from grpo.scoring.groups import score
from grpo.scoring.table import Reward, apply_rewards
from support.files import line_of
from support.groups import prompt_of, texts_of
from support.runs import completions, config_of, digits, killed_at, rows_of, run, task_of


def telling(completions: list[str], trainer_state: Any, log_metric: Any, log_extra: Any) -> list[float]:
    """With a metric that only the third step has, and values that are no JSON."""
    values = digits(completions)
    for value in values:
        log_metric("share", value)
    if trainer_state.global_step == 2:
        log_metric("late", np.float32(0.5))
        log_metric("nothing", math.nan)
    log_extra("upper", [text.upper() for text in completions])
    log_extra("odd", [{"n": np.int64(1), "x": math.inf, "o": len}] * len(completions))
    return values


def test_metrics_and_extra_columns_are_written_down(tiny_model_folder, tmp_path):
    run(tiny_model_folder, tmp_path / "whole", config_of(), {"default": task_of(telling)})
    rows = rows_of(tmp_path / "whole")
    assert [row["reward/telling/share"] for row in rows] == pytest.approx([row["reward/telling"] for row in rows])
    assert [row.get("reward/telling/late", "no key") for row in rows] == ["no key"] * 2 + [0.5] + [None] * 3
    assert [row["reward/telling/nothing"] for row in rows[2:]] == [None] * 4
    for done in completions(tmp_path / "whole"):
        odd = {"n": 1, "x": None, "o": str(len)}
        assert done["extra"] == {"telling": {"upper": done["completion"].upper(), "odd": odd}}
        assert (done["excluded"], done["errors"]) == (None, {})
    killed_at(5, tiny_model_folder, tmp_path / "cut", config_of(), {"default": task_of(telling)})
    run(tiny_model_folder, tmp_path / "cut", config_of(), {"default": task_of(telling)})
    assert rows_of(tmp_path / "cut") == rows
    assert completions(tmp_path / "cut") == completions(tmp_path / "whole")


def test_why_rows_are_excluded_is_written_down_and_said_once(tiny_model_folder, tmp_path, caplog):
    def sometimes(prompts: list[str], completions: list[str], log_error: Any) -> list[float | None]:
        first = prompts.index(prompts[0])
        log_error(first, f"unreadable: {completions[first]}")
        return [math.nan if row == 1 else 1.0 for row in range(len(prompts))]

    with caplog.at_level("WARNING", "grpo"):
        run(tiny_model_folder, tmp_path, config_of(steps=2, group_size=20), {"default": task_of(sometimes)})
    done = completions(tmp_path)
    reasons = [row["excluded"] for row in done if row["reward"] is None]
    assert reasons[0::2] == [f"sometimes: unreadable: {row['completion']}" for row in done[::40]]
    assert reasons[1::2] == ["sometimes: returned nan"] * 2
    assert [row["errors"] for row in done[1::40]] == [{"sometimes": "returned nan"}] * 2
    said = [record.message for record in caplog.records if "not judged" in record.message]
    assert len(said) == 2
    assert said[1].startswith("step 1: 1 of 40 completions were not judged by reward 'sometimes': returned nan")


def test_an_exception_is_placed_in_the_users_own_file(tmp_path):
    """Not where a library raised it, nor in the wrapper around it."""
    import importlib.util

    file = tmp_path / "my_module.py"
    file.write_text("import json\n\ndef helper(text):\n    return json.loads(text)\n\n"
                    "def fn(completions):\n    return [helper(text) for text in completions]\n\n"
                    "async def later(completions):\n    return fn(completions)\n")  # fmt: skip
    spec = importlib.util.spec_from_file_location("my_module", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for fn in (module.fn, module.later):
        found = apply_rewards([Reward("r", fn)], ["", ""], ["1", "{"], [[], []], {}, timeout=10)
        assert found.values["r"] == [None if fn is None else v for v in found.values["r"]]
        assert found.errors[1, "r"].endswith(f"({file}:4)")
        assert found.errors[1, "r"].startswith("JSONDecodeError: ")


@pytest.mark.parametrize(("log", "words"), [
    (lambda log_extra, log_metric: log_extra("c", [1]), r"log_extra\('c'\) got 1 values for 2 completions"),
    (lambda log_extra, log_metric: log_metric("m", "0.5"), r"log_metric\('m'\) got str, which is no number \(.*\)"),
    (lambda log_extra, log_metric: log_metric("m", None), r"log_metric\('m'\) got NoneType, which is no number \(.*\)"),
])  # fmt: skip
def test_what_cannot_be_logged_excludes_and_says_so(log, words):
    def fn(completions, log_extra, log_metric):
        if len(completions) > 1:
            log(log_extra, log_metric)
        return [1.0] * len(completions)

    (scored,), _ = score([texts_of(prompt_of([9]), "a", "b")], [Reward("r", fn)])
    assert [rollout.reward for rollout in scored.rollouts] == [None, None]
    assert re.fullmatch(f"r: .*{words}", str(scored.rollouts[0].excluded))


def test_a_column_may_be_logged_bit_by_bit_as_in_trl():
    def fn(completions, log_extra):
        for text in completions:
            log_extra("c", [text])
        return [1.0] * len(completions)

    (scored,), _ = score([texts_of(prompt_of([9]), "a", "b")], [Reward("r", fn)])
    assert [rollout.extra for rollout in scored.rollouts] == [{"r": {"c": "a"}}, {"r": {"c": "b"}}]


def test_a_metric_with_the_name_of_a_reward_is_refused(tiny_model_folder, tmp_path):
    def fn(completions, log_metric):
        log_metric("b", 1.0)
        return digits(completions)

    task = task_of(fn)
    task = type(task)(task.prompts, [Reward("a", fn), Reward("a/b", digits)])
    with pytest.raises(UserError, match=r"log_metric would write 'reward/a/b', the mean of the reward 'a/b'"):
        run(tiny_model_folder, tmp_path, config_of(), {"default": task})


def test_means_are_over_every_value_of_every_process():
    whole = Logged()
    for values in ([1.0, 2.0], [6.0]):
        of_process = Logged()
        of_process.take({"r": {"m": values, "n": [math.inf]}})
        whole.add(of_process, {"r"})
    assert whole.means() == {"reward/r/m": 3.0, "reward/r/n": None}


def test_leftovers_keep_what_was_said_of_them():
    def fn(completions, log_extra):
        log_extra("c", completions)
        return [math.nan, 1.0]

    prompt = prompt_of([9])
    (scored,), _ = score([texts_of(prompt, "a", "b")], [Reward("r", fn)])
    packed = json.loads(json.dumps(dynamic.pack_group(scored)))
    assert dynamic.unpack_group(packed, {("default", "p"): prompt}) == scored
    for row in packed["rollouts"]:  # as checkpoints from before there was such a thing have it
        for name in ("excluded", "errors", "extra"):
            del row[name]
    assert [r.reward for r in dynamic.unpack_group(packed, {("default", "p"): prompt}).rollouts] == [None, 1.0]


def test_errors_that_are_never_the_same_do_not_flood_the_console(caplog):
    group = texts_of(prompt_of([9]), *map(str, range(20)))
    fail = Reward("r", lambda completions: [1 / 0 if len(completions) > 1 else raise_(text) for text in completions])
    (scored,), _ = score([group], [fail])
    with caplog.at_level("WARNING", "grpo"):
        faults = Faults()
        faults.tell([scored], 0)
        faults.tell([scored], 1)
    assert len(caplog.records) == KINDS
    assert "step 1: " in line_of(caplog, "error0")


def raise_(text: str) -> float:
    raise type(f"error{text}", (Exception,), {})


def test_nothing_at_all_is_a_reason_too(tmp_path: Path):
    (scored,), _ = score([texts_of(prompt_of([9]), "a")], [Reward("r", lambda completions: [None])])
    assert scored.rollouts[0].excluded == "r: every reward is None: none applies"
