"""The user's own modules that a reward's module imports, by their code and values: an edited one judges otherwise.

Of the module itself only what the reward reads counts (`grpo.checkpoint.reward_state`), for it may be the script that
holds the whole run; all of it where the reward looks names up as it goes. Comments and layout count nowhere.
"""

import ast
import functools
import importlib.util
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from grpo.system.fingerprint import digest
from grpo.system.imports import OURS

LIBRARY = ("site-packages", "dist-packages", sysconfig.get_path("stdlib"))
LOOKS_UP = {"getattr", "globals", "vars", "eval", "exec", "import_module", "__import__", "modules", "attrgetter"}
PLAIN = (str, int, float, bool, bytes, list, tuple, dict, set, frozenset)  # values of a module that are told


def is_users(kind: Any) -> bool:
    """Whether a function or class is neither a library's nor this program's."""
    return _is_users_module(str(getattr(kind, "__module__", None) or ""))


def text_hash(kind: Any) -> str | None:
    """Of a function or class; None: it has no text, built in or typed into an interpreter."""
    try:
        return digest(inspect.getsource(kind))
    except (OSError, TypeError):
        return None


def top(kind: Any) -> str:
    """The package it comes from."""
    return str(getattr(kind, "__module__", None) or "").partition(".")[0]


def _is_users_module(name: str) -> bool:
    first = name.partition(".")[0]
    if first in ("builtins", *sys.stdlib_module_names, *OURS) and first != "__main__":
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return not any(part in file for part in LIBRARY)


def told_modules(function: Any, plain: Callable[[Any], Any]) -> dict[str, Any]:
    """{module: hash of its code and values} of those that the module of this function of the user's imports, and they.
    `plain`: a value as JSON."""
    own = str(getattr(function, "__module__", None) or "")
    if not isinstance(function, types.FunctionType) or not is_users(function):
        return {}
    told: dict[str, Any] = {}
    waiting = [own]
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in told or file is None:
            continue
        try:
            code, imported = _read(file.read_bytes(), name, file.name == "__init__.py")
        except (OSError, SyntaxError, ValueError):
            continue
        told[name] = digest([code, {key: plain(value) for key, value in _values(name)}])
        waiting += imported
    if not LOOKS_UP & names_in(function.__code__):
        told.pop(own, None)
    return told


@functools.lru_cache(maxsize=256)
def _read(source: bytes, name: str, package: bool) -> tuple[str, tuple[str, ...]]:
    """The code of a module as text, and the modules it imports."""
    tree = ast.parse(source)
    return ast.dump(tree), tuple(_imported(tree, name, package=package))


def _file(name: str) -> Path | None:
    """The source of a module of the user's; it need not be imported yet."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None:
        with suppress(ImportError, ValueError, AttributeError):
            parent = name.rpartition(".")[0]  # to look into it runs no code if it is imported
            spec = importlib.util.find_spec(name) if not parent or parent in sys.modules else None
            file = spec.origin if spec is not None else None
    if not file or not file.endswith(".py") or not _is_users_module(name) or any(part in file for part in LIBRARY):
        return None
    return Path(file)


def _imported(tree: ast.Module, name: str, *, package: bool) -> Iterator[str]:
    """The modules that this one's code imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = name.split(".")[: None if package else -1]
            base = within[: len(within) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _values(name: str) -> Iterator[tuple[str, Any]]:
    """The constants that an imported module has, however it came by them."""
    for key, value in vars(sys.modules[name]).items() if name in sys.modules else ():
        if isinstance(value, PLAIN) and not key.startswith("__") and "cache" not in key.lower():
            yield key, value


def names_in(code: types.CodeType) -> set[str]:
    """Also those in its lambdas and comprehensions."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(names_in, inner))
