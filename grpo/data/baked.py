"""A chat template given for a model, and values that a template reads: the model's own from then on.

Values are set at the template's top where its caller gives none. So every stage, evaluation and server that gets the
model's folder has them, and `apply_chat_template(..., enable_thinking=True)` still has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateSyntaxError

from grpo.data.rendering import render
from grpo.errors import UserError, nearest

_GIVEN = ("messages", "tools", "documents", "add_generation_prompt")  # on every call: a default would do nothing
_NAME = re.compile(r"[A-Za-z_]\w*")
_MARK = "{#- base.template_kwargs -#}"
_TOP = re.compile(re.escape(_MARK) + r".*\n")


def give_template(tokenizer: Any, file: str | None, values: Mapping[str, Any]) -> Any:
    """The tokenizer, with the template of a file and the values in it.

    Raises:
        UserError: there is no template, it is none, or it does not read a value.
    """
    if file is not None:
        tokenizer.chat_template = read_template(file)
    template = tokenizer.chat_template
    if values and not template:
        raise UserError("base.template_kwargs: the model has no chat template: give it one by base.chat_template")
    if values:
        of = template if isinstance(template, dict) else {"": template}
        texts = {name: _with_values(text, values, tokenizer.special_tokens_map) for name, text in of.items()}
        tokenizer.chat_template = texts if isinstance(template, dict) else texts[""]
    if file is not None or values:
        try:
            render(tokenizer, [{"role": "user", "content": "?"}], open_answer=True)
        except UserError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                where = f"chat template '{file}', line {error.__cause__.lineno}"
                raise UserError(f"{where}: no jinja template: {error.__cause__.message}") from error
    return tokenizer


def read_template(file: str) -> str:
    """The text of a chat template.

    Raises:
        UserError: there is no such file, or no text in it.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"chat template '{file}': no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"chat template '{file}': not UTF-8 text") from error
    if not text.strip():
        raise UserError(f"chat template '{file}': the file is empty")
    return text


def _with_values(template: str, values: Mapping[str, Any], special: Mapping[str, Any]) -> str:
    words = set(_NAME.findall(template))
    for name in values:
        if name in _GIVEN or name in special:
            raise UserError(f"base.template_kwargs: '{name}' is given to the template with every conversation")
        if name not in words:
            raise UserError(f"base.template_kwargs: the chat template reads no '{name}'{nearest(name, words)}")
    top = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value, name)} %}}{{%- endif %}}"
        for name, value in values.items()
    )
    return f"{_MARK}{top}\n{template}"  # the tag before it takes the line end away


def _literal(value: Any, name: str) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key, name)}: {_literal(item, name)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(item, name) for item in value)}]"
    if not isinstance(value, str | bool | int | float | None):
        raise UserError(f"base.template_kwargs: '{name}' must be text, a number, true, false, null, or made of them")
    return repr(value) if not isinstance(value, str) else '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    """So written that no text can end the tag that it stands in."""
    plain = character.isascii() and (character.isalnum() or character in " _.,:;-")
    return character if plain else f"\\U{ord(character):08x}"


def split_values(template: str) -> tuple[str, str]:
    """(what sets values at its top, the template as the model came with it)."""
    top = _TOP.match(template)
    return (top[0], template[top.end() :]) if top else ("", template)
