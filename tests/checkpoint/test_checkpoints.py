"""Checkpoints on a bad disk: every byte is checked, what is damaged is named, nothing is unpickled."""

import json
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from grpo.checkpoint.pack import pack, unpack
from grpo.checkpoint.sealed import damage, sealed_folder
from grpo.checkpoint.store import FORMAT, last_good, read_state
from grpo.config.training import SFTConfig
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.learner.make import make_learner
from grpo.model.loading.weights import load_model
from grpo.model.policy import load_policy
from grpo.system.files import write_json
from support.files import Bomb, contents, cut_short, flip, line_of, reseal
from support.runs import (
    CPU,
    assert_equal,
    assert_same_run,
    at_call,
    config_of,
    digits,
    killed_at,
    rows_of,
    run,
    task_of,
)

FILES = ["manifest.json", "model.safetensors", "optimizer.json", "optimizer.safetensors", "state.json"]
REFRESHED = {"loss": {"beta": 0.05}, "reference_every": 2}
DAMAGE = {"flipped": flip, "truncated": cut_short, "deleted": Path.unlink}


@pytest.fixture(scope="module")
def killed(tiny_model_folder, tmp_path_factory):
    """(an uninterrupted run, one that died while it sampled step 5, with checkpoints of steps 2 and 4)."""
    folder = tmp_path_factory.mktemp("runs")
    run(tiny_model_folder, folder / "whole", config_of(**REFRESHED))
    killed_at(5, tiny_model_folder, folder / "cut", config_of(**REFRESHED))
    return folder / "whole", folder / "cut"


class Cut:
    """A copy of the run that died: its checkpoints, and how it goes on."""

    def __init__(self, model: Path, whole: Path, out: Path) -> None:
        self.model, self.whole, self.out = model, whole, out
        self.folder = out / "checkpoints"
        self.newest = self.folder / "step-000004"

    def resume(self, **settings):
        run(self.model, self.out, config_of(**REFRESHED, **settings))

    def ends_as_the_whole_one(self, **settings):
        self.resume(**settings)
        assert_same_run(self.out, self.whole)


@pytest.fixture
def cut(killed, tiny_model_folder, tmp_path):
    shutil.copytree(killed[1], tmp_path / "run")
    return Cut(tiny_model_folder, killed[0], tmp_path / "run")


# ---- damage


def test_a_checkpoint_holds_what_it_should(cut):
    assert sorted(file.name for file in cut.newest.iterdir()) == sorted([*FILES, "reference.safetensors"])
    assert (cut.folder / "latest").read_text() == "step-000004\n"
    assert last_good(cut.folder) == cut.newest
    state = json.loads((cut.newest / "state.json").read_text())
    assert (state["step"], state["reference_step"], len(state["rng"])) == (4, 4, 1)
    identity = state["identity"]
    assert identity["optimizer.lr"] == 5e-3
    assert identity["machine.threads"] == torch.get_num_threads()
    assert identity["machine.processes"] == 1
    assert identity["machine.torch"] == torch.__version__
    assert identity["tasks.default.rewards.digits.fn"] == "digits"


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, "reference.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(name, how, cut, caplog):
    DAMAGE[how](cut.newest / name)
    with caplog.at_level("WARNING", "grpo"):
        assert last_good(cut.folder) == cut.folder / "step-000002"
    line = line_of(caplog, "damaged")
    assert f"step-000004: '{name}'" in line
    assert line.endswith("step-000002")
    if how == "flipped":  # what follows is the same for all kinds of damage
        cut.ends_as_the_whole_one()
        assert last_good(cut.folder) == cut.folder / "step-000006"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", DAMAGE)
def test_without_a_good_checkpoint_nothing_begins_anew(name, how, cut):
    for folder in cut.folder.glob("step-*"):
        DAMAGE[how](folder / name)
    before = contents(cut.out)
    with pytest.raises(UserError, match=rf"no checkpoint .*step-000004: '{name}'.*; step-000002: '{name}'") as error:
        cut.resume()
    assert "\n" not in str(error.value)
    assert contents(cut.out) == before


def test_a_checkpoint_of_the_version_before_goes_on_and_an_older_one_is_named(cut):
    """Format 3 is 4 without what waits, from when there was no `engine.ahead`."""
    for path in cut.folder.glob("step-*"):
        state = json.loads((path / "state.json").read_text())
        del state["source"]["waiting"], state["identity"]["engine.ahead"]
        write_json(path / "state.json", state)
        reseal(path, 2)
    with pytest.raises(UserError, match=r"step-000004: 'manifest.json': of an older version .*: use that version, or"):
        last_good(cut.folder)
    for path in cut.folder.glob("step-*"):
        reseal(path, 3)
    cut.ends_as_the_whole_one()


def test_a_checkpoint_that_is_gone_is_missed(cut, caplog):
    shutil.rmtree(cut.newest)
    with caplog.at_level("WARNING", "grpo"):
        assert last_good(cut.folder) == cut.folder / "step-000002"
    assert "step-000004: 'latest' names it, but it is gone" in caplog.text
    shutil.rmtree(cut.folder / "step-000002")
    with pytest.raises(UserError, match="step-000004: 'latest' names it, but it is gone"):
        last_good(cut.folder)


def test_a_folder_cut_short_by_a_kill_is_not_a_checkpoint(cut):
    shutil.copytree(cut.newest, cut.folder / ".step-000006.partial")
    (cut.folder / ".step-000006.partial" / "manifest.json").unlink()
    (cut.folder / "latest").write_text("step-000002\n")  # killed between the rename and the pointer
    assert last_good(cut.folder) == cut.newest
    cut.ends_as_the_whole_one()
    assert (cut.folder / "latest").read_text() == "step-000006\n"
    assert not list(cut.folder.glob(".*"))


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_noticed(tmp_path):
    with sealed_folder(tmp_path / "f", FORMAT) as partial:
        write_json(partial / "a.json", 1)
    text = (tmp_path / "f" / "manifest.json").read_bytes()
    assert damage(tmp_path / "f", FORMAT) is None
    for place in range(len(text)):
        changed = bytearray(text)
        changed[place] ^= 1 << place % 8
        (tmp_path / "f" / "manifest.json").write_bytes(changed)
        assert "'manifest.json' was changed" in str(damage(tmp_path / "f", FORMAT)), place
    (tmp_path / "f" / "manifest.json").write_bytes(text)
    assert damage(tmp_path / "f", FORMAT + 1) == "'manifest.json': of an older version of this program"
    assert damage(tmp_path / "f", FORMAT - 1) == "'manifest.json': of a newer version of this program"


def test_old_checkpoints_go_only_after_a_new_one_is_whole(cut):
    """Also when the newest is damaged, and keep is 1: it is not counted among those to keep."""
    flip(cut.newest / "state.json")
    shutil.copytree(cut.newest, cut.folder / "step-000006")
    killed_at(3, cut.model, cut.out, config_of(**REFRESHED, checkpoint={"every": 1, "keep": 1}))
    assert [path.name for path in cut.folder.glob("step-*")] == ["step-000003"]
    assert last_good(cut.folder) == cut.folder / "step-000003"


def test_what_a_kill_left_undone_is_finished(cut):
    """Killed after the rename of the last checkpoint: no step is left that would save another."""
    shutil.rmtree(cut.out)
    shutil.copytree(cut.whole, cut.out)
    (cut.folder / "latest").write_text("step-000004\n")
    (cut.folder / ".step-000006.old").mkdir()
    (cut.folder / "step-000002" / "manifest.json").unlink()  # killed while it was removed
    cut.ends_as_the_whole_one(checkpoint={"every": 2, "keep": 2})
    assert (cut.folder / "latest").read_text() == "step-000006\n"
    assert sorted(path.name for path in cut.folder.iterdir()) == ["latest", "step-000004", "step-000006"]


# ---- nothing is unpickled


def test_a_pickle_in_a_checkpoint_is_not_executed(cut, tmp_path):
    mark = tmp_path / "exploded"
    for name in ("optimizer.pt", "model.bin", "pytorch_model.bin", "rng_state.pth"):
        (cut.newest / name).write_bytes(pickle.dumps(Bomb(mark)))
    cut.ends_as_the_whole_one()
    assert not mark.exists()


@pytest.mark.parametrize("name", FILES[1:])
def test_a_pickle_in_the_place_of_a_file_is_not_executed(name, cut, tmp_path):
    """Even with a manifest that vouches for it."""
    mark = tmp_path / "exploded"
    (cut.newest / name).write_bytes(pickle.dumps(Bomb(mark)))
    reseal(cut.newest, FORMAT)
    with pytest.raises((ValueError, SafetensorError)):
        cut.resume()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_pickle_in_a_model_or_adapter_folder_is_not_executed(name, tiny_model_folder, tmp_path):
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    mark = tmp_path / "exploded"
    (tmp_path / "model" / name).write_bytes(pickle.dumps(Bomb(mark)))
    if name.startswith("pytorch"):
        (tmp_path / "model" / "model.safetensors").unlink()
    else:
        adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}
        (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises((UserError, pickle.UnpicklingError)):
        load_model(str(tmp_path / "model"), torch.device("cpu"))
    assert not mark.exists()


def test_an_optimizer_as_tensors_and_json_is_the_same(tiny_model_folder):
    policy = load_policy(str(tiny_model_folder), CPU)
    learner = make_learner(policy, config_of(optimizer={"lr": 1e-3, "beta2": 0.95, "weight_decay": 0.1}), CPU)
    for parameter in policy.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    learner.optimizer.step()
    before = learner.optimizer_state()
    tensors, rest = pack(before)
    after = unpack(tensors, json.loads(json.dumps(rest)))
    assert after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    assert after["optimizer"]["state"].keys() == before["optimizer"]["state"].keys()
    for index, entry in before["optimizer"]["state"].items():
        again = after["optimizer"]["state"][index]
        assert {name: value.dtype for name, value in again.items()} == {name: v.dtype for name, v in entry.items()}
        assert_equal(again, entry)


# ---- the best one


def scripted(completions, trainer_state, **_):
    """Good in the third and fourth step, and a little different for each completion."""
    good = trainer_state.global_step in (2, 3)
    return [float(good) + 0.1 * value for value in digits(completions)]


def test_the_best_checkpoint_stays_however_often_the_run_is_stopped(tiny_model_folder, tmp_path, monkeypatch):
    config = config_of(steps=9, checkpoint={"every": 2, "keep": 1, "best": "reward/scripted"})
    tasks = {"default": task_of(scripted)}
    run(tiny_model_folder, tmp_path / "whole", config, tasks)
    for rollouts in (4, 4):  # while the fourth one is drawn: after steps 3 and 6
        with monkeypatch.context() as patch:
            at_call(patch, LocalEngine, "generate", rollouts, lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                run(tiny_model_folder, tmp_path / "cut", config, tasks)
    assert last_good(tmp_path / "cut" / "checkpoints") == tmp_path / "cut" / "checkpoints" / "step-000006"
    run(tiny_model_folder, tmp_path / "cut", config, tasks)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    for name in ("whole", "cut"):
        folder = tmp_path / name / "checkpoints"
        assert sorted(path.name for path in folder.iterdir()) == ["best", "latest", "step-000004", "step-000008"]
        assert (folder / "best").read_text() == "step-000004\n"
        assert 1 < read_state(folder / "step-000004").score < 1.1
        assert read_state(folder / "step-000008").score < 0.1


def test_going_back_to_the_best_checkpoint(tiny_model_folder, tmp_path, caplog):
    config = config_of(steps=8, checkpoint={"every": 2, "keep": 1, "best": "reward"})
    run(tiny_model_folder, tmp_path, config, {"default": task_of(scripted)})
    shutil.move(tmp_path / "checkpoints" / "step-000008", tmp_path / "aside")
    with caplog.at_level("WARNING", "grpo"):
        run(tiny_model_folder, tmp_path, config, {"default": task_of(scripted)})
    assert "going on from step 4" in caplog.text
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, 9))


def test_a_best_of_what_is_not_there_is_refused(tiny_model_folder, tmp_path):
    config = config_of(checkpoint={"every": 2, "best": "reward/digit"})
    with pytest.raises(UserError, match=r"'checkpoint\.best': no reward 'reward/digit' \(did you mean 'reward/digits'"):
        run(tiny_model_folder, tmp_path, config)
    with pytest.raises(ValueError, match="'best' has no effect without 'every'"):
        config_of(checkpoint={"best": "reward"})
    with pytest.raises(ValueError, match="supervised training has no reward"):
        SFTConfig(
            steps=1, batch_size=1, max_tokens=9, optimizer={"lr": 1e-3}, checkpoint={"every": 1, "best": "reward"}
        )
