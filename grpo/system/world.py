"""The processes of a run. One process is simply the case of size 1.

Every process holds the same groups, sampler and schedule, and takes every n-th item of what costs time (sampling,
rewards, forwards and backwards). What it found is gathered, so decisions are the same everywhere and no count or mean
depends on how the work was cut.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from grpo.errors import UserError, first_line, shorten

if TYPE_CHECKING:  # files.py asks `is_main`, and importing torch takes seconds
    import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

PATIENCE = timedelta(hours=2)  # for a process that is slower than the others; a dead one is noticed at once
# DTensor's caches keep gloo's threads, which drop their last tensors a moment after the main thread has the result. To
# drop one takes the interpreter: one that is ending by then aborts ("terminate called without an active exception").
LAST_BREATH = 0.2  # seconds
LAUNCH = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # what a launcher sets, and what holds where it doesn't


def _launch() -> tuple[int, int, int]:
    """(rank, number of processes, rank on this machine) as a launcher says in the environment; those of a single
    process where it says what cannot be, which `join` refuses."""
    if _absurd_launch():
        return 0, 1, 0
    rank, size, local = (int(os.environ.get(name) or default) for name, default in LAUNCH.items())
    return rank, size, local


def _absurd_launch() -> str | None:
    """What is wrong with these variables, which other programs and nested jobs leave behind too."""
    values = {name: os.environ.get(name) or default for name, default in LAUNCH.items()}
    for name, text in values.items():
        if not re.fullmatch(r"[0-9]{1,6}", text):
            return f"{name}={shorten(text)} is not a number of a process"
    size = int(values["WORLD_SIZE"])
    if size < 1 or int(values["RANK"]) >= size:
        return f"RANK={values['RANK']} is none of WORLD_SIZE={size} processes"
    return None


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return _launch()[0] == 0


def launched() -> bool:
    """Whether `accelerate launch` or `torchrun` started several processes."""
    return _launch()[1] > 1


def local_rank() -> int:
    """The number of this process on its machine: which of the machine's GPUs is its own."""
    return _launch()[2]


def join() -> None:
    """Meet the other processes, if there are any: gloo between CPUs, NCCL between GPUs.

    Raises:
        UserError: a launcher was asked for several processes and started one, or for what is not done here; or what
            it says of them cannot be, or they cannot be met.
    """
    _refuse_what_is_not_heeded()
    absurd = _absurd_launch()
    if absurd is not None:
        raise UserError(f"{absurd}: start with torchrun or accelerate launch, or unset {', '.join(LAUNCH)}")
    if not launched():
        _refuse_half_a_launch()
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else the end of one process is a stack trace in the others
    from torch import cuda, distributed

    if not is_main():
        logging.getLogger("grpo").setLevel(logging.CRITICAL)
    if not distributed.is_initialized():
        if cuda.is_available():
            cuda.set_device(local_rank() % cuda.device_count())
        _check_meeting()
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo", timeout=PATIENCE)
        except (ValueError, RuntimeError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(f"the other processes cannot be met at {where}: {first_line(error)}") from error
        atexit.register(_leave)  # gloo's threads abort an interpreter that ends before they do


def _check_meeting() -> None:
    """Where the processes meet is said by the launcher."""
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    port = os.environ.get("MASTER_PORT", "")
    if absent or not re.fullmatch(r"[0-9]{1,5}", port):
        what = f"{' and '.join(absent)} are not set" if absent else f"MASTER_PORT={shorten(port)} is no port"
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but {what}: start with torchrun or accelerate launch, or unset "
            f"{', '.join(LAUNCH)}"
        )


def _refuse_what_is_not_heeded() -> None:
    """Options of `accelerate launch`, or of the user's accelerate config, that would change nothing, or half of it."""
    for option in ("fsdp", "deepspeed", "megatron_lm", "parallelism_config"):
        if _is_on(f"ACCELERATE_USE_{option.upper()}"):
            raise UserError(
                f"accelerate launch --use_{option} has no effect here: leave it out (also of accelerate's own config); "
                "to shard the weights use runtime.parallel=fsdp"
            )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise UserError(
            f"accelerate launch --dynamo_backend {backend} has no effect here, models are not compiled: leave it out "
            "(also of accelerate's own config)"
        )
    parts = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if parts != "1":
        raise UserError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={parts} would shrink the loss: unset it; a step is cut into "
            "forwards by micro_batch_size"
        )


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")


def _refuse_half_a_launch() -> None:
    """`accelerate launch --cpu --num_processes 2` starts a single process unless it is given an MPI host file."""
    if _is_on("ACCELERATE_USE_CPU") and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise UserError(
            "accelerate launch --cpu started one process only: on a CPU start several with "
            "`accelerate launch --multi_gpu --num_processes N ...` or `torchrun --nproc_per_node N ...`"
        )


def check_sharding(parallel: str) -> None:
    """Before anything is computed.

    Raises:
        UserError: weights are to be sharded, but there is one process.
    """
    if parallel == "fsdp" and not launched():
        raise UserError(
            "runtime.parallel=fsdp shards the weights over several processes, and this is one: start with "
            "`accelerate launch --multi_gpu --num_processes N ...` or `torchrun --nproc_per_node N ...`"
        )


def cut(batch_size: int, micro_batch_size: int | None, processes: int, where: str = "") -> tuple[int, int]:
    """(rows per forward, forwards per step) of each process of a supervised training; together they see the
    `batch_size` rows of a step.

    Raises:
        UserError: they cannot share them equally.
    """
    micro = micro_batch_size or max(1, batch_size // processes)
    if batch_size % (micro * processes):
        raise UserError(
            f"{where}batch_size {batch_size} cannot be cut into equally many micro-batches of {micro} rows for each of "
            f"{processes} processes: it must be a multiple of {micro * processes}: change either of them"
        )
    return micro, batch_size // (micro * processes)


def _leave() -> None:
    """Part from the other processes, also after an error: they notice at once."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(LAST_BREATH)


def _attempt(work: Callable[[], ResultT]) -> tuple[ResultT | None, str | None]:
    """(result, the text of a `UserError`), one of them None."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        join()
        if not launched():
            return cls()
        from torch import distributed

        return cls(distributed.get_rank(), distributed.get_world_size())

    def gather(self, value: ResultT) -> list[ResultT]:
        """Every process's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[ResultT | None] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            self.gather(None)  # not `barrier`, which on GPUs would be NCCL's and have the device wait

    def main_finds(self, find: Callable[[], ResultT]) -> ResultT:
        """What the main process finds, for all: on a network drive another may not see it yet. A `UserError` there is
        raised in all."""
        value, failure = self.gather(_attempt(find) if self.rank == 0 else (None, None))[0]
        if failure is not None:
            raise UserError(failure)
        return value  # type: ignore[return-value]

    def spread(self, items: Sequence[ItemT], work: Callable[[list[ItemT]], Sequence[ResultT]]) -> list[ResultT]:
        """`work` on all items, every n-th of them here; all results on every process, in the order of the items.

        `work` gives one result per item. A `UserError` in one process is raised in all: none waits for ever.
        """
        if self.size == 1:
            return list(work(list(items)))
        share = list(items[self.rank :: self.size])
        results, failure = _attempt(lambda: list(work(share)))
        if results is not None and len(results) != len(share):
            raise RuntimeError(f"{len(results)} results for {len(share)} items")
        everyone = self.gather((results or [], failure))
        for _, failed in everyone:
            if failed is not None:
                raise UserError(failed)
        return [everyone[index % self.size][0][index // self.size] for index in range(len(items))]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up `.grad` over the processes. One that had nothing to train adds zeros; a parameter that got no
        gradient anywhere has none afterwards either, so that the optimizer leaves it alone."""
        if self.size == 1:
            return
        import torch

        everyone = self.gather([parameter.grad is not None for parameter in parameters])
        for parameter, has_gradient in zip(parameters, zip(*everyone, strict=True), strict=True):
            if not any(has_gradient):
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def share_weights(self, tensors: Sequence[torch.Tensor]) -> None:
        """Make these tensors what they are in the main process."""
        if self.size == 1:
            return
        import torch

        for tensor in tensors:
            torch.distributed.broadcast(tensor, src=0)
