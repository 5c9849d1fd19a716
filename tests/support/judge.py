"""What the tests of the judge share: how its requests are read, verdicts, and a judge at a server of this machine."""

import json
import re
from collections.abc import Callable
from typing import Any

from grpo.scoring.table import Reward, apply_rewards
from rewards import load_reward
from support.servers import Body, Server

KEY = "sk-very-secret-0123456789"
FAST = {"model": "m", "backoff": 0.01, "timeout": 60.0, "retries": 2}  # timeout: generous, nothing waits for it
PATIENCE = 60.0  # seconds that a bounded call may take on a busy machine; the defaults would take minutes


def request_id(body: Body) -> str:
    """The id that the verdict has to carry."""
    named = re.search(r"whose id is ([0-9a-f]{12})\.$", body["messages"][-1]["content"])
    assert named is not None
    return named[1]


def fenced(body: Body, name: str) -> str:
    """What stands between the tags of this name."""
    token = request_id(body)
    text = body["messages"][-1]["content"]
    return text.partition(f"<{name}-{token}>\n")[2].partition(f"\n</{name}-{token}>")[0]


def verdict(body: Body, **keys: Any) -> str:
    return json.dumps({"id": request_id(body), "analysis": "because", **keys})


def honest(body: Body, number: int) -> str:
    """Right when the answer ends like the reference."""
    right = fenced(body, "answer").endswith(fenced(body, "reference"))
    return verdict(body, verdict="correct" if right else "incorrect")


def first(fault: Any, then: Callable[[Body, int], Any] = honest, times: int = 1) -> Callable[[Body, int], Any]:
    return lambda body, number: fault if number < times else then(body, number)


def judge_at(server: Server | str, **options: Any) -> Reward:
    url = server if isinstance(server, str) else server.url
    return load_reward({"fn": "judge", "kwargs": {"base_url": url, **FAST, **options}})


def judged(server: Server | str, completions: Any, prompts: Any = None, columns: Any = None, **options: Any) -> Any:
    """(values, errors by row) of a judge at this server, through the scoring layer."""
    return applied(judge_at(server, **options), completions, prompts, columns)


def applied(reward: Reward, completions: Any, prompts: Any = None, columns: Any = None) -> Any:
    count = len(completions)
    columns = {"answer": ["4"] * count} if columns is None else columns
    table = apply_rewards([reward], prompts or ["2+2?"] * count, completions, [[]] * count, columns)
    assert not table.failed  # every error was given as a reason, none was raised
    return table.values["judge"], {row: text for (row, _), text in table.errors.items()}
