"""Settings that are right by themselves and not in the run they stand in: what does nothing is said, no error; what its
engine cannot do is refused."""

from collections.abc import Sequence

from grpo.config.algorithm import CorrectionConfig, LoraConfig
from grpo.config.engine import AHEAD_IN_PROCESS, EngineConfig
from grpo.config.section import changed
from grpo.config.stepwise import changing
from grpo.config.training import OptimizerConfig, RLConfig
from grpo.errors import UserError

MAX_RANK = 512  # of an adapter in vLLM


def inert_settings(config: RLConfig, shared_engine: bool) -> list[str]:
    """A line for each reason. `shared_engine`: it samples with the trainer's own weights and numerics."""
    dropout = config.lora is not None and config.lora.dropout > 0
    on_policy = config.updates_per_rollout == 1 and not dropout  # pi_old is pi_theta
    fresh = shared_engine and config.dynamic_sampling is None  # pi_gen is pi_old: no leftovers either
    said = []
    unused = _of_the_ratio(config) if on_policy else []
    if unused:
        said.append(
            f"{', '.join(unused)}: one update follows a rollout, so the ratio is 1 (rollout_prompts or inner_epochs "
            "gives more)"
        )
    if fresh and on_policy and config.loss.off_policy_mask is not None:
        said.append("loss.off_policy_mask: every sequence was drawn by the weights that are trained on it")
    if fresh and config.correction is not None:
        said.append("correction: the engine samples with the trainer's weights, so it is 1 but for rounding")
    return said + _of_the_schedule(config.optimizer, config.steps) + _never_reached(config)


def inert_engine_settings(config: EngineConfig, kind: str, *, lora: bool, on_gpu: bool) -> list[str]:
    """A line for each reason: settings of engines that this run does not have. `kind`: with `auto` resolved."""
    said = []
    if kind != "local" and config.vllm.lora == "adapter" and not lora:
        said.append("engine.vllm.lora: adapter: without 'lora' whole weights are delivered")
    # A server's are read where it is started; only sleeping is of the engine that shares the trainer's GPU.
    of_others = {"local": tuple(type(config.vllm).model_fields), "vllm-server": ("sleep",)}.get(kind, ())
    unused = [f"engine.vllm.{name}" for name in changed(config.vllm, of_others)]
    if kind != "vllm-server":
        unused += [f"engine.server.{name}" for name in changed(config.server, type(config.server).model_fields)]
    if unused:
        said.append(f"{', '.join(unused)}: the engine is '{kind}'")
    of_gpus = changed(config.vllm, ("memory", "sleep", "eager")) if kind == "vllm" and not on_gpu else ()
    if of_gpus:
        said.append(f"{', '.join(f'engine.vllm.{name}' for name in of_gpus)}: vLLM runs on a CPU")
    return said


def _of_the_ratio(config: RLConfig) -> list[str]:
    """Changed settings that act on the ratio alone, which is 1 in the first update of a rollout."""
    loss = config.loss
    # Tokens and sequences still differ in what a weighted KL has for a gradient, and in what a correction leaves.
    level = [] if config.correction or (loss.kl_in_loss and loss.kl.weighted) else ["ratio"]
    return [f"loss.{name}" for name in changed(loss, (*level, "clip", "clip_low", "clip_high", "dual_clip"))]


def _of_the_schedule(optimizer: OptimizerConfig, steps: int) -> list[str]:
    if optimizer.warmup_steps >= steps:
        return [f"optimizer.lr: never reached, since the warm-up lasts {optimizer.warmup_steps} of {steps} steps"]
    if optimizer.schedule != "constant" and optimizer.warmup_steps == steps - 1:
        return [f"optimizer.schedule: the warm-up leaves one of {steps} steps, and that has 'lr'"]
    return []


def _never_reached(config: RLConfig) -> list[str]:
    last = (config.steps - 1) // config.updates_per_rollout * config.updates_per_rollout  # where a rollout begins
    late = {name: [start for start, _ in number.changes if start > last] for name, number in changing(config).items()}
    return [
        f"{name}: from_step {starts[0]}, for the last rollout begins at step {last}"
        for name, starts in late.items()
        if starts
    ]


def check_ahead(engine: EngineConfig, kind: str, correction: CorrectionConfig | None, *, launched: bool) -> None:
    """Before anything is loaded. `kind`: of the engine, resolved; `launched`: this is one of several processes.

    Raises:
        UserError: it cannot be honoured here.
    """
    if not engine.ahead:
        return
    if kind == "vllm":
        raise UserError(f"engine: {AHEAD_IN_PROCESS}")
    if launched:
        raise UserError("engine.ahead: the trainer must be one process; start it without a launcher, or leave it out")
    if correction is None:
        raise UserError(
            "engine.ahead trains on samples of weights that are one rollout old: set 'correction' of the RL stage "
            "(e.g. correction: {level: token, high: 2}), which weighs that"
        )


def check_quantization(engine: EngineConfig, kind: str, correction: CorrectionConfig | None) -> None:
    """Refuse quantised weights that would sample what is trained as if the policy had drawn it."""
    if engine.vllm.quantization and kind != "local" and correction is None:
        raise UserError(
            f"engine.vllm.quantization: {engine.vllm.quantization} samples with other weights than are trained: set "
            "'correction' of the RL stage, which weighs that"
        )


def check_stop(stop: Sequence[str], kind: str) -> None:
    """Refuse texts that are to end a completion, which the embedded engine does not look for."""
    if stop and kind == "local":
        raise UserError("sampling.stop: the embedded engine ends at end tokens only; use engine=vllm or remove it")


def check_delivery(engine: EngineConfig, kind: str, lora: LoraConfig | None) -> None:
    """Refuse an adapter that the engine does not take as one."""
    if kind == "local" or lora is None or engine.vllm.lora != "adapter":
        return
    if kind == "vllm-server":
        raise UserError("engine.vllm.lora: adapter: servers are given whole weights: use merged")
    if lora.bias != "none":
        raise UserError("engine.vllm.lora: adapter: vLLM takes no trained bias ('lora.bias'): use merged")
    if lora.r > MAX_RANK:
        raise UserError(f"engine.vllm.lora: adapter: vLLM takes ranks up to {MAX_RANK}, and 'lora.r' is {lora.r}")
