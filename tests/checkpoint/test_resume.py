"""Going on: with what was recorded, not with something else unnoticed, and never two runs in one folder."""

import json
import random
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from grpo.checkpoint.identity import differences, identify
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.training import TrainConfig
from grpo.errors import UserError
from grpo.monitoring.metrics import MetricsWriter
from grpo.scoring.table import Reward
from grpo.system.fingerprint import digest
from grpo.system.lock import LOCK, lock_run
from grpo.system.world import World
from support.adapters import adapter_of
from support.files import contents, flip, line_of
from support.models import save_model
from support.processes import held
from support.runs import CPU, completions, config_of, digits, killed_at, rows_of, run, task_of, weights

ALONE = World()


def drawing(completions: list[str], **_: Any) -> list[float]:
    """A reward that uses every global generator."""
    return [random.random() + np.random.random() + float(torch.rand(())) for _ in completions]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_the_global_generators_go_on_where_they_were(tiny_model_folder, tmp_path):
    config, tasks = config_of(), {"default": task_of(drawing)}
    seed_all(5)
    run(tiny_model_folder, tmp_path / "whole", config, tasks)
    seed_all(5)
    killed_at(5, tiny_model_folder, tmp_path / "cut", config, tasks)
    seed_all(6)
    run(tiny_model_folder, tmp_path / "cut", config, tasks)
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert completions(tmp_path / "cut") == completions(tmp_path / "whole")


# ---- what a run follows from


def identity(tasks: Any = None, model: str = "some/model", seed: int = 1, **settings: Any) -> dict[str, Any]:
    runtime = settings.pop("runtime", CPU)
    config = TrainConfig.of(
        config_of(**settings), model=model, out="x", seed=seed, engine=EngineConfig(), runtime=runtime
    )
    return identify(config, tasks or {"default": task_of()}, "local", ALONE)


def steps_of(out):
    return [row["step"] for row in rows_of(out)]


def edited(completions: list[str], **_: Any) -> list[float]:
    return [0.5 for _ in completions]


def with_rewards(*rewards):
    return {"tasks": {"default": replace(task_of(), rewards=list(rewards))}}


def test_what_an_adapter_lies_on_counts(tmp_path):
    """Before: a base model that was edited between kill and resume was not noticed."""
    adapter = adapter_of("llama", tmp_path)
    before = identity(model=adapter)
    old = before | {"model": before["model"].partition("+")[0]}  # as checkpoints had it
    assert not differences(old, identity(model=adapter)).matter
    save_model(tmp_path / "base", "llama", seed=7)
    (found,) = differences(before, identity(model=adapter)).matter
    assert found.startswith("model: ")


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "setting": ({"optimizer": {"lr": 1e-3}}, "optimizer.lr: 0.005 -> 0.001"),
    "steps": ({"steps": 7}, "steps: 6 -> 7"),
    "seed": ({"seed": 2}, "seed: 1 -> 2"),
    "model": ({"model": "another/model"}, "model: some/model -> another/model"),
    "dtype": ({"runtime": RuntimeConfig(device="cpu", dtype="bfloat16")}, "runtime.dtype: float32 -> bfloat16"),
    "data": ({"tasks": {"default": task_of(count=5)}}, "tasks.default.prompts: "),
    "weight": (with_rewards(Reward("digits", digits, 2.0)), "tasks.default.rewards.digits.weight: 1.0 -> 2.0"),
    "reward": (with_rewards(Reward("digits", edited)), "tasks.default.rewards.digits.fn: digits -> edited"),
    "share": ({"tasks": {"default": replace(task_of(), share=0.5)}}, "tasks.default.share: 1.0 -> 0.5"),
    "section": ({"lora": {"r": 4, "alpha": 8}}, "lora.r: (not set) -> 4"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_matters_is_told_key_by_key(name):
    settings, phrase = CHANGES[name]
    found = differences(identity(), identity(**settings))
    assert any(change.startswith(phrase) for change in found.matter), found
    assert found.rounding == []
    assert found.data == (["default"] if name == "data" else [])


def test_what_does_not_matter_is_free_and_rounding_is_told_apart():
    free = {"checkpoint": {"every": 1}, "runtime": RuntimeConfig(device="cpu", log_level="debug")}
    assert differences(identity(), identity(**free)) == differences(identity(), identity())
    assert differences(identity(), identity()).matter == []
    found = differences(identity(), identity(micro_batch_tokens=90, runtime=RuntimeConfig(device="cpu", threads=2)))
    assert found.matter == []
    assert sorted(found.rounding) == ["micro_batch_tokens: 60 -> 90", "runtime.threads: None -> 2"]
    other = {**identity(), "machine.torch": "1.0", "machine.processes": 2}
    assert differences(other, identity()).matter == []
    assert len(differences(other, identity()).rounding) == 2


def test_a_model_folder_counts_by_its_content(tiny_model_folder, tmp_path):
    shutil.copytree(tiny_model_folder, tmp_path / "moved")
    same = identity(model=str(tmp_path / "moved"))
    assert same == identity(model=str(tiny_model_folder))
    flip(tmp_path / "moved" / "model.safetensors", -1)
    assert same != identity(model=str(tmp_path / "moved"))


def test_a_changed_run_is_refused_and_goes_on_when_accepted(tiny_model_folder, tmp_path, caplog):
    config = config_of()
    killed_at(5, tiny_model_folder, tmp_path, config)
    before = contents(tmp_path)
    changed = config_of(optimizer={"lr": 1e-3}, advantage={"scale": "none"})
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.005 -> 0\.001") as error:
        run(tiny_model_folder, tmp_path, changed)
    assert "advantage.scale: group -> none" in str(error.value)
    assert "--accept-changes" in str(error.value)
    assert contents(tmp_path) == before
    with caplog.at_level("WARNING", "grpo"):
        run(tiny_model_folder, tmp_path, changed, accept_changes=True)
    assert "going on with changes: advantage.scale: group -> none; optimizer.lr" in caplog.text
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in rows_of(tmp_path)] == [5e-3] * 4 + [1e-3] * 2
    run(tiny_model_folder, tmp_path, changed)  # they are the run's own from then on


@pytest.mark.parametrize(
    "settings", [{}, {"dynamic_sampling": {"reward": "digits"}, "difficulty": {"reward": "digits"}}]
)
def test_accepted_data_begins_at_its_first_epoch(settings, tiny_model_folder, tmp_path):
    config = config_of(**settings)
    killed_at(5, tiny_model_folder, tmp_path, config, {"default": task_of(), "kept": task_of(count=9, name="kept")})
    tasks = {"default": task_of(count=2), "kept": task_of(count=9, name="kept")}
    with pytest.raises(UserError, match=r"tasks\.default\.prompts"):
        run(tiny_model_folder, tmp_path, config, tasks)
    run(tiny_model_folder, tmp_path, config, tasks, accept_changes=True)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_another_machine_is_a_warning_that_says_what_it_means(tiny_model_folder, tmp_path, caplog, monkeypatch):
    config = config_of()
    killed_at(5, tiny_model_folder, tmp_path, config)
    monkeypatch.setattr("grpo.checkpoint.identity.processor", lambda: "another CPU")
    with caplog.at_level("WARNING", "grpo"):
        run(tiny_model_folder, tmp_path, config_of(micro_batch_tokens=90))
    line = line_of(caplog, "other conditions")
    assert "-> another CPU" in line
    assert "micro_batch_tokens: 60 -> 90" in line
    assert "not equal the uninterrupted one bit for bit" in line


def test_a_column_that_is_no_json_is_the_same_in_the_next_process():
    class Image:
        pass

    first, second = ([[prompt.id, Image()] for prompt in task_of().prompts] for _ in range(2))
    assert digest(first) == digest(second) != digest([])


# ---- metrics.jsonl


def test_metrics_have_each_step_once_whatever_is_in_the_file(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1}', '{"step": 2, "a": 1}', '{"step": 2, "a": 2}', "null", "[1]", '{"step": 3}', '{"step": 4}']
    file.write_bytes("\n".join(lines).encode() + b'\n{"step": 5, "x": "\xff\n\0\0\0\0')
    writer = MetricsWriter(file, done=3)
    assert writer.last == {"step": 3}
    writer.write({"step": 4})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 1}, {"step": 2, "a": 2}, {"step": 3}, {"step": 4}]  # fmt: skip
    assert "lost" not in caplog.text
    file.unlink()
    with caplog.at_level("WARNING", "grpo"):  # an earlier test may have silenced it
        writer.write({"step": 5})
        MetricsWriter(file, done=5)
    assert "was removed while the run wrote to it" in caplog.text
    assert "lost the rows of 4 earlier steps" in caplog.text


# ---- one run to a folder


def test_a_finished_run_is_not_replaced_by_another(tiny_model_folder, tmp_path):
    """Without checkpoints, of which the last would tell."""
    config = config_of(steps=3, checkpoint={})
    run(tiny_model_folder, tmp_path, config)
    before = contents(tmp_path)
    for changed, words in ((config_of(steps=2, checkpoint={}), "steps: 3 -> 2"), (config, "rewards.edited.weight")):
        tasks = {"default": task_of(edited)} if changed is config else None
        for accept in (False, True):
            with pytest.raises(
                UserError, match=r"holds the finished model of another run \(.*move that one away$"
            ) as error:
                run(tiny_model_folder, tmp_path, changed, tasks, accept_changes=accept)
            assert words in str(error.value)
            assert contents(tmp_path) == before
    first = weights(tmp_path)
    run(tiny_model_folder, tmp_path, config)  # the same again
    assert all(torch.equal(first[name], value) for name, value in weights(tmp_path).items())
    (tmp_path / "identity.json").unlink()  # as from an older version
    with pytest.raises(UserError, match="what made it was not kept"):
        run(tiny_model_folder, tmp_path, config)


def test_what_an_unfinished_longer_run_sampled_goes(tiny_model_folder, tmp_path):
    killed_at(5, tiny_model_folder, tmp_path, config_of(checkpoint={}))
    assert len(list((tmp_path / "completions").iterdir())) == 5
    run(tiny_model_folder, tmp_path, config_of(steps=2, checkpoint={}))
    assert sorted(path.name for path in (tmp_path / "completions").iterdir()) == [
        "step-000001.jsonl",
        "step-000002.jsonl",
    ]
    assert json.loads((tmp_path / "identity.json").read_text())["steps"] == 2


def test_a_second_run_is_refused_and_a_dead_one_does_not_block(tiny_model_folder, tmp_path):
    with held(tmp_path / "run") as other:
        with pytest.raises(UserError, match=rf"another run \(process {other.pid} on .*\) is writing to") as error:
            run(tiny_model_folder, tmp_path / "run", config_of(steps=1))
        assert "\n" not in str(error.value)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    assert (tmp_path / "run" / LOCK).exists()
    run(tiny_model_folder, tmp_path / "run", config_of(steps=1))
    assert not (tmp_path / "run" / LOCK).exists()
    assert weights(tmp_path / "run")


def test_stages_share_the_run_folder_and_the_pipeline_does_not(tmp_path):
    with held(tmp_path, "shared"):
        with lock_run(tmp_path, ALONE, shared=True):
            pass
        with pytest.raises(UserError, match="another run"), lock_run(tmp_path, ALONE):
            pass
        assert (tmp_path / LOCK).exists()
    with lock_run(tmp_path, ALONE), lock_run(tmp_path, ALONE):  # a stage of the pipeline asks again
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), lock_run(tmp_path / "runs" / "a", ALONE):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def removing(folder):
    """Tasks whose reward removes the folder while the fourth step is judged."""

    def removing(completions, trainer_state, **_):
        if trainer_state.global_step == 3:
            shutil.rmtree(folder)
        return digits(completions)

    return {"default": task_of(removing)}


def test_a_removed_run_folder_stops_the_run(tiny_model_folder, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"run folder .* was removed or replaced"):
        run(tiny_model_folder, out, config_of(), removing(out))
    assert not out.exists()


@pytest.mark.parametrize("what", ["checkpoints", "completions"])
def test_a_folder_removed_under_the_run_is_made_again(what, tiny_model_folder, tmp_path):
    run(tiny_model_folder, tmp_path, config_of(), removing(tmp_path / what))
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-000006\n"
