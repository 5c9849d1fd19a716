"""Supervised training: the end is learnt, accumulation changes nothing, an interrupted stage goes on."""

import pickle
import shutil
import signal
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from grpo.checkpoint.store import checkpoints, last_good
from grpo.config.training import CheckpointConfig, OptimizerConfig, SFTConfig
from grpo.data.conversations import build_examples
from grpo.data.rows import read_jsonl
from grpo.errors import UserError
from grpo.model.export.folder import save_model
from grpo.model.loading.tokenizer import end_token_ids, load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.supervised import Training
from grpo.supervised.checkpoints import FORMAT
from grpo.supervised.sft import supervised
from grpo.supervised.training import StepLog, training_order
from grpo.system import stopping
from support.chat import user
from support.files import Bomb, flip, limited_files, line_of, little_room, reseal
from support.models import make_tokenizer, word_model
from support.models import save_model as save_tiny
from support.processes import send
from support.runs import CPU, assert_equal, checkpointed

ROWS = [{"prompt": f"say {word}", "completion": f"{word} and {word} again" * (1 + number % 3)} for number, word in
        enumerate(["one", "two", "three", "four", "five", "six", "seven"])]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = [f"{row['prompt']} {row['completion']} user assistant" for row in ROWS]
    return word_model(texts, 340, tmp_path_factory.mktemp("model") / "model")


def settings(**changes):
    base = {"steps": 6, "batch_size": 6, "max_tokens": 64, "optimizer": OptimizerConfig(lr=1e-2)}
    return SFTConfig(**{**base, **changes})


def train(model, out, rows=ROWS, **changes):
    return supervised(model, rows, Training(settings(**changes), out, 3, CPU, "supervised"))


def weights(out):
    return load_model(str(out / "model"), torch.device("cpu")).state_dict()


def metrics(out):
    return read_jsonl(out / "metrics.jsonl")


def interrupted(model, out, step, act, **changes):
    """A training in which `act` happens after a step, with what it raises."""
    plain = StepLog.on_log

    def acting(self, args, state, control, logs=None, **kwargs):
        plain(self, args, state, control, logs, **kwargs)
        if state.global_step == step:
            act()

    with pytest.MonkeyPatch.context() as patch, stopping.handled(ends=True):
        patch.setattr(StepLog, "on_log", acting)
        with pytest.raises(KeyboardInterrupt) as end:
            train(model, out, **changes)
    return end.type


def raise_interrupt():
    raise KeyboardInterrupt


def test_a_tiny_model_learns_one_answer_and_its_end(model, tmp_path):
    rows = [{"prompt": "say one", "completion": "one and two"}]
    numbers = train(model, tmp_path, rows, steps=40, batch_size=1)
    assert numbers["loss"] < 1.0
    folder = str(tmp_path / "model")
    tokenizer, trained = load_tokenizer(folder), load_model(folder, torch.device("cpu"))
    assert tokenizer.eos_token_id in end_token_ids(trained, tokenizer)
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    prompt = tokenizer.apply_chat_template([user("say one")], **options)
    output = trained.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "one and two<|im_end|>"  # it says it, and it stops


def test_accumulation_gives_the_same_weights(model, tmp_path):
    """Answers differ in length: a mean of micro-batch means would not be the mean over tokens."""
    train(model, tmp_path / "whole", steps=3)
    train(model, tmp_path / "parts", steps=3, micro_batch_size=2)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=2e-5), name
    for one, other in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_metrics_have_one_row_a_step(model, tmp_path):
    numbers = train(model, tmp_path, steps=None, epochs=2)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]  # 14 rows in batches of 6
    assert set(rows[0]) == {"step", "loss", "lr", "grad_norm", "tokens", "seconds"}
    assert numbers["tokens"] == sum(row["tokens"] for row in rows)
    assert len((tmp_path / "data" / "sft.jsonl").read_text().splitlines()) == len(ROWS)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_too_long_examples_are_dropped_and_counted(model, tmp_path):
    rows = [*ROWS, {"prompt": "say one", "completion": "one " * 100}]
    numbers = train(model, tmp_path, rows, steps=1)
    assert (numbers["examples"], numbers["dropped"]) == (len(ROWS), 1)
    with pytest.raises(UserError, match="max_tokens=5"):
        train(model, tmp_path, max_tokens=5)


def test_an_interrupted_stage_goes_on(model, tmp_path):
    checkpoint = {"every": 2, "keep": 1}
    train(model, tmp_path / "whole", checkpoint=checkpoint)
    assert checkpointed(tmp_path / "whole") == ["step-000006"]
    interrupted(model, tmp_path / "cut", 5, raise_interrupt, checkpoint=checkpoint)
    train(model, tmp_path / "cut", checkpoint=checkpoint)
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    cut, whole = ([(row["step"], row["loss"]) for row in metrics(tmp_path / name)] for name in ("cut", "whole"))
    assert cut == whole


def test_a_diverged_loss_stops_the_run(model, tmp_path, monkeypatch):
    monkeypatch.setattr("grpo.supervised.training.check_weights", lambda *_: None)
    with pytest.raises(UserError, match=r"the (loss|gradient) is nan"):
        train(model, tmp_path, steps=8, optimizer=OptimizerConfig(lr=1e30, max_grad_norm=1e30))


def test_a_last_step_that_destroys_the_weights_leaves_no_model(model, tmp_path):
    with pytest.raises(UserError, match=r"step 1: the weights are not finite after this update: lower optimizer\.lr"):
        train(model, tmp_path, steps=1, optimizer=OptimizerConfig(lr=1e30, weight_decay=1e30))
    assert not (tmp_path / "model").exists()


def test_destroyed_weights_are_not_saved(model, tmp_path):
    """Before: only the last step's were looked at, and a lower rate went on from a checkpoint of no use."""
    with pytest.raises(UserError, match=r"step 1: the weights have grown to .* after this update"):
        train(model, tmp_path, optimizer=OptimizerConfig(lr=1e9), checkpoint=CheckpointConfig(every=1))
    assert checkpointed(tmp_path) == []


def test_every_row_comes_once_an_epoch():
    order = training_order([5, 4, 3, 2, 1, 6], batch_size=3, steps=4, seed=1)
    assert sorted(order[0] + order[1]) == sorted(order[2] + order[3]) == list(range(6))
    assert order == training_order([5, 4, 3, 2, 1, 6], batch_size=3, steps=4, seed=1)


def test_one_epoch_of_few_rows_is_one_pass(model, tmp_path, caplog):
    """Three rows at batch 16 were seen 5.3 times."""
    with caplog.at_level("WARNING", "grpo"):
        numbers = train(model, tmp_path, ROWS[:3], steps=None, epochs=1, batch_size=16)
    once = sum(len(example.input_ids) for example in build_examples(ROWS[:3], load_tokenizer(model)))
    assert (numbers["steps"], numbers["passes"], numbers["tokens"]) == (1, 1.0, once)
    assert "3 rows are fewer than batch_size 16" in caplog.text


@pytest.mark.parametrize("every", [None, 5])
def test_a_signal_ends_the_training_after_the_step_which_is_saved(every, model, tmp_path):
    """Also where no checkpoints were asked for. It comes between the third step and the fourth."""
    checkpoint = {"every": every} if every else {}
    train(model, tmp_path / "whole", checkpoint=checkpoint)
    end = interrupted(model, tmp_path / "cut", 3, lambda: send(signal.SIGTERM), checkpoint=checkpoint)
    assert end is stopping.Stopped
    assert checkpointed(tmp_path / "cut") == ["step-000004"]
    train(model, tmp_path / "cut", checkpoint=checkpoint)
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert [row["loss"] for row in metrics(tmp_path / "cut")] == [row["loss"] for row in metrics(tmp_path / "whole")]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(model, tmp_path, caplog):
    checkpoint = {"every": 2, "keep": 3}
    train(model, tmp_path, checkpoint=checkpoint)
    before = weights(tmp_path)
    folders = checkpoints(tmp_path / "checkpoints")
    flip(folders[-1] / "optimizer.pt", -1)
    train(model, tmp_path, checkpoint=checkpoint)
    assert "'optimizer.pt'" in caplog.text
    assert_equal(weights(tmp_path), before)
    for folder in checkpoints(tmp_path / "checkpoints"):
        (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        train(model, tmp_path, checkpoint=checkpoint)


def test_a_damaged_checkpoint_is_not_kept_in_the_place_of_a_good_one(model, tmp_path):
    """Stopped between the last good one and the damaged one after it, with one to keep."""
    checkpoint = {"every": 2, "keep": 1}
    train(model, tmp_path, checkpoint={"every": 2, "keep": 3})
    folder = tmp_path / "checkpoints"
    for damaged in ("step-000004", "step-000006"):
        (folder / damaged / "model.safetensors").write_bytes(b"")
    interrupted(model, tmp_path, 3, lambda: send(signal.SIGINT), checkpoint=checkpoint)
    assert last_good(folder, (FORMAT,)) == folder / "step-000004"
    assert checkpointed(tmp_path) == ["step-000004"]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_in_a_checkpoint_is_not_executed(name, model, tmp_path):
    """Even with a manifest that vouches for it."""
    train(model, tmp_path, checkpoint={"every": 3})
    newest, last = checkpoints(tmp_path / "checkpoints")
    shutil.rmtree(last)
    (newest / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    reseal(newest, FORMAT)
    if name == "training_args.bin":
        train(model, tmp_path, checkpoint={"every": 3})  # nobody reads it
    else:
        with pytest.raises(pickle.UnpicklingError):
            train(model, tmp_path, checkpoint={"every": 3})
    assert not (tmp_path / "exploded").exists()


def test_another_number_of_threads_is_a_warning(model, tmp_path, monkeypatch, caplog):
    train(model, tmp_path, checkpoint={"every": 3})
    train(model, tmp_path, checkpoint={"every": 3})
    assert "other conditions" not in caplog.text
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train(model, tmp_path, checkpoint={"every": 3}, micro_batch_size=2)
    line = line_of(caplog, "other conditions")
    assert "machine.threads: 1 -> 7" in line
    assert "micro_batch_size: 6 -> 2" in line


@pytest.mark.parametrize("how", ["no room", "torch", "safetensors"])
def test_a_checkpoint_that_the_disk_does_not_take_is_a_warning(how, model, tmp_path, monkeypatch, caplog):
    """With room again it is saved, and what was there before stays."""
    checkpoint = {"every": 2, "keep": 2}
    train(model, tmp_path / "whole", checkpoint=checkpoint)
    with monkeypatch.context() as patch:
        if how == "no room":
            little_room(patch)
        else:
            size = (checkpoints(tmp_path / "whole" / "checkpoints")[0] / "model.safetensors").stat().st_size
            limited_at(patch, 4, size - 1 if how == "safetensors" else size + 5000)
        train(model, tmp_path / "full", checkpoint=checkpoint)
    line = line_of(caplog, "no checkpoint")
    assert line.startswith(f"no checkpoint at step 4: cannot write '{tmp_path / 'full' / 'checkpoints'}/step-000004': ")
    assert {"no room": " are missing", "torch": "written whole", "safetensors": "File too large"}[how] in line
    names = sorted(path.name for path in (tmp_path / "full" / "checkpoints").iterdir())
    assert names == ["latest", "step-000002", "step-000006"]
    assert_equal(weights(tmp_path / "full"), weights(tmp_path / "whole"))


def limited_at(patch, step, size):
    """No file may grow beyond `size` bytes while the checkpoint of this step is written."""
    original = Trainer._save_checkpoint

    def limited(self, *arguments, **options):
        with limited_files(size) if self.state.global_step == step else nullcontext():
            original(self, *arguments, **options)

    patch.setattr(Trainer, "_save_checkpoint", limited)


def test_a_model_that_the_disk_does_not_take_is_one_line_and_leaves_nothing(model, tmp_path, monkeypatch):
    loaded, tokenizer = load_model(model, torch.device("cpu")), load_tokenizer(model)
    with limited_files(5000), pytest.raises(UserError, match=r"cannot write .*: File too large; once that is mended"):
        save_model(loaded, tokenizer, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []

    def full(folder):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(UserError, match=r"No space left on device: .* bytes are needed.* the weights are there"):
        save_model(loaded, tokenizer, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # weights are not lost for a tokenizer
    assert_equal(load_file(tmp_path / "model" / "model.safetensors"), load_file(f"{model}/model.safetensors"))


def test_what_was_trained_is_not_lost_when_the_model_cannot_be_described(model, tmp_path, monkeypatch):
    """Where no checkpoints were asked for: the same command has only the writing left to do."""
    train(model, tmp_path / "whole")

    def fails(*_, **__):
        raise RuntimeError("no config today")

    with monkeypatch.context() as patch:
        patch.setattr("grpo.model.export.folder._describe", fails)
        with pytest.raises(UserError, match="no config today; the weights are there"):
            train(model, tmp_path / "cut")
    assert_equal(load_file(tmp_path / "cut" / "model" / "model.safetensors"), weights_of(tmp_path / "whole"))
    steps = []
    monkeypatch.setattr(Trainer, "training_step", lambda *_, **__: steps.append(1))
    train(model, tmp_path / "cut")
    assert steps == []
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not (tmp_path / "cut" / "model" / "UNFINISHED").exists()


def weights_of(out):
    return load_file(out / "model" / "model.safetensors")


def test_what_the_trainers_make_of_special_tokens_is_not_written(model, tmp_path):
    """TRL pads with the end token where there is no pad token, and transformers writes it into the settings."""
    shutil.copytree(model, tmp_path / "model")
    loaded, tokenizer = load_model(model, torch.device("cpu")), load_tokenizer(model)
    tokenizer.pad_token = None
    loaded.config.pad_token_id = loaded.generation_config.pad_token_id = None
    loaded.config.use_cache = True
    save_model(loaded, tokenizer, tmp_path / "model")
    train(str(tmp_path / "model"), tmp_path / "out")
    again, texts = (
        load_model(str(tmp_path / "out" / "model"), torch.device("cpu")),
        load_tokenizer(str(tmp_path / "out/model")),
    )
    assert texts.pad_token is None
    assert again.config.pad_token_id is again.generation_config.pad_token_id is None
    assert again.config.bos_token_id == loaded.config.bos_token_id
    assert again.config.eos_token_id == loaded.config.eos_token_id
    assert again.config.use_cache
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / "model" / name).read_text() == (tmp_path / "model" / name).read_text()


def test_a_half_precision_model_stays_one(model, tmp_path):
    loaded, tokenizer = load_model(model, torch.device("cpu")), load_tokenizer(model)
    save_model(loaded, tokenizer, tmp_path / "half", dtype="bfloat16")
    train(str(tmp_path / "half"), tmp_path / "out")
    assert {tensor.dtype for tensor in weights_of(tmp_path / "out").values()} == {torch.bfloat16}


def test_a_padding_without_an_embedding_is_refused_before_training(tmp_path):
    model = save_tiny(tmp_path / "model", "llama")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(model)
    settings = SFTConfig(steps=1, batch_size=2, max_tokens=64, optimizer={"lr": 1e-3})
    rows = [{"prompt": "1+1?", "completion": "2"}] * 2
    with pytest.raises(UserError, match="the tokenizer's pad_token is"):
        supervised(str(model), rows, Training(settings, tmp_path / "out", 0, CPU, "SFT"))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
