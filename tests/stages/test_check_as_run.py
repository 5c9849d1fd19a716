"""What `grpo run` refuses while it sets up, `grpo check` refuses for the same cause, before anything is computed."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from grpo.config.file import apply_override
from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from matrix.architectures import config_of
from stages.cli import main
from stages.commands.run import stage_command
from support.models import EOS, IM_END, make_model, make_tokenizer

TASK = "reasoning_rl.tasks.default"
SFT = {"steps": 1, "batch_size": 2, "max_tokens": 64}
COLD = f"cold_start={{data: cold.jsonl, {', '.join(f'{key}: {value}' for key, value in SFT.items())}}}"
PAIRS = "helpfulness_model={data: pairs.jsonl, steps: 1, batch_size: 2}"
LABELS = "safety_model={data: labels.jsonl, steps: 1, batch_size: 2}"
RECIPE: dict[str, Any] = {
    "engine": "local",
    "runtime": {"device": "cpu", "threads": 1},
    "reasoning_rl": {
        "steps": 1, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 8},
        "data": "train.jsonl", "rewards": ["accuracy", "format"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of models: one that is right, and others that something cannot be done with."""
    made = {}
    for name, template, kind, sizes in (
        ("right", ..., "qwen3", {}), ("bare", None, "qwen3", {}),
        ("learnt", ..., "gpt2", {"max_position_embeddings": 24}), ("tied", ..., "qwen2", {}),
    ):  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        make_model(kind, end=[EOS, IM_END], **sizes).save_pretrained(folder)
        (make_tokenizer() if template is ... else make_tokenizer(template)).save_pretrained(folder)
        made[name] = str(folder)
    folder = tmp_path_factory.mktemp("unending")
    make_model("qwen3", end=[EOS]).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    made["unending"] = str(folder)
    folder = tmp_path_factory.mktemp("recurrent")
    AutoModelForCausalLM.from_config(config_of("rwkv")).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return made | {"recurrent": str(folder)}


@pytest.fixture
def both(tmp_path, monkeypatch, capsys, models):
    """What `grpo run` and `grpo check` say of the recipe with some overrides: the line of each."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(12)]
    write_jsonl(Path("train.jsonl"), rows)
    write_jsonl(Path("cold.jsonl"), [{"prompt": "2?", "completion": "<think>a</think>2"}] * 4)
    write_jsonl(Path("pairs.jsonl"), [{"prompt": f"{n}?", "chosen": "1", "rejected": "2"} for n in range(8)])
    write_jsonl(Path("labels.jsonl"), [{"prompt": f"{n}?", "completion": "1", "label": n % 2} for n in range(8)])

    def say(*overrides: str) -> tuple[str, str]:
        tree = copy.deepcopy(RECIPE)
        tree["base"] = {"model": models["right"]}
        for override in overrides:
            apply_override(tree, override)
        Path("c.yaml").write_text(dump_yaml(tree))
        capsys.readouterr()
        assert main(["check", "c.yaml"]) == 2
        checked = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
        assert main(["run", "c.yaml"]) == 2
        ran = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return ran[-1].removeprefix("error: "), "\n".join(checked)

    return say


def rows(name: str, *rows: dict[str, Any]):
    return name, list(rows)


@pytest.mark.parametrize(("overrides", "cause"), [
    (["engine=vllm"], "vLLM is not installed"),
    (["reasoning_rl.sampling.stop=[END]"], "sampling.stop: the embedded engine ends at end tokens only"),
    (["engine=auto", "reasoning_rl.sampling.stop=[END]"], "sampling.stop: the embedded engine ends at end tokens"),
    (["runtime.dtype=float16"], "runtime.dtype=float16 trains with loss scaling on a GPU only"),
    (["runtime.device=cuda"], "runtime.device=cuda: torch finds no such device here"),
    (["engine.ahead=true"], "engine.ahead trains on samples of weights that are one rollout old"),
    (["engine={kind: vllm-server, vllm: {quantization: fp8}}"], "engine.vllm.quantization: fp8 samples with other"),
    (["engine={kind: vllm-server, vllm: {lora: adapter}}", "reasoning_rl.lora={r: 2, alpha: 4}"],
     "engine.vllm.lora: adapter: servers are given whole weights"),
    (["reasoning_rl.lora={r: 2, alpha: 4, targets: [k]}"], "'lora.targets': 'k' fits no layer"),
    (["reasoning_rl.lora={r: 2, alpha: 4, targets: '('}"], "is not a regular expression"),
    (["reasoning_rl.lora={r: 2, alpha: 4, bias: all}"], "'lora.bias: all' has no effect"),
    (["reasoning_rl.lora={r: 2, alpha: 4, targets: [lm_head]}", "base.model=TIED"], "shares its weight with another"),
    (["base.model=./nowhere"], "model './nowhere': no such folder"),
    (["base.model=c.yaml"], "model 'c.yaml': a file"),
    (["base.model=BARE"], "the model has no chat template"),
    (["base.model=UNENDING"], "the chat template ends a turn with <|im_end|>, which does not stop a completion"),
    (["base.model=UNENDING", "reasoning_rl=null", "rejection_sampling={data: train.jsonl, filters: accuracy}"],
     "add 3 to eos_token_id in generation_config.json (rejection_sampling)"),
    (["base.model=RECURRENT"], "the embedded engine cannot sample from a 'rwkv'"),
    ([f"{TASK}.data=./none.jsonl"], "none.jsonl': no such file"),
    ([f"{TASK}.rewards=[acuracy]"], "acuracy"),
    ([f"{TASK}.data.max_prompt_tokens=2"], "raise max_prompt_tokens"),
    ([COLD, "cold_start.max_tokens=3"], "max_tokens=3"),
    ([PAIRS, "helpfulness_model.max_tokens=3"], "max_tokens=3"),
    ([LABELS, "safety_model.max_tokens=3"], "max_tokens=3"),
    (["evaluation.math={data: none.jsonl}"], "data 'none.jsonl': no such file"),
    (["evaluation.math={data: train.jsonl}", "evaluation.leak_check=no.such"], "no"),
    (["evaluation.math={data: train.jsonl}"], "row 1 holds the evaluation problem"),
    (["evaluation.math={data: train.jsonl}", "evaluation.decontaminate.action=drop"], "nothing would be left"),
    (["evaluation.math={data: cold.jsonl}"], "no column answer | gold | solution"),
    (["evaluation.math={data: cold.jsonl, accuracy: language}"], "language"),
    ([f"{TASK}.rewards=[language]"], "reward 'language': give"),
    ([f"{TASK}.rewards=[countdown]"], "countdown"),
    ([f"{TASK}.rewards=[code]"], "code"),
    ([f"{TASK}.rewards=[{{fn: reward_model, kwargs: {{model: nowhere/x/y}}}}]"], "nowhere/x/y"),
    ([f"{TASK}.rewards=[{{fn: reward_model, kwargs: {{model: '{{run}}/x/model'}}}}]"], "no earlier stage"),
    (["reasoning_rl.loss.aggregation=token", "runtime.dtype=float16"], "float16"),
    (["rejection_sampling={data: none.jsonl, filters: accuracy}"], "no such file"),
    (["rejection_sampling={data: train.jsonl, filters: accuracy, general: pairs.jsonl, sampling: {max_tokens: 8}}"],
     "row 0: "),
    (["engine={kind: vllm-server, server: {urls: [nowhere]}}"], "give addresses like"),
    (["engine={kind: vllm-server, server: {urls: ['http://a:1', 'http://a:1']}}"], "one of them is there twice"),
    (["base={steps: 2, pretrain: {corpus: train.jsonl, vocab_size: 300, hidden_size: 32, layers: 1, heads: 2, "
      "kv_heads: 1, intermediate_size: 32, max_tokens: 32, batch_size: 2, optimizer: {lr: 1e-3}}}"],
     "'text'"),
])  # fmt: skip
def test_settings(both, models, overrides, cause):
    ran, checked = both(*(re.sub("[A-Z]{4,}$", lambda name: models[name[0].lower()], text) for text in overrides))
    assert cause in ran
    assert cause in checked


@pytest.mark.parametrize(("name", "rows", "override", "cause"), [
    ("train", [{"question": "1?", "answer": "?!"}], "seed=0", "can be read"),
    ("train", [{"question": "1?"}], "seed=0", "gold"),
    ("train", [{"text": "1?", "answer": "1"}], "seed=0", "row 0: no column prompt | question"),
    ("train", [{"question": "1?", "answer": "1"}, {"question": 3, "answer": "1"}], "seed=0", "row 1"),
    ("train", [], "seed=0", "no rows"),
    ("cold", [{"prompt": "1?"}], COLD, "row 0: expected"),
    ("cold", [{"messages": [{"role": "user", "content": "a"}]}], COLD, "row 0: no assistant message"),
    ("pairs", [{"prompt": "1?", "chosen": "1"}] * 2, PAIRS, "row 0: column 'rejected' is missing"),
    ("pairs", [{"prompt": "1?", "chosen": "1", "rejected": "2"}] * 2, PAIRS, "at least two different prompts"),
    ("labels", [{"prompt": "1?", "completion": "1", "label": 2}] * 2, LABELS, "row 0: label 2"),
])  # fmt: skip
def test_rows(both, name, rows, override, cause):
    write_jsonl(Path(f"{name}.jsonl"), rows)
    ran, checked = both(override)
    assert cause in ran
    assert cause in checked


UNENDING = "the chat template ends a turn with <|im_end|>, which does not stop a completion"


def test_a_stage_started_by_init_from_a_model_that_does_not_stop(both, models, capsys):
    both(f"{TASK}.rewards=[acuracy]")  # writes the recipe
    recipe = Path("c.yaml").read_text().replace("acuracy", "accuracy")
    Path("c.yaml").write_text(recipe)
    with pytest.raises(UserError, match=re.escape(UNENDING)):
        stage_command("reasoning_rl", ["c.yaml", "--init", models["unending"]])
    assert not Path("runs/c/2-reasoning-rl/checkpoints").exists()
    assert not Path("runs/c/2-reasoning-rl/completions").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a model into the hub's cache, as if it had been fetched."""

    def fetched(folder: str, name: str) -> str:
        snapshot = tmp_path / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / "0123"
        shutil.copytree(folder, snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0123")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        return name

    return fetched


@pytest.mark.parametrize(("model", "cause"), [("unending", UNENDING), ("recurrent", "cannot sample from a 'rwkv'")])
def test_a_model_of_the_hub_is_examined_as_one_that_is_here(both, hub, models, monkeypatch, capsys, model, cause):
    ran, checked = both(f"base.model={hub(models[model], 'some/model')}")
    assert cause in ran
    assert cause in checked
    assert not Path("runs").exists()
    with monkeypatch.context() as patch:  # and one that is fetched by the base stage, there
        patch.setattr("stages.recipe.pipeline.check_ready", lambda *_: None)
        assert main(["run", "c.yaml"]) == 2
    assert cause in capsys.readouterr().err
    assert [path.name for path in Path("runs/c/0-base").iterdir()] == ["stage.json"]


# --- what is said, and stops nothing


@pytest.fixture
def said(both, models, capsys):
    """What `grpo check` says of a recipe that runs: the line of one check."""

    def line(name: str, *overrides: str) -> str:
        tree = copy.deepcopy(RECIPE)
        tree["base"] = {"model": models["right"]}
        for override in overrides:
            apply_override(tree, override)
        Path("c.yaml").write_text(dump_yaml(tree))
        assert main(["check", "c.yaml"]) == 0
        (found,) = (text for text in capsys.readouterr().out.splitlines() if text[9:].startswith(name))
        return " ".join(found.split())

    return line


@pytest.mark.parametrize(("name", "overrides", "words"), [
    ("engine", ["engine=auto"], "ok engine: auto is 'local' here, for the run is on cpu"),
    ("evaluation", [], "ok evaluation: none in the config: the table will have empty cells"),
    ("passes of reasoning_rl", [], "ok passes of reasoning_rl: 1 steps are 0.167 passes over 12 rows of 'default'"),
    ("passes of reasoning_rl", ["reasoning_rl.prompts_per_step=16"], "takes the prompts of 'default' several times"),
    ("passes of reasoning_rl", ["reasoning_rl.prompts_per_step=2", "reasoning_rl.steps=60"], "10 passes"),
    ("passes of cold_start", [COLD], "ok passes of cold_start: 1 steps of 2 are 0.5 passes over 4 rows"),
    ("passes of cold_start", [COLD, "cold_start.batch_size=16"], "4 rows are fewer than batch_size 16"),
    ("passes of cold_start", ["cold_start={data: cold.jsonl, batch_size: 4, optimizer: {warmup_steps: 9}}"],
     "warning passes of cold_start: 1 steps of 4 are 1 passes over 4 rows; optimizer.warmup_steps=9 is not over in"),
    ("steps of cold_start", [COLD, "cold_start.optimizer={lr: 1e-3, warmup_steps: 9}"], "do not reach"),
    ("settings of reasoning_rl", ["reasoning_rl.loss.clip_high=0.3"], "warning settings of reasoning_rl: this does "
     "nothing: loss.clip_high: one update follows a rollout"),
    ("settings of reasoning_rl", ["engine={kind: local, vllm: {memory: 0.3}}"], "engine.vllm.memory: the engine is"),
    ("this machine: reasoning_rl", ["engine={kind: local, vllm: {quantization: fp8}}"], "ok"),
    ("length of evaluation.math", ["evaluation.math={data: cold.jsonl, max_tokens: 4}"], "longer answers count"),
    ("rows of helpfulness_model", [PAIRS], "ok rows of helpfulness_model: 8 rows, the longest has"),
    ("rows of safety_model", [LABELS], "the label is 0 in 50%"),
])  # fmt: skip
def test_what_is_said(said, name, overrides, words):
    if name == "length of evaluation.math":
        write_jsonl(Path("cold.jsonl"), [{"question": f"{n} + {n}?", "answer": "1"} for n in range(3)])
    assert words in said(name, *overrides)


@pytest.mark.parametrize(("rows", "words"), [
    ([{"prompt": f"{n}?", "chosen": "12", "rejected": "3"} for n in range(9)], "the chosen answer is longer in 100%: "),
    ([{"prompt": f"{n}?", "chosen": "1", "rejected": "23"} for n in range(9)], "the chosen answer is shorter in 100%"),
])  # fmt: skip
def test_pairs_that_their_length_tells_apart(said, rows, words):
    write_jsonl(Path("pairs.jsonl"), rows)
    line = said("rows of helpfulness_model", PAIRS)
    assert line.startswith("warning")
    assert words in line
