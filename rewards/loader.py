"""From a name or an import path in a config to a `Reward`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo.errors import UserError, nearest
from grpo.scoring.table import Reward
from grpo.system.imports import check_switches, import_path

REGISTRY = {
    "accuracy": "rewards.accuracy.reward.accuracy_reward",
    "code": "rewards.code.reward.code_reward",
    "cosine_length": "rewards.length.cosine_length",
    "countdown": "rewards.countdown.countdown_reward",
    "format": "rewards.format.format_reward",
    "judge": "rewards.judge.reward.Judge",
    "language": "rewards.language.reward.language_consistency",
    "length": "rewards.length.length_reward",
    "overlong": "rewards.length.overlong_penalty",
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

    A class is instantiated with `kwargs`; they are bound to a function as keywords. Without a `name` a reward is
    called by the last part of its path.

    Raises:
        UserError: no such name or path, a module that cannot be imported, or `kwargs` that do not fit.
    """
    spec = _as_spec(spec)
    label, target = find_reward(spec)
    name = spec.name or label.rpartition(".")[2]
    return Reward(name, _bind(label, target, dict(spec.kwargs)), float(spec.weight), dict(spec.columns))


def find_reward(spec: Any) -> tuple[str, Any]:
    """(what messages call it, function or class) of a reward whose `kwargs` fit; no class is instantiated."""
    spec = _as_spec(spec)
    target = _find(spec.fn) if isinstance(spec.fn, str) else spec.fn
    label = spec.fn if isinstance(spec.fn, str) else getattr(target, "__name__", type(target).__name__)
    if not callable(target):
        raise UserError(f"reward '{label}': {type(target).__name__} is not a function or a class")
    _check_kwargs(label, target, dict(spec.kwargs))
    return label, target


def load_rewards(specs: Iterable[Any]) -> list[Reward]:
    """`load_reward` for each; two that end up with one name are an error when they are applied."""
    return [load_reward(spec) for spec in specs]


def _as_spec(spec: Any) -> Spec:
    if isinstance(spec, str) or (callable(spec) and not hasattr(spec, "fn")):
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


def _options(target: Callable[..., Any]) -> dict[str, Any]:
    """The options of a function of ours with their defaults: bound, no data column of that name gets into them."""
    if f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}" not in REGISTRY.values():
        return {}
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "log_error"}


def _bind(label: str, target: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    if inspect.isclass(target):
        instance = target(**kwargs)
        if not callable(instance):
            raise UserError(f"reward '{label}': instances of this class have no __call__")
        return instance
    bound = {**_options(target), **kwargs}
    return functools.partial(target, **bound) if bound else target


def _check_kwargs(label: str, target: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """A misspelt option is an error now, not a value that `**kwargs` swallows."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # no signature to check against
        return
    parameters = signature.parameters
    check_switches(signature, kwargs, f"reward '{label}': kwargs")
    named = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in kwargs:
        if key not in named and not open_ended:
            raise UserError(f"reward '{label}': kwargs: no option '{key}'{nearest(key, named)}")
    if inspect.isclass(target):
        needed = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in kwargs]
        if needed:
            raise UserError(
                f"reward '{label}': kwargs: '{needed[0]}' is required (grpo score takes no kwargs: "
                "name a small function of your own that sets it)"
            )
