"""SIGTERM and SIGINT at random moments: exit 143 or 130, and what goes on equals what was left alone."""

from __future__ import annotations

import signal

import pytest

from faults.torture import KINDS, SHARDED, torture


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_as_the_one_left_alone(kind, tmp_path):
    assert torture(tmp_path, kind, trials=20, seed=7, number=signal.SIGTERM) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_stop_together_when_one_is_told_to(tmp_path):
    assert torture(tmp_path, "full", trials=5, seed=7, processes=2, number=signal.SIGINT) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_sharded_weights_are_saved_whole(number, tmp_path):
    assert torture(tmp_path, "full" + SHARDED, trials=4, seed=7, processes=2, number=number) == []
