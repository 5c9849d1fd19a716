"""YAML plus ``key.path=value`` overrides -> a typed config, with every mistake said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from grpo.errors import UserError, nearest, shorten

SectionT = TypeVar("SectionT", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """YAML as people expect it: 1e-6 is a number, a key given twice is an error."""


def _no_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        where = f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}"
        if isinstance(key, (dict, list)):
            raise UserError(f"{where}: a key must be a word, not {key}")
        if key in seen:
            raise UserError(f"{where}: key '{key}' given twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def _load_yaml(text: str, name: str) -> Any:
    try:
        loader = _StrictLoader(text)  # looks for control characters already
        loader.name = name
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date like 2026-02-30
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML: {reason}") from error


def _coerce(value: Any) -> Any:
    """PyYAML reads 1e-6 as a string (YAML 1.1 wants a dot and a sign): make such strings the numbers they are."""
    if isinstance(value, dict):
        return {key: _coerce(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_coerce(item) for item in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in a nested dict, the value read as YAML; list items by number."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"override '{override}': write it as key.path=value")
    node: Any = tree
    keys = path.split(".")
    for depth, key in enumerate(keys):
        here = ".".join(keys[: depth + 1])
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise UserError(f"override '{override}': '{here}' must be a list index below {len(node)}")
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
        else:
            raise UserError(f"override '{override}': '{'.'.join(keys[:depth])}' is a single value, not a section")
        if last:
            value = _coerce(_load_yaml(text, f"override '{override}'"))
            if key == "engine" and isinstance(node.get(index), dict) and isinstance(value, str):
                value = node[index] | {"kind": value}  # short for engine.kind, so the section's other settings stay
            node[index] = value
        elif isinstance(node, dict):
            if node.get(index) is None:
                node[index] = {}
            elif key == "engine" and isinstance(node[index], str):  # `engine: local` is short for engine.kind
                node[index] = {"kind": node[index]}
            node = node[index]
        else:
            node = node[index]


def validate(model: type[SectionT], tree: dict[str, Any], source: str) -> SectionT:
    """Build the typed config, turning pydantic's report into one line that names the key's path."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(model, error)}") from error


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Pydantic's report in one line: the first thing that is wrong, and how many more there are."""
    found = error.errors()
    # A misspelt key that has to be there is also missing: the misspelling is what has to be said.
    first = next((detail for detail in found if detail["type"] == "extra_forbidden"), found[0])
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return f"{_complaint(model, first)}{more}"


def _complaint(model: type[BaseModel], error: ErrorDetails) -> str:
    """One of pydantic's errors in our words."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key '{path}'{nearest(str(error['loc'][-1]), _known_keys(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"'{path}' is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "model_type":
        message = "must be a section (key: value)"
    got = ""
    if not isinstance(error["input"], BaseModel | dict):
        got = f", got {shorten(repr(error['input']))}"
    elif error["type"] != "value_error":  # that is a contradiction inside the section, whose text names the keys
        got = ", got a section"
    where = f"'{path}': " if path else ""  # nothing to name: a contradiction between keys of the root
    return f"{where}{message}{got}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The field names of the section at `path`, found by walking the type annotations."""
    candidates = [model]
    for part in path:
        following: list[type[BaseModel]] = []
        for item in candidates:
            field = item.model_fields.get(str(part))
            following += _models_in(field.annotation) if field else [item]  # dict keys and list indices stay
        candidates = following
    return [name for item in candidates for name in item.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def read_tree(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The nested dict of a YAML file with overrides applied."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"config '{path}': no such file")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"config '{path}': not UTF-8 text") from error
    tree = _coerce(_load_yaml(text, str(path)))
    if not isinstance(tree, dict):
        raise UserError(f"config '{path}': expected sections (key: value), got {type(tree).__name__}")
    for override in overrides:
        apply_override(tree, override)
    return tree


def read_config(model: type[SectionT], path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> SectionT:
    """YAML + overrides -> typed config. Every mistake is a `UserError` naming file, key and nearest valid key."""
    return validate(model, read_tree(path, overrides), f"config '{path}'")
