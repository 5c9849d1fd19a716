"""`grpo serve`: the vLLM servers of a config, on this machine."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from grpo.errors import UserError
from stages.commands.common import Parser, add_overrides, read_recipe

if TYPE_CHECKING:
    from grpo.engines.vllm.start import ServedModel
    from stages.recipe.config import RecipeConfig

DESCRIPTION = "Serve the config's model with vLLM, for runs with engine=vllm-server, which bring weights of their own."
EXAMPLES = """\
  grpo serve my.yaml                                        every address of engine.server.urls on this machine
  grpo serve my.yaml --url http://localhost:8001            this one alone
  CUDA_VISIBLE_DEVICES=1 grpo serve my.yaml runtime.dtype=bfloat16
  grpo serve tiny.yaml --init runs/base/0-base/model        a model of the same sizes; a run brings its own weights
then, elsewhere: grpo run my.yaml engine=vllm-server"""


def serve_command(arguments: list[str]) -> int:
    """Runs until it is told to end: 128 + the number of the signal."""
    parser = Parser("grpo serve", DESCRIPTION, EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or the name of a shipped config")
    parser.add_argument("--init", metavar="MODEL", help="model folder or hub name (default: the base model)")
    parser.add_argument("--url", metavar="URL", help="address to serve at (default: those of engine.server.urls)")
    add_overrides(parser)
    chosen = parser.read(arguments)
    config = read_recipe(chosen.config, chosen.overrides)

    from grpo.engines.vllm import require_vllm
    from grpo.engines.vllm.serve import here

    require_vllm("grpo serve")
    urls = here([chosen.url] if chosen.url else config.engine.server.urls)
    if not urls:
        named = chosen.url or ", ".join(config.engine.server.urls)
        raise UserError(f"{named}: not an address of this machine; give --url, or run this where it is")
    model = chosen.init or config.base.model
    if model is None:
        raise UserError(
            "the run trains its base model itself: give one of the same sizes, whose weights do not matter: first "
            "`grpo run CONFIG --out runs/base --until base engine=local`, then --init runs/base/0-base/model"
        )
    return _serve(config, _sampled(config, model), urls)


def _sampled(config: RecipeConfig, model: str) -> ServedModel:
    """What is served; a `UserError` where it is no model."""
    from grpo.engines.vllm.start import ServedModel
    from grpo.model.loading.adapter import refuse_adapter, whole_of
    from grpo.model.loading.device import pick_device
    from grpo.model.loading.path import check_model
    from grpo.model.loading.settings import read_config

    check_model(model)
    refuse_adapter(model)
    settings = read_config(whole_of(model))
    longest = int(getattr(settings.get_text_config(), "max_position_embeddings", 0))
    device = pick_device(config.runtime).type
    return ServedModel(model, None, (), longest, device, config.runtime.dtype)


def _serve(config: RecipeConfig, sampled: ServedModel, urls: list[str]) -> int:
    from grpo.engines.vllm.serve import Child, drop_output, how_ended, start_servers, stop, wait_until_ready, watch

    signals: list[int] = []

    def end(number: int, _: Any) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    children: list[Child] = []
    try:
        start_servers(config.engine, config.runtime, sampled, urls, children)
        wait_until_ready(children, config.engine.server.start_timeout)
        watch(children)
    except KeyboardInterrupt:
        return 128 + signals[0]
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # what is started must be ended
        all_well = bool(signals) and not any(how_ended(child) for child in children)
        stop(children)
        if all_well:
            drop_output(children)
        for number, handler in before.items():
            signal.signal(number, handler)
