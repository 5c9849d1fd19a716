"""From a name or an import path in a config to a `Reward`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo.errors import UserError, describe, nearest
from grpo.scoring.calls import place
from grpo.scoring.table import Reward
from grpo.system.imports import import_path
from rewards.options import check_columns, check_kwargs, makes_reward

REGISTRY = {
    "accuracy": "rewards.accuracy.reward.accuracy_reward",
    "code": "rewards.code.reward.code_reward",
    "cosine_length": "rewards.length.cosine_length",
    "countdown": "rewards.countdown.countdown_reward",
    "format": "rewards.format.format_reward",
    "gym": "rewards.gym.gym_reward",
    "judge": "rewards.judge.reward.Judge",
    "language": "rewards.language.reward.language_consistency",
    "length": "rewards.length.length_reward",
    "length_range": "rewards.length.length_range",
    "no_code": "rewards.readable.no_code",
    "overlong": "rewards.length.overlong_penalty",
    "paragraphs": "rewards.readable.paragraphs",
    "reasoning_steps": "rewards.format.reasoning_steps",
    "repetition": "rewards.repetition.repetition_penalty",
    "reward_model": "rewards.preference.RewardModel",
    "tag_count": "rewards.format.tag_count",
}


@dataclass(frozen=True)
class Spec:
    """What a config says about one reward: `{fn: accuracy, weight: 1.0, kwargs: {}, columns: {}, name: null}`."""

    fn: str | Callable[..., Any]
    weight: float = 1.0
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None


def load_reward(spec: Any) -> Reward:
    """The reward that `spec` describes: a name, an import path, a callable, a dict, or an object with such attributes.

    A class is instantiated with `kwargs`, and a function that returns the reward function is called with them, once;
    they are bound to any other function as keywords. Without a `name` a reward is called by the last part of its path.

    Raises:
        UserError: no such name or path, a module that cannot be imported, or `kwargs` that do not fit.
    """
    spec = _as_spec(spec)
    label, target = find_reward(spec)
    name = spec.name or label.rpartition(".")[2]
    fn = _bind(label, target, dict(spec.kwargs))
    check_columns(label, fn, spec.columns, {})
    if is_ours(target) and not inspect.isclass(target):
        _try(label, fn)
    return Reward(name, fn, float(spec.weight), dict(spec.columns), label)


def find_reward(spec: Any) -> tuple[str, Any]:
    """(what messages call it, function or class) of a reward whose `kwargs` and `columns` fit; nothing is called."""
    spec = _as_spec(spec)
    target = _find(spec.fn) if isinstance(spec.fn, str) else spec.fn
    inner = target.func if isinstance(target, functools.partial) else target
    label = spec.fn if isinstance(spec.fn, str) else getattr(inner, "__name__", type(inner).__name__)
    if not callable(target):
        raise UserError(f"reward '{label}': {type(target).__name__} is not a function or a class")
    calls = any("__call__" in vars(kind) for kind in getattr(target, "__mro__", ()))
    if inspect.isclass(target) and target.__new__ is object.__new__ and not calls:
        raise UserError(f"reward '{label}': instances of this class have no __call__")
    check_kwargs(label, target, spec.kwargs)
    if not makes_reward(target, spec.kwargs):
        check_columns(label, target, spec.columns, spec.kwargs)
    return label, target


def load_rewards(specs: Iterable[Any]) -> list[Reward]:
    """`load_reward` for each; two that end up with one name are an error when they are applied."""
    return [load_reward(spec) for spec in specs]


def _as_spec(spec: Any) -> Spec:
    if isinstance(spec, str) or callable(spec):  # also one that keeps another function as its `fn`
        return Spec(spec)
    if not isinstance(spec, Mapping) and not hasattr(spec, "fn"):
        raise UserError(f"reward {spec!r}: give a function, a name, an import path or {{fn: ..., weight: ...}}")
    if not isinstance(spec, Mapping):
        names = [name for name in Spec.__dataclass_fields__ if getattr(spec, name, None) is not None]
        spec = {name: getattr(spec, name) for name in names}
    unknown = [key for key in spec if key not in Spec.__dataclass_fields__]
    if unknown:
        raise UserError(f"reward: unknown key '{unknown[0]}'{nearest(str(unknown[0]), Spec.__dataclass_fields__)}")
    if "fn" not in spec:
        raise UserError(f"reward: 'fn' is missing in {dict(spec)}")
    return Spec(**spec)


def _find(path: str) -> Any:
    if path in REGISTRY:
        path = REGISTRY[path]
    elif "." not in path:
        raise UserError(f"reward '{path}': no such name{nearest(path, REGISTRY)}; your own: package.module.function")
    return import_path(path, "reward")


def is_ours(target: Any) -> bool:
    """Whether it is a reward that ships, under whatever path."""
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}" in REGISTRY.values()


def options(target: Callable[..., Any]) -> dict[str, Any]:
    """The options of a function of ours with their defaults: bound, no data column of that name gets into them."""
    if not is_ours(target):
        return {}
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "log_error"}


def _bind(label: str, target: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    if not inspect.isclass(target) and not makes_reward(target, kwargs):
        bound = {**options(target), **kwargs}
        return functools.partial(target, **bound) if bound else target
    try:
        made = target(**kwargs)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"reward '{label}': it cannot be made: {describe(error)}{place(error)}") from error
    if not callable(made):
        what = "instances of this class have no __call__"
        if not inspect.isclass(target):
            what = f"it takes no completions, and returns {type(made).__name__}, which is no function"
        raise UserError(f"reward '{label}': {what}")
    return made


def _try(label: str, fn: Callable[..., Any]) -> None:
    """Call one of ours on no rows: the options that it checks, it checks first."""
    bound = fn.keywords if isinstance(fn, functools.partial) else {}
    names = [name for name in inspect.signature(fn).parameters if name not in (*bound, "log_error")]
    try:
        fn(**{name: [] for name in names})
    except (TypeError, ValueError) as error:
        raise UserError(f"reward '{label}': kwargs: {error}") from error
