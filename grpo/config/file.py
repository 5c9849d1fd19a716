"""YAML plus ``key.path=value`` overrides -> a typed config, with every mistake said in one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from grpo.config.section import SectionT
from grpo.config.yaml import load_yaml
from grpo.errors import IN_ADDRESS, UserError, nearest, public, shorten

# Sections that may be a text: for which of their keys.
SHORT = {"engine": "kind", "data": "path", **dict.fromkeys(("base", "student_base", "distill"), "model")}
PLAIN = {
    "model_type": "must be a section (key: value)",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
}
SHOWN = 3  # mistakes that are neither an unknown nor a missing key


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in a nested dict; list items by number.

    The value is YAML, as in the file: ``1e-6`` is a number, ``true`` a switch, ``null`` or nothing null, ``[1, 2]`` a
    list; ``no``, ``1:30`` and ``2026-01-01`` are texts, and so is what is quoted: ``'"1e3"'`` in a shell.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"override '{override}': write it as key.path=value")
    node: Any = tree
    keys = path.split(".")
    for depth, key in enumerate(keys):
        here = ".".join(keys[: depth + 1])
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise UserError(f"override '{override}': '{here}' must be a list index below {len(node)}")
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
        else:
            raise UserError(f"override '{override}': '{'.'.join(keys[:depth])}' is a single value, not a section")
        if depth == len(keys) - 1:
            break
        if isinstance(node, dict) and node.get(index) is None:
            node[index] = {}
        elif key in SHORT and isinstance(node[index], str):
            node[index] = {SHORT[key]: node[index]}
        node = node[index]
    value = load_yaml(text, f"override '{override}'")
    if key == "engine" and isinstance(node.get(index), dict) and isinstance(value, str):
        value = node[index] | {"kind": value}  # short for engine.kind, so the section's other settings stay
    node[index] = value


def validate(model: type[SectionT], tree: dict[str, Any], source: str) -> SectionT:
    """Build the typed config, turning pydantic's report into one line that names the keys' paths."""
    for path, text in _texts(tree):
        if IN_ADDRESS.search(text):  # it would be in config.yaml, in manifests and in messages
            raise UserError(
                f"{source}: '{public(path)}': an address must not hold a user or a password: the environment may"
            )
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(model, error, tree)}") from error


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(key path, text) of everything in a tree that is a text, keys too."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            inside = f"{path}.{key}" if path else str(key)
            yield inside, str(key)
            yield from _texts(item, inside)


def explain(model: type[BaseModel], error: ValidationError, tree: Any = None) -> str:
    """Pydantic's report in one line: every unknown and every missing key, and the first few of what else is wrong.

    `tree`: what was validated, for paths as they stand in it.
    """
    found = error.errors()
    unknown = [detail for detail in found if detail["type"] == "extra_forbidden"]
    said = [_complaint(model, detail, tree) for detail in unknown]
    paths = [_path(detail, tree) for detail in unknown]
    # A misspelt key that has to be there is also missing: the misspelling is what has to be said.
    missing = [_path(detail, tree) for detail in found if detail["type"] == "missing"]
    missing = [path for path in missing if not _meant(path, paths)]
    said += [f"{', '.join(map(repr, missing))} {'is' if len(missing) == 1 else 'are'} missing"] if missing else []
    others = [detail for detail in found if detail["type"] not in ("missing", "extra_forbidden")]
    # Nor of a list that what is wrong in it has made too short.
    others = [one for one in others if not any(_inside(detail["loc"], one["loc"]) for detail in found)]
    said += [_complaint(model, detail, tree) for detail in others[:SHOWN]]
    more = f" ({len(others) - SHOWN} more)" if len(others) > SHOWN else ""
    return "; ".join(said) + more


def _inside(place: tuple[int | str, ...], section: tuple[int | str, ...]) -> bool:
    return len(place) > len(section) and place[: len(section)] == section


def _meant(missing: str, unknown: list[str]) -> bool:
    """Whether one of the unknown keys beside it is a misspelling of it."""
    section, _, name = missing.rpartition(".")
    beside = (key for where, _, key in (path.rpartition(".") for path in unknown) if where == section)
    return any("did you mean" in nearest(key, [name]) for key in beside)


def _path(error: ErrorDetails, tree: Any) -> str:
    """Where an error is, as the file has it: what a short form leaves out is not in its tree."""
    parts = []
    for number, part in enumerate(error["loc"]):
        inside = isinstance(tree, dict) and part in tree
        if isinstance(tree, dict) and not inside and number < len(error["loc"]) - 1:
            continue
        parts.append(str(part))
        tree = tree[part] if inside else None
    return ".".join(parts)


def _complaint(model: type[BaseModel], error: ErrorDetails, tree: Any) -> str:
    """One of pydantic's errors in our words."""
    path = _path(error, tree)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{path}'{nearest(str(error['loc'][-1]), _known_keys(model, error['loc'][:-1]))}"
    message = PLAIN.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    got = ""
    if error["input"] is None:  # `evaluation:` with every line below it a comment
        got = ", got nothing"
    elif not isinstance(error["input"], BaseModel | dict):
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
    return [name for item in candidates for name in (*item.model_fields, *getattr(item, "SHORT", ()))]


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
    tree = load_yaml(text, str(path))
    if not isinstance(tree, dict):
        got = "nothing: the file is empty" if tree is None else f"a {type(tree).__name__}"
        raise UserError(f"config '{path}': expected sections (key: value), got {got}")
    for override in overrides:
        apply_override(tree, override)
    return tree


def read_config(model: type[SectionT], path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> SectionT:
    """YAML + overrides -> typed config. Every mistake is a `UserError` naming file, key and nearest valid key."""
    return validate(model, read_tree(path, overrides), f"config '{path}'")
