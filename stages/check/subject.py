"""What the checks of `grpo check` share: how one ends, and the rows and the model that they look at, loaded once.

A check is a function that returns what it saw, or raises `Warned`, `Skipped` or `UserError`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.rows import Row
from grpo.errors import UserError
from grpo.model.loading.path import check_model
from grpo.types import Prompt
from stages.recipe.ahead import Asked, places, rows_ahead
from stages.recipe.config import RecipeConfig
from stages.recipe.ends import stops
from stages.recipe.leaks import LeakGuard
from stages.recipe.preflight import check_source

Check = tuple[str, Callable[[], str]]
SHOWN = 10  # rows that are named one by one


class Warned(Exception):
    """Something to think about, but nothing that stops a run."""


class Skipped(Exception):
    """What the check needs is not there yet."""


@dataclass(frozen=True)
class Tags:
    """What the required format is made of."""

    think: str = "think"
    answer: str | None = None


@dataclass(frozen=True)
class BaseModel:
    """What can be known of the base model without its weights."""

    tokenizer: Any
    settings: Any  # the architecture's, as transformers has them
    end_ids: tuple[int, ...]  # what stops a completion, as `grpo.model.loading.tokenizer.end_token_ids` has it

    @property
    def text_settings(self) -> Any:
        return self.settings.get_text_config()

    @property
    def embeddings(self) -> int:
        return int(self.text_settings.vocab_size)

    @property
    def positions(self) -> int | None:
        return getattr(self.text_settings, "max_position_embeddings", None)

    @cached_property
    def empty(self) -> Any:
        """The model without its weights.

        Raises:
            UserError: this is no causal language model.
        """
        from grpo.model.loading.settings import empty_model

        return empty_model(self.settings)


@dataclass
class Subject:
    """The config under check. What cannot be loaded is None here: one check says why, the others are left out."""

    config: RecipeConfig
    run: Path
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)  # those rendered so far, by their data section
    _rows: dict[str, list[Row] | None] = field(default_factory=dict)

    def rows(self, data: DataConfig) -> list[Row] | None:
        """The rows as far as they can be had before a run."""
        key = data.model_dump_json()
        if key not in self._rows:
            self._rows[key] = None
            with suppress(UserError, OSError):
                check_source(data)
                self._rows[key] = rows_ahead(data, self.run)
        return self._rows[key]

    @cached_property
    def guard(self) -> LeakGuard:
        """The evaluation's problems and their n-grams, for every section that is trained on."""
        return LeakGuard(self.config, lambda data: self.rows(data) or ())

    @cached_property
    def model(self) -> BaseModel | None:
        try:
            return self.load_model()
        except (UserError, OSError):
            return None

    def load_model(self) -> BaseModel:
        """The base model's tokenizer, settings and end tokens.

        Raises:
            UserError: one of them cannot be had.
        """
        base = self.config.base
        if base.model is None:
            return self._future_model()
        from grpo.data.baked import give_template

        model = existing_model(base.model)
        give_template(model.tokenizer, base.chat_template, base.template_kwargs)
        return model

    def _future_model(self) -> BaseModel:
        """The tokenizer exactly as the base stage will make it, which takes a second; nothing is trained."""
        from stages.base import architecture
        from stages.tiny_world.tokenizer import DOCUMENT_END, build_tokenizer

        settings = self.config.base.pretrain
        assert settings is not None
        rows = self.rows(settings.corpus)
        if rows is None or not all(isinstance(row.get("text"), str) for row in rows):
            raise UserError("base.pretrain.corpus: no rows with a 'text', so no tokenizer")
        tokenizer = build_tokenizer([row["text"] for row in rows], settings.vocab_size)
        end_ids = (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(DOCUMENT_END))
        return BaseModel(tokenizer, architecture(settings, len(tokenizer)), end_ids)

    def tags(self, asked: Asked) -> Tags:
        """As the format reward of the place wants them; where there is none, that of the evaluation."""
        place = asked if asked.format is not None else next(places(self.config), asked)
        kwargs = place.format.kwargs if place.format is not None else {}
        strict = place.accuracy.kwargs.get("strict") if place.accuracy is not None else None
        answer = kwargs.get("answer_tag") or ("answer" if strict == "answer" else None)
        return Tags(kwargs.get("think_tag", "think"), answer)


def existing_model(name: str) -> BaseModel:
    """A model of a folder or the hub; its weights are not read."""
    from grpo.model.loading.adapter import whole_of
    from grpo.model.loading.settings import read_config
    from grpo.model.loading.tokenizer import load_tokenizer

    check_model(name)
    tokenizer = load_tokenizer(name)
    return BaseModel(tokenizer, read_config(whole_of(name)), stops(name, tokenizer))


def listed(rows: list[int], texts: list[str] | None = None) -> str:
    """ "row 3: x; row 7: y; and 5 more": the first ten."""
    shown = [f"row {row}" + (f": {texts[place]}" if texts else "") for place, row in enumerate(rows[:SHOWN])]
    more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    return "; ".join([*shown, *more])


def shortened(text: str, most: int = 60) -> str:
    """One line of at most `most` characters, with what cannot be seen written out."""
    shown = repr(text)
    return shown if len(shown) <= most else f"{shown[: most - 4]}...{shown[-1]}"
