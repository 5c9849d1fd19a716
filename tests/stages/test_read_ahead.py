"""Rows and lengths that a later stage would refuse are refused before the first one runs, where that can be known."""

import sys
import types
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from grpo.config.data import DataConfig
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from stages.cli import main
from stages.commands.run import stage_command
from stages.recipe.ahead import Ahead, rows_ahead
from support.models import save_model

MATH = "reasoning_rl.tasks.math.data"
BAD = {
    "bytes": {"question": "2 + 2", "answer": b"\xff"}, "surrogate": {"question": "2 + \ud800", "answer": "4"},
}  # fmt: skip


@pytest.fixture
def functions(monkeypatch):
    """A module of data functions, and what was called."""
    module, calls = types.ModuleType("own_rows"), []

    def made(kind="plain", file=None):
        calls.append(kind)
        return [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(3)] + [
            BAD[kind] for _ in range(kind in BAD)
        ]

    def read(file):
        calls.append("read")
        return [{"question": Path(file).read_text(), "answer": "4"}]

    def endless():
        while True:
            calls.append("endless")
            yield {"question": "2 + 2", "answer": "4"}

    for function in (made, read, endless):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "own_rows", module)
    return calls


@pytest.mark.parametrize(("kind", "words"), [
    ("bytes", "data function 'own_rows.made', row 3: "),
    ("surrogate", "row 3: half of a surrogate"),
])  # fmt: skip
def test_rows_of_a_function_are_refused_before_the_first_stage(pipeline, functions, kind, words):
    """Before: when the stages before it had been paid."""
    with pytest.raises(UserError, match=r"own_rows\.made") as caught:
        pipeline.go(f"{MATH}={{fn: own_rows.made, kwargs: {{kind: {kind}}}}}")
    assert words in str(caught.value)
    assert not pipeline.ran
    assert not pipeline.run.exists()


@pytest.mark.parametrize("columns", ["{prompt: task}", "{question: answer}"])
def test_columns_that_are_not_there(pipeline, functions, columns):
    with pytest.raises(UserError, match="columns: "):
        pipeline.go(f"{MATH}={{fn: own_rows.made, columns: {columns}}}")
    assert not pipeline.ran


def test_what_an_earlier_stage_makes_is_left_to_its_stage(pipeline, functions, tmp_path):
    for file in ("{run}/1-cold-start/data/rows.jsonl", str(pipeline.run / "rows"), str(tmp_path / "made-by-a-stage")):
        functions.clear()
        pipeline.go(f"{MATH}={{fn: own_rows.read, kwargs: {{file: '{file}'}}}}", from_stage="reasoning_rl")
        assert functions in ([], ["read"])
    assert pipeline.ran[:2] == ["base", "cold_start"]


def test_the_first_stage_s_function_and_a_finished_one_s_are_not_called(pipeline, functions):
    cold = "cold_start.data={fn: own_rows.made, kwargs: {kind: cold}}"
    rl = f"{MATH}={{fn: own_rows.made, kwargs: {{kind: rl}}}}"
    pipeline.go(cold, rl, until="base")
    assert functions == []
    pipeline.go(cold, rl, until="cold_start")  # which is a fake, and calls none itself
    assert functions == []
    pipeline.go(cold, rl, from_stage="base")
    assert functions == ["cold", "rl"]  # each once


def test_a_function_without_end_is_not_waited_for(monkeypatch, functions, tmp_path):
    monkeypatch.setattr("stages.recipe.ahead.SECONDS", 0.02)
    assert rows_ahead(DataConfig(fn="own_rows.endless"), tmp_path) is None
    assert len(Ahead(tmp_path).rows(DataConfig(fn="own_rows.endless", limit=3)) or ()) == 3


def test_a_hub_data_set_is_read_where_it_lies_in_the_cache(pipeline, monkeypatch):
    cached = {}

    def load(name, *_, **__):
        assert datasets.config.HF_HUB_OFFLINE
        assert huggingface_hub.constants.HF_HUB_OFFLINE
        return datasets.Dataset.from_list(cached[name])

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets, "load_dataset", load)
    hub = f"{MATH}={{path: some/set, columns: {{question: Body}}}}"
    pipeline.go(hub, until="base")
    assert pipeline.ran == ["base"]
    pipeline.go(hub)  # not there: left to its stage
    cached["some/set"] = [{"Question": "2+2", "answer": "4"}]
    with pytest.raises(UserError, match="data 'some/set': columns: no column 'Body'"):
        pipeline.go(hub, from_stage="base")
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("override", "place"), [
    ("evaluation.math.max_tokens=48", "evaluation.math"),
    ("reasoning_rl.sampling.max_tokens=48", "reasoning_rl.tasks.math"),
])  # fmt: skip
def test_what_goes_beyond_the_positions_is_refused_before_the_first_stage(pipeline, tmp_path, kind, override, place):
    folder = save_model(tmp_path / "model", kind, max_position_embeddings=48)
    with pytest.raises(UserError, match=rf"^{place}: max_tokens=48 after a prompt of \d+ .* 48 positions"):
        pipeline.go(f"base.model={folder}", override)
    assert not pipeline.run.exists()


def test_a_stage_that_is_given_a_model_says_so_before_it_trains(pipeline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="acuracy"):
        pipeline.go("evaluation.math.accuracy=acuracy")  # writes the config
    folder = str(save_model(tmp_path / "model", "llama", max_position_embeddings=48))
    words = ["recipe.yaml", "--init", folder, "evaluation.math.max_tokens=48"]
    with pytest.raises(UserError, match=r"^evaluation.math: max_tokens=48 after a prompt of"):
        stage_command("cold_start", words)
    assert not (tmp_path / "runs" / "recipe" / "1-cold-start" / "stage.json").exists()


def test_check_reads_them_alike(tmp_path, monkeypatch, capsys, functions):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "set.jsonl", [{"question": "1+1?", "answer": "2"}])
    (tmp_path / "c.yaml").write_text(
        "base: model\nreasoning_rl: {steps: 1, rewards: accuracy, data: {fn: own_rows.read, kwargs: {file: '{run}/x'}}}"
    )
    save_model(tmp_path / "model", "llama")
    main(["check", "c.yaml"])
    assert "skipped  data reasoning_rl.tasks.default.data: its stage reads it" in capsys.readouterr().out
    assert functions == []
