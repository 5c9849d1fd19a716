"""What stands in a reward's `kwargs`: is it taken by the function, is it of its type? Asked when a config is read.

An option that nothing reads is an error, not a value that `**columns` swallows.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from grpo.errors import UserError, nearest

TEXTS = ("prompts", "completions", "completion_ids")
GIVEN = (*TEXTS, "trainer_state", "log_extra", "log_metric", "log_error")  # what every reward gets, never by `kwargs`
SWITCH_WORDS = ("yes", "no", "on", "off", "y", "n")  # of YAML 1.1
SCALARS: tuple[type, ...] = (bool, int, float, str, type(None))
NEEDED = "is required (grpo score takes no kwargs: name a small function of your own that sets it)"


def makes_reward(target: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether `target` is a function that returns the reward function, such as TRL's get_soft_overlong_punishment: no
    completions go in, and the kwargs are all it wants, or it says that it returns one."""
    signature = _signature(target)
    if signature is None or inspect.isclass(target) or any(name in signature.parameters for name in TEXTS):
        return False
    if "Callable" in str(signature.return_annotation):
        return True
    every = signature.parameters.values()
    return not any(p.kind is p.VAR_KEYWORD for p in every) and set(_required(signature)) <= kwargs.keys()


def check_kwargs(label: str, target: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: an option is not taken by the function or class, is missing, or is of another type.
    """
    where = f"reward '{label}': kwargs: "
    signature = _signature(target)
    if signature is None:  # nothing to check against
        return
    check_switches(signature, dict(kwargs), where.removesuffix(": "))
    made = inspect.isclass(target) or makes_reward(target, kwargs)
    for key, value in kwargs.items():
        if key in GIVEN and not made:
            raise UserError(f"{where}'{key}' is what the completions are judged with, and no option")
        if not takes(target, key):
            options = [name for name in _named(signature) if name not in GIVEN]
            hint = nearest(key, options) or " (it names none, and reads none of that name from its ** either)"
            raise UserError(f"{where}no option '{key}'{hint}")
        wanted = _wanted(target, key, signature)
        if wanted and type(value) in (*SCALARS, list, dict) and not _fits(value, wanted):
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in wanted)
            raise UserError(f"{where}'{key}' must be {kinds}, not {value!r}")
    missing = [name for name in _required(signature) if name not in kwargs] if made else []
    if missing:
        raise UserError(f"{where}'{missing[0]}' {NEEDED}")


def check_columns(label: str, fn: Callable[..., Any], columns: Mapping[str, str], kwargs: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: `columns` gives the function a name that it does not take, or that `kwargs` gives it already.
    """
    for name in columns:
        if name in kwargs and not inspect.isclass(fn):
            raise UserError(f"reward '{label}': '{name}' is given by both 'columns' and 'kwargs': leave one out")
        if not takes(fn.__call__ if inspect.isclass(fn) else fn, name):
            raise UserError(f"reward '{label}': columns: the function takes no '{name}'")


def check_switches(signature: inspect.Signature, options: Mapping[str, Any], what: str) -> None:
    """Before a function is called with these options of a config.

    Raises:
        UserError: `no`, or such a word, for one that is true or false by default: a text in YAML, and true in Python.
    """
    for name in options.keys() & signature.parameters.keys():
        if isinstance(signature.parameters[name].default, bool) and str(options[name]).lower() in SWITCH_WORDS:
            raise UserError(f"{what}: '{name}' must be true or false, got '{options[name]}'")


def takes(target: Callable[..., Any], key: str) -> bool:
    """Whether the function, or a class when it is made, has a parameter `key`, or reads it from its `**kwargs`."""
    signature = _signature(target)
    if signature is None or key in _named(signature):
        return True
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    return open_ended and any(_reads(function, key, set()) for function in _functions(target))


def _signature(target: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _named(signature: inspect.Signature) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in signature.parameters.items() if parameter.kind in kinds]


def _required(signature: inspect.Signature) -> list[str]:
    return [name for name in _named(signature) if signature.parameters[name].default is inspect.Parameter.empty]


def _functions(target: Any) -> Iterator[types.FunctionType]:
    """Whose code is run when `target` is called: of a class, to make an instance."""
    if isinstance(target, functools.partial):
        yield from _functions(target.func)
    elif inspect.isclass(target):
        made = (vars(base).get("__init__") for base in target.__mro__)
        yield from (function for function in made if isinstance(function, _FUNCTION))
    elif isinstance(target, types.MethodType):
        yield from _functions(target.__func__)
    elif isinstance(target, _FUNCTION):
        yield target
    elif callable(target) and not isinstance(target, types.BuiltinFunctionType):
        yield from _functions(type(target).__call__)


_FUNCTION = types.FunctionType


def _reads(function: types.FunctionType, key: str, seen: set[int]) -> bool:
    """Whether the code holds the key as a text (`kwargs["key"]`), or hands its `**kwargs` on: to one that takes it, or
    to what has it as a name then (`Options(**kwargs).key`)."""
    seen.add(id(function))
    code = list(_code(function.__code__))
    forwards = any(step.opname == "CALL_FUNCTION_EX" for part in code for step in dis.get_instructions(part))
    if any(_holds(part.co_consts, key) or (forwards and key in part.co_names) for part in code):
        return True
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    named = [function.__globals__.get(name) for part in code for name in part.co_names] if forwards else []
    for other in (*named, *cells):
        if isinstance(other, _FUNCTION) and id(other) not in seen:
            signature = _signature(other)
            if (signature is not None and key in signature.parameters) or _reads(other, key, seen):
                return True
    return False


def _code(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)


def _holds(constants: tuple[Any, ...], key: str) -> bool:
    parts = [constant for constant in constants if isinstance(constant, (tuple, frozenset))]
    return any(isinstance(c, str) and c == key for c in constants) or any(_holds(tuple(part), key) for part in parts)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _wanted(target: Any, key: str, signature: inspect.Signature) -> tuple[type, ...]:
    """The plain types that an option may have, by its annotation, or by a number that is its default; empty: any."""
    parameter = signature.parameters.get(key)
    if parameter is None:
        return ()
    if parameter.annotation is parameter.empty:
        number = isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool)
        return (float, type(None)) if number else ()
    owner = target.__init__ if inspect.isclass(target) else next(_functions(target), None)
    try:
        hint = typing.get_type_hints(owner).get(key) if owner is not None else None
    except (NameError, TypeError, AttributeError):  # of a name that is only there for a type checker
        return ()
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    parts = typing.get_args(hint) if union else (hint,)
    return tuple(parts) if all(part in SCALARS for part in parts) else ()


def _fits(value: Any, wanted: tuple[type, ...]) -> bool:
    return type(value) in wanted or (float in wanted and type(value) is int)
