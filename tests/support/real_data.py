"""Tests on the real data are skipped, with the reason, where it is not there."""

import pytest

from benchmarks.real_data import data_folder, rows_of

__all__ = ["needs_data", "rows_of"]

needs_data = pytest.mark.skipif(data_folder() is None, reason="no real data: set GRPO_DATA to the folder that holds it")
