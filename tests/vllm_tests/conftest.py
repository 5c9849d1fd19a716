"""The tiny model of the trainings with vLLM."""

import pytest

from support.models import save_model
from support.vllm_runs import SMALL


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.08, **SMALL)  # tied embeddings
