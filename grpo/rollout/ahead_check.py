"""Where `engine.ahead` is refused, before anything is loaded."""

from __future__ import annotations

from grpo.config.algorithm import CorrectionConfig
from grpo.config.engine import AHEAD_IN_PROCESS, EngineConfig
from grpo.errors import UserError
from grpo.system.world import launched


def check_ahead(engine: EngineConfig, kind: str, correction: CorrectionConfig | None) -> None:
    """`kind`: of the engine, resolved.

    Raises:
        UserError: it cannot be honoured here.
    """
    if not engine.ahead:
        return
    if kind == "vllm":
        raise UserError(f"engine: {AHEAD_IN_PROCESS}")
    if launched():
        raise UserError("engine.ahead: the trainer must be one process; start it without a launcher, or leave it out")
    if correction is None:
        raise UserError(
            "engine.ahead trains on samples of weights that are one rollout old: set 'correction' of the RL stage "
            "(e.g. correction: {level: token, high: 2}), which weighs that"
        )
