"""Real servers, started by `grpo serve`: log-probs through syncs, faults in the middle of a batch, a run, and the judge
and the evaluation over HTTP."""

import asyncio
import json
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import torch

import grpo.engines.vllm.weights as transfer
from grpo.config.algorithm import LoraConfig
from grpo.config.training import SamplingConfig
from grpo.engines.choose import training_engine
from grpo.engines.vllm.client import Server
from grpo.engines.vllm.key import key_file
from grpo.engines.vllm.servers import GENERATE, ServerEngine
from grpo.engines.vllm.weights_nccl import _control
from grpo.errors import UserError
from grpo.model.policy import Policy, load_policy
from grpo.system.private import PREFIX, write_private
from grpo.types import Sampling
from rewards import load_reward
from stages.cli import main
from stages.teacher import demonstrations
from support.groups import prompt_of, random_prompts
from support.models import EOS, IM_END, farthest, move
from support.runs import CPU, Killed, before, config_of, interrupt_at, rows_of, run
from support.servers import Reply, listening
from support.vllm_runs import Served, config_for, save_for_vllm, serving

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

PROMPTS = random_prompts(6)
LONG = Sampling(group_size=2, max_tokens=250)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Qwen3 with a repetition penalty in its generation config, which must not be applied."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_for_vllm(folder, {"repetition_penalty": 1.5}, max_position_embeddings=8192)


@pytest.fixture(scope="module")
def two(folder, tmp_path_factory):
    with serving(folder, tmp_path_factory.mktemp("served"), 2) as served:
        yield served


def engine_for(
    served: Served, folder: Path, urls: list[str] | None = None, lora: LoraConfig | None = None, **settings: Any
) -> tuple[ServerEngine, Policy]:
    """An engine without weights of this run, and the policy that it is to get."""
    policy = load_policy(str(folder), CPU, lora, seed=0)
    config = config_for(served, urls, **settings)
    engine = training_engine(config, policy, CPU, name=str(folder), longest=400, model=policy.model, lora=lora)
    assert isinstance(engine, ServerEngine)
    return engine, policy


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)], ids=["full", "lora"])
def test_logprobs_are_the_trainers_after_every_sync(two, folder, lora):
    engine, policy = engine_for(two, folder, lora=lora)
    for number in range(4):
        engine.sync(policy)
        for temperature in (1.0, 0.7):
            groups = engine.generate(PROMPTS, Sampling(4, 20, temperature), seed=1, step=number)
            assert [group.prompt for group in groups] == PROMPTS
            assert farthest(groups, policy.model, temperature) < 1e-4
        move(policy.model)
    assert farthest(groups, policy.model, 0.7) > 0.01  # what stale weights would look like
    assert not list(two.weights.iterdir())


def test_a_group_is_the_same_from_every_server(two, folder):
    found = []
    for urls in ([two.urls[0]], [two.urls[1]], two.urls):
        engine, policy = engine_for(two, folder, urls)
        engine.sync(policy)
        found.append(engine.generate(PROMPTS, Sampling(4, 30), seed=3, step=0))
    ids = [[rollout.completion.token_ids for group in groups for rollout in group.rollouts] for groups in found]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0])) == len(ids[0])  # and no stream is there twice


def test_completions_end_at_every_end_token_and_stop_text(two, folder):
    engine, policy = engine_for(two, folder)
    engine.sync(policy)
    groups = engine.generate(PROMPTS, Sampling(8, 40, stop=("a", "7b")), seed=3, step=0)
    ended = set()
    for group in groups:
        for rollout in group.rollouts:
            done = rollout.completion
            inside = [token for token in done.token_ids[:-1] if token in (EOS, IM_END)]
            assert not inside
            if done.finish_reason == "length":
                assert len(done.token_ids) == 40
            else:
                ended.add(done.token_ids[-1])
            assert "a" not in policy.tokenizer.decode(done.token_ids[:-1])  # the last may be a token like <|assistant|>
    assert ended >= {EOS, IM_END}
    assert farthest(groups, policy.model, 1.0) < 1e-4


def test_a_sync_of_old_weights_stops_a_run_before_the_first_update(two, folder, tmp_path, monkeypatch):
    """The call returns without an error and even has the new version, but the weights are those from before."""
    first: list[tuple[str, torch.Tensor]] = []
    send = transfer.send_by_files

    def stale(tensors: Iterator[tuple[str, torch.Tensor]], *rest: Any) -> None:
        fresh = [(name, tensor.clone()) for name, tensor in tensors]
        first.extend(fresh if not first else [])
        send(iter(first), *rest)

    monkeypatch.setattr("grpo.engines.vllm.servers.send_by_files", stale)
    with pytest.raises(UserError, match="they do not hold the same weights"):
        run(folder, tmp_path, config_of(), engine_config=config_for(two))
    assert len(rows_of(tmp_path)) == 1


def test_a_run_has_the_trainers_logprobs(two, folder, tmp_path):
    run(folder, tmp_path, config_of(), engine_config=config_for(two))
    rows = rows_of(tmp_path)
    assert len(rows) == 6
    assert max(row["logprob_mismatch_max"] for row in rows) < 1e-4
    assert rows[-1]["applied"] == 1.0 or rows[-1]["grad_norm"] > 0


def test_one_step_ahead(two, folder, tmp_path, monkeypatch):
    """The servers have the weights that drew a rollout, one rollout old; a run that was killed goes on as the whole."""
    engine = config_for(two).model_copy(update={"ahead": True})
    config = config_of(correction={}, optimizer={"lr": 2e-2})

    def go(out: Path) -> list[dict[str, Any]]:
        run(folder, out, config, engine_config=engine)
        return rows_of(out)

    whole = go(tmp_path / "whole")
    assert max(row["logprob_mismatch_max"] for row in whole) < 1e-4
    assert {row["staleness"] for row in whole[1:] if row["applied"]} == {1.0}
    assert max(row["correction_max"] for row in whole) > 1.001
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, ServerEngine)
        with pytest.raises(Killed):
            go(tmp_path / "cut")
    assert len(rows_of(tmp_path / "cut")) == 4
    assert go(tmp_path / "cut") == whole


def test_a_prefix_cache_that_is_kept_shows(two, folder, monkeypatch):
    """What would come of a server that keeps it: older weights' keys and values, seen in the log-probs."""
    engine, policy = engine_for(two, folder, two.urls[:1])
    long = [prompt_of(random_prompts(1, seed=7, low=300, high=301)[0].token_ids)]
    ask = transfer.post_all

    def keep(servers: Any, path: str, body: Any = None) -> Any:
        if path == "/reset_prefix_cache":
            return []
        return ask(servers, path + "&clear_cache=false" if path.startswith("/pause") else path, body)

    engine.sync(policy)
    engine.generate(long, Sampling(2, 4), seed=0, step=0)
    move(policy.model)
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "post_all", keep)
        engine.sync(policy)
    assert farthest(engine.generate(long, Sampling(2, 4), seed=0, step=1), policy.model, 1.0) > 1e-3
    engine.sync(policy)
    assert farthest(engine.generate(long, Sampling(2, 4), seed=0, step=1), policy.model, 1.0) < 1e-4


def post(url: str, path: str, body: Any = None) -> Any:
    return transfer.post_all([Server(url, 60.0)], path, body)


def test_the_worker_reads_the_trainers_files_only(two, folder, tmp_path):
    url = two.urls[0]
    place = two.weights / f"{PREFIX}planted"
    place.mkdir(mode=0o700)
    write_private(place, "a.safetensors", b"something else")
    (place / "link.safetensors").symlink_to(folder / "model.safetensors")
    for name, why in [
        ("../a.safetensors", "not a file that was written for us"),
        (str(folder / "model.safetensors"), "not a file that was written for us"),
        (f"{place.name}/link.safetensors", "symbolic links"),
        (f"{place.name}/a.bin", "not a file of weights"),
        (f"{place.name}/a.safetensors", "not what the trainer wrote"),
    ]:
        post(url, "/pause?mode=abort")
        post(url, "/start_weight_update")
        with pytest.raises(UserError, match=why):
            post(url, "/update_weights", {"update_info": {"name": name, "sha256": "0" * 64}})
    shutil.rmtree(place)
    engine, policy = engine_for(two, folder)  # it recovers
    engine.sync(policy)
    assert farthest(engine.generate(PROMPTS, Sampling(2, 8), seed=0, step=0), policy.model, 1.0) < 1e-4


def midway(engine: ServerEngine, served: Served, urls: list[str], number: int) -> Callable[[], float]:
    """Sends a signal to these servers while each computes; gives the seconds since then."""
    sent: dict[str, float] = {}

    def interrupted(server: Server) -> Any:
        ask = server.post

        async def post(client: Any, path: str, body: Any = None, retries: int = 0, *, tokens: int = 0) -> Any:
            asked = asyncio.ensure_future(ask(client, path, body, retries, tokens=tokens))
            if path == GENERATE:
                await asyncio.sleep(0.05)
                if server.url not in sent and not asked.done():
                    served.signal(server.url, number)
                    sent[server.url] = time.monotonic()
            return await asked

        return post

    for server in engine.servers:
        if server.url in urls:
            server.post = interrupted(server)  # type: ignore[method-assign]
    return lambda: time.monotonic() - max(sent.values())


def test_a_stopped_server_is_noticed_in_time(two, folder, caplog):
    engine, policy = engine_for(two, folder)
    engine.sync(policy)
    wanted = engine.generate(PROMPTS, LONG, seed=0, step=0)
    engine, _ = engine_for(two, folder, timeout=20.0, retries=0)
    engine.sync(policy)
    since = midway(engine, two, two.urls[1:], signal.SIGSTOP)
    try:
        with caplog.at_level(logging.WARNING, "grpo"):
            groups = engine.generate(PROMPTS, LONG, seed=0, step=0)
        assert since() < 60
        assert groups == wanted
        (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert f"{two.urls[1]} is left out from now on: no answer within 20 s" in line
        engine.sync(policy)  # of the other one
        engine, _ = engine_for(two, folder, two.urls[:1], timeout=10.0)
        engine.sync(policy)
        midway(engine, two, two.urls[:1], signal.SIGSTOP)
        with pytest.raises(UserError, match=rf"no vLLM server is left: {two.urls[0]}: no answer within 10 s"):
            engine.generate(PROMPTS, LONG, seed=0, step=0)
    finally:
        for url in two.urls:
            two.signal(url, signal.SIGCONT)


def answer(url: str, path: str, key: str = "", method: str = "GET") -> int:
    """The status."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.request(method, url + path, headers=headers, timeout=60).status_code


def test_a_real_server_answers_nobody_without_the_key(two):
    url = two.urls[0]
    file = key_file(url)
    key = file.read_text()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert answer(url, "/health") == 200
    for path in ("/v1/models", "/server_info", "/metrics", "/openapi.json", "/weight_info", "/nothing"):
        assert [answer(url, path), answer(url, path, "another")] == [401, 401]
    for path in (
        GENERATE,
        "/pause",
        "/start_weight_update",
        "/update_weights",
        "/collective_rpc",
        "/reset_prefix_cache",
    ):
        assert [answer(url, path, method=method) for method in ("POST", "OPTIONS")] == [401, 401]
    assert answer(url, "/v1/models", key) == answer(url, "/weight_info", key) == 200
    for process in two.tree():
        assert key not in " ".join(process.cmdline())


def test_a_run_without_the_key_is_one_line(two, folder, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "another")
    with pytest.raises(
        UserError, match=rf"^vLLM at {two.urls[0]} refuses the API key of VLLM_API_KEY: another one is e"
    ):
        engine_for(two, folder)


def test_what_nccl_tells_a_server_goes_with_the_key_too(monkeypatch):
    """vLLM's own client of the trainer's side sends none."""
    monkeypatch.setenv("VLLM_API_KEY", "k-1")
    with listening(lambda path, body, number: Reply(200 if number < 2 else 401, {})) as server:
        control = _control(Server(server.url, 10.0))
        control.start_weight_update()
        control.update_weights({"names": ["a"], "dtype_names": ["float32"], "shapes": [[2]]})
        assert [headers["authorization"] for headers in server.headers] == ["Bearer k-1"] * 2
        assert server.paths == ["/start_weight_update", "/update_weights"]
        assert server.bodies[1]["update_info"]["shapes"] == [[2]]
        with pytest.raises(UserError, match="refuses the API key of VLLM_API_KEY"):
            control.finish_weight_update("v")


@pytest.fixture
def keyed(two, monkeypatch):
    """The address for OpenAI's clients, its key in the environment."""
    monkeypatch.setenv("SERVER_KEY", key_file(two.urls[0]).read_text())
    return f"{two.urls[0]}/v1"


def test_the_judge_asks_a_real_server(keyed, folder):
    """A random model's replies hold no verdict: each is an error that is counted, never a 0."""
    from grpo.scoring.table import apply_rewards

    for form in ("json_schema", "none"):
        options = {"model": str(folder), "max_tokens": 64, "response_format": form, "timeout": 120.0}
        reward = load_reward({"fn": "judge", "kwargs": {"base_url": keyed, "key_env": "SERVER_KEY", **options}})
        table = apply_rewards([reward], ["2+2?"] * 2, ["it is 4", "it is 5"], [[]] * 2, {"answer": ["4", "4"]})
        assert not table.failed
        values = table.values["judge"]
        assert values == [None, None]
        reasons = [table.errors[row, "judge"] for row in range(2)]
        assert all("verdict" in reason or "cut" in reason for reason in reasons), reasons


def test_a_teacher_on_a_real_server(keyed, folder, tmp_path):
    """The demonstrations of a random model, all that it ended by itself."""
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{n}+1?"}) + "\n" for n in range(4)))
    rows = demonstrations(
        endpoint={"model": str(folder), "base_url": keyed, "key_env": "SERVER_KEY"},
        questions={"path": str(questions)},
        file=str(tmp_path / "teacher.jsonl"),
        max_tokens=150,
        samples=4,
        keep_per_prompt=4,
        temperature=1.0,
        top_p=1.0,
    )
    assert rows
    assert {row["messages"][0]["content"] for row in rows} <= {f"{n}+1?" for n in range(4)}
    assert all(row["messages"][1]["content"] for row in rows)


def test_a_served_model_is_evaluated(keyed, folder, tmp_path):
    data = tmp_path / "q.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(3)))
    words = ["eval", f"openai:{folder}", "--data", str(data), "--base-url", keyed, "--max-tokens", "12"]
    words += ["endpoint.key_env=SERVER_KEY", "--samples", "2", "--out", str(tmp_path / "e.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["n_problems"], found["failed_requests"]) == (3, 0)
    assert found["mean_tokens"] > 0


def test_a_run_whose_server_stops_trains_nothing_of_that_rollout(two, folder, tmp_path, monkeypatch):
    stop = lambda self: midway(self, two, two.urls[:1], signal.SIGSTOP)  # noqa: E731
    before(monkeypatch, ServerEngine, "generate", lambda self, *_, step, **__: step == 1 and stop(self))
    config = config_of().model_copy(update={"sampling": SamplingConfig(max_tokens=LONG.max_tokens)})
    engine = config_for(two, two.urls[:1], timeout=10.0)
    try:
        with pytest.raises(UserError, match=rf"no vLLM server is left: {two.urls[0]}: no answer within 10 s"):
            run(folder, tmp_path, config, engine_config=engine)
    finally:
        two.signal(two.urls[0], signal.SIGCONT)
    assert [row["step"] for row in rows_of(tmp_path)] == [1]
    assert not (tmp_path / "model").exists()


def test_a_killed_server_is_noticed_and_nothing_is_left(folder, tmp_path):
    """In this order: one of two, the other one, then `grpo serve` has nothing to do any more."""
    with serving(folder, tmp_path / "served", 2) as served:
        engine, policy = engine_for(served, folder)
        engine.sync(policy)
        wanted = engine.generate(PROMPTS, LONG, seed=0, step=0)
        everything = served.tree()
        midway(engine, served, served.urls[:1], signal.SIGKILL)
        assert engine.generate(PROMPTS, LONG, seed=0, step=0) == wanted
        engine.sync(policy)
        midway(engine, served, served.urls[1:], signal.SIGKILL)
        with pytest.raises(UserError, match=f"no vLLM server is left: {served.urls[0]}: .*{served.urls[1]}: "):
            engine.generate(PROMPTS, LONG, seed=0, step=0)
        assert served.process.wait(60) == 2
        errors = served.errors.read_text()
        assert f"vLLM at {served.urls[0]} ended (signal SIGKILL)" in errors
        assert errors.splitlines()[-1].startswith(f"error: vLLM at {served.urls[1]} ended (signal SIGKILL)")
        assert not psutil.wait_procs(everything, timeout=30)[1]


def test_killing_grpo_serve_ends_its_servers(folder, tmp_path):
    with serving(folder, tmp_path / "served", 1) as served:
        everything = served.tree()
        assert len(everything) > 1
        served.process.kill()
        assert not psutil.wait_procs(everything, timeout=60)[1]
