"""The tokenizer of a model, as its own files say; the tokens that end a completion, and the text of one.

transformers picks a class by name (`tokenizer_class`, the model's type) and lets it rebuild the tokenizer, whatever
`tokenizer.json` says: a byte-level one read as Llama's loses every space. So what was loaded is compared with the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from grpo.errors import UserError, first_line, one_line
from grpo.model.loading.adapter import tokenizer_of
from grpo.model.loading.files import refuse_placeholder
from grpo.model.loading.path import check_model

log = logging.getLogger("grpo")

FILE, PIECES, CONFIG = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
PARTS = ("normalizer", "pre_tokenizer", "model", "decoder")  # of a tokenizer, between text and ids
PLAIN = "Say  it:\n\tif x_1 != 23.5: # naïve ไทย 中文 🙂\n\n"  # what differs shows in it
PROBE = f"{PLAIN}<think>so</think>\n\n"


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer, whose ids and texts are those of its tokenizer.json. A pad token equal to an end token is
    never used in a mask, so it needs no repair.

    Raises:
        UserError: it cannot be loaded, or its files contradict each other.
    """
    check_model(model)
    return read_tokenizer(tokenizer_of(model), f"model '{model}'")


def read_tokenizer(model: str, where: str) -> Any:
    """As `load_tokenizer`, of a folder that need not be a model's."""
    try:
        path = model_file(model, FILE)
        tokenizer = _auto(model) if path is None else _as_filed(model, path)
        template = model_file(model, "chat_template.json") if tokenizer.chat_template is None else None
        if template is not None:  # as processors have it
            tokenizer.chat_template = json.loads(template.read_text("utf-8")).get("chat_template")
        _check_ids(model, tokenizer)
    except UserError:
        raise
    except Exception as error:  # each library that reads such a file has errors of its own
        raise UserError(f"{where}: no tokenizer can be loaded: {first_line(error)}") from error
    return tokenizer


def model_file(model: str, name: str) -> Path | None:
    """Where a file of a folder or hub name lies here; None when it has none."""
    from transformers.utils import cached_file

    # A hub that cannot be reached is told of by what needs the file.
    absent = ("gated_repo", "missing_entries", "connection_errors")
    with_hub = {f"_raise_exceptions_for_{what}": False for what in absent}
    found = cached_file(model, name, **with_hub)
    return None if found is None else Path(found)


def same_reading(model: str, tokenizer: Any, filed: Any) -> bool:
    """Whether a loaded tokenizer reads and writes every text as the one of the file does: made of the same parts, and
    with no token that no file of the model names. (Where special tokens are put is a setting of its config.)"""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    parts = [[getattr(one, name) for name in PARTS] for one in (backend, filed)]
    read, said = ([None if part is None else part.__getstate__() for part in own] for own in parts)
    if read != said:
        return False
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    unknown = {text for text in added if filed.token_to_id(text) is None}
    return not unknown or _are_named(model, unknown)


def _auto(model: str) -> Any:
    """As transformers builds it from older files: a SentencePiece model, vocabulary and merges."""
    from transformers import AutoTokenizer, LlamaTokenizer

    pieces = _pieces(model)
    tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if pieces and _ids(tokenizer, PLAIN) != pieces:  # it may put no blank before what it is given
        named, tokenizer = tokenizer, LlamaTokenizer.from_pretrained(model)
        if _ids(tokenizer, PLAIN) != pieces:
            raise ValueError(f"transformers reads it otherwise than its {PIECES} says")
        _tell(model, type(named).__name__, PIECES, _ids(named, PLAIN), pieces)
    read = set(tokenizer("Hello 1", add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}
    if not read:  # some classes are content without any file
        raise ValueError(f"there is no {FILE}, nor what one is made from")
    return tokenizer


def _pieces(model: str) -> tuple[int, ...]:
    """What a SentencePiece model itself makes of a text; nothing where there is none."""
    path = model_file(model, PIECES)
    if path is None or not path.read_bytes().startswith(b"\n"):  # Llama-3's is of another kind
        return ()
    try:
        import google.protobuf  # noqa: F401 (transformers reads it with this)
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ValueError(
            f"there is no {FILE}, and to read {PIECES} takes: pip install sentencepiece protobuf"
        ) from error
    return tuple(SentencePieceProcessor(model_file=str(path)).encode(PLAIN))


def _as_filed(model: str, path: Path) -> Any:
    """By the class that the model names, where that keeps to the file, else by the one that reads nothing but it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    filed = _read(path)
    try:
        named: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except Exception:  # noqa: BLE001 - the class may not fit at all, or its package be missing
        named = None
    if named is not None and same_reading(model, named, filed):
        return _uncut(named)
    own = get_tokenizer_config(model)
    habits = {name: getattr(named, name, None) for name in ("padding_side", "model_input_names")}
    kept = {name: value for name, value in habits.items() if value is not None and name not in own}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model, **kept)
    if not same_reading(model, tokenizer, filed):
        raise ValueError(f"transformers reads it otherwise than its {FILE} says")
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):  # a class has some that its config need not name
        token = getattr(named, name, None)
        if name not in own and token is not None and filed.token_to_id(token) is not None:
            setattr(tokenizer, name, token)
    if named is not None:
        _tell(model, type(named).__name__, FILE, _ids(named), _ids(tokenizer))
    return _uncut(tokenizer)


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        refuse_placeholder(path)
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no other
        raise ValueError(f"{FILE} cannot be read: {first_line(error)}") from error


def _uncut(tokenizer: Any) -> Any:
    """Without a file's own padding and truncation, which would be written into every stage's, nor a setting that reads
    special tokens as ordinary text."""
    tokenizer.split_special_tokens = False
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _ids(tokenizer: Any, text: str = PROBE) -> tuple[int, ...]:
    try:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    except Exception:  # noqa: BLE001 - a class can be so wrong that it reads nothing
        return ()


@cache  # once a model
def _tell(model: str, kind: str, file: str, named: tuple[int, ...], filed: tuple[int, ...]) -> None:
    if named != filed:
        text = "%s: transformers' %s reads its texts otherwise than its %s (%d tokens for %d): taken as the file says"
        log.warning(text, model, kind, file, len(named), len(filed))


def _are_named(model: str, tokens: set[str]) -> bool:
    """Whether the config files beside tokenizer.json, which may add tokens to it, hold each of these texts."""
    paths = (model_file(model, name) for name in (CONFIG, "special_tokens_map.json", "added_tokens.json"))
    held = "".join(json.dumps(json.loads(path.read_text("utf-8"))) for path in paths if path is not None)
    return all(json.dumps(token) in held for token in tokens)  # whole, with its quotes


def _check_ids(model: str, tokenizer: Any) -> None:
    """What tokenizer_config.json says of ids holds: another one would be another row of the embeddings."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    for index, token in get_tokenizer_config(model).get("added_tokens_decoder", {}).items():
        text = token["content"] if isinstance(token, dict) else str(token)
        if (found := tokenizer.convert_tokens_to_ids(text)) != int(index):
            raise ValueError(f"{CONFIG} gives {one_line(text, 60)!r} the id {index}, its vocabulary {found}: mend one")


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a completion: all of the generation config's, and the tokenizer's own.

    Raises:
        UserError: there is none.
    """
    configured = model.generation_config.eos_token_id
    ids = [] if configured is None else configured if isinstance(configured, list) else [configured]
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    if not ids:
        raise UserError("the model has no end token: set eos_token_id in its generation_config.json")
    return tuple(dict.fromkeys(int(token) for token in ids))


def shown_tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(index)} ({index})" for index in ids)


def completion_text(tokenizer: Any, ids: Sequence[int], end_ids: Sequence[int]) -> str:
    """What the model wrote, without its end and without padding. Other special tokens stay: they may be what marks the
    thinking, or a channel."""
    silent = {*end_ids, tokenizer.pad_token_id}
    return decoded(tokenizer, [token for token in ids if token not in silent])


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of these tokens, all of them, as it is."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
