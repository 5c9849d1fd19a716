"""Signals at random moments: SIGKILL, SIGTERM (exit 143) and SIGINT (130); what goes on equals what was left alone."""

import signal

import pytest

from faults.torture import KINDS, SHARDED, Kill, attempt, torture


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_as_the_one_left_alone(number, kind, tmp_path):
    assert torture(tmp_path, kind, trials=20, seed=7, number=number) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_of_two_processes_one_is_killed_or_both_stop_when_one_is_told_to(number, tmp_path):
    assert torture(tmp_path, "full", trials=5, seed=7, processes=2, number=number) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_sharded_weights_are_saved_whole(number, tmp_path):
    assert torture(tmp_path, "full" + SHARDED, trials=4, seed=7, processes=2, number=number) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_after_the_last_step_stops_both_processes_or_none(rank, tiny_model_folder, tmp_path):
    """Before: one ended with 143, the other with 0."""
    kill = Kill("over", 1, 0.0, signal.SIGTERM)
    assert not attempt(tiny_model_folder, tmp_path / "run", "full", 2, kill, rank)  # raises where they do not agree
    assert attempt(tiny_model_folder, tmp_path / "run", "full", 2, None)


def test_one_kill_of_each_sort(tmp_path):
    """In every run of the suite; the others are `pytest -m slow` and `make torture`."""
    assert torture(tmp_path, "lora", trials=1, seed=1) == []
