"""The curve of an RL run: its points, that training does not notice it, and a run that is stopped inside of one."""

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo.checkpoint.store import read_state
from grpo.config.data import CurveConfig, DataConfig, EvalConfig
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.evaluation.curve import Curve
from grpo.evaluation.evaluate import evaluate
from grpo.evaluation.metrics import Judges
from grpo.scoring.table import Reward
from grpo.system import stopping
from grpo.system.world import World
from grpo.types import Group, Prompt, Sampling
from support.ahead import ahead_of, put_inside, run_ahead
from support.groups import group_of
from support.models import make_tokenizer
from support.processes import two_processes
from support.runs import (
    CPU,
    Killed,
    assert_equal,
    at_call,
    broken,
    checkpointed,
    completions,
    config_of,
    die,
    digits,
    killed_at,
    rows_of,
    run,
    task_of,
    weights,
)

ROWS = [{"prompt": f"held{i}", "answer": "1", "id": f"h{i}"} for i in range(5)]
POINT = {
    *("eval/pass@1", "eval/pass@1_ci95", "eval/format_rate", "eval/language_consistency", "eval/truncation_rate"),
    *("eval/no_answer_rate", "eval/mean_tokens", "eval/n_problems", "seconds/evaluation"),
}


def any_digit(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Right when it holds a digit. It uses every global generator."""
    random.random(), np.random.random(), torch.rand(())
    return [float(any(character.isdigit() for character in text)) for text in completions]


JUDGES = Judges(Reward("accuracy", any_digit))


def eval_config(**settings: Any) -> EvalConfig:
    data = DataConfig(path="held.jsonl", template="{prompt}=")
    return EvalConfig.model_validate({"data": data, "max_tokens": 4, "samples": 2, **settings})


def curve_of(steps: int = 2, rows: Any = ROWS, judges: Judges = JUDGES, **settings: Any) -> Curve:
    every = {"steps": steps, **{name: settings.pop(name) for name in ("problems",) if name in settings}}
    return Curve.of(eval_config(**settings), CurveConfig(**every), judges, make_tokenizer(), rows)


def points(out: Path, name: str = "eval/pass@1") -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in rows_of(out) if row.get(name) is not None]


def trained(out: Path) -> list[dict[str, Any]]:
    """The rows of the steps, without what was measured of their policies."""
    rows = [row for row in rows_of(out) if row["step"]]
    return [{key: value for key, value in row.items() if not key.startswith("eval/")} for row in rows]


def drawing(completions: list[str], **_: Any) -> list[float]:
    """A reward that draws, as one of the user's may."""
    return [share + random.random() + float(torch.rand(())) for share in digits(completions)]


def seeded_run(*arguments: Any, **options: Any) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    run(*arguments, **options)


@pytest.fixture(scope="module")
def whole(tiny_model_folder, tmp_path_factory):
    """An uninterrupted run of 6 steps with a point every 2, a checkpoint every 3, and the best one kept."""
    out = tmp_path_factory.mktemp("curve") / "run"
    run(tiny_model_folder, out, config_of(**KEPT), curve=curve_of())
    return out


KEPT = {"checkpoint": {"every": 3, "keep": 100, "best": "eval/pass@1"}}


def test_training_is_the_same_bit_for_bit_with_it_and_without(tiny_model_folder, tmp_path):
    config, tasks = config_of(steps=4, lora={"r": 4, "alpha": 8, "dropout": 0.2}), {"default": task_of(drawing)}
    seeded_run(tiny_model_folder, tmp_path / "without", config, tasks)
    seeded_run(tiny_model_folder, tmp_path / "with", config, tasks, curve=curve_of(steps=1))
    assert trained(tmp_path / "with") == trained(tmp_path / "without")
    assert completions(tmp_path / "with") == completions(tmp_path / "without")
    assert_equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert not any(key.startswith("eval/") for row in rows_of(tmp_path / "without") for key in row)


@pytest.mark.slow
def test_one_step_ahead_the_newest_weights_are_asked(tiny_model_folder, tmp_path, monkeypatch):
    put_inside(monkeypatch)
    config = ahead_of(steps=4, checkpoint={})
    run_ahead(tiny_model_folder, tmp_path / "without", config)
    run_ahead(tiny_model_folder, tmp_path / "with", config, curve=curve_of(steps=1))
    assert trained(tmp_path / "with") == trained(tmp_path / "without")
    assert_equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    for step in (1, 3):  # what the finished model of so many steps is worth
        run_ahead(tiny_model_folder, tmp_path / f"{step}", ahead_of(steps=step, checkpoint={}))
        model = str(tmp_path / f"{step}" / "model")
        result = evaluate(model, eval_config(), judges=JUDGES, runtime=CPU, seed=1, rows=ROWS)
        assert dict(points(tmp_path / "with", "eval/mean_tokens"))[step] == result["mean_tokens"]
        assert dict(points(tmp_path / "with"))[step] == result["pass@1"]


def test_a_point_at_0_at_each_multiple_and_at_the_end(whole, tiny_model_folder):
    rows = rows_of(whole, timings=True)
    assert [row["step"] for row in rows] == list(range(7))
    assert [step for step, _ in points(whole)] == [0, 2, 4, 6]
    assert len({frozenset(row) for row in rows}) == 1  # the same keys in every row
    assert {key for key in rows[0] if rows[0][key] is not None} == POINT - {
        *("eval/format_rate", "eval/language_consistency", "eval/no_answer_rate"),  # nothing judges those
    } | {"step"}
    for row in rows:
        assert (row["seconds/evaluation"] > 0) == (row["eval/pass@1"] is not None)
        if row["step"]:
            phases = [v for k, v in row.items() if k.startswith("seconds/") and k != "seconds/evaluation"]
            assert row["seconds"] == pytest.approx(sum(phases))
    # The last point is what the evaluation of the finished model says, and the first that of the model before.
    for model, point in ((whole / "model", rows[-1]), (tiny_model_folder, rows[0])):
        result = evaluate(str(model), eval_config(), judges=JUDGES, runtime=CPU, seed=1, rows=ROWS)
        assert {
            name: point[f"eval/{name}"] for name in ("pass@1", "pass@1_ci95", "mean_tokens", "truncation_rate")
        } == {name: result[name] for name in ("pass@1", "pass@1_ci95", "mean_tokens", "truncation_rate")}


@pytest.mark.slow
def test_points_are_at_boundaries_of_rollouts(tiny_model_folder, tmp_path):
    config = config_of(rollout_prompts=6, steps=8, checkpoint={})  # boundaries at 0, 3, 6 and 8
    result = run(tiny_model_folder, tmp_path, config, curve=curve_of(steps=4))
    assert [step for step, _ in points(tmp_path)] == [0, 6, 8]
    assert result.metrics["eval/pass@1"] == points(tmp_path)[-1][1]


def test_a_part_of_the_problems_is_the_same_one_each_time():
    chosen = curve_of(problems=3).prompts
    assert len(chosen) == 3
    assert chosen == curve_of(problems=3).prompts
    assert [prompt.id for prompt in chosen] == sorted(prompt.id for prompt in chosen)
    assert curve_of(problems=9).prompts == curve_of().prompts
    cheap = eval_config(samples=4, k=(2, 4)).of_curve(CurveConfig(steps=1, samples=2))
    assert (cheap.samples, cheap.k) == (2, (2,))


class Fixed:
    """An engine whose completions are all the same."""

    def generate(self, prompts: list[Prompt], sampling: Sampling, **_: Any) -> list[Group]:
        assert all(prompt.task == "evaluation" for prompt in prompts)
        return [group_of(prompt, [0.0] * sampling.group_size) for prompt in prompts]


class Judge:
    """Right is all that it can judge: not a gold of "?", and only the `first` completions while it is down."""

    def __init__(self, *first: int | None):
        self.first = list(first)  # at each call; None: it is there

    def __call__(self, completions: list[str], answer: list[str], log_error: Any, **_: Any) -> list[float | None]:
        first = self.first.pop(0) if self.first else None
        able = [gold != "?" and (first is None or row < first) for row, gold in enumerate(answer)]
        for row in (row for row, can in enumerate(able) if not can):
            log_error(row, "cannot judge")
        return [1.0 if can else None for can in able]


def judged_by(judge: Judge, gold: str = "1") -> Curve:
    return curve_of(rows=[{**ROWS[0], "answer": gold}, *ROWS[1:]], judges=Judges(Reward("accuracy", judge)))


def test_problems_that_cannot_be_judged_are_left_out_of_every_point_and_told_once(caplog):
    curve = judged_by(Judge(), "?")
    with caplog.at_level("WARNING", "grpo"):
        found = [curve.measure(Fixed(), seed=1) for _ in range(3)]
    assert [(point["eval/pass@1"], point["eval/n_problems"]) for point in found] == [(1.0, 4)] * 3
    assert caplog.text.count("1 of 5 problems could not be judged") == 1
    assert curve.left_out == ["h0"]


@pytest.mark.parametrize(("first", "judged"), [(2, 1), (3, 1), (0, 0)], ids=["whole problems", "a sample", "all"])
def test_a_point_of_other_problems_is_none_and_said(first, judged, caplog):
    """Before: pass@1 over the few problems that were judged, without a word; with none of them the run ended."""
    curve = judged_by(Judge(None, first, None))
    with caplog.at_level("WARNING", "grpo"):
        found = [curve.measure(Fixed(), seed=1) for _ in range(3)]
    assert [point["eval/pass@1"] for point in found] == [1.0, None, 1.0]
    assert [point["eval/n_problems"] for point in found] == [5, judged, 5]
    assert all(value is None for name, value in found[1].items() if name != "eval/n_problems")
    assert found[0].keys() == found[1].keys() == curve.blank.keys() - {"seconds/evaluation"}
    assert f"{5 - judged} of 5 problems could not be judged" in caplog.text


def test_what_a_stopped_run_left_out_is_left_out_by_the_one_that_goes_on():
    curve = judged_by(Judge(4))
    curve.left_out = ["h4"]  # by its checkpoint: h2 and h3 were judged
    assert curve.measure(Fixed(), seed=1)["eval/pass@1"] is None
    again = curve.measure(Fixed(), seed=1)
    assert (again["eval/pass@1"], again["eval/n_problems"]) == (1.0, 4)  # of the same ones as before


def test_a_judge_that_is_not_there_neither_ends_the_run_nor_makes_a_best_checkpoint(tiny_model_folder, tmp_path):
    config = config_of(steps=3, checkpoint={"every": 100, "keep": 9, "best": "eval/pass@1"})
    every = judged_by(Judge(0, None, 4, None))
    every.every = 1
    run(tiny_model_folder, tmp_path, config, curve=every)
    found = [(row["eval/pass@1"], row["eval/n_problems"]) for row in rows_of(tmp_path)]
    assert found == [(None, 0), (1.0, 5), (None, 2), (1.0, 5)]
    assert checkpointed(tmp_path) == ["step-000001", "step-000003"]
    assert read_state(tmp_path / "checkpoints" / "step-000003").left_out == []


# ---- stopped


HOW = {"killed": (die, Killed), "stopped": (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt)}


AT = [(how, point) for how in HOW for point in (2, 1, 3, 4)]


@pytest.mark.parametrize(("how", "point"), [pytest.param(*at, marks=[pytest.mark.slow] * (at[1] != 2)) for at in AT])
def test_a_run_that_ends_inside_a_point_goes_on_as_if_it_had_not(how, point, whole, tiny_model_folder, tmp_path):
    act, end = HOW[how]
    arguments: Any = (tiny_model_folder, tmp_path, config_of(**KEPT))
    broken(lambda patch: at_call(patch, Curve, "measure", point, act), *arguments, end=end, curve=curve_of())
    run(*arguments, curve=curve_of())
    assert rows_of(tmp_path) == rows_of(whole)
    assert completions(tmp_path) == completions(whole)
    assert_equal(weights(tmp_path), weights(whole))
    assert {name: _score(tmp_path, name) for name in checkpointed(whole)} == {
        name: _score(whole, name) for name in checkpointed(whole)
    }


def _score(out: Path, checkpoint: str) -> float | None:
    return read_state(out / "checkpoints" / checkpoint).score


@pytest.mark.slow
def test_what_is_on_the_disk_is_not_measured_again(whole, tiny_model_folder, tmp_path):
    config, measured = config_of(**KEPT), []
    broken(
        lambda patch: at_call(patch, LocalEngine, "generate", 6, die),
        tiny_model_folder,
        tmp_path,
        config,
        curve=curve_of(),
    )
    assert checkpointed(tmp_path) == ["step-000002", "step-000003"]
    with pytest.MonkeyPatch.context() as patch:
        at = Curve.measure
        patch.setattr(Curve, "measure", lambda self, *rest: measured.append(1) or at(self, *rest))
        run(tiny_model_folder, tmp_path, config, curve=curve_of())
    assert len(measured) == 2  # of steps 4 and 6
    assert rows_of(tmp_path) == rows_of(whole)


@pytest.mark.slow
def test_another_evaluation_is_refused_where_points_are_and_one_may_begin_or_end(tiny_model_folder, tmp_path):
    config, other = config_of(), curve_of(temperature=1.0)
    of_run: Any = (tiny_model_folder, tmp_path / "run", config)
    broken(lambda patch: at_call(patch, LocalEngine, "generate", 6, die), *of_run, curve=curve_of())  # in step 4
    with pytest.raises(UserError, match=r"evaluation\.sampling\.temperature: 0\.6 -> 1\.0"):
        run(*of_run, curve=other)
    broken(lambda patch: at_call(patch, LocalEngine, "generate", 3, die), *of_run)  # a checkpoint of step 4 without it
    with pytest.raises(UserError, match=r"evaluation\.sampling\.temperature: 0\.6 -> 1\.0"):
        run(*of_run, curve=other)
    run(*of_run, curve=curve_of())
    assert [step for step, _ in points(tmp_path / "run")] == [0, 2, 4, 6]
    killed_at(3, tiny_model_folder, tmp_path / "late", config)
    run(tiny_model_folder, tmp_path / "late", config, curve=other)
    assert [(row["step"], "eval/pass@1" in row) for row in rows_of(tmp_path / "late")][1:3] == [(2, True), (3, True)]


class Two:
    """Processes, of which the other one is told to stop while the third part is asked."""

    size = 2

    def __init__(self) -> None:
        self.asked: list[int] = []

    def spread(self, items: list[Any], work: Any) -> list[Any]:
        self.asked.append(len(items))
        return work(items)

    def gather(self, mine: Any) -> list[Any]:
        return [mine, int(signal.SIGTERM) if len(self.asked) == 3 else None]


def test_several_processes_stop_together_between_two_parts_of_a_point(monkeypatch):
    """Before, a signal waited for the whole point, beyond its time of grace."""
    world, curve = Two(), curve_of(rows=[{**ROWS[0], "id": f"h{i}"} for i in range(9)])
    monkeypatch.setattr(World, "current", lambda: world)
    with pytest.raises(stopping.Stopped):
        curve.measure(Fixed(), 1, 4)
    assert world.asked == [2, 2, 2]


STOPPED = """
import sys
from pathlib import Path
import pytest
from evaluation.test_curve import curve_of
from grpo.engines.local.engine import LocalEngine
from grpo.system.world import World
from stages.commands.common import guarded
from support.processes import send
from support.runs import before, config_of, run

calls = []
def stop(*_, step, **__):
    calls.append(step)
    if calls == [0, 0, 0, 1, 0] and World.current().rank == 1:  # both parts of a point, two rollouts, and a part
        send(15)
def work(_):
    with pytest.MonkeyPatch.context() as patch:
        before(patch, LocalEngine, "generate", stop)
        run(Path(sys.argv[1]), Path(sys.argv[2]), config_of(checkpoint={}), curve=curve_of())
    return 0
code = guarded(work, [])
print(calls)
sys.exit(code)
"""


@pytest.mark.slow
def test_a_point_of_two_processes_is_stopped_and_its_step_saved(tiny_model_folder, tmp_path):
    model, out = map(str, (tiny_model_folder, tmp_path / "run"))
    both = two_processes(["-c", STOPPED, model, out])
    assert [(done.returncode, done.stderr.count("Traceback")) for done in both] == [(143, 0)] * 2
    assert checkpointed(tmp_path / "run") == ["step-000002"]
    assert [done.stdout.splitlines()[-1] for done in both] == ["[0, 0, 0, 1, 0]"] * 2


# ---- the best checkpoint


def test_the_best_checkpoint_by_held_out_problems(whole):
    assert checkpointed(whole) == ["step-000002", "step-000003", "step-000004", "step-000006"]
    measured = {f"step-{step:06d}": value for step, value in points(whole) if step}
    assert {name: _score(whole, name) for name in measured} == measured
    assert _score(whole, "step-000003") is None  # saved to go on from; its policy was not evaluated
    best = (whole / "checkpoints" / "best").read_text().strip()
    assert measured[best] == max(measured.values())


@pytest.mark.slow
def test_it_outlives_the_last_few(tiny_model_folder, tmp_path):
    worth = iter([0.1, 0.2, 0.9, 0.3, 0.4])
    config = config_of(steps=4, checkpoint={"every": 100, "keep": 1, "best": "eval/pass@1"})
    curve = curve_of(steps=1)
    point = {**curve.blank, "eval/pass@1_ci95": [0, 1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Curve, "measure", lambda *_: {**point, "eval/pass@1": next(worth)})
        run(tiny_model_folder, tmp_path, config, curve=curve)
    assert checkpointed(tmp_path) == ["step-000002", "step-000004"]
    assert (tmp_path / "checkpoints" / "best").read_text() == "step-000002\n"


def test_it_is_refused_without_a_curve(tiny_model_folder, tmp_path):
    with pytest.raises(UserError, match=r"checkpoint\.best: eval/pass@1 needs a policy that is evaluated on its way"):
        run(tiny_model_folder, tmp_path, config_of(**KEPT))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_the_model_of_the_best_one_is_made_by_its_number_of_steps(whole, tiny_model_folder, tmp_path):
    """As docs/resume.md says."""
    shutil.copytree(whole, tmp_path / "run")
    for name in checkpointed(whole):
        if name > "step-000002":
            shutil.rmtree(tmp_path / "run" / "checkpoints" / name)
    run(tiny_model_folder, tmp_path / "run", config_of(**KEPT | {"steps": 2}), curve=curve_of(), accept_changes=True)
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1, 2]
    result = evaluate(str(tmp_path / "run" / "model"), eval_config(), judges=JUDGES, runtime=CPU, seed=1, rows=ROWS)
    assert result["pass@1"] == dict(points(whole))[2]
    assert rows_of(tmp_path / "run")[-1]["eval/pass@1"] == result["pass@1"]
