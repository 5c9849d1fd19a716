"""`grpo eval openai:MODEL` against a server that streams, stumbles, or is not there."""

import json
import threading
import time
from pathlib import Path

import pytest

from grpo.config.data import EvalConfig
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from grpo.system.records import write_record
from grpo.types import Prompt, Sampling
from stages.cli import main
from stages.recipe.evaluation import load_judges
from stages.served import endpoint
from stages.served.config import EndpointConfig
from stages.served.endpoint import serve
from stages.served.evaluate import evaluate_endpoint
from support.chat import KEY, chunk, right, status, stream
from support.command import refused
from support.servers import HANG, closed_port

ROWS = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(4)]


def evaluate(url, samples=1, rows=ROWS, **options):
    data = {"path": "set.jsonl", "suffix": "!"}
    tree = {"data": data, "max_tokens": 64, "samples": samples, "accuracy": {"fn": "accuracy"}}
    config = EvalConfig.model_validate(tree)
    settings = EndpointConfig(model="m", base_url=url, **{"key_env": "OPENAI_API_KEY"} | options)
    return evaluate_endpoint(settings, config, judges=load_judges(config), rows=rows, most=2048)


def test_streams_are_judged_timed_and_priced(chat_server, tmp_path):
    server = chat_server(right)
    result = evaluate(server.url, samples=2, price_in=1.0, price_out=2.0)
    metrics = result.metrics
    assert (metrics["pass@1"], metrics["n_problems"], metrics["engine"]) == (1.0, 4, "openai")
    assert metrics["template_hash"] is None
    assert (metrics["prompt_tokens"], metrics["completion_tokens"], metrics["mean_tokens"]) == (80, 40, 5.0)
    assert metrics["cost"] == pytest.approx((80 * 1.0 + 40 * 2.0) / 1e6)
    assert 0 < metrics["first_token_p50"] <= metrics["latency_p50"] <= metrics["latency_p99"]
    assert metrics["tokens_per_second"] > 0
    assert (metrics["requests"], metrics["failed_requests"], metrics["retries"]) == (8, 0, 0)
    sent = server.bodies[0]
    (message,) = sent["messages"]
    assert message == {"role": "user", "content": f"What is {message['content'].split()[2]} + 1?!"}
    assert (sent["model"], sent["stream"], sent["max_tokens"]) == ("m", True, 64)
    assert (sent["temperature"], sent["top_p"]) == (0.6, 0.95)
    assert len({request["seed"] for request in server.bodies}) == 8  # each sample has its own
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    result.write(tmp_path / "eval.json")
    assert all(KEY not in file.read_text() for file in tmp_path.iterdir())


def test_a_busy_server_is_asked_again(chat_server):
    busy = status(429, "slow down", retry_after="²")  # a digit that is no number
    broken = [chunk(content="It is"), "[DONE]"]  # ends before it says why
    asked = set()

    def reply(request, number):
        question = request["messages"][0]["content"]
        if question in asked:
            return right(request)
        asked.add(question)
        return [busy, status(503), broken, ["{no json"]][int(question.split()[2])]

    metrics = evaluate(chat_server(reply).url).metrics
    assert (metrics["pass@1"], metrics["retries"], metrics["failed_requests"]) == (1.0, 4, 0)


def test_a_server_that_has_gone_silent(chat_server):
    server = chat_server(lambda request, number: right(request) if number else [chunk(content="It is"), HANG])
    metrics = evaluate(server.url, timeout=1.0, concurrency=1).metrics
    assert (metrics["pass@1"], metrics["retries"]) == (1.0, 1)
    assert metrics["latency_p99"] < 1.0  # the attempt that succeeded, without the one that did not


@pytest.mark.parametrize(
    ("code", "says"), [(401, "HTTP 401: no such key \\*\\*\\*"), (404, "HTTP 404"), (500, "HTTP 500")]
)
def test_a_server_that_refuses(chat_server, code, says):
    server = chat_server(lambda *_: status(code, f"no such key {KEY}"))
    with pytest.raises(UserError, match=says) as caught:
        evaluate(server.url, retries=2, concurrency=1)
    assert KEY not in str(caught.value)
    assert server.count == (3 if code == 500 else 1)


def test_what_stands_for_no_key_is_no_secret(chat_server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="HTTP 404: none of that name"):
        evaluate(chat_server(lambda *_: status(404, "none of that name")).url, key_env=None)


@pytest.mark.usefixtures("chat_server")
def test_no_server_at_all():
    start = time.monotonic()
    with pytest.raises(UserError, match=r"openai:m at http://127.0.0.1:\d+/v1: "):
        evaluate(closed_port() + "/v1", retries=1)
    assert time.monotonic() - start < 30


def test_failed_requests_are_not_wrong_answers(chat_server, monkeypatch, caplog):
    """One problem of four never gets its second answer: it is left out, or, past the share, all is an error."""

    def reply(request, number):
        return status(400, "too long") if number == 3 else right(request)

    with pytest.raises(UserError, match=r"1 of 8 requests have no answer, more than 2%; first: HTTP 400: too long"):
        evaluate(chat_server(reply).url, samples=2, concurrency=1)
    monkeypatch.setattr(endpoint, "MAX_FAILED", 0.2)
    with caplog.at_level("WARNING", "grpo"):
        metrics = evaluate(chat_server(reply).url, samples=2, concurrency=1).metrics
    assert (metrics["pass@1"], metrics["n_problems"], metrics["failed_requests"]) == (1.0, 3, 1)
    assert "1 requests without an answer: 1 problems left out" in caplog.text


def test_what_a_server_does_not_tell_is_null(chat_server):
    server = chat_server(lambda *_: stream("\\boxed{1}", finish="length", usage=None))
    metrics = evaluate(server.url, price_in=1.0, price_out=1.0).metrics
    for name in ("mean_tokens", "prompt_tokens", "completion_tokens", "cost", "tokens_per_second"):
        assert metrics[name] is None
    assert (metrics["pass@1"], metrics["truncation_rate"]) == (0.25, 1.0)


def test_thinking_that_is_sent_apart_is_put_back(chat_server):
    thought = [chunk(reasoning_content="two "), chunk(reasoning_content="plus"), chunk(content="\\boxed{1}")]
    result = evaluate(chat_server(lambda *_: [*thought, chunk("stop")]).url, rows=ROWS[:1])
    assert result.completions[0]["completion"] == "<think>\ntwo plus\n</think>\n\\boxed{1}"
    assert result["pass@1"] == 1.0


def test_other_fields_of_the_request(chat_server):
    server = chat_server(right)
    changed = {"max_tokens": None, "max_completion_tokens": 9, "temperature": None, "seed": None}
    metrics = evaluate(server.url, fields={**changed, "reasoning_effort": "low"}).metrics
    sent = server.bodies[0]
    assert sent.keys() & {*changed, "reasoning_effort"} == {"max_completion_tokens", "reasoning_effort"}
    assert (metrics["max_tokens"], metrics["temperature"], metrics["top_p"]) == (9, None, 0.95)


def test_requests_are_in_flight_together_but_not_too_many(chat_server):
    met = threading.Barrier(3, timeout=30)

    def reply(request, number):
        met.wait()  # all three have to be here at a time
        return right(request)

    prompts = [Prompt(str(n), (), [{"role": "user", "content": f"What is {n} + 1"}]) for n in range(9)]
    server = chat_server(reply)
    served = serve(EndpointConfig(model="m", base_url=server.url, concurrency=3), prompts, Sampling(1, 8), 0)
    assert (len(served.answers), server.most) == (9, 3)


SERVED = ["openai:m", "--base-url", "http://host/v1"]


@pytest.mark.parametrize(("arguments", "culprit"), [
    (["openai:m", "--base-url", "localhost:8000"], "--base-url"),
    (["openai:m", "--base-url", "http://me:secret@host/v1"], "must not hold a user"),
    (["openai:", "--base-url", "http://host/v1"], "endpoint.model"),
    ([*SERVED, "engine.max_rows=4"], "'max_rows' has no effect"),
    ([*SERVED, "eval.data.max_prompt_tokens=4"], "max_prompt_tokens"), ([*SERVED, "--price-in", "-1"], "price_in"),
    (["./model", "--base-url", "http://host/v1"], "--base-url is for a served model"),
    (["openai:m"], "OPENAI_API_KEY"),
])  # fmt: skip
def test_mistakes_are_one_line(arguments, culprit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    write_jsonl(tmp_path / "set.jsonl", ROWS[:1])
    line = refused(capsys, main(["eval", *arguments, "--data", "set.jsonl"]))
    assert culprit in line
    assert "secret" not in line


def test_a_served_model_is_compared_with_another(chat_server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "set.jsonl", ROWS)
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server(right).url)
    assert main(["eval", "openai:m", "--data", "set.jsonl", "--max-tokens", "64", "--out", "a.json"]) == 0
    assert "latency_p99" in capsys.readouterr().out
    local = json.loads(Path("a.json").read_text()) | {"engine": "local", "template_hash": "t", "model": "./mine"}
    write_record(Path("b.json"), local)
    Path("b.problems.jsonl").write_text(Path("a.problems.jsonl").read_text())
    assert main(["compare", "a.json", "b.json"]) == 0
    write_record(Path("b.json"), local | {"prompt_hash": "another suffix"})
    assert main(["compare", "a.json", "b.json"]) == 2
    assert "prompt_hash" in capsys.readouterr().err
