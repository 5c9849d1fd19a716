"""YAML 1.2: text -> dicts, lists, texts, numbers, true, false and null, nothing else; and back."""

import io
import re
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from grpo.errors import UserError, first_line

TAG = "tag:yaml.org,2002:"
# What a plain value is, by section 10.3.2 of the specification; any other, as no, on, 1:30 or a date, is a text.
CORE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"|~|null|Null|NULL", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(re.sub(r"\.(?=[in])", "", text.lower())),
    ),
    "str": (r"(?s:.*)", str),
}
WORDS = ("null", "true", "false", "yes", "no", "on", "off")
NO_TEXT = re.compile("[\\0\ud800-\udfff]")
DEEP = 64  # sections and lists in each other
MOST = 100_000  # values of a file, those that an alias names counted as often as it does
LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # of Unicode: lost unless they are escaped


def load_yaml(text: str, name: str) -> Any:
    """What the text says; what is quoted is a text.

    Raises:
        UserError: it is not YAML, or a mapping has a key twice; with `name` and the line.
    """
    try:
        node = _yaml().compose(text)
        if node is not None and _size(node, {}) > MOST:
            raise UserError(f"not valid YAML: its aliases stand for more than {MOST:,} values")
        return None if node is None else _value(node)
    except UserError as error:
        raise UserError(f"{name}, {error}") from error
    except (YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of more digits than Python reads
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or first_line(error)}") from error


def _size(node: Node, sizes: dict[int, int]) -> int:
    """How many values it stands for, with those that it names again by an alias."""
    if id(node) not in sizes:
        sizes[id(node)] = 1  # what contains itself is said later
        inner = node.value if isinstance(node, SequenceNode) else ()
        inner = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else inner
        sizes[id(node)] += sum(_size(part, sizes) for part in inner)
    return sizes[id(node)]


def _value(node: Node, *around: Node) -> Any:
    """What a node stands for; `around`: those it is in."""
    tag, where = str(node.tag).removeprefix(TAG), f"line {node.start_mark.line + 1}"
    if node in around:
        raise UserError(f"{where}: not valid YAML: what contains itself")
    if len(around) > DEEP:
        raise UserError(f"{where}: more than {DEEP} sections or lists in each other")
    if isinstance(node, ScalarNode) and NO_TEXT.search(node.value):
        raise UserError(f"{where}: not text: {ascii(node.value)[:80]} holds a zero or half a character")
    if tag == "seq" and isinstance(node, SequenceNode):
        return [_value(item, node, *around) for item in node.value]
    if tag == "map" and isinstance(node, MappingNode):
        return _mapping(node, *around)
    if tag in CORE and isinstance(node, ScalarNode) and re.fullmatch(CORE[tag][0], node.value):
        return CORE[tag][1](node.value)
    raise UserError(f"{where}: not valid YAML: the tag '{node.tag}' has no meaning here")


def _mapping(node: MappingNode, *around: Node) -> dict[Any, Any]:
    """Its keys are words, each given once."""
    values: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key, where = _value(key_node, node, *around), f"line {key_node.start_mark.line + 1}"
        if isinstance(key, dict | list):
            raise UserError(f"{where}: a key must be a word, not {key}")
        if key == "<<" and key_node.style is None:
            raise UserError(f"{where}: '<<' merges nothing in YAML 1.2: write the keys out")
        if key in values:
            raise UserError(f"{where}: key '{key}' given twice")
        values[key] = _value(value_node, node, *around)
    return values


def dump_yaml(tree: Any) -> str:
    """A text from which `load_yaml` gives the same, and so do readers of YAML 1.1."""
    text = io.StringIO()
    _yaml().dump(tree, text)
    return text.getvalue()


class _Resolver(VersionedResolver):
    """The kind of a plain value."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is not ScalarNode or not implicit[0]:
            return super().resolve(kind, value, implicit)
        return Tag(suffix=TAG + next(tag for tag, (form, _) in CORE.items() if re.fullmatch(form, value)))


class _Representer(SafeRepresenter):
    def text(self, value: str) -> ScalarNode:
        """Plain where it begins like a word or a path and is nothing else to YAML 1.1 or 1.2."""
        plain = (value[:1].isalpha() or value[:1] == "/") and value.lower() not in WORDS
        style = '"' if LINE_ENDS.search(value) else None if plain else "'"
        return self.represent_scalar(f"{TAG}str", value, style)

    def number(self, value: float) -> ScalarNode:
        """1.0e-06: to YAML 1.1 a number has a point."""
        node = self.represent_float(value)
        node.value = node.value if "." in node.value else node.value.replace("e", ".0e")
        return node


_Representer.add_representer(str, _Representer.text)
_Representer.add_representer(float, _Representer.number)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Representer = _Resolver, _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml
