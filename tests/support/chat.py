"""An endpoint for chat completions on this machine, and what it says: whole, in pieces, or that it cannot."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.servers import Body, Reply, Server, listening

KEY = "sk-a-secret-of-mine"


@contextmanager
def serving(answer: Callable[[Body, int], Any]) -> Iterator[Server]:
    """`answer(body, number of the request)` gives a text, the chunks of a stream, or a `Reply`."""

    def reply(path: str, body: Body, number: int) -> Reply:
        assert path == "/v1/chat/completions"
        answered = answer(body, number)
        if isinstance(answered, list):
            return Reply(body=answered)
        return answered if isinstance(answered, Reply) else said(answered)

    with listening(reply, "/v1") as server:
        yield server


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def said(text: str | None, finish: str = "stop") -> Reply:
    """A proper chat completion with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Reply(body={"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def status(code: int, message: str = "as told", **headers: str) -> Reply:
    body = {"error": {"message": message, "type": "test"}}
    return Reply(code, body, {name.replace("_", "-"): value for name, value in headers.items()})


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


def stream(*texts: str, finish: str = "stop", usage: tuple[int, int] | None = (10, 5)) -> list[Any]:
    chunks: list[Any] = [chunk(role="assistant", content=""), *(chunk(content=text) for text in texts), chunk(finish)]
    if usage is not None:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        chunks.append({**chunk(), "choices": [], "usage": counts})
    return [*chunks, "[DONE]"]


def right(request: Body, _: int = 0) -> list[Any]:
    """The answer to "What is N + 1?", in two pieces."""
    number = int(request["messages"][-1]["content"].split()[2])
    return stream("It is ", f"\\boxed{{{number + 1}}}")
