"""SIGKILL at random moments: what is resumed equals, bitwise, what was left alone."""

from __future__ import annotations

import pytest

from faults.torture import KINDS, torture


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_as_the_one_left_alone(kind, tmp_path):
    assert torture(tmp_path, kind, trials=20, seed=7) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_two_processes_one_is_killed(tmp_path):
    assert torture(tmp_path, "full", trials=5, seed=7, processes=2) == []


def test_one_kill_of_each_sort(tmp_path):
    """In every run of the suite; the others are `pytest -m slow` and `make torture`."""
    assert torture(tmp_path, "lora", trials=1, seed=1) == []
