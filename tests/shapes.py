"""What checks the annotations of the numerics in the tests (`--jaxtyping-packages` in pyproject.toml)."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype. jaxtyping has two functions checked for each of ours: the parameters before a call, and the parameters
    with the result after it. The second is enough, and the first, whose result is any, took as long again."""
    return function if function.__annotations__.get("return") is Any else beartype(function)
