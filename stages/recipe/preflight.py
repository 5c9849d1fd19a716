"""What can be wrong with a config before anything is computed: names that lead nowhere, files that are not there.

Nothing is fetched or generated, and no weights are loaded but those of an adapter, which has to be merged. `grpo run`
and the stage scripts check what is left to do before they touch the run folder; `grpo check` starts from the same
checks and reads the data as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from grpo.config.algorithm import DistillConfig
from grpo.config.data import DataConfig, RewardConfig
from grpo.data.baked import read_template
from grpo.data.files import check_file
from grpo.data.folders import is_path
from grpo.data.rows import data_files
from grpo.errors import UserError, nearest
from grpo.model.loading.path import check_model
from grpo.system.imports import import_path
from rewards.loader import find_reward, is_ours, load_reward
from rewards.options import check_switches
from stages.recipe.ahead import RUN, Ahead, on_hub
from stages.recipe.config import BaseConfig, EvaluationConfig, RecipeConfig, RLStageConfig, find
from stages.recipe.machine import check_device, machine_checks
from stages.recipe.table import active_stages


def check_sections(config: RecipeConfig, ahead: Ahead, keys: Iterable[str]) -> None:
    """Everything that these sections of the config name: rewards, data, models, functions.

    Raises:
        UserError: the first that is wrong, with its key path.
    """
    for path, check in checks(config, ahead, keys):
        try:
            check()
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def checks(config: RecipeConfig, ahead: Ahead, keys: Iterable[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """(key path, check that raises `UserError`)."""
    keys = list(keys)
    yield from machine_checks(config, keys)
    for key in keys:
        section = getattr(config, key)
        for path, spec in find(section, RewardConfig, key):
            yield path, partial(check_reward, spec, ahead.run, folders_before(config, key))
        for path, data in find(section, DataConfig, key):
            yield path, partial(_check_rows, data, ahead, later=key != keys[0])
        if isinstance(section, EvaluationConfig) and section.leak_check is not None:
            yield "evaluation.leak_check", partial(check_function, section.leak_check)
        if isinstance(section, BaseConfig) and section.model is not None:
            yield f"{key}.model", partial(_check_weights, section.model)
            if section.chat_template is not None:
                yield f"{key}.chat_template", partial(read_template, section.chat_template)
            if is_here(section.model) and key == "base":
                yield from base_checks(config)
        yield from student_checks(config, ahead, key)
    yield "runtime", partial(check_device, config)  # last: it needs torch, which takes seconds


def base_checks(config: RecipeConfig) -> Iterator[tuple[str, Callable[[], None]]]:
    """(key path, check that raises `UserError`) of what later stages want of a base model that is here."""
    from stages.recipe.ends import check_ends
    from stages.recipe.sampled import check_sampled

    yield "base.model", partial(check_ends, config)
    if config.rejection_sampling is not None:
        yield "rejection_sampling", partial(check_sampled, config)


def student_checks(config: RecipeConfig, ahead: Ahead, key: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """(key path, check that raises `UserError`) of what a student learns, and from whom."""
    distilled = list(find(getattr(config, key), DistillConfig, key))
    if distilled or key == "student":
        from stages.recipe.students import check_distill, check_student

        if key == "student":
            yield key, partial(check_student, config, ahead)
        for path, distill in distilled:
            yield f"{path}.model", partial(check_distill, config, key, distill, ahead)


def folders_before(config: RecipeConfig, key: str) -> list[str] | None:
    """Folders that the stages before an RL stage leave; None where `{run}` is not filled in."""
    if not isinstance(getattr(config, key), RLStageConfig):
        return None
    keys = [stage.key for stage in active_stages(config)]
    return [stage.folder for stage in active_stages(config)[: keys.index(key)]]


def check_reward(spec: RewardConfig, run: Path, made: Collection[str] | None = None) -> None:
    """The function is found and takes its arguments. `made`: folders of the run that earlier stages will make.

    Our own rewards also try the values of their options. A class of the user's is not instantiated: that may load a
    model, or one that an earlier stage of this run has yet to make.
    """
    _check_places(spec, run, made)
    if not is_ours(find_reward(spec)[1]):
        return
    load_reward(spec.model_copy(update={"kwargs": in_run(spec.kwargs, run)}))
    model = spec.kwargs.get("model")
    if spec.fn == "reward_model" and isinstance(model, str) and RUN not in model:  # a judge's is a name at its endpoint
        _check_weights(model, reward=True)


def _check_weights(model: str, *, reward: bool = False) -> None:
    """Those that are here can be loaded; the hub is not asked."""
    check_model(model)
    if not is_here(model):
        return
    if reward:
        from grpo.model.loading.classifier import examine_classifier

        examine_classifier(model, new_head=False)
    else:
        from grpo.model.loading.weights import examine

        examine(model)


def is_here(model: str) -> bool:
    """Its folder, or what the hub's cache holds of it."""
    if Path(model).is_dir():
        return True
    from grpo.model.loading.files import local_folder

    return local_folder(model) is not None


def _check_places(spec: RewardConfig, run: Path, made: Collection[str] | None) -> None:
    for text in (text for _, text in find(spec.kwargs, str) if RUN in text):
        if made is None:
            raise UserError(f"reward '{spec.fn}': '{text}': only the rewards of RL tasks can name the run's folder")
        folder = text.partition(RUN)[2].strip("/").partition("/")[0]
        if folder not in made and not Path(in_run(text, run)).exists():
            absent = f"no earlier stage of this config makes '{folder}'{nearest(folder, made)}"
            raise UserError(f"reward '{spec.fn}': '{text}': {absent}")


def in_run(value: Any, run: Path) -> Any:
    """Arguments of a reward with `{run}`, this run's folder (reward models trained by it), filled in."""
    if isinstance(value, str):
        return value.replace(RUN, str(run))
    if isinstance(value, dict):
        return {key: in_run(item, run) for key, item in value.items()}
    return [in_run(item, run) for item in value] if isinstance(value, list) else value


def check_source(data: DataConfig) -> None:
    """A local file is there and can be opened, a function is found and takes its arguments; the hub is not asked."""
    if data.fn is not None:
        check_function(data.fn, data.kwargs)
        return
    for file in data_files(data) if is_path(str(data.path)) else ():
        check_file(file)


def _check_rows(data: DataConfig, ahead: Ahead, *, later: bool) -> None:
    """`check_source`, and the rows can be read: a stage hours `later` would find it out. The first finds out soon what
    a function gives."""
    check_source(data)
    if later or (data.fn is None and not on_hub(data)):
        ahead.rows(data)


def check_function(path: str, kwargs: dict[str, Any] | None = None) -> None:
    """There is a function at this import path; with `kwargs`, one that takes them."""
    function = import_path(path, "function")
    if not callable(function):
        raise UserError(f"'{path}' is no function but {type(function).__name__}")
    if kwargs is None:
        return
    try:
        signature = inspect.signature(function)
        signature.bind_partial(**kwargs)  # a misspelt one first: it is also missing
        signature.bind(**kwargs)
        check_switches(signature, kwargs, f"'{path}'")
    except ValueError:  # no signature to check against
        return
    except TypeError as error:
        raise UserError(f"function '{path}': kwargs: {error}") from error
