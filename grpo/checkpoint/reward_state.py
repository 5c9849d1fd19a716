"""What a reward judges by beside its own text: what is bound to it, what its instance and closure hold, what it reads
of its module, the texts of the functions it calls there, and the user's other modules that theirs imports.

Of objects of libraries only the kind counts: they hold locks, clients and counters. What has `cache` in its name may
change, and so may what a class names in `not_compared`. Texts are hashed, since an instance may hold a key.
"""

import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from grpo.checkpoint.user_modules import is_users, names_in, text_hash, told_modules, top
from grpo.system.fingerprint import digest, file_hash
from grpo.system.imports import OURS

OPERATION = (  # options of rewards that ship which say how and where, and change no verdict
    *("base_url", "key_env", "concurrency", "timeout", "retries", "backoff", "breaker_failures", "cooldown"),
    *("max_seconds", "batch_size", "device"),
)
SCALAR = (str, int, float, type(None))
MOST = 1_000_000  # numbers of an array that are hashed


def reward_state(fn: Any) -> dict[str, Any]:
    """{part: number, or a hash}. A partial's scalar keywords are not in it: they are told by their values."""
    parts: dict[str, Any] = {}
    if isinstance(fn, functools.partial):
        parts = {f"kwargs.{key}": value for key, value in fn.keywords.items() if not isinstance(value, SCALAR)}
        parts |= {f"argument.{index}": value for index, value in enumerate(fn.args)}
        fn = fn.func
    if isinstance(fn, types.MethodType):
        parts |= {f"self.{name}": value for name, value in _fields(fn.__self__)}
        fn = fn.__func__
    elif not inspect.isroutine(fn):
        parts |= {f"self.{name}": value for name, value in _fields(fn)}
        parts |= {f"method.{name}": value for name, value in _methods(type(fn)) if name != "__call__"}
        fn = type(fn).__call__
    fn = inspect.unwrap(fn) if callable(fn) else fn
    if isinstance(fn, types.FunctionType):
        parts |= dict(_reads(fn))
    state = {name: _short(value) for name, value in sorted(parts.items()) if "cache" not in name.lower()}
    modules = told_modules(fn, lambda value: _plain(value, {}))
    return state | {f"module.{name}": told for name, told in sorted(modules.items())}


def _short(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | None) else digest(_plain(value, {}))


def _fields(instance: Any) -> Iterator[tuple[str, Any]]:
    """Its attributes; of a class of this program's only the options, and a model's folder by its content."""
    left_out = getattr(type(instance), "not_compared", ())
    ours = top(type(instance)) in OURS
    for name, value in getattr(instance, "__dict__", {}).items():
        if name in left_out or (ours and (name.startswith("_") or name in OPERATION)):
            continue
        if ours and isinstance(value, str) and Path(value).is_dir():
            value = [[file.name, file_hash(file)] for file in sorted(Path(value).iterdir()) if file.is_file()]
        yield name, value


def _reads(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function of the user's has for its free names and defaults."""
    if not is_users(function):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not filled yet
            yield f"closure.{name}", cell.cell_contents
    for name in sorted(names_in(function.__code__) & function.__globals__.keys()):
        if not inspect.ismodule(function.__globals__[name]):  # `told_modules`
            yield f"global.{name}", function.__globals__[name]
    for name, parameter in inspect.signature(function, follow_wrapped=False).parameters.items():
        if parameter.default is not parameter.empty:
            yield f"default.{name}", parameter.default


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The functions of a class of the user's, also those of its bases, and of properties."""
    for owner in filter(is_users, reversed(kind.__mro__)):
        for name, value in vars(owner).items():
            method = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            if isinstance(method, types.FunctionType):
                yield name, method


def _plain(value: Any, seen: dict[int, Any], depth: int = 0) -> Any:
    """As JSON that comes out the same in the next process. `seen`: functions and objects that are told already."""
    if isinstance(value, SCALAR):
        return value
    if depth > DEEP or id(value) in seen:
        return "..."
    go = functools.partial(_plain, seen=seen, depth=depth + 1)
    if isinstance(value, Mapping):
        return {str(key): go(item) for key, item in value.items() if "cache" not in str(key).lower()}
    if isinstance(value, list | tuple):
        return [go(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(digest(go(item)) for item in value)
    if isinstance(value, functools.partial):
        return [go(part) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, types.MethodType):
        return [go(part) for part in (value.__self__, value.__func__)]
    if hasattr(value, "tolist") and hasattr(value, "shape"):  # numpy and torch
        return [str(value.dtype), list(value.shape), value.tolist() if len(value.reshape(-1)) <= MOST else None]
    seen[id(value)] = value
    if isinstance(value, types.FunctionType):
        return [value.__qualname__, text_hash(value) if is_users(value) else None, go(dict(_reads(value)))]
    if inspect.isclass(value):
        return [
            value.__qualname__,
            text_hash(value) if is_users(value) else None,
            {name: go(method) for name, method in _methods(value)},
        ]
    if hasattr(value, "__wrapped__"):  # functools.lru_cache
        return go(value.__wrapped__)
    kind = type(value)
    fields = dict(_fields(value)) if is_users(kind) or top(kind) in OURS else {}
    return [
        go(kind) if is_users(kind) else kind.__qualname__,
        go(fields),
        str(value) if kind.__module__ in PRINTED else None,
    ]


DEEP = 50  # containers in each other, of which one may hold itself
PRINTED = ("decimal", "fractions", "pathlib", "re", "datetime")  # whose objects are what they print
