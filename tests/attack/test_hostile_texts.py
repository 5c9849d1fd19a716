"""A policy that has collapsed writes 200,000 characters of anything: no pattern and no reward takes more than linear
time over it. One that does holds the interpreter for minutes, Ctrl-C included."""

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fsspec.utils import glob_translate

import grpo
import rewards
import stages
from grpo.config.yaml import CORE
from grpo.data.golds import read_gold
from grpo.data.transcripts import read_transcript
from rewards.accuracy.reward import accuracy_reward
from rewards.code.reward import extract_code
from rewards.countdown import countdown_reward
from rewards.format import format_reward, reasoning_steps, tag_count
from rewards.gym import forms
from rewards.judge.master_keys import says_nothing
from rewards.judge.prompts import reference_request
from rewards.judge.verdicts import ReferenceVerdict, Unreadable, read_verdict
from rewards.language.reward import language_consistency
from rewards.repetition import repetition_penalty

LENGTH = 200_000  # characters
SHAPES = ["x", " ", "1", "\\", "{", "\\boxed{", "<think>", "ab, ", "$", "\n\n"]  # repeated
# (characters, seconds of the processor): linear ones need a tenth of it, and a slow one is found at the first length.
LIMITS = ((4_000, 0.05), (32_000, 0.25), (LENGTH, 1.5))
ANCHORED = ("match", "fullmatch")
USES = (*ANCHORED, "search", "sub", "subn", "findall", "finditer", "split")
# What a pattern is made of when it is used: names of that place, by module.
MADE_WITH: dict[str, dict[str, Any]] = {
    "rewards.format": {"language": "python"},
    "grpo.config.yaml": {"tag": "float", "form": "|".join(form for form, _ in CORE.values())},
    "grpo.data.folders": {"glob_translate": glob_translate, "pattern": "train*"},  # of names of files
    "grpo.data.encoding": {"tokens": ["<|im_end|>", "</s>"]},
    "grpo.model.adapter_targets": {"pattern": ".*proj"},  # the user's own, on names of layers
    "stages.recipe.sampled": {"tag": "answer"},
}


def modules() -> Iterator[ModuleType]:
    """All but one that only vLLM can import, and `rewards.accuracy`, whose patterns read what was cut to an answer: it
    is held to linear time as a whole."""
    for package in (rewards, grpo, stages):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name != "grpo.engines.vllm.worker_extension" and "rewards.accuracy" not in found.name:
                yield importlib.import_module(found.name)


def compiled(value: Any) -> Iterator[re.Pattern[str]]:
    """All patterns in a global of a module."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for item in value.values() if isinstance(value, dict) else value:
            yield from compiled(item)


def patterns() -> dict[str, tuple[re.Pattern[str], set[str]]]:
    """{text: (pattern, how it is used)} of every regular expression of the project."""
    every = {module: ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")) for module in modules()}
    uses: dict[str, set[str]] = {}  # of a name, wherever it is used
    for tree in every.values():
        for part in ast.walk(tree):
            if isinstance(part, ast.Attribute) and part.attr in USES:
                uses.setdefault(ast.unparse(part.value).rpartition(".")[2], set()).add(part.attr)
    found: dict[str, tuple[re.Pattern[str], set[str]]] = {}
    for module, tree in every.items():
        for name, value in list(vars(module).items()):
            for pattern in compiled(value):
                found.setdefault(pattern.pattern, (pattern, set()))[1].update(uses.get(name) or {"findall"})
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and re.fullmatch(r"re\.[a-z]+", ast.unparse(call.func)) and call.args:
                use = call.func.attr  # type: ignore[attr-defined]
                if use in (*USES, "compile"):
                    names = {**vars(module), **MADE_WITH.get(module.__name__, {})}
                    value = eval(ast.unparse(call.args[0]), names)  # noqa: S307 - of our own code
                    pattern = value if isinstance(value, re.Pattern) else re.compile(value)
                    known = found.setdefault(pattern.pattern, (pattern, set()))[1]
                    known.update({use} if use != "compile" else set() if known else {"findall"})
    return found


def seconds(use: Callable[[str], Any], text: str) -> float:
    start = time.process_time()
    use(text)
    return time.process_time() - start


def too_slow(use: Callable[[str], Any], shape: str, end: str = "", times: float = 1.0, begin: str = "") -> str:
    """Where a text of this shape takes longer than linear time would; empty: nowhere. The best of two tries counts."""
    for length, limit in LIMITS:
        text = begin + (shape * length)[:length] + end
        if seconds(use, text) > times * limit and (taken := seconds(use, text)) > times * limit:
            return f"{taken:.2f} s for {length} characters of {shape!r}"
    return ""


@pytest.mark.slow
def test_every_pattern_is_linear():
    found = patterns()
    assert len(found) > 50
    slow = []
    for pattern, uses in found.values():
        for use in {use if use in ANCHORED else "findall" for use in uses}:
            for shape in SHAPES:
                for begin, end in (("", ""), ("", "\0"), ("\0", "\0")):
                    if told := too_slow(getattr(pattern, use), shape, end, begin=begin):
                        slow.append(f"{pattern.pattern} ({use}): {told}")
                        break
    assert not slow, "\n".join(slow)


def unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read_verdict(text, ReferenceVerdict, "id")


READERS: dict[str, Callable[[str], Any]] = {
    "accuracy": lambda text: accuracy_reward([text], ["42"]),
    "accuracy anywhere": lambda text: accuracy_reward([text], ["x + 1"], anywhere=True),
    "strict accuracy": lambda text: accuracy_reward([text], ["no"], strict=True),
    "code": extract_code,
    "countdown": lambda text: countdown_reward([text], [3], [[1, 2]]),
    "format": lambda text: format_reward([text], answer_tag="answer"),
    "format of code": lambda text: format_reward([text], code="python"),
    "language": lambda text: language_consistency([text], language="en"),
    "gym": forms,
    "language found": lambda text: language_consistency([text], language="th", detect=True),
    "reasoning_steps": lambda text: reasoning_steps([text]),
    "repetition": lambda text: repetition_penalty([text]),
    "tag_count": lambda text: tag_count([text]),
    "answer to a judge": says_nothing,
    "question to a judge": lambda text: reference_request(text, text, "42"),
    "verdict": unreadable,
    "gold": read_gold,
    "transcript": lambda text: read_transcript(text, "row 0"),
}
FRAMES = ["", "<think>a</think>", "The answer is ", "\\boxed{", "```python\n", "<answer>", '{"id": "']


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_every_reader_of_completions_is_linear(name):
    slow = []
    for shape in SHAPES:
        for frame in FRAMES:
            for end in ("", "}</answer>\n```"):
                if told := too_slow(lambda text: READERS[name](frame + text), shape, end, times=10.0):  # noqa: B023
                    slow.append(f"after {frame!r}: {told}")
    assert not slow, "\n".join(slow)
