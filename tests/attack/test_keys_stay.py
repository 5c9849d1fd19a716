"""Keys of the environment go to the service they are for: never to an address that a config alone has chosen."""

import json
from pathlib import Path

import pytest

from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from grpo.system.service import OPENAI, Service
from grpo.types import Prompt, Sampling
from stages.cli import main
from stages.served.config import EndpointConfig
from stages.served.endpoint import serve
from stages.teacher import demonstrations
from support.chat import KEY, right, status
from support.judge import judged

QUESTION = Prompt("0", (), messages=[{"role": "user", "content": "What is 3 + 1?"}])
ELSEWHERE = "http://192.0.2.1/v1"


@pytest.mark.parametrize(
    ("base_url", "key_env", "environment", "wanted"),
    [
        (None, None, None, f"{OPENAI} with the key of OPENAI_API_KEY"),
        (OPENAI, None, None, f"{OPENAI} with the key of OPENAI_API_KEY"),
        (None, None, ELSEWHERE, f"{ELSEWHERE} with the key of OPENAI_API_KEY"),
        (ELSEWHERE, None, ELSEWHERE, f"{ELSEWHERE} with the key of OPENAI_API_KEY"),
        (ELSEWHERE, None, None, f"{ELSEWHERE} with no key"),
        (f"{OPENAI}.evil.example", None, None, f"{OPENAI}.evil.example with no key"),
        (ELSEWHERE, None, "http://192.0.2.2/v1", f"{ELSEWHERE} with no key"),
        (ELSEWHERE, "OTHER_KEY", None, f"{ELSEWHERE} with the key of OTHER_KEY"),
        (ELSEWHERE, "OPENAI_API_KEY", None, f"{ELSEWHERE} with the key of OPENAI_API_KEY"),
    ],
)
def test_which_key_goes_where(monkeypatch, base_url, key_env, environment, wanted):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OTHER_KEY", "other")
    if environment:
        monkeypatch.setenv("OPENAI_BASE_URL", environment)
    service = Service.chosen(base_url, key_env)
    assert str(service) == wanted
    assert KEY not in repr(service)


@pytest.fixture
def secrets(monkeypatch):
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "X-Mine: my-secret" if "HEADERS" in name else "my-secret")
    return (KEY, "my-secret")


def test_an_address_of_a_config_gets_no_key_of_the_environment(chat_server, tmp_path, secrets):
    """Whoever sent the config, or the address, would have had it."""
    write_jsonl(tmp_path / "q.jsonl", [{"question": "What is 3 + 1?", "answer": "4"}])
    server = chat_server(right)
    endpoint = {"model": "m", "base_url": server.url}
    serve(EndpointConfig(**endpoint), [QUESTION], Sampling(1, 8), 0)
    demonstrations(
        endpoint=endpoint, questions={"path": str(tmp_path / "q.jsonl")}, file=str(tmp_path / "t.jsonl"), max_tokens=8
    )
    judged(server, ["it is 4"])
    assert server.count >= 3
    assert not any(secret in str(server.headers) for secret in secrets)


def test_a_refusal_for_want_of_a_key_says_so(chat_server, tmp_path):
    server = chat_server(lambda *_: status(401, "who are you?"))
    hint = "HTTP 401: who are you?; no key was sent: key_env names its variable"
    with pytest.raises(UserError) as caught:
        serve(EndpointConfig(model="m", base_url=server.url), [QUESTION], Sampling(1, 8), 0)
    assert str(caught.value).endswith(hint)
    with pytest.raises(UserError) as caught:
        serve(EndpointConfig(model="m", base_url=server.url, key_env="OPENAI_API_KEY"), [QUESTION], Sampling(1, 8), 0)
    assert str(caught.value).endswith("HTTP 401: who are you?")


def test_who_types_the_address_sends_the_key(chat_server, tmp_path, monkeypatch, secrets):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTHER_KEY", "other")
    write_jsonl(tmp_path / "q.jsonl", [{"question": "What is 3 + 1?", "answer": "4"}])
    server = chat_server(right)
    words = ["eval", "openai:m", "--data", "q.jsonl", "--base-url", server.url, "--max-tokens", "8"]
    for more in ([], ["endpoint.key_env=OTHER_KEY"], ["endpoint.key_env=null"]):
        assert main([*words, *more]) == 0
    assert [headers["authorization"] for headers in server.headers] == [f"Bearer {KEY}", "Bearer other", "Bearer none"]
    assert ["my-secret" in str(headers) for headers in server.headers] == [True, False, False]  # what belongs to KEY


def test_check_says_which_key_goes_where(chat_server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", "t-secret")
    write_jsonl(tmp_path / "q.jsonl", [{"question": "What is 3 + 1?", "answer": "4"}])
    server = chat_server(right)
    endpoint = {"model": "m", "base_url": server.url, "key_env": "TEACHER_KEY"}
    kwargs = {"endpoint": endpoint, "questions": {"path": "q.jsonl"}, "file": "t.jsonl", "max_tokens": 8}
    rewards = [{"fn": "judge", "kwargs": {"model": "m"}}, {"fn": "judge", "name": "b", "kwargs": {"model": "m"}}]
    rewards[1]["kwargs"]["base_url"] = ELSEWHERE
    tree = {
        "base": "./no-model",
        "cold_start": {"data": {"fn": "stages.teacher.demonstrations", "kwargs": kwargs}},
        "reasoning_rl": {"steps": 1, "data": "q.jsonl", "rewards": rewards},
    }
    Path("c.yaml").write_text(json.dumps(tree))
    main(["check", "c.yaml"])
    said = capsys.readouterr().out
    assert f"ok       teacher cold_start.data: asks {server.url} with the key of TEACHER_KEY\n" in said
    assert f"(judge): asks {OPENAI} with the key of OPENAI_API_KEY\n" in said
    assert f"(judge): asks {ELSEWHERE} with no key\n" in said
    assert "t-secret" not in said
    assert KEY not in said
