"""The key between `grpo serve` and a run. With real vLLM: tests/vllm_tests/test_server.py."""

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from grpo.engines.vllm import key
from grpo.engines.vllm.client import Server, new_client
from grpo.engines.vllm.key import KeyGuard, drop_key, give_key, key_file, take_key
from grpo.errors import UserError
from support.servers import Reply, listening


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def status(path: str, headers: dict[str, str], kind: str = "http", method: str = "POST") -> int | str:
    """What the guard sends; 200: the application was reached."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "method": method}
    scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(KeyGuard(app)(scope, None, send))
    return sent[0].get("status", sent[0]["type"])


PATHS = [
    "/v1/models", "/inference/v1/generate", "/update_weights", "/collective_rpc", "/pause", "/sleep", "/server_info",
    "/metrics", "/reset_prefix_cache", "/docs", "/health/", "//health", "/health/../pause", "/HEALTH",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_health_answers_without_the_key(monkeypatch, path):
    monkeypatch.setenv("VLLM_API_KEY", "k-1")
    for headers in ({}, {"Authorization": "Bearer k-2"}, {"Authorization": "k-1"}, {"Authorization": "Basic k-1"},
                    {"Authorization": "Bearer "}, {"Authorization": "Bearer k-1 "}, {"X-Api-Key": "k-1"}):  # fmt: skip
        for method in ("GET", "POST", "OPTIONS"):
            assert status(path, headers, method=method) == 401
    assert status(path, {"Authorization": "Bearer k-1"}) == status(path, {"authorization": "bearer k-1"}) == 200


def test_health_a_socket_and_a_guard_without_a_key(monkeypatch):
    with pytest.raises(KeyError):
        KeyGuard(None)
    monkeypatch.setenv("VLLM_API_KEY", "k-1")
    assert status("/health", {}) == status("", {}, kind="lifespan") == 200
    assert status("/health", {}, kind="websocket") == status("/v1/realtime", {}, kind="websocket") == "websocket.close"


def test_a_key_is_for_our_user_alone(tmp_path):
    file = key_file("http://localhost:8000")
    assert file == key_file("http://127.0.0.1:8000") == key_file("http://0.0.0.0:8000")
    assert file.parent == tmp_path / ".grpo" / "keys"
    assert key_file("http://192.0.2.7:8000").name == "192.0.2.7-8000"
    file.parent.mkdir(parents=True, mode=0o700)
    secret = tmp_path / "precious"
    secret.write_text("stays")
    file.symlink_to(secret)
    give_key(file, "k-1")
    assert (take_key(file), secret.read_text()) == ("k-1", "stays")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
    for path, mode in ((file, 0o640), (file.parent, 0o755)):
        path.chmod(mode)
        with pytest.raises(UserError, match="not of our user alone"):
            take_key(file)
        path.chmod(0o700)
    file.parent.chmod(0o777)
    with pytest.raises(UserError, match=r"the server's key cannot be handed to runs there: .*not of our user alone"):
        give_key(file, "k-2")
    file.parent.chmod(0o700)
    drop_key(file)
    assert take_key(file) == ""
    drop_key(file)
    file.symlink_to(secret)
    with pytest.raises(UserError, match="the server's key: "):
        take_key(file)


def test_a_home_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="the server's key cannot be handed to runs there: Not a directory"):
        give_key(key_file("http://localhost:8000"), "k-1")
    assert take_key(key_file("http://localhost:8000")) == ""


def guarded(path: str, authorization: str) -> Reply:
    known = path == "/health" or authorization == "Bearer k-1"
    return Reply(200, {"ok": True}) if known else Reply(401, {"error": "Unauthorized"})


def asked(url: str, path: str = "/v1/models") -> Any:
    async def ask() -> Any:
        async with new_client() as client:
            return await Server(url, 10.0).get(client, path)

    return asyncio.run(ask())


def test_a_run_finds_the_key_and_says_where_it_is_expected(monkeypatch):
    with listening(lambda path, body, number: guarded(path, server.headers[-1].get("authorization", ""))) as server:
        file = key_file(server.url)
        expected = f"expected in VLLM_API_KEY or in '{file}'; `grpo serve` writes it to ~/.grpo/keys/MACHINE-PORT where"
        with pytest.raises(UserError) as caught:
            asked(server.url)
        assert str(caught.value).startswith(f"vLLM at {server.url} wants an API key, {expected}")
        give_key(file, "k-2")
        with pytest.raises(UserError) as caught:
            asked(server.url)
        wrong = f"vLLM at {server.url} refuses the API key of '{file}': another one is {expected}"
        assert str(caught.value).startswith(wrong)
        assert "k-2" not in str(caught.value)
        give_key(file, "k-1")  # it was started again
        assert asked(server.url) == {"ok": True}
        monkeypatch.setenv("VLLM_API_KEY", "k-3")
        with pytest.raises(UserError, match="refuses the API key of VLLM_API_KEY: another one is expected in"):
            asked(server.url)
        drop_key(file)
        monkeypatch.setenv("VLLM_API_KEY", " k-1\n")
        assert asked(server.url) == {"ok": True}
        asked(server.url, "/health")
        assert "authorization" not in server.headers[-1]
        monkeypatch.setenv("VLLM_API_KEY", "k 1")
        with pytest.raises(UserError, match="VLLM_API_KEY: its value has characters that no HTTP header may hold"):
            asked(server.url)


def test_a_server_without_a_key_gets_none_and_a_key_stays_with_its_host():
    with listening(lambda *_: Reply(200, {"ok": True})) as other:
        with listening(lambda *_: Reply(307, b"", {"Location": f"{other.url}/v1/models"})) as server:
            give_key(key_file(server.url), "k-1")
            with pytest.raises(UserError, match=f"vLLM at {server.url}/v1/models: HTTP 307"):
                asked(server.url)
        assert other.count == 0
        assert asked(other.url) == {"ok": True}
        assert "authorization" not in other.headers[0]


def test_keys_are_long_random_and_the_environments_where_it_has_one(monkeypatch):
    assert len({key.new_key() for _ in range(9)}) == 9
    assert len(key.new_key()) >= 32
    monkeypatch.setenv("VLLM_API_KEY", "mine")
    assert key.new_key() == "mine"
    assert Path(os.environ["HOME"]).is_dir()
