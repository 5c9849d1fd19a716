"""Kill a tiny training with SIGKILL at random moments, resume it until it is done, compare it with one left alone.

    python tests/faults/torture.py N [SEED]     N trials of each kind of run; exit 1 when one of them differs

A moment is before, inside or shortly after one of the events of a run: sampling, a reward call, an update, a sync, each
file written, flushed, renamed or removed, each line of metrics.jsonl. Every attempt is a forked process of its own, so
that the imports are paid for once.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent.parent.parent)]

import pytest  # noqa: E402
import torch  # noqa: E402

from grpo import run, trainer  # noqa: E402
from grpo.checkpoint import sealed  # noqa: E402
from grpo.config.engine import EngineConfig, RuntimeConfig  # noqa: E402
from grpo.engines.local.engine import LocalEngine  # noqa: E402
from grpo.model.policy import Policy  # noqa: E402
from grpo.monitoring import metrics  # noqa: E402
from grpo.scoring.job import Job  # noqa: E402
from grpo.system import files  # noqa: E402
from stages.commands.common import guarded  # noqa: E402
from support import runs  # noqa: E402
from support.models import save_model  # noqa: E402
from support.processes import end_of, fork  # noqa: E402
from support.servers import free_port  # noqa: E402

UPDATES = {"rollout_prompts": 4, "inner_epochs": 2, "loss": {"beta": 0.05}, "reference_every": 3}
KINDS: dict[str, dict[str, Any]] = {
    "full": UPDATES | {"optimizer": runs.COSINE},
    "lora": {"rollout_prompts": 4, "lora": {"r": 4, "alpha": 8, "dropout": 0.2}, "loss": {"beta": 0.05}},
    "pooled": runs.POOLED | {"loss": {"beta": 0.05, "kl": {"estimator": "k1", "placement": "reward"}}},
    "ahead": UPDATES | {"correction": {}},
}
SHARDED = " sharded"  # at the end of a kind: its weights are, over two processes
STEPS = 12
EVERYWHERE = ("sampling", "reward", "update", "sync", "over")  # events of all processes of a run
Watch = Callable[[str], None]
FOR_GOOD = pytest.MonkeyPatch()


def digits(completions: list[str], **_: Any) -> list[float]:
    """Share of digits, and a little of Python's global generator."""
    return [share + 1e-3 * random.random() for share in runs.digits(completions)]


def train(model: Path, out: Path, kind: str) -> None:
    torch.set_num_threads(1)
    random.seed(3)
    common = {"steps": STEPS, "micro_batch_tokens": 100, "checkpoint": {"every": 2, "keep": 2}}
    config = runs.config_of(**common | KINDS[kind.removesuffix(SHARDED)])
    runtime = RuntimeConfig(device="cpu", parallel="fsdp" if kind.endswith(SHARDED) else "data")
    engine = EngineConfig(ahead=kind == "ahead")
    runs.run(model, out, config, {"default": runs.task_of(digits, 7)}, runtime=runtime, engine_config=engine)


def watch(event: Watch) -> None:
    """Call `event(name)` before everything that a kill may interrupt. Of this process, for good."""
    before(event, LocalEngine, "generate", lambda *_, **__: "sampling")
    before(event, LocalEngine, "sync", lambda *_, **__: "sync")
    before(event, trainer, "update", lambda *_, **__: "update")
    before(event, run, "save_completions", lambda *_, **__: "completions")
    _half_written(event)
    before(event, Policy, "save", lambda *_: "model")
    before(event, sealed, "write_text", lambda file, _: f"write {file.name}")
    before(event, files, "flush", lambda path: f"flush {_generic(path)}")
    before(event, sealed, "flush", lambda path: f"flush {_generic(path)}")
    before(event, files.os, "replace", lambda _, to: f"rename {_generic(Path(to))}")
    before(event, shutil, "rmtree", lambda path, *_, **__: f"remove {_generic(Path(path))}")
    before(event, Job, "call", lambda *_, **__: "reward")
    before(event, trainer, "warn_of_no_training", lambda *_: "over")


def before(event: Watch, owner: Any, name: str, label: Callable[..., str]) -> None:
    """`event(label(arguments))` before each call of `owner.name`."""
    runs.before(FOR_GOOD, owner, name, lambda *arguments, **options: event(label(*arguments, **options)))


def _half_written(event: Watch) -> None:
    """Of tensors and of a line of metrics.jsonl, half is there when the event comes."""
    save, append = sealed.save_file, metrics.append_text

    def save_file(tensors: dict[str, torch.Tensor], file: Path) -> None:
        save(tensors, file)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        event(f"half of {file.name}")
        file.write_bytes(whole)

    def append_text(file: Path, text: str) -> None:
        size = file.stat().st_size
        with file.open("a") as out:
            out.write(text[: len(text) // 2])
        event("half a line of metrics.jsonl")
        os.truncate(file, size)
        append(file, text)

    sealed.save_file, metrics.append_text = save_file, append_text


def _generic(path: Path) -> str:
    """Without the number of the step."""
    return "step" if path.name.lstrip(".").startswith("step-") else path.name


@dataclass(frozen=True)
class Kill:
    """A signal so many seconds after the `count`-th event of a run that bears this name."""

    name: str
    count: int
    after: float
    number: int = signal.SIGKILL

    def watcher(self) -> Watch:
        left = self.count

        def event(name: str) -> None:
            nonlocal left
            left -= name == self.name
            if left == 0 and name == self.name:
                if not self.after:
                    os.kill(os.getpid(), self.number)
                threading.Timer(self.after, os.kill, (os.getpid(), self.number)).start()

        return event


def attempt(model: Path, out: Path, kind: str, processes: int, kill: Kill | None, rank_killed: int = 0) -> bool:
    """One start of the command; whether it ended by itself. All processes of it are gone afterwards.

    Raises:
        RuntimeError: it failed by itself.
    """
    port = free_port()
    children = [
        _child(model, out, kind, processes, rank, port, kill.watcher() if kill and rank == rank_killed else None)
        for rank in range(processes)
    ]
    ends = [end_of(child) for child in children]
    number = kill.number if kill else 0
    killed = number == signal.SIGKILL
    if all(code == 0 for code in ends):
        return True
    # A signal that stops the run stops all of its processes alike.
    expected = [ends[rank_killed] == -signal.SIGKILL] if killed else [code == 128 + number for code in ends]
    if kill is None or not all(expected):
        log = out.with_suffix(".log").read_text()
        raise RuntimeError(f"{kind}, {kill}: ended with {ends}\n{log[-3000:]}")
    return False


def _child(model: Path, out: Path, kind: str, processes: int, rank: int, port: int, event: Watch | None) -> int:
    """One process of a start; its id."""

    def work() -> int:
        if processes > 1:
            os.environ |= {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun has it, or accelerate sets two, which a fork cannot start
        if event is not None:
            watch(event)
        return guarded(lambda _: train(model, out, kind) or 0, [])

    return fork(out.with_suffix(".log"), work)


def fingerprint(out: Path) -> dict[str, str]:
    """Everything that has to be equal: weights, optimizer, metrics but for times, completions, the sampler's state."""
    found = {}
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(file.relative_to(out))
        data: Any = file.read_bytes()
        if file.name == "metrics.jsonl":
            rows = [json.loads(line) for line in data.splitlines()]
            assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), f"{file}: steps"
            data = [{k: v for k, v in r.items() if not k.startswith(("seconds", "tokens_per"))} for r in rows]
        elif file.name == "state.json":
            data = {key: value for key, value in json.loads(data).items() if key != "seconds"}
        elif file.name == "manifest.json":  # the checksum of state.json
            continue
        found[name] = hashlib.sha256(data if isinstance(data, bytes) else json.dumps(data).encode()).hexdigest()
    return found


def different_files(found: dict[str, str], expected: dict[str, str], *, exact: bool) -> list[str]:
    """Names in which two fingerprints differ. Not `exact`: a run that a signal stopped may leave a checkpoint more, or
    another one, among those it keeps; the newest is compared."""
    names = expected.keys() | found.keys()
    if not exact:
        names = {n for n in names if not n.startswith("checkpoints/step-") or f"step-{STEPS:06d}" in n}
    return sorted(name for name in names if expected.get(name) != found.get(name))


def events_of(model: Path, out: Path, kind: str) -> list[str]:
    """The events of a whole run of one process, in order."""
    notes = out.with_suffix(".events")
    with notes.open("w", buffering=1) as lines:
        child = _child(model, out, kind, 1, 0, 0, lambda name: print(name, file=lines))
        if end_of(child) != 0:
            raise RuntimeError(out.with_suffix(".log").read_text()[-3000:])
    return notes.read_text().splitlines()


def choose(rng: random.Random, events: list[str], trial: int, number: int) -> Kill:
    """Every kind of event in turn, one of its occurrences, at once or a moment later."""
    names = sorted(set(events), key=lambda name: hashlib.sha256(name.encode()).digest())
    name = names[trial % len(names)]
    return Kill(name, rng.randint(1, events.count(name)), rng.choice([0.0, 0.0, rng.uniform(0, 0.02)]), number)


def torture(
    folder: Path,
    kind: str,
    trials: int,
    seed: int,
    processes: int = 1,
    number: int = signal.SIGKILL,
    say: Any = print,
) -> list[str]:
    """The trials that did not end as the run left alone; each is killed, or stopped by signal `number`, once to three
    times."""
    model = folder / "model"
    if not model.exists():
        save_model(model, initializer_range=0.08)
    rng = random.Random(f"{seed}-{kind}-{processes}")
    events = events_of(model, folder / f"{kind}-{processes}-events", kind.removesuffix(SHARDED))
    alone = folder / f"{kind}-{processes}-alone"
    attempt(model, alone, kind, processes, None)
    expected = fingerprint(alone)
    say(f"{kind}, {processes} process(es): {len(events)} moments of {len(set(events))} kinds")
    different = []
    for trial in range(trials):
        out = folder / f"{kind}-{processes}-{trial}"
        story = []
        for turn in range(rng.randint(1, 3)):
            kill = choose(rng, events, trial + 7 * turn, number)
            rank = rng.randrange(processes) if kill.name in EVERYWHERE else 0  # the main process writes
            if attempt(model, out, kind, processes, kill, rank):
                break
            newest = out / "checkpoints" / "latest"
            at = newest.read_text().strip() if newest.exists() else "no checkpoint"
            story.append(f"{kill.name} #{kill.count} +{1000 * kill.after:.1f} ms ({at})")
        attempt(model, out, kind, processes, None)
        found = fingerprint(out)
        wrong = different_files(found, expected, exact=number == signal.SIGKILL)
        verdict = "equal" if not wrong else f"DIFFERENT: {', '.join(wrong[:5])}"
        say(f"  {trial + 1:3d}. killed at {', then '.join(story) or 'nothing: it was over'}: {verdict}")
        if wrong:
            different.append(f"{kind} {trial + 1}: {', '.join(wrong[:5])}")
        else:
            shutil.rmtree(out)
    return different


def main(trials: int, seed: int) -> int:
    print(f"SIGKILL, {trials} trials a kind of run, seed {seed}, torch {torch.__version__}")
    different: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for kind in KINDS:
            different += torture(Path(name), kind, trials, seed)
        different += torture(Path(name), "full", max(1, trials // 4), seed, processes=2)
        print(f"SIGTERM, {trials} trials a kind of run")
        for kind in KINDS:
            different += torture(Path(name), kind, trials, seed, number=signal.SIGTERM)
        different += torture(Path(name), "full", max(1, trials // 4), seed, processes=2, number=signal.SIGTERM)
    print(f"{len(different)} trials ended differently" if different else "all trials ended as the runs left alone")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
