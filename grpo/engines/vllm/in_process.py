"""vLLM in this process: samples groups with weights of its own, which `sync` replaces by the policy's.

What can go silently wrong with it is refused: weights or an adapter that did not arrive, a prefix cache that was not
emptied, an answer that another version of the weights gave. What is left shows in the log-probs
(`grpo.learner.update`).
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grpo.config.engine import EngineConfig
from grpo.config.inert import check_delivery
from grpo.engines.vllm.request import check_sampling, parameters
from grpo.engines.vllm.start import ServedModel, start
from grpo.engines.vllm.weights import unpack_experts, weight_files
from grpo.errors import UserError
from grpo.model.loading.tokenizer import completion_text
from grpo.system.private import private_folder
from grpo.system.world import launched
from grpo.types import Completion, FinishReason, Group, Heard, PolicyWeights, Prompt, Rollout, Sampling

MEMORY_FOLDER = Path("/dev/shm")  # an adapter, and what other processes load, goes through files: not on a disk


class VllmEngine:
    """Groups by `n`, token ids in and out, log-probs of the distribution that is sampled from."""

    def __init__(self, config: EngineConfig, served: ServedModel):
        self.served = served
        self.as_adapter = served.lora is not None and config.vllm.lora == "adapter"
        check_delivery(config, "vllm", served.lora)
        memory = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else Path(tempfile.gettempdir())
        self._files = contextlib.ExitStack()
        self.folder = self._files.enter_context(private_folder(memory))
        self.elsewhere = config.vllm.tensor_parallel > 1  # its workers are processes of their own
        try:
            self.llm = start(config, served, memory)
        except BaseException:
            self._files.close()
            raise
        self.sleeps = config.vllm.sleep and served.device == "cuda"
        self.asleep: set[str] = set()  # parts of its memory that the trainer has
        self.version = 0  # of the weights: the number of syncs
        self.adapter: Any = None  # vLLM's handle of the adapter in use

    def sync(self, policy: PolicyWeights) -> None:
        """Take over the policy's weights, or its adapter; nothing that older weights computed is used again.

        Raises:
            UserError: they did not arrive.
        """
        self._wake("weights")
        self.version += 1
        if self.as_adapter:
            self._take_adapter(policy)
        elif self.elsewhere:
            self.llm.start_weight_update()
            for part in weight_files(policy.export(), self.folder):
                self.llm.update_weights({"update_info": part})
            self.llm.finish_weight_update()
        else:
            self.llm.collective_rpc(lambda worker: unpack_experts(worker.model_runner.get_model()))
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": policy.export()})
        self.llm.update_weight_version(str(self.version))
        if not self.llm.reset_prefix_cache():
            raise UserError("engine: vLLM did not empty its prefix cache after new weights: it would mix old and new")

    def _take_adapter(self, policy: PolicyWeights) -> None:
        from vllm.lora.request import LoRARequest

        folder = self.folder / f"adapter-{self.version}"
        policy.save_adapter(folder)
        adapter = LoRARequest(folder.name, self.version, str(folder))
        self.llm.llm_engine.add_lora(adapter)
        if adapter.lora_int_id not in self.llm.llm_engine.list_loras():
            raise UserError("engine.vllm.lora: adapter: vLLM did not take the adapter; use merged")
        if self.adapter is not None:
            self.llm.llm_engine.remove_lora(self.adapter.lora_int_id)
            shutil.rmtree(self.adapter.lora_path)
        self.adapter = adapter

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int, heard: Heard | None = None
    ) -> list[Group]:
        """One group of `sampling.group_size` completions per prompt, in the order of the prompts.

        Raises:
            UserError: vLLM cannot sample so.
        """
        check_sampling(sampling)
        if not prompts:
            return []
        self._wake("kv_cache")
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts],
            [self._parameters(prompt, sampling, seed, step) for prompt in prompts],
            use_tqdm=False,
            lora_request=self.adapter,
        )
        size = sampling.group_size
        groups = [self._group(prompt, output, step, size) for prompt, output in zip(prompts, outputs, strict=True)]
        for group in groups:
            group.tell(heard)
        return groups

    def _parameters(self, prompt: Prompt, sampling: Sampling, seed: int, step: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        asked = parameters(prompt, sampling, self.served.end_ids, seed, step)
        return SamplingParams(**asked, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY)

    def _group(self, prompt: Prompt, output: Any, step: int, size: int) -> Group:
        if tuple(output.prompt_token_ids) != prompt.token_ids:
            raise RuntimeError(f"vLLM answered another prompt than '{prompt.id}'")
        by_index = sorted(output.outputs, key=lambda sample: sample.index)
        if [sample.index for sample in by_index] != list(range(size)):
            raise RuntimeError(f"vLLM gave {len(by_index)} completions of {size} for prompt '{prompt.id}'")
        return Group(prompt, tuple(Rollout(self._completion(prompt, sample, step)) for sample in by_index))

    def _completion(self, prompt: Prompt, sample: Any, step: int) -> Completion:
        if sample.finish_reason not in ("stop", "length"):
            raise UserError(f"engine: vLLM ended a completion of prompt '{prompt.id}' with '{sample.finish_reason}'")
        reason: FinishReason = sample.finish_reason
        ids = tuple(sample.token_ids)
        logprobs = tuple(sample.logprobs.logprobs)
        if len(logprobs) != len(ids) or tuple(sample.logprobs.token_ids) != ids:
            raise RuntimeError("vLLM's log-probs are not those of the sampled tokens alone")
        text = completion_text(self.served.tokenizer, ids, self.served.end_ids)
        return Completion(ids, logprobs, reason, text, step)

    def release(self) -> None:
        """Give the GPU's memory to the trainer until the next `sync`, which brings new weights."""
        if self.sleeps and "weights" not in self.asleep:  # after a rollout without prompts the cache is still asleep
            self.llm.sleep(level=1 if self.as_adapter else 2)  # 2: the weights are dropped
            self.asleep = {"weights", "kv_cache"}

    def _wake(self, part: str) -> None:
        if part in self.asleep:
            self.llm.wake_up(tags=[part])
            self.asleep.remove(part)

    def close(self) -> None:
        """Stop vLLM and free its memory. (Another engine may be started in this process afterwards.)"""
        self._files.close()
        if self.asleep:  # vLLM frees what it has mapped; where there is no room for it the run is over anyway
            with contextlib.suppress(RuntimeError):
                self.llm.wake_up(tags=sorted(self.asleep))
        with process_group_kept():
            self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


@contextlib.contextmanager
def process_group_kept() -> Iterator[None]:
    """vLLM ends the default process group with itself; in a run of several processes that is the run's own."""
    from torch import distributed

    end = distributed.destroy_process_group
    if launched():
        distributed.destroy_process_group = lambda group=None: None if group is None else end(group)
    try:
        yield
    finally:
        distributed.destroy_process_group = end
