"""Every causal language model of transformers: two steps in full and with an adapter, as docs/models.md says.

Sampled log-probs within 1e-5 of an eager forward, every saved tensor and the logits the same when loaded, or one line.
A few kinds always, all of them in `make matrix`.
"""

import json

import pytest

from grpo.errors import UserError
from grpo.model.loading.kinds import check_kind
from matrix.table import architectures, row_of, rows

FEW = ["qwen2", "gemma2", "gpt2", "gpt_oss", "mamba", "youtu", "deepseek_v3", "bert"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FEW else pytest.mark.slow) for name in architectures()]
)
def test_it_does_what_the_page_says(name, tmp_path):
    assert row_of(name, tmp_path) == rows()[name]


def test_the_page_lists_every_architecture_and_none_fails():
    assert sorted(rows()) == architectures()
    assert [line for line in rows().values() if "failed" in line] == []


def test_a_run_says_before_it_begins_what_it_would_refuse_later(tmp_path):
    """Of each refused architecture: by its name where that tells, and then the weights are not needed."""
    for name, line in rows().items():
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
        later = [text for text in ("not causal", "makes its logits", "embedded engine cannot sample") if text in line]
        early = ""
        try:
            check_kind(str(tmp_path), "local")
        except UserError as error:
            early = str(error)
        assert bool(later) == bool(early), name
        assert all(text in early for text in later), name
