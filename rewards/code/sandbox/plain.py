"""Plain data between the two sides of a sandbox: exact builtin types as tagged JSON, over pipes, in bounded messages.

Decoding is what is trusted: it builds None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict,
these types themselves, named tuples, the values of `_STDLIB`, and nothing else, so an object with an equality of its
own cannot come through. Whatever has no such form stays where it is, and only its number travels.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections.abc import Callable
from typing import Any

MAX_MESSAGE = 32 << 20  # bytes
OURS = 1 << 30  # of what no candidate has written, and of outputs, which have a limit of their own
_EXACT_INT = 1 << 53  # larger ones travel as hexadecimal: no limit on digits, no quadratic time
_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_BASES: tuple[type, ...] = (int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
_TYPES = {kind.__name__: kind for kind in (bool, *_BASES)}
_STDLIB: dict[tuple[str, str], Callable[[Any], list[Any]]] = {  # what each is made of
    ("builtins", "range"): lambda value: [value.start, value.stop, value.step],
    ("collections", "deque"): lambda value: [list(value), value.maxlen],
    ("datetime", "date"): lambda value: [value.year, value.month, value.day],
    ("datetime", "time"): lambda value: [value.hour, value.minute, value.second, value.microsecond],
    ("datetime", "timedelta"): lambda value: [value.days, value.seconds, value.microseconds],
    ("datetime", "datetime"): lambda value: [*value.timetuple()[:6], value.microsecond],
    ("decimal", "Decimal"): lambda value: [str(value)],
    ("fractions", "Fraction"): lambda value: [value.numerator, value.denominator],
}
_LONGEST_EXPONENT = 10_000  # of a Decimal: int() of a larger one takes all memory
BINARY = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
]  # of the module operator
UNARY = ["neg", "pos", "abs", "invert"]
_DICTS = {("collections", "Counter"), ("collections", "OrderedDict")}  # dicts, though with an equality of their own


def encode(value: Any, keep: Callable[[Any], list[Any]]) -> Any:
    """The JSON form of `value`; `keep` stores an object that has none and gives what is told of it: its number."""
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -_EXACT_INT < value < _EXACT_INT else ["int", hex(value)]
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], *(encode(item, keep) for item in value)]
    if kind is dict:
        return ["dict", *([encode(key, keep), encode(item, keep)] for key, item in value.items())]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind is type and value in _TYPES.values():
        return ["type", value.__name__]
    name = (kind.__module__, kind.__qualname__)
    if name in _STDLIB and getattr(value, "tzinfo", None) is None:
        return ["made", *name, *(encode(part, keep) for part in _STDLIB[name](value))]
    if kind.__eq__ is tuple.__eq__ and isinstance(getattr(kind, "_fields", None), tuple):
        return ["named", kind.__name__, list(kind._fields), *(encode(item, keep) for item in value)]
    base = _plain_base(kind)
    return ["kept", *keep(value)] if base is None else encode(base(value), keep)


def decode(form: Any, kept: Callable[..., Any]) -> Any:
    """The value of a JSON form; `kept` makes what stands for an object of the other side.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: not a form that `encode` writes.
    """
    if not isinstance(form, list):
        if form is None or type(form) in (bool, str, float, int):
            return form
        raise ValueError("not a plain value")
    tag, *items = form
    if tag == "int":
        return int(_only(items, str), 16)
    if tag == "bytes":
        return bytes.fromhex(_only(items, str))
    if tag == "kept":
        return kept(*items)
    if tag == "type":
        return _TYPES[_only(items, str)]
    if tag == "complex":
        return complex(*items)
    if tag == "dict":
        return {decode(key, kept): decode(item, kept) for key, item in items}
    if tag == "made":
        return _made((items[0], items[1]), [decode(item, kept) for item in items[2:]])
    if tag == "named":
        return _named_tuple(items[0], tuple(items[1]))._make(decode(item, kept) for item in items[2:])
    for kind, name in _SEQUENCES.items():
        if tag == name:
            return kind(decode(item, kept) for item in items)
    raise ValueError("not a plain value")


def is_plain(value: Any) -> bool:
    """Whether it can be encoded without anything that is kept."""

    def refuse(_: Any) -> list[Any]:
        raise ValueError("not a plain value")

    try:
        encode(value, refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _made(name: tuple[str, str], parts: list[Any]) -> Any:
    if name not in _STDLIB or not all(part is None or type(part) in (int, str, list) for part in parts):
        raise ValueError("not a plain value")
    value = getattr(importlib.import_module(name[0]), name[1])(*parts)
    if name[1] == "Decimal" and value.is_finite() and abs(value.adjusted()) > _LONGEST_EXPONENT:
        raise ValueError("not a plain value")
    return value


@functools.lru_cache(64)
def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    return importlib.import_module("collections").namedtuple(name, fields)  # refuses what are no names


def message_bytes(message: Any, most: int = MAX_MESSAGE) -> bytes:
    """One message as it travels.

    Raises:
        ValueError: it is too large, or cannot be written as JSON.
    """
    body = json.dumps(message, check_circular=False).encode()
    if len(body) > most:
        raise ValueError("too much data")
    return len(body).to_bytes(8, "big") + body


def send(pipe: int, message: Any, most: int = MAX_MESSAGE) -> None:
    """Write one message.

    Raises:
        ValueError: it is too large, or cannot be written as JSON.
        OSError: nobody reads.
    """
    data = memoryview(message_bytes(message, most))
    while data:
        data = data[os.write(pipe, data) :]


def receive(pipe: int, most: int = MAX_MESSAGE) -> Any:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
        ValueError: no message of ours, or too large.
    """
    size = int.from_bytes(_read(pipe, 8), "big")
    if size > most:
        raise ValueError("too much data")
    return json.loads(_read(pipe, size))


def _read(pipe: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(pipe, min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def _only(items: list[Any], kind: type) -> Any:
    if len(items) != 1 or type(items[0]) is not kind:
        raise ValueError("not a plain value")
    return items[0]


def _plain_base(kind: type) -> Any:
    """The builtin type whose equality a subclass keeps (a namedtuple is a tuple, a defaultdict a dict)."""
    for base in _BASES:
        if issubclass(kind, base):
            same = kind.__eq__ is base.__eq__ or (kind.__module__, kind.__qualname__) in _DICTS
            return base if same else None
    return None
