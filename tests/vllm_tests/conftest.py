"""The tiny model of the trainings with vLLM."""

from collections.abc import Iterator

import pytest

from support.models import save_model
from support.vllm_runs import SMALL


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where `grpo serve` writes keys and runs find them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("VLLM_API_KEY", raising=False)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.08, **SMALL)  # tied embeddings
