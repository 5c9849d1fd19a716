"""`grpo serve`, with a small program in vLLM's place. The real one: tests/vllm_tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from grpo.config.engine import EngineConfig
from grpo.engines.vllm.key import key_file
from grpo.engines.vllm.serve import Child, arguments, backend, here, watch
from grpo.engines.vllm.start import ServedModel
from grpo.errors import UserError
from stages.cli import main
from support.servers import closed_port

STAND_IN = """\
import http.server, json, os, subprocess, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(os.environ["SEEN"] + "/" + str(port), "w") as out:
    json.dump({"argv": sys.argv[1:], "environment": dict(os.environ), "pids": [os.getpid(), child.pid]}, out)
if os.environ.get("BREAK") == f"at once {port}":
    print("(EngineCore pid=7) ValueError: no room for the cache", file=sys.stderr)
    sys.exit(3)
if os.environ.get("BREAK") == f"config {port}":
    print("(APIServer pid=7) a.ValidationError: 1 validation error for VllmConfig", file=sys.stderr)
    print("(APIServer pid=7)   Value error, float32 is not supported [type=value_error]", file=sys.stderr)
    sys.exit(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if os.environ.get("BREAK") == f"later {port}":
            os._exit(1)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def write_config(folder: Path, model: Path, urls: Sequence[str]) -> Path:
    tree = {
        "base": {"model": str(model)},
        "engine": {"kind": "vllm-server", "max_rows": 48, "server": {"urls": list(urls), "folder": str(folder)}},
        "runtime": {"device": "cpu", "threads": 3},
        "evaluation": {"math": {"data": {"path": "x.jsonl"}, "max_tokens": 8}},
    }
    file = folder / "c.yaml"
    file.write_text(json.dumps(tree))
    return file


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Is started in vLLM's place."""
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    monkeypatch.setattr("grpo.engines.vllm.serve.COMMAND", [sys.executable, "-S", str(program)])
    monkeypatch.setattr("grpo.engines.vllm.vllm_is_there", lambda: True)
    monkeypatch.setattr("grpo.engines.vllm.serve.POLL_SECONDS", 0.05)
    monkeypatch.setenv("SEEN", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(outputs(tmp_path)))


def outputs(folder: Path) -> Path:
    """Where the folders of the servers' output are made."""
    made = folder / "temporary"
    made.mkdir(exist_ok=True)
    return made


def seen(folder: Path, url: str) -> dict[str, Any]:
    """What the stand-in for this address was started with."""
    return json.loads((folder / url.rpartition(":")[2]).read_text())


def gone(pids: Sequence[int]) -> bool:
    """Whether these processes end within a few seconds."""
    until = time.monotonic() + 5
    while any(runs(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(runs(pid) for pid in pids)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_run_until_told_to_end_and_leave_nothing(tmp_path, tiny_model_folder, monkeypatch, capsys, number):
    urls = sorted(closed_port() for _ in range(2))
    said: list[str] = []
    keys: dict[str, str] = {}

    def tell(child: Child) -> str:
        """In the place of a look whether it runs: when all are ready, the signal comes."""
        said.append(capsys.readouterr().out)
        if "".join(said).count("ready") == 2:
            assert all(runs(pid) for url in urls for pid in seen(tmp_path, url)["pids"])
            keys.update({url: key_file(url).read_text() for url in urls})
            os.kill(os.getpid(), number)
        return ""

    monkeypatch.setattr("grpo.engines.vllm.serve.how_ended", tell)
    before = signal.getsignal(number)
    assert main(["serve", str(write_config(tmp_path, tiny_model_folder, urls))]) == 128 + number
    assert signal.getsignal(number) == before
    lines = sorted("".join(said).splitlines())
    assert [line.partition(" (")[0] for line in lines] == [f"vLLM is ready at {url}" for url in urls]
    assert gone([pid for url in urls for pid in seen(tmp_path, url)["pids"]])
    assert list(outputs(tmp_path).iterdir()) == []
    started = seen(tmp_path, urls[0])
    assert started["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert started["environment"]["OMP_NUM_THREADS"] == "3"
    words = " ".join(started["argv"])
    (key,) = set(keys.values())
    assert started["environment"]["VLLM_API_KEY"] == key
    assert key not in words + "".join(said)
    assert not any(key_file(url).exists() for url in urls)
    for flag in (
        f"--model {tiny_model_folder}",
        "--dtype float32",
        "--max-model-len -1",
        "--max-num-seqs 48",
        "--logprobs-mode processed_logprobs",
        "--generation-config vllm",
        "--no-enable-chunked-prefill",
        "--enable-scale-out",
        '--weight-transfer-config {"backend": "files"}',
        f'--additional-config {{"grpo_weights": "{tmp_path}"}}',
        "--middleware grpo.engines.vllm.key.KeyGuard",
        "--worker-extension-cls grpo.engines.vllm.worker_extension.Worker",
        f"--host 127.0.0.1 --port {urls[0].rpartition(':')[2]}",
    ):
        assert flag in words
    assert "None" not in started["argv"]


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("when", "servers", "why"),
    [
        ("at once", 2, "ended (exit code 3): ValueError: no room for the cache; its output: "),
        ("config", 1, "ended (exit code 1): float32 is not supported; its output: "),
        ("later", 1, "ended (exit code 1); its output: "),
    ],
)
def test_a_server_that_ends_is_an_error(tmp_path, tiny_model_folder, monkeypatch, capsys, when, servers, why):
    """Before all are ready, or when it was the last one."""
    urls = [closed_port() for _ in range(servers)]
    monkeypatch.setenv("BREAK", f"{when} {urls[0].rpartition(':')[2]}")
    assert main(["serve", str(write_config(tmp_path, tiny_model_folder, urls))]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: vLLM at {urls[0]} {why}")
    assert errors.count("\n") == 1
    assert Path(errors.rpartition("its output: ")[2].strip()).is_file()  # to be read
    assert len(list(outputs(tmp_path).iterdir())) == 1
    assert not any(key_file(url).exists() for url in urls)
    started = [url for url in urls if (tmp_path / url.rpartition(":")[2]).exists()]
    assert gone([pid for url in started for pid in seen(tmp_path, url)["pids"]])


def test_a_server_that_ends_leaves_the_others(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("grpo.engines.vllm.serve.POLL_SECONDS", 0.05)
    output = tmp_path / "log"
    output.touch()
    ways = {"a": "exec sleep 60", "b": "exit 3"}
    children = [Child(url, subprocess.Popen(["sh", "-c", way]), output) for url, way in ways.items()]
    threading.Timer(1.0, children[0].process.kill).start()
    with pytest.raises(UserError, match=r"^vLLM at a ended \(signal SIGKILL\); its output: "):
        watch(children)
    assert [record.getMessage() for record in caplog.records] == [
        f"vLLM at b ended (exit code 3); its output: {output}"
    ]


def run_here(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["serve", *words]) == 2
    return capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, tiny_model_folder, capsys, monkeypatch):
    config = str(write_config(tmp_path, tiny_model_folder, ["http://192.0.2.7:8000", "http://no.such.host.invalid:1"]))
    monkeypatch.setattr("grpo.engines.vllm.vllm_is_there", lambda: False)
    assert run_here(capsys, config).startswith("error: vLLM is not installed (grpo serve): pip install")
    monkeypatch.setattr("grpo.engines.vllm.vllm_is_there", lambda: True)
    assert "192.0.2.7:8000, http://no.such.host.invalid:1: not an address of this machine; give --url" in run_here(
        capsys, config
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert run_here(capsys, config, "--url", url) == (
            f"error: {url}: Address already in use: end what runs there, or give another --url\n"
        )
        assert "model '/no/such': no such folder" in run_here(capsys, config, "--url", url, "--init", "/no/such")
    assert "give addresses like" in run_here(capsys, config, "--url", "localhost:8000")
    assert "'engine.max_rows'" in run_here(capsys, config, "engine.max_rows=0")
    assert "then --init runs/base/0-base/model" in run_here(capsys, "tiny.yaml")


def test_this_machines_addresses():
    own = ["http://localhost:8000", "http://127.0.0.1:1", f"http://{socket.gethostname()}:8000/v1"]
    assert here([*own, "http://192.0.2.1:8000"]) == [url.removesuffix("/v1") for url in own]


def test_how_weights_come():
    config = EngineConfig(kind="vllm-server")
    assert [backend(config, device) for device in ("cpu", "cuda")] == ["files", "nccl"]
    files = EngineConfig.model_validate({"server": {"transfer": "files"}})
    assert backend(files, "cuda") == "files"
    on_gpu = arguments(files, ServedModel("m", None, (), 64, "cuda", "bfloat16"), "http://localhost")
    assert "--no-enable-chunked-prefill" not in on_gpu
    assert on_gpu[on_gpu.index("--port") + 1] == "80"


def test_too_few_gpus(monkeypatch):
    from grpo.engines.vllm.serve import _gpus

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert _gpus(2, 0, 1) == {}
    assert [_gpus(2, n, 2)["CUDA_VISIBLE_DEVICES"] for n in range(2)] == ["3,5", "6,7"]
    with pytest.raises(UserError, match="3 servers on this machine need 6 GPUs, and 4 are visible"):
        _gpus(2, 0, 3)
