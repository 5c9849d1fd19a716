"""The engine behind `engine.kind: vllm-server`, against a server that fails as told. Real ones: tests/vllm_tests."""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig
from grpo.engines.vllm.request import prompt_seed
from grpo.engines.vllm.servers import ServerEngine
from grpo.engines.vllm.start import ServedModel
from grpo.engines.vllm.weights import chunks, live
from grpo.errors import UserError
from grpo.model.policy import Policy
from grpo.system.background import in_background
from grpo.types import Group, Sampling
from support.groups import random_prompts
from support.models import EOS, IM_END, PAD, make_tokenizer, policy_of
from support.servers import closed_port
from support.vllm_fake import GENERATE, UPDATE, Drop, FakeVllm, Hang, fake_vllm

SAMPLING = Sampling(group_size=3, max_tokens=6, temperature=0.7, top_p=0.9, stop=("!",))
SAMPLED = ServedModel("m", make_tokenizer(), (EOS, IM_END), 64, "cpu", "float32")
PROMPTS = random_prompts(8)


@pytest.fixture
def servers(tmp_path, monkeypatch):
    """Starts some; waiting before another attempt is left out."""
    monkeypatch.setattr("grpo.engines.vllm.client.FIRST_DELAY", 0.01)
    with ExitStack() as stack:
        yield lambda count: [stack.enter_context(fake_vllm(tmp_path)) for _ in range(count)]


def engine_of(servers: Sequence[FakeVllm], sampled: ServedModel = SAMPLED, **settings: Any) -> ServerEngine:
    tree = {"urls": [server.url for server in servers], "folder": str(servers[0].folder), "timeout": 60.0, **settings}
    return ServerEngine(EngineConfig.model_validate({"kind": "vllm-server", "max_rows": 12, "server": tree}), sampled)


@pytest.fixture
def server(servers):
    return servers(1)[0]


@pytest.fixture(scope="module")
def policy():
    return policy_of()  # with tied embeddings


def ready(servers: Sequence[FakeVllm], policy: Policy, **settings: Any) -> ServerEngine:
    engine = engine_of(servers, **settings)
    engine.sync(policy)
    return engine


def sample(engine: ServerEngine, sampling: Sampling = SAMPLING) -> list[Group]:
    return engine.generate(PROMPTS, sampling, seed=5, step=2)


def only(path: str, then: Callable[[], Any]) -> Callable[[str, Any], Any]:
    """A fault of one path."""
    return lambda asked, _: then() if asked == path else None


def fail(error: type[Exception]) -> Any:
    raise error


def settled(server: FakeVllm) -> int:
    """Calls of the server, once what was on its way has arrived."""
    calls = -1
    while calls != len(server.calls):
        calls = len(server.calls)
        time.sleep(0.3)
    return calls


def test_groups_come_in_order_with_ids_and_logprobs(server, policy):
    groups = sample(ready([server], policy))
    assert [group.prompt for group in groups] == PROMPTS
    for group in groups:
        assert len(group.rollouts) == 3
        for rollout in group.rollouts:
            done = rollout.completion
            assert done.logprobs == tuple(-token / 7 for token in done.token_ids)
            assert (done.finish_reason, done.version) == ("stop", 2)
            kept = [token for token in done.token_ids if token not in (PAD, EOS, IM_END)]
            assert done.text == SAMPLED.tokenizer.decode(kept)
    sent = {tuple(body["token_ids"]): body["sampling_params"] for body in server.bodies[1:]}  # after the probe
    for prompt in PROMPTS:
        assert sent[prompt.token_ids] == {
            "n": 3, "seed": prompt_seed(5, 2, prompt), "temperature": 0.7, "top_p": 0.9, "max_tokens": 6, "stop": ["!"],
            "stop_token_ids": [EOS, IM_END], "ignore_eos": True, "detokenize": True, "skip_special_tokens": False,
            "logprobs": 0,
        }  # fmt: skip


def test_the_result_does_not_depend_on_which_server_answers(servers, policy):
    one, two, three = servers(3)
    alone = sample(ready([one], policy))
    assert sample(ready([two, three], policy)) == alone
    assert len(two.bodies) - 1 == len(three.bodies) - 1 == 4  # each did its share, and the probe


def test_no_more_rows_at_a_time_than_a_server_computes(server, policy):
    """A request that waits in the server would seem to hang."""
    engine = ready([server], policy)
    running, most, lock = [0], [0], threading.Lock()

    def slow(path: str, body: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1

    server.fault = slow
    sample(engine)
    assert most[0] == 4  # of groups: max_rows 12, 3 to a group


def test_no_prompts(server, policy):
    assert ready([server], policy).generate([], SAMPLING, seed=0, step=0) == []


def test_inside_a_running_loop(server, policy):
    """As in a notebook."""

    async def cell() -> list[Group]:
        return sample(ready([server], policy))

    assert len(asyncio.run(cell())) == 8


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda: fail(Drop), "RemoteProtocolError"),
        (lambda: fail(Hang), "no answer within 0.3 s"),
        (lambda: (503, {"error": {"message": "out of order"}}), "HTTP 503: out of order"),
        (lambda: (200, b"{"), "not JSON"),
        (lambda: (200, {"choices": []}), "not an answer of vLLM: KeyError"),
    ],
    ids=["killed", "stopped", "broken", "garbled", "strange"],
)
def test_prompts_of_a_lost_server_move_to_the_others(servers, policy, caplog, fault, why):
    alone = sample(ready(servers(1), policy))
    good, bad = servers(2)
    engine = ready([good, bad], policy)
    engine.servers[1].timeout = 0.3 if "no answer" in why else 60.0
    bad.fault = only(GENERATE, fault)
    with caplog.at_level(logging.WARNING, "grpo"):
        assert sample(engine) == alone
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"vLLM at {bad.url} is left out from now on: " in line
    assert why in line
    asked = settled(bad)
    bad.fault = lambda path, body: None
    assert sample(engine) == alone
    engine.sync(policy)
    assert settled(bad) == asked  # it stays out
    good.fault, engine.servers[0].timeout = only(GENERATE, fault), engine.servers[1].timeout
    with pytest.raises(UserError, match=r"no vLLM server is left: ") as caught:
        sample(engine)
    assert bad.url in str(caught.value)
    assert good.url in str(caught.value)
    assert str(caught.value).count(why) == 2


def test_a_signal_inside_a_request_ends_all_of_them(servers, policy, caplog):
    """The tasks of both servers are cleaned up: asyncio has nothing to complain of."""

    def interrupted(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    engine = engine_of(servers(2), replace(SAMPLED, tokenizer=SimpleNamespace(decode=interrupted, pad_token_id=None)))
    engine.sync(policy)
    with caplog.at_level("ERROR", "asyncio"), pytest.raises(KeyboardInterrupt):
        sample(engine)
    engine.close()
    gc.collect()
    assert caplog.text == ""


def test_a_hanging_server_is_not_asked_again(servers, policy):
    good, bad = servers(2)
    engine = ready([good, bad], policy, retries=3)
    engine.servers[1].timeout = 0.5
    bad.fault = only(GENERATE, lambda: fail(Hang))
    sample(engine)
    assert bad.calls.count(GENERATE) == 1 + 4  # the probe, and one attempt each


def test_what_may_pass_is_tried_again(server, policy, caplog):
    engine = ready([server], policy, retries=2)
    failures = iter([(503, {}), (429, {})])
    server.fault = only(GENERATE, lambda: next(failures, None))
    assert len(sample(engine)) == 8
    assert not caplog.records
    failures = iter([(500, {"error": {"message": "worn out"}})] * 100)
    with pytest.raises(UserError, match=f"{server.url}: HTTP 500: worn out"):
        sample(engine)


def test_a_refused_request_is_an_error_at_once(servers, policy):
    engine = ready(both := servers(2), policy)
    for server in both:
        server.fault = only(GENERATE, lambda: (400, {"error": {"message": "too\nlong"}}))
    with pytest.raises(UserError, match=r"/inference/v1/generate: HTTP 400: too long$"):
        sample(engine)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: a["prompt_token_ids"].append(9), "it answers another prompt than 'p"),
        (lambda a: a["choices"].pop(), "2 completions of 3"),
        (lambda a: a["choices"][0]["logprobs"]["content"].pop(), "not those of the sampled tokens"),
        (lambda a: a["choices"][0]["logprobs"]["content"][0].update(token_id=8), "not those of the sampled tokens"),
        (lambda a: a["choices"][0].update(finish_reason="abort"), "ended a completion with 'abort'"),
        (lambda a: a["choices"][1]["weight_versions"].append({"version": "x"}), "weights of version .*, x, not with"),
        (lambda a: a["choices"][1].update(weight_versions=[{"version": "default"}]), "version default, not with those"),
    ],
)
def test_wrong_answers_are_never_taken(server, policy, change, why):
    engine = ready([server], policy)

    def wrong(path: str, body: Any) -> Any:
        answer = server.sample(body)
        change(answer)
        return 200, answer

    server.fault = wrong
    with pytest.raises(UserError, match=why):
        sample(engine)


def test_a_sync_brings_every_tensor_in_pieces_and_a_version(servers, policy, monkeypatch):
    monkeypatch.setattr("grpo.engines.vllm.weights.chunks", lambda tensors: chunks(tensors, 8192))
    both = servers(2)
    engine = engine_of(both)
    before = [len(server.calls) for server in both]
    engine.sync(policy)
    wanted = dict(policy.export())
    for server, start in zip(both, before, strict=True):
        assert server.weights.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(server.weights[name], tensor)
        largest = max(tensor.nbytes for tensor in wanted.values())
        assert len(server.files) > 2
        assert all(size <= max(8192, largest) for _, size in server.files)
        parts = [UPDATE] * len(server.files)
        assert server.calls[start:] == [
            "/pause", "/start_weight_update", *parts, "/finish_weight_update", "/reset_prefix_cache", "/resume",
            "/weight_info",
        ]  # fmt: skip
        assert server.version == engine.version
    assert not list(both[0].folder.iterdir())
    first = engine.version
    engine.sync(policy)
    assert both[0].version == engine.version != first


def test_two_runs_never_have_the_same_version(server, policy):
    one, two = ready([server], policy), ready([server], policy)
    assert len(sample(two)) == 8
    with pytest.raises(UserError, match=r"was it started again, or does another run use it\?"):
        sample(one)


@pytest.mark.parametrize(
    ("path", "reply", "why"),
    [
        ("/reset_prefix_cache", (200, {"success": False}), "did not empty its prefix cache"),
        ("/weight_info", (200, {"weight_version": "default"}), "has weights of version default after a sync of"),
        (UPDATE, (500, {"error": {"message": "shape"}}), "did not take the new weights: HTTP 500: shape; .*start it"),
        ("/start_weight_update", (500, {"error": "active"}), "did not take the new weights: HTTP 500: active"),
        ("/finish_weight_update", (404, {}), "/finish_weight_update: HTTP 404"),
    ],
)
def test_a_sync_that_fails_is_an_error(servers, policy, path, reply, why):
    good, bad = servers(2)
    engine = ready([good, bad], policy)
    bad.fault = only(path, lambda: reply)
    with pytest.raises(UserError, match=why):
        engine.sync(policy)
    assert not list(good.folder.iterdir())


def test_a_server_lost_in_a_sync_is_left_out(servers, policy):
    good, bad = servers(2)
    engine = ready([good, bad], policy)
    engine.servers[1].timeout = 0.5
    bad.fault = only(UPDATE, lambda: fail(Hang))
    engine.sync(policy)
    assert len(sample(engine)) == 8
    assert bad.calls[-1] == UPDATE
    good.fault = only("/pause", lambda: fail(Drop))
    with pytest.raises(UserError, match="no vLLM server is left"):
        engine.sync(policy)


def test_weights_that_a_sync_did_not_bring_are_seen(server, policy, monkeypatch):
    """A sync that is never sent: the version tells."""
    engine = ready([server], policy)
    monkeypatch.setattr("grpo.engines.vllm.servers.send_by_files", lambda *_: None)
    engine.sync(policy)
    with pytest.raises(UserError, match="not with those of this run's last sync"):
        sample(engine)


@dataclass
class Others:
    """A `World` of which this process is one; the others say `theirs`."""

    rank: int
    size: int
    theirs: Any = None

    def gather(self, value: Any) -> list[Any]:
        other = self.theirs if isinstance(value, type(self.theirs)) else type(value)()
        return [value, other] if self.rank == 0 else [other, value]


def test_every_process_goes_through_the_weights_and_one_sends_them(server, policy):
    engine = engine_of([server])
    engine.world = Others(1, 2)  # type: ignore[assignment]
    seen: list[str] = []

    class Counted:
        def export(self) -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in policy.export():
                seen.append(name)
                yield name, tensor

    calls = len(server.calls)
    engine.sync(Counted())  # type: ignore[arg-type]
    assert seen == [name for name, _ in policy.export()]
    assert len(server.calls) == calls
    engine.world = Others(0, 2)  # type: ignore[assignment]
    server.fault = only("/start_weight_update", lambda: (500, {}))
    seen.clear()
    with pytest.raises(UserError, match="did not take"):
        engine.sync(Counted())  # type: ignore[arg-type]
    assert seen == [name for name, _ in policy.export()]  # also when it has failed: the others are in it


def test_a_server_that_another_process_lost_is_left_out_here(servers, policy):
    good, bad = servers(2)
    engine = ready([good, bad], policy)
    engine.world = Others(0, 2, {bad.url: "no answer"})  # type: ignore[assignment]
    engine.sync(policy)
    asked = bad.bodies[:]
    sample(engine)
    assert bad.bodies == asked


def test_failures_of_the_sending_process_are_everyones(server, policy):
    engine = engine_of([server])
    engine.world = Others(1, 2, "it broke")  # type: ignore[assignment]
    with pytest.raises(UserError, match="it broke"):
        engine.sync(policy)


def test_chunks_are_bounded_and_hold_their_own_tensors():
    shared = torch.arange(8.0)
    tensors = [("a", shared), ("b", shared), ("c", torch.ones(40)), ("d", torch.ones(4, 2).T), ("e", torch.ones(1))]
    found = list(chunks(iter(tensors), limit=64))
    assert [list(chunk) for chunk in found] == [["a", "b"], ["c"], ["d", "e"]]
    assert len({tensor.data_ptr() for chunk in found for tensor in chunk.values()}) == 5
    assert all(tensor.is_contiguous() for chunk in found for tensor in chunk.values())
    assert torch.equal(found[2]["d"], torch.ones(2, 4))
    assert list(chunks(iter([]), limit=64)) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "why"),
    [
        ("model_config", "logprobs_mode", "raw_logprobs", "logprobs_mode is raw_logprobs, not processed_logprobs"),
        ("model_config", "generation_config", "auto", "generation_config is auto, not vllm"),
        ("model_config", "max_model_len", 63, "max_model_len is 63, and prompt and completion need 64"),
        ("model_config", "dtype", "torch.bfloat16", r"dtype is torch.bfloat16, and runtime.dtype is float32"),
        ("model_config", "quantization", "fp8", "quantization is fp8, and engine.vllm.quantization is None"),
        ("scheduler_config", "enable_chunked_prefill", True, "enable_chunked_prefill is on"),
        ("weight_transfer_config", "backend", "ipc", "backend is ipc, not files or nccl"),
        ("additional_config", "grpo_weights", "/elsewhere", "from the folder /elsewhere, and engine.server.folder is"),
    ],
)
def test_a_server_with_other_settings_is_refused(servers, section, key, value, why):
    good, bad = servers(2)
    bad.config[section][key] = value
    with pytest.raises(UserError, match=rf"{bad.url} cannot serve this run: .*{why}.*; start it with `grpo serve CON"):
        engine_of([good, bad])


def test_a_plain_vllm_serve_is_refused(server):
    server.config["weight_transfer_config"] = None
    with pytest.raises(UserError, match=r"backend is None, not files;"):
        engine_of([server], transfer="files")
    server.fault = only("/server_info", lambda: (404, {"detail": "Not Found"}))
    with pytest.raises(UserError, match=r"without VLLM_SERVER_DEV_MODE=1 it takes no weights: start it with `grpo s"):
        engine_of([server])


def test_a_server_without_the_api_of_token_ids_is_refused(server):
    server.fault = only(GENERATE, lambda: (403, {"error": {"message": "Scale-out endpoints are disabled."}}))
    with pytest.raises(UserError, match=r"HTTP 403: Scale-out endpoints are disabled.; start it with `grpo serve"):
        engine_of([server])


def test_a_server_that_was_left_paused_goes_on(server, policy):
    server.paused = True
    assert len(sample(ready([server], policy))) == 8


def test_servers_are_waited_for(servers, policy, monkeypatch, capsys):
    monkeypatch.setattr("grpo.engines.vllm.servers.POLL_SECONDS", 0.02)
    both = servers(2)
    early = iter([(503, {}), (503, {})])
    both[1].fault = only("/health", lambda: next(early, None))
    assert len(sample(ready(both, policy))) == 8
    assert capsys.readouterr().out.startswith("vLLM servers: 2/2, took")


def test_a_server_that_is_not_there(server, monkeypatch):
    monkeypatch.setattr("grpo.engines.vllm.servers.POLL_SECONDS", 0.02)
    url = closed_port()
    config = {"kind": "vllm-server", "server": {"urls": [server.url, url], "start_timeout": 0.1}}
    with pytest.raises(UserError, match=rf"{url} is not there after 0.1 s .*: ConnectError: .*serve"):
        ServerEngine(EngineConfig.model_validate(config), SAMPLED)


def test_all_processes_agree_on_the_servers_before_weights_are_gathered(servers, policy):
    """The main process loses one when it pauses them; the others would gather sharded weights once more, and hang."""
    one, two = servers(2)
    engine = engine_of([one, two])
    seen: list[list[str]] = []
    engine.nccl = SimpleNamespace(send=lambda _, given: seen.append([server.url for server in live(given)]))
    losses = iter([{}, {one.url: "hangs"}, {one.url: "hangs"}])

    def gather(own: Any) -> list[Any]:
        """Of the main process, then of this one."""
        return [next(losses) if isinstance(own, dict) else "", own]

    engine.world = SimpleNamespace(rank=1, size=2, gather=gather)  # type: ignore[assignment]
    engine.sync(policy)
    assert seen == [[two.url]]


@pytest.mark.parametrize("url", ["localhost:8000", "http://user:secret@localhost:8000", "http://localhost:8000?k=v"])
def test_addresses(url):
    config = EngineConfig.model_validate({"kind": "vllm-server", "server": {"urls": [url]}})
    with pytest.raises(UserError, match=r"engine.server.urls: give addresses like") as caught:
        ServerEngine(config, SAMPLED)
    assert "secret" not in str(caught.value)


def test_settings_that_cannot_be(servers):
    server, other = servers(2)
    with pytest.raises(UserError, match="one of them is there twice"):
        engine_of([server, server])
    other.config["weight_transfer_config"]["backend"] = "nccl"
    with pytest.raises(UserError, match="started with different transfers"):
        engine_of([server, other])
    with pytest.raises(UserError, match=r"engine.server.transfer: nccl needs a GPU and vLLM"):
        engine_of([other])
    config = EngineConfig.model_validate({"kind": "vllm-server", "vllm": {"lora": "adapter"}})
    with pytest.raises(UserError, match=r"engine.vllm.lora: adapter"):
        ServerEngine(config, replace(SAMPLED, lora=LoraConfig(r=2, alpha=4)))


def test_closing_ends_what_samples_in_another_thread(server, policy):
    asked = threading.Event()

    def hangs(path: str, body: Any) -> None:
        if path == GENERATE:
            asked.set()
            raise Hang

    engine = ready([server], policy)
    server.fault = hangs
    sampled = in_background(lambda: engine.generate(PROMPTS, SAMPLING, seed=0, step=0))
    assert asked.wait(10)
    engine.close()
    assert isinstance(sampled.exception(10), asyncio.CancelledError)
    calls = settled(server)
    with pytest.raises(asyncio.CancelledError):
        engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    assert settled(server) == calls
