"""A vLLM server that samples from a hash: its API, its order of calls, and faults as told."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from support.servers import DROP, HANG, Body, Reply, listening

Answer = tuple[int, Any]
GENERATE, UPDATE = "/inference/v1/generate", "/update_weights"


class Hang(Exception):
    """No answer at all, until the server ends."""


class Drop(Exception):
    """The connection ends without an answer."""


def configuration(folder: Path) -> dict[str, Any]:
    """Of a server that `grpo serve` started."""
    return {
        "model_config": {
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "max_model_len": 512,
            "dtype": "torch.float32",
            "quantization": None,
        },
        "device_config": {"device": "cpu"},
        "scheduler_config": {"enable_chunked_prefill": False},
        "weight_transfer_config": {"backend": "files"},
        "additional_config": {"grpo_weights": str(folder)},
    }


class FakeVllm:
    """`fault(path, body)` may give a reply of its own, or raise; None: as vLLM would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = configuration(folder)
        self.fault: Callable[[str, Body], Answer | None] = lambda path, body: None
        self.calls: list[str] = []  # paths, in order
        self.bodies: list[Body] = []  # of GENERATE
        self.weights: dict[str, torch.Tensor] = {}
        self.files: list[tuple[str, int]] = []  # names of what came, and bytes of its tensors
        self.version, self.paused, self.updating = "default", False, False
        self.lock = threading.Lock()
        self.url = ""

    def handle(self, path: str, body: Body, number: int) -> Reply:
        path = path.partition("?")[0]
        with self.lock:
            self.calls.append(path)
            if path == GENERATE:
                self.bodies.append(body)
        try:
            return Reply(*(self.fault(path, body) or self.answer(path, body)))
        except Drop:
            return DROP
        except Hang:
            return HANG

    def answer(self, path: str, body: Body) -> Answer:
        if path == GENERATE:
            return (200, self.sample(body)) if not self.paused else (503, {"error": {"message": "paused"}})
        if path == UPDATE:
            return self.update(body["update_info"])
        if path in ("/pause", "/resume"):
            self.paused = path == "/pause"
        if path == "/start_weight_update":
            assert self.paused
            self.updating, self.weights, self.files = True, {}, []
        if path == "/finish_weight_update":
            assert self.updating
            self.updating, self.version = False, body["weight_version"]
        return 200, {
            "/server_info": {"vllm_config": self.config},
            "/is_paused": {"is_paused": self.paused},
            "/weight_info": {"weight_version": self.version},
            "/reset_prefix_cache": {"success": True},
        }.get(path, {})

    def update(self, info: Body) -> Answer:
        assert self.updating
        content = (self.folder / info["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == info["sha256"]
        tensors = load(content)
        assert not tensors.keys() & self.weights.keys()
        self.weights |= tensors
        self.files.append((info["name"], sum(tensor.nbytes for tensor in tensors.values())))
        return 200, {}

    def sample(self, body: Body) -> Body:
        """Tokens that follow from the seed and the sibling alone; the last is the first end token."""
        told = body["sampling_params"]
        choices = []
        for index in range(told.get("n", 1)):
            digest = hashlib.sha256(f"{told.get('seed', 0) + index}".encode()).digest()
            ids = [9 + byte % 50 for byte in digest[: told["max_tokens"] - 1]] + told.get("stop_token_ids", [2])[:1]
            choices.append(
                {
                    "index": index,
                    "finish_reason": "stop",
                    "token_ids": ids,
                    "logprobs": {"content": [{"token_id": token, "logprob": -token / 7} for token in ids]},
                    "weight_versions": [{"version": self.version, "start": 0, "end": len(ids)}],
                }
            )
        return {"prompt_token_ids": body["token_ids"], "choices": choices[::-1]}


@contextmanager
def fake_vllm(folder: Path) -> Iterator[FakeVllm]:
    fake = FakeVllm(folder)
    with listening(fake.handle) as server:
        fake.url = server.url
        yield fake
