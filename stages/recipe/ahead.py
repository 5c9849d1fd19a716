"""What the stages of a run will read and sample, looked at before the first one: mistakes are said before they cost."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from grpo.config.data import DataConfig, EvalConfig, RewardConfig
from grpo.data.baked import give_template
from grpo.data.folders import is_path
from grpo.data.prompts import build_prompts
from grpo.data.rows import NotYet, Row, load_rows
from grpo.errors import UserError
from stages.recipe.config import RecipeConfig, RLStageConfig, find
from stages.recipe.table import lineage_of

RUN = "{run}"  # in the arguments of a reward: the run's folder
TEACHER = "stages.teacher.demonstrations"
SECONDS = 10.0  # after which no more rows of a function are read; its stage does
MEASURED = 2_000  # rows of a place that are rendered; of more, so many evenly spread ones


@dataclass(frozen=True)
class Asked:
    """One place of the config where prompts are sampled from and completions judged."""

    path: str
    data: DataConfig
    rewards: tuple[RewardConfig, ...]  # none: judged by rules of its own
    max_tokens: int | None  # None: as the model has positions for
    kind: str  # task, filters, evaluation, general
    by_mean: bool = False  # advantages are divided by the mean reward, so that none may be negative

    @property
    def accuracy(self) -> RewardConfig | None:
        """The reward that compares with a gold."""
        return next((spec for spec in self.rewards if "accuracy" in f"{spec.fn} {spec.label}"), None)

    @property
    def graded(self) -> RewardConfig | None:
        """A reward that needs a gold that can be read: the accuracy, or one that pays right and wrong differently."""
        return self.accuracy or next((spec for spec in self.rewards if spec.fn in ("cosine_length", "length")), None)

    @property
    def format(self) -> RewardConfig | None:
        return next((spec for spec in self.rewards if spec.fn == "format"), None)


def places(config: RecipeConfig) -> Iterator[Asked]:
    """Every place where prompts are sampled from with the base model's tokenizer, in the order of the config."""
    general = config.evaluation.general
    for path, one in find(config.evaluation, EvalConfig, "evaluation"):
        judges = {"accuracy": one.accuracy, "format": one.format, "language": one.language}
        present = tuple(spec.model_copy(update={"name": key}) for key, spec in judges.items() if spec is not None)
        yield Asked(path, one.data, present, one.max_tokens, "evaluation")
    if general is not None:
        yield Asked("evaluation.general", general.data, (), general.max_tokens, "general")
    for key, section in config:
        of_base = isinstance(section, RLStageConfig) and lineage_of(key) == "base"
        for name, task in section.tasks.items() if of_base else ():
            tokens, by_mean = section.sampling.max_tokens, section.advantage.scale == "mean"
            yield Asked(f"{key}.tasks.{name}", task.data, task.rewards, tokens, "task", by_mean)
    sampled = config.rejection_sampling
    if sampled is not None:
        tokens = sampled.sampling.max_tokens
        yield Asked("rejection_sampling", sampled.data, sampled.filters, tokens, "filters")


def asks_teacher(data: DataConfig) -> bool:
    """Whether reading the rows would ask a served model, which costs."""
    return data.fn == TEACHER and not Path(str(data.kwargs.get("file"))).is_file()


def on_hub(data: DataConfig) -> bool:
    """Whether the rows may have to be fetched."""
    return data.path is not None and not is_path(data.path)


def rows_ahead(data: DataConfig, run: Path) -> list[Row] | None:
    """The rows of a file, a function, or a hub data set in the cache; None: they are not to be had before their stage.

    Raises:
        UserError: they cannot be read.
    """
    named = [text for _, text in find(data.kwargs, str)]
    if asks_teacher(data) or any(RUN in text or Path(text).absolute().is_relative_to(run.absolute()) for text in named):
        return None  # an earlier stage makes them
    try:
        return load_rows(data, SECONDS)
    except NotYet:
        return None


class Ahead:
    """The rows of a config's sources, each read once."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._rows: dict[str, list[Row] | None] = {}

    def rows(self, data: DataConfig) -> list[Row] | None:
        key = data.model_dump_json()
        if key not in self._rows:
            self._rows[key] = rows_ahead(data, self.run)
        return self._rows[key]


def check_places(config: RecipeConfig, keys: Collection[str], ahead: Ahead, model: str, *, given: bool) -> None:
    """What these sections sample can be rendered for a model that is here, and fits its positions. `given`: by --init,
    so that it has a chat template of its own.

    Raises:
        UserError: a row cannot be rendered, or `max_tokens` goes beyond the positions.
    """
    from grpo.model.loading.adapter import whole_of
    from grpo.model.loading.limits import fit
    from grpo.model.loading.settings import empty_model, read_config
    from grpo.model.loading.tokenizer import load_tokenizer

    tokenizer, empty = load_tokenizer(model), empty_model(read_config(whole_of(model)))
    if not given:
        give_template(tokenizer, config.base.chat_template, config.base.template_kwargs)
    for place in places(config):
        rows = ahead.rows(place.data) if place.path.partition(".")[0] in keys else None
        data = place.data.model_copy(update={"max_prompt_tokens": None})
        try:
            prompts = build_prompts((rows or [])[:: max(1, len(rows or []) // MEASURED)], data, tokenizer)
            limit = place.data.max_prompt_tokens
            ids = [one.token_ids for one in prompts if limit is None or len(one.token_ids) <= limit]
            if ids:
                fit(empty, ids, "max_tokens", place.max_tokens or 1)
        except UserError as error:
            raise UserError(f"{place.path}: {error}") from error
