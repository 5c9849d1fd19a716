"""A teacher behind vLLM's API: log-probs of what was sampled, by `prompt_logprobs`, or one line of what is wrong."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from grpo.config.algorithm import DistillConfig
from grpo.engines.vllm import teacher as served
from grpo.engines.vllm.teacher import ServedTeacher
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.types import Completion, Rollout
from support.models import make_model, make_tokenizer, model_logprobs
from support.runs import assert_same_run, config_of, killed_at, run
from support.servers import Reply, Server, listening

TOKENIZER, MODEL = make_tokenizer(), make_model(seed=5)
ROWS = [
    TrainRow((1, 20 + number), Rollout(Completion(tuple(range(30, 31 + number)), (0.0,) * (number + 1), "stop", "")))
    for number in range(5)
]


def scored(body: dict[str, Any]) -> Any:
    """What vLLM answers: nothing of the first token, and of each other one its log-prob."""
    ids = body["prompt"]
    values = model_logprobs(MODEL, ids[:1], ids[1:]).tolist()
    found = [{str(token): {"logprob": value, "rank": 1}} for token, value in zip(ids[1:], values, strict=True)]
    return {"choices": [{"text": "x", "prompt_logprobs": [None, *found]}]}


def answer(path: str, body: dict[str, Any], number: int) -> Reply:
    if path == "/tokenize":
        return Reply(body={"tokens": TOKENIZER(body["prompt"])["input_ids"]})
    assert path == "/v1/completions"
    assert (body["prompt_logprobs"], body["max_tokens"]) == (0, 1)
    return Reply(body=scored(body))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(served, "RETRIES", 0)
    with ExitStack() as stack:
        yield lambda given=answer: stack.enter_context(listening(given))


def teacher(*servers: Server) -> ServedTeacher:
    return ServedTeacher.of(DistillConfig(model="t", urls=tuple(server.url for server in servers)), TOKENIZER)


def test_the_log_probs_are_the_teacher_s_in_the_order_of_the_rows(serve):
    servers = serve(), serve()
    found = teacher(*servers).logprobs(ROWS)
    for row, values in zip(ROWS, found, strict=True):
        right = model_logprobs(MODEL, row.prompt_ids, row.rollout.completion.token_ids)
        assert values == pytest.approx(right.tolist(), abs=1e-6)
    assert [server.paths.count("/v1/completions") for server in servers] == [3, 2]
    assert teacher(*servers).logprobs([]) == []


def test_a_run_with_a_served_teacher_goes_on_as_it_was(serve, tiny_model_folder, tmp_path):
    """Bitwise, as long as the server is: vLLM's own sums may round otherwise."""
    loss = {"distill": {"model": str(tiny_model_folder), "urls": [serve().url]}}
    run(tiny_model_folder, tmp_path / "whole", config_of(loss=loss))
    killed_at(3, tiny_model_folder, tmp_path / "cut", config_of(loss=loss))
    loss["distill"]["urls"] = [serve().url]  # elsewhere: it is the same teacher
    run(tiny_model_folder, tmp_path / "cut", config_of(loss=loss))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def other_tokens(path: str, body: dict[str, Any], number: int) -> Reply:
    return Reply(body={"tokens": [1, 2, 3]})


def without_logprobs(path: str, body: dict[str, Any], number: int) -> Reply:
    return answer(path, body, number) if path == "/tokenize" else Reply(body={"choices": [{"text": "x"}]})


def of_other_tokens(path: str, body: dict[str, Any], number: int) -> Reply:
    return answer(path, {**body, "prompt": body["prompt"][::-1]} if path != "/tokenize" else body, number)


def broken(path: str, body: dict[str, Any], number: int) -> Reply:
    return answer(path, body, number) if path == "/tokenize" else Reply(500, {"error": {"message": "no memory"}})


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        (other_tokens, "has other tokens than 't'"),
        (without_logprobs, "not an answer of vLLM with prompt_logprobs"),
        (of_other_tokens, "not an answer of vLLM with prompt_logprobs"),
        (broken, "no memory"),
    ],
)
def test_what_is_wrong_is_one_line(given, phrase, serve):
    with pytest.raises(UserError, match=phrase) as raised:
        teacher(serve(given)).logprobs(ROWS)
    assert str(raised.value).startswith("loss.distill.urls: ")
    assert "\n" not in str(raised.value)


def test_an_address_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"loss\.distill\.urls: give addresses like"):
        ServedTeacher.of(DistillConfig(model="t", urls=("localhost",)), TOKENIZER)
