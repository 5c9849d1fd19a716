"""What a config asks of the machine and of the engine, asked of the functions that the run asks later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

from grpo.config.inert import check_ahead, check_delivery, check_quantization, check_stop
from grpo.config.training import SamplingConfig
from grpo.engines.vllm import require_vllm
from grpo.model.loading.kinds import check_kind
from grpo.system.world import launched
from stages.recipe.config import RecipeConfig, RejectionSamplingConfig, RLStageConfig


def machine_checks(config: RecipeConfig, keys: Iterable[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """(key path, check that raises `UserError`) of these sections."""
    if config.engine.kind == "vllm":
        yield "engine", partial(require_vllm, "engine.kind=vllm")
    if config.engine.kind == "vllm-server":
        yield "engine", partial(_check_urls, config)
    kind = cache(lambda: engine_of(config))
    for key in keys:
        section = getattr(config, key)
        if isinstance(section, RLStageConfig):
            yield key, partial(_check_rl, config, section, kind)
        if isinstance(section, RLStageConfig | RejectionSamplingConfig) and section.sampling.stop:
            yield key, partial(_check_stop, section.sampling, kind)


def _check_urls(config: RecipeConfig) -> None:
    from grpo.engines.vllm.client import addresses

    addresses(config.engine.server.urls)


def engine_of(config: RecipeConfig) -> str:
    """`engine.kind`, with `auto` resolved."""
    if config.engine.kind != "auto":
        return config.engine.kind
    from grpo.engines.choose import engine_kind

    return engine_kind(config.engine, config.runtime)


def check_device(config: RecipeConfig) -> None:
    """The device is there and can compute in the dtype."""
    from grpo.model.loading.device import pick_device

    pick_device(config.runtime)


def _check_stop(sampling: SamplingConfig, kind: Callable[[], str]) -> None:
    check_stop(sampling.stop, kind())


def _check_rl(config: RecipeConfig, section: RLStageConfig, kind: Callable[[], str]) -> None:
    if any(phase.sampling.temperature < 1 for phase in section.phases()) and kind() != "local":
        from grpo.engines.vllm.request import check_temperatures

        check_temperatures(section)
    if config.base.model is not None:
        check_kind(config.base.model, kind())
    if config.engine.ahead:
        check_ahead(config.engine, kind(), section.correction, launched=launched())
    if config.engine.vllm.quantization:
        check_quantization(config.engine, kind(), section.correction)
    if config.engine.vllm.lora == "adapter" and section.lora is not None:
        check_delivery(config.engine, kind(), section.lora)
