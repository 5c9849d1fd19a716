"""What the worker process of `rewards.gym` and `stages.gym` runs: reasoning-gym is imported here and nowhere else.

Most of its scorers compare; some give texts to `eval`, which reads literals here, and some to sympy's parser. While one
judges, no text is executed: a scorer that can't do without fails on its own golds, too, and the task is refused.
Started by `rewards.accuracy.child`; like that file it imports nothing of the project.
"""

from __future__ import annotations

import ast
import functools
import json
import random
import sys
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

SIZE, BLOCK = 1000, 20  # entries of a data set (some draw by it), and of them drawn at a time
_judging = False


def _no_text_runs(event: str, args: tuple[Any, ...]) -> None:
    if _judging and event == "exec" and not args[0].co_filename.endswith(".py"):
        raise PermissionError("text is not executed")


sys.addaudithook(_no_text_runs)


def judge(task: str, config: str, **question: Any) -> str:
    """JSON of what `_score` or `_draw` gives, or {error, of: names that exist, word: the one that doesn't}."""
    fields = DATASETS[task][1].__dataclass_fields__.keys() - {"seed", "size"} if task in DATASETS else ()
    unknown = [name for name in json.loads(config) if name not in fields] if task in DATASETS else [task]
    if unknown:
        what = f"task '{task}' has no option" if task in DATASETS else "there is no task"
        return json.dumps({"error": what, "word": unknown[0], "of": sorted(fields or DATASETS)})
    try:
        return json.dumps((_score if "entry" in question else _draw)(task, config, **question))
    except Exception as error:  # noqa: BLE001 - the package's own, of many types
        return json.dumps({"error": f"task '{task}': {type(error).__name__}: {' '.join(str(error).split())}"})


@functools.lru_cache(256)
def _dataset(task: str, config: str, seed: int = 0) -> Any:
    return reasoning_gym.create_dataset(task, seed=seed, size=SIZE, **json.loads(config))


def _draw(task: str, config: str, seed: int, block: int) -> list[dict[str, Any]]:
    """Entries of the data sets from that seed on, as JSON has them."""
    number, first = divmod(block * BLOCK, SIZE)
    dataset, entries = _dataset(task, config, seed + number * SIZE), []
    for index in range(first, first + BLOCK):
        random.seed(seed + number * SIZE + index)  # one task draws from it
        entry = dataset[index]
        entries.append({name: entry[name] for name in ("question", "answer", "metadata")})
    return json.loads(
        json.dumps(entries, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))
    )


def _score(task: str, config: str, entry: dict[str, Any], answers: list[str]) -> list[float]:
    """Of each answer to the entry; one that breaks the scorer has 0."""
    global _judging
    dataset, scores = _dataset(task, config), []
    module = vars(sys.modules[type(dataset).__module__])
    for answer in answers:
        _judging, score, module["eval"] = True, 0.0, ast.literal_eval
        try:
            score = float(dataset.score_answer(answer, json.loads(json.dumps(entry))))
        except Exception:  # noqa: BLE001 - any answer may break it in any way
            pass
        finally:
            _judging = False
            del module["eval"]
        scores.append(score if 0 <= score <= 1 else 0.0)
    return scores
