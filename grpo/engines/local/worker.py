"""The process that `grpo.engines.local.process` starts: the embedded engine behind a socket."""

import contextlib
import json
import mmap
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from grpo.config.engine import RuntimeConfig
from grpo.engines.local.process import AGAIN, LOOK_SECONDS, NAME, Place
from grpo.errors import UserError, describe


@dataclass(frozen=True)
class Delivered:
    """The policy's weights, as the process sees them."""

    places: Sequence[Place]
    memory: mmap.mmap

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for place in self.places:
            yield place.name, place.view(self.memory)


def main() -> None:
    """The process: answer requests until the trainer is gone."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # sent to everyone; the trainer ends us when it is done
        signal.signal(number, signal.SIG_IGN)
    settings = json.loads(sys.argv[1])
    trainer, channel, memory_file = (int(argument) for argument in sys.argv[2:])
    threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        _serve(settings, channel, memory_file)
    os._exit(0)  # the thread reads on: an orderly end would wait for nothing good


def _serve(settings: dict[str, Any], channel: int, memory_file: int) -> None:
    """Answer requests, until an `EOFError` or `OSError` says that the trainer is gone."""
    engine = None
    memory: mmap.mmap | None = None
    with Connection(channel) as connection:
        while True:
            kind, *arguments = connection.recv()
            failure, answer = None, None
            try:
                engine = engine or _engine(**settings)
                if kind == "sync":
                    memory = memory or mmap.mmap(memory_file, 0)
                    engine.sync(Delivered(arguments[0], memory))
                else:
                    prompts, sampling, seed, step = arguments
                    answer = engine.generate(prompts, sampling, seed=seed, step=step)
            except UserError as error:
                failure = str(error)
            except Exception as error:  # noqa: BLE001 - the trainer says it in one line
                failure = f"{NAME} failed: {describe(error)}; {AGAIN}"
            connection.send((failure, answer))


def _engine(name: str, runtime: dict[str, Any], max_rows: int, threads: int) -> Any:
    import transformers

    from grpo.engines.local.engine import LocalEngine
    from grpo.engines.local.trial import tried
    from grpo.model.loading.device import inference_dtype, pick_device
    from grpo.model.loading.tokenizer import load_tokenizer
    from grpo.model.loading.weights import load_model

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    config = RuntimeConfig.model_validate(runtime)
    model = load_model(name, pick_device(config), inference_dtype(config))
    return tried(LocalEngine(model, load_tokenizer(name), max_rows, shared=False), config.dtype)


def _end_with(trainer: int) -> None:
    """End when the process of this id does: its end of our standard input closes then, unless a child of its has it
    open as well, and we have another parent."""
    while os.getppid() == trainer and not select.select([0], [], [], LOOK_SECONDS)[0]:
        pass
    os._exit(1)
