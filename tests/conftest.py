"""Fixtures for all tests, and how a session of tests is set up."""

import fcntl
import gc
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers reads it: no test waits for a network
pytest.register_assert_rewrite("support")  # failed assertions of the helpers say as much as those of the tests

from support.chat import KEY, serving  # noqa: E402
from support.models import save_model  # noqa: E402
from support.servers import Server  # noqa: E402

# Whoever starts the tests in the background has Ctrl-C ignored, and so would the runs that are stopped by it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # where the servers of the tests are


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test of vLLM or of real models that is skipped has shown nothing: it counts as failed."""
    report = yield
    for marker in ("vllm", "real"):
        if report.skipped and item.get_closest_marker(marker):
            report.outcome, report.longrepr = "failed", f"skipped, and a test marked {marker} must run"
    return report


def pytest_collection_finish() -> None:
    """What is imported by now stays for ever: a stage that collects garbage would look through all of it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _no_disk_is_waited_for() -> Iterator[None]:
    """What a test writes need not outlive a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of 20k parameters with the char-level tokenizer, in Hugging Face format."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.08)


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts endpoints for chat completions, which are asked again at once, and puts a key into the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("stages.served.endpoint.FIRST_DELAY", 0.001)
    with ExitStack() as servers:
        yield lambda answer: servers.enter_context(serving(answer))


@pytest.fixture(params=["namespaces", "limits"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Each way to hold a program that works on this machine."""
    from rewards.code.sandbox.run import SandboxError, choose

    try:
        choose(request.param)
    except SandboxError as error:
        pytest.skip(f"{request.param} do not work here: {error}")
    return str(request.param)


@pytest.fixture
def only_sandbox() -> Iterator[None]:
    """One test at a time over all test processes: the sandbox's own tests look at every sandbox on the machine."""
    with open(Path(tempfile.gettempdir()) / "grpo-sandbox-tests.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def usual_log_level() -> None:
    """What a run or a command in another test made of it (`runtime.log_level`, say) is not for this one."""
    logging.getLogger("grpo").setLevel(logging.WARNING)
