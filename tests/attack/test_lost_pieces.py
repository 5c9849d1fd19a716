"""Pieces of a run folder that are gone, moved or elsewhere when the same command comes again."""

import shutil

import pytest

from grpo.checkpoint.store import last_good
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from support.runs import config_of, run


def test_from_that_was_stopped_and_whose_rest_a_plain_run_did(pipeline):
    """Before: the same words, meant anew, did nothing: they said to go on with what was done."""
    pipeline.go()
    pipeline.fail = "reasoning_rl"
    with pytest.raises(KeyboardInterrupt):
        pipeline.go(from_stage="cold_start")
    pipeline.fail = None
    pipeline.go()
    done = len(pipeline.ran)
    pipeline.go(from_stage="cold_start")
    assert pipeline.ran[done:] == ["cold_start", "reasoning_rl"]
    assert len(list(pipeline.run.glob("old-*"))) == 2


def test_checkpoints_on_a_disk_that_is_not_there_now(tmp_path):
    """Before: the run began anew, and dropped the metrics of what it had done."""
    (tmp_path / "checkpoints").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UserError, match=r"checkpoints' leads to .*unmounted', which is not there"):
        last_good(tmp_path / "checkpoints")


def test_checkpoints_that_were_deleted(tiny_model_folder, tmp_path, caplog):
    """Before: "going on", and not a word that every step was done again."""
    config = config_of(steps=2)
    run(tiny_model_folder, tmp_path, config)
    assert "done again" not in caplog.text
    shutil.rmtree(tmp_path / "checkpoints")
    run(tiny_model_folder, tmp_path, config)
    assert f"no checkpoint in '{tmp_path / 'checkpoints'}': the 2 steps in metrics.jsonl are done again" in caplog.text


def test_an_evaluation_before_the_first_step_is_no_step_that_is_done_again(tmp_path, caplog):
    """Before: with `evaluation.every` the row of step 0 was counted as one more."""
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 0}])
    assert last_good(tmp_path / "checkpoints") is None
    assert "done again" not in caplog.text
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": step} for step in range(3)])
    assert last_good(tmp_path / "checkpoints") is None
    assert "the 2 steps in metrics.jsonl are done again" in caplog.text


@pytest.mark.parametrize("from_stage", [None, "reasoning_rl"])
def test_a_stage_on_a_disk_that_is_not_there_now(pipeline, from_stage):
    """Before: the stages in front of it were run, and then its folder could not be made: "File exists"."""
    pipeline.run.mkdir()
    pipeline.folder("reasoning_rl").symlink_to("unmounted")
    with pytest.raises(UserError, match=r"2-reasoning-rl' leads to 'unmounted', which is not there"):
        pipeline.go(from_stage=from_stage)
    assert pipeline.ran == []


def test_a_run_folder_on_a_disk_that_is_not_there_now(pipeline):
    pipeline.run.symlink_to("unmounted")
    with pytest.raises(UserError, match="run' leads to 'unmounted', which is not there"):
        pipeline.go()
