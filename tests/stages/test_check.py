"""`grpo check` finds each mistake, on tiny models and tokenizers that have it."""

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.config.algorithm import LoraConfig
from grpo.config.file import apply_override
from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from stages.check.shown import visible
from stages.check.subject import BaseModel, Skipped, Warned, listed, shortened
from stages.check.trained import adapter
from stages.cli import main
from support.mixtures import make_mixture
from support.models import CHAT_TEMPLATE, EOS, IM_END, THINK_TEMPLATE, make_model, make_tokenizer

RECIPE: dict[str, Any] = {
    "evaluation": {
        "math": {"data": {"path": "test.jsonl"}, "max_tokens": 40, "samples": 8, "format": {"fn": "format"}}
    },
    "base": {"model": "model"},
    "reasoning_rl": {
        "steps": 2, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 40}, "optimizer": {"lr": 1e-3},
        "tasks": {"math": {"data": {"path": "train.jsonl"}, "rewards": [{"fn": "accuracy"}, {"fn": "format"}]}},
    },
}  # fmt: skip
TASK = "reasoning_rl.tasks.math"
MODULE = """
from collections import Counter

def constant(completions):
    return [0.5] * len(completions)

def yes(completions, answer):
    return [1.0] * len(completions)

def think_at_the_start(completions):
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [1.0 if t.startswith("<think>") else 0.0 for t in texts]

def longer_is_better(completions):
    return [float(len(c[-1]["content"])) for c in completions]

def shorter_is_better(completions):
    return [-float(len(c[-1]["content"])) for c in completions]

def right_is_bad(completions, answer):
    return [-1.0 if a in c[-1]["content"] else 0.0 for c, a in zip(completions, answer)]

def needs_words(completions):
    return [Counter(c[-1]["content"].split()).most_common(1)[0][1] * 1.0 for c in completions]

def raises(completions):
    raise ValueError("no key")

async def service(completions):
    raise AssertionError("must not be called")

class Loads:
    def __init__(self):
        raise AssertionError("must not be loaded")

    def __call__(self, completions):
        return []
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model folder by what is wrong with it, made once."""

    @functools.cache
    def make(template=CHAT_TEMPLATE, end=(EOS, IM_END), kind="qwen3", tweak=None, **sizes):
        folder = tmp_path_factory.mktemp("model")
        make_model(kind, end=list(end), **sizes).save_pretrained(folder)
        tokenizer = make_tokenizer(template)
        if tweak is not None:
            tweak(tokenizer)
        tokenizer.save_pretrained(folder)
        return folder

    return make


class Bench:
    """A folder with a config that is right, and what `grpo check` says after some changes."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.tree = copy.deepcopy(RECIPE)
        self.rows("train.jsonl", [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(12)])
        self.rows("test.jsonl", [{"question": f"What is {n} + 2?", "answer": str(n + 2)} for n in range(30)])

    def rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        write_jsonl(self.folder / name, rows)

    def check(self, *overrides: str) -> tuple[int, str]:
        tree = copy.deepcopy(self.tree)
        for override in overrides:
            apply_override(tree, override)
        (self.folder / "c.yaml").write_text(dump_yaml(tree))
        self.capsys.readouterr()  # of a model that was being saved
        code = main(["check", "c.yaml"])
        captured = self.capsys.readouterr()
        assert captured.err == ""
        return code, captured.out

    def line(self, name: str, *overrides: str) -> str:
        """The line of one check, its state first; errors, and only they, give exit code 2."""
        code, out = self.check(*overrides)
        states = [line.split(" ")[0] for line in out.partition("\n---")[0].splitlines() if line]
        assert code == (2 if "error" in states else 0), out
        named = re.compile(rf"\w+ +{re.escape(name)}(:|$)")
        (line,) = filter(named.match, out.splitlines())
        return " ".join(line.split())

    def says(self, words: str, name: str, *overrides: str) -> None:
        """`words` are the state of the line, and what stands in it."""
        line = self.line(name, *overrides)
        state, _, text = words.partition(": ")
        assert line.startswith(state), line
        assert text in line


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys, models):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "check_rewards.py").write_text(MODULE)
    bench = Bench(tmp_path, capsys)
    bench.tree["base"]["model"] = str(models())
    return bench


def test_a_config_without_mistakes(bench):
    code, out = bench.check()
    assert code == 0
    assert {line.split(" ")[0] for line in out.partition("\n\n---")[0].splitlines()} == {"ok"}, out
    assert (
        f"rewards tried {TASK}: accuracy 1 0 0 0, format 1 1 0 0, sum 2 1 0 0 for gold, wrong, empty, rambling" in out
    )
    assert "; the chat template's <|im_end|> is among them" in out
    shown = out.partition(f"--- {TASK}, row 0: the prompt, ")[2]
    assert "<s><|user|>What is 0 + 1?<|im_end|><|assistant|>\n" in shown
    assert "<think>⏎\nWhat is 0 + 1?⏎\n</think>⏎\n\\boxed{1}" in shown


# --- the model and its chat template ----------------------------------------------------------------------------------

HEADER_LAST = CHAT_TEMPLATE.replace("{% if add_generation_prompt %}<|assistant|>{% endif %}", "<|assistant|>")
CHATML = CHAT_TEMPLATE.replace("<|{{ m['role'] }}|>", "<|im_start|>{{ m['role'] }}\\n")


def special_tags(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})


def same_pad_and_end(tokenizer: Any) -> None:
    tokenizer.pad_token = tokenizer.eos_token


def unembedded(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<|new|>"])


@pytest.mark.parametrize(("model", "name", "words"), [
    ({"template": "<s>" + CHAT_TEMPLATE}, f"prompts {TASK}", "error: the prompt starts with <s> twice"),
    ({"template": CHAT_TEMPLATE[3:]}, f"prompts {TASK}", "warning: no <s> at its start"),
    ({"end": (EOS,)}, "end tokens",
     "error: ends a turn with <|im_end|>, which does not stop a completion (</s> (2)"),
    ({"template": HEADER_LAST}, "chat template",
     "warning: after the assistant's last turn it writes '<|im_end|><|assistant|>': it opens another one there"),
    ({"template": CHATML}, "tokens of the chat template", "error: it writes <|im_start|>, which this tokenizer"),
    ({"template": CHAT_TEMPLATE.replace("<|im_end|>", "")}, "end tokens",
     "warning: writes no end token after an assistant turn"),
    ({"template": CHAT_TEMPLATE.replace("<|{{", "<|a-{{")}, "tokens of the chat template",
     "warning: it writes <|a-user|>, <|a-assistant|>"),
    ({"tweak": same_pad_and_end}, "padding", "warning: pad token and end token are the same ('</s>')"),
    ({"tweak": unembedded, "template": CHAT_TEMPLATE.replace("<|assistant|>", "<|new|>")}, "vocabulary",
     "error: '<|new|>' with id 91: the model has 91 rows; call model.resize_token_embeddings"),
    ({"tweak": unembedded}, "vocabulary", "warning: '<|new|>' with id 91"),
    ({"tweak": special_tags}, f"rewards tried {TASK}", "ok: format 1 1 0 0"),  # completions keep them
    ({"template": None}, f"prompts {TASK}", "error: the model has no chat template"),
    ({"max_position_embeddings": 48}, f"lengths {TASK}", "error: is more than the model's 48 positions; set"),
    ({"kind": "gpt2", "max_position_embeddings": 48}, f"lengths {TASK}",
     "error: is more than the model's 48 positions, and it has no others"),
])  # fmt: skip
def test_mistakes_of_a_model(bench, models, model, name, words):
    bench.says(words, name, f"base.model={models(**model)}")


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_an_evaluation_beyond_the_positions(bench, models, kind):
    model = f"base.model={models(kind=kind, max_position_embeddings=80)}"
    bench.says("ok: ; max_tokens is", "lengths evaluation.math", model, "evaluation.math.max_tokens=null")
    bench.says("error: is more than the model's 80 positions", "lengths evaluation.math", model,
               "evaluation.math.max_tokens=100")  # fmt: skip


def test_conversations_beyond_the_positions(bench, models):
    """As the stage would refuse them."""
    bench.rows("sft.jsonl", [{"prompt": "2+2?", "completion": "It is 4. " * 30}] * 8)
    words = (
        f"base.model={models(max_position_embeddings=200)}",
        "cold_start={data: sft.jsonl, steps: 1, max_tokens: 900}",
    )
    bench.says("error: is more than the model's 200 positions", "conversations cold_start.data", *words)


def test_an_end_token_that_the_cold_start_adds_is_no_error(bench, models):
    bench.rows("cold.jsonl", [{"prompt": "2?", "completion": "<think>a</think>2"}])
    size = {"batch_size": 1, "max_tokens": 40, "steps": 1, "optimizer": {"lr": 1}}
    bench.tree["cold_start"] = {"data": {"path": "cold.jsonl"}, **size}
    bench.tree["base"]["model"] = str(models(end=(EOS,)))
    assert bench.line("end tokens").startswith("warning")
    assert bench.line("conversations cold_start.data").startswith("ok")
    assert bench.line("chat template").startswith("ok")
    _, shown = bench.check()
    assert "--- cold_start.data, row 0: what is trained of it, 5 of " in shown
    assert "\n<think>a</think>2<|im_end|>\n" in shown
    assert "1 over max_tokens=5: raise" in bench.line("conversations cold_start.data", "cold_start.max_tokens=5")


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_lora_targets_that_fit_no_layer(bench, models, kind):
    overrides = [f"base.model={models(kind=kind)}", "reasoning_rl.lora={r: 2, alpha: 4, targets: [q_proj, v_proj]}"]
    words = {"qwen3": "ok: lora of reasoning_rl: 4 layers", "gpt2": "error: 'q_proj' fits no layer"}[kind]
    bench.says(words, "lora of reasoning_rl", *overrides)


def test_lora_on_latent_attention_has_other_names():
    """k_proj and v_proj are those of multi-head attention: DeepSeek-V3 has none."""
    from transformers import DeepseekV3Config

    model = BaseModel(None, DeepseekV3Config(num_hidden_layers=1, vocab_size=8, first_k_dense_replace=1), ())
    with pytest.raises(UserError, match=r"'k_proj' fits no layer of the model, which has .*kv_b_proj"):
        adapter(model, LoraConfig(r=2, alpha=4, targets=("k_proj", "v_proj")))


def test_experts_that_no_adapter_is_put_on_are_counted():
    config = make_mixture("qwen3_moe").config  # one of its two layers is dense
    with pytest.raises(Warned, match=r"11 layers; lora.targets leaves 2 fused expert tensors untrained"):
        adapter(BaseModel(None, config, ()), LoraConfig(r=2, alpha=4, targets="all-linear"))


def test_without_a_model_the_rest_is_checked(bench):
    code, out = bench.check("base.model=./nowhere")
    assert code == 2
    assert "error    tokenizer of ./nowhere" in out
    assert f"ok       golds {TASK}.data: all 12 can be read" in out
    assert f"skipped  prompts {TASK}: needs the tokenizer" in out
    assert "---" not in out


# --- the data ---------------------------------------------------------------------------------------------------------


def question(text: str, answer: Any = "1", **more: Any) -> dict[str, Any]:
    return {"question": text, "answer": answer, **more}


@pytest.mark.parametrize(("rows", "name", "words"), [
    ([question("a?"), question("b?", "@@ ??"), question("c?", None)], "golds",
     "warning: 2 of 3 golds cannot be read"),
    ([question("a?"), question("b?", "@@ ??")], "golds", "warning: (50.00% can): row 1: '@@ ??'"),
    ([question("a?", "@@ ??"), question("b?", "?!")], "golds", "error: none of 2 golds can be read"),
    ([{"question": "a?", "label": "1"}], "golds", "error: no column answer | gold | solution"),
    ([{"text": "a?", "answer": "1"}], "prompts", "error: row 0: no column prompt | question"),
    ([question("same?"), question("same?")], "repeats",
     "warning: 1 of 2 rows repeat an earlier prompt, e.g. row 1"),
    ([question("same?"), question("same?", "2")], "repeats",
     "warning: 1 prompts were there before with another gold"),
    ([question("a\u200b?")], "characters", "warning: U+200B (zero width space) in 1 prompts: row 0"),
    ([question("a" * 40)], "lengths", "error: 1 over max_prompt_tokens=30; raise max_prompt_tokens"),
    ([question("a" * 40), question("b?")], "lengths", "warning: 1 over max_prompt_tokens=30: they are dropped"),
    ([question("a?"), question("What is 3 + 2?")], "leaks",
     "error: row 2 holds the evaluation problem 'what is 3 + 2?'"),
])  # fmt: skip
def test_mistakes_of_the_data(bench, rows, name, words):
    bench.rows("train.jsonl", rows)
    path = f"{TASK}.data" if name in ("leaks", "golds") else TASK
    bench.says(words, f"{name} {path}", f"{TASK}.data.max_prompt_tokens=30")


@pytest.mark.parametrize("reward", ["{fn: cosine_length, kwargs: {max_length: 40}}", "{fn: length}"])
def test_every_reward_that_grades_needs_golds(bench, reward):
    bench.rows("train.jsonl", [question("a?"), question("b?", "@@ ??")])
    bench.says("warning: row 1: '@@ ??'", f"golds {TASK}.data", f"{TASK}.rewards=[{reward}]")


def test_too_long_may_be_forbidden(bench):
    overrides = [f"{TASK}.data.max_prompt_tokens=18", f"{TASK}.data.overlong=error"]  # "What is 10 + 1?" has 19
    assert bench.line(f"lengths {TASK}", *overrides).startswith("error")
    assert bench.line(f"lengths {TASK}", overrides[0]).startswith("warning")
    assert "0 over max_prompt_tokens=19" in bench.line(f"lengths {TASK}", f"{TASK}.data.max_prompt_tokens=19")


def test_only_ten_rows_are_listed():
    assert listed(list(range(12))).endswith("row 9; and 2 more")
    assert listed([3], ["x"]) == "row 3: x"
    assert shortened("a" * 100) == "'" + "a" * 55 + "...'"


def test_few_problems_with_one_sample_say_little(bench):
    words = "warning: 30 problems, 1 samples each: the 95% interval of pass@1 may be ±18% wide"
    bench.says(words, "size of evaluation.math", "evaluation.math.samples=1")


def test_chatml_in_the_config_of_a_model_without_it(bench):
    overrides = [f"{TASK}.data.template='<|im_start|>user {{prompt}}<|im_end|>'"]
    assert "writes <|im_start|> into the prompt" in bench.line(f"prompts {TASK}", *overrides)


def test_what_is_on_the_hub_is_not_fetched(bench):
    line = bench.line(f"data {TASK}.data", f"{TASK}.data.path=openai/gsm8k")
    assert line == f"skipped data {TASK}.data: hub data set 'openai/gsm8k', not fetched"


# --- rewards ----------------------------------------------------------------------------------------------------------

FIRST, SECOND = f"{TASK}.rewards.0", f"{TASK}.rewards.1"


@pytest.mark.parametrize(("overrides", "words"), [
    ([f"{TASK}.rewards=[{{fn: check_rewards.constant}}]"], "error: the sum of the rewards is 0.5 whatever"),
    ([f"{SECOND}.fn=check_rewards.constant"], "warning: 'constant' is 0.5 for everything tried"),
    ([f"{FIRST}.fn=check_rewards.yes", f"{FIRST}.name=accuracy"],
     "error: 'accuracy' gives a wrong answer what it gives the gold: 1"),
    ([f"{FIRST}.weight=-2"], "error: in sum, a wrong answer is worth more than the gold"),
    ([f"{SECOND}.fn=check_rewards.right_is_bad", f"{SECOND}.weight=3"],
     "error: in sum, a wrong answer is worth more"),
    ([f"{SECOND}.fn=check_rewards.raises"],
     "error: 'raises' fails on every completion: raises: ValueError: no key"),
    ([f"{SECOND}.fn=check_rewards.needs_words"], "warning: 'needs_words' fails on some completions"),
    ([f"{SECOND}.fn=check_rewards.service"], "ok: 'service' not tried: asynchronous, it may call a service"),
    ([f"{SECOND}.fn=check_rewards.Loads"], "ok: 'Loads' not tried: a class, which may load a model"),
    ([f"{SECOND}.fn=language"], "error: reward 'language': give `kwargs: {language: en}`, or a column"),
    ([f"{SECOND}.kwargs.opened=true"], "error: 'format' takes <think> for written by the prompt, which does not"),
    ([f"{SECOND}.kwargs.answer_tag=answer"], "error: see <answer>: the tokenizer has no tokens to write it with"),
    ([f"{SECOND}.fn=check_rewards.longer_is_better", "reasoning_rl.sampling.max_tokens=90"],
     "warning: in sum, rambling up to max_tokens is worth more than the gold"),
])  # fmt: skip
def test_rewards_are_tried(bench, overrides, words):
    bench.says(words, f"rewards tried {TASK}", *overrides)


@pytest.mark.parametrize(
    "reward", ["acuracy", "{fn: check_rewards.yes, kwargs: {n: 1}}", "{fn: accuracy, kwargs: {strct: true}}"]
)
def test_a_mistake_in_a_reward_is_said_once(bench, reward):
    _, out = bench.check(f"{FIRST}={reward}")
    assert len([line for line in out.splitlines() if line.startswith("error")]) == 1, out
    assert f"ok       rewards tried {TASK}: format 1 1 0 0" in out
    assert "not tried: its own check says why" in out


@pytest.mark.parametrize(
    "reward", ["{fn: check_rewards.think_at_the_start}", "{fn: format, kwargs: {opened: false}}"], ids=["own", "told"]
)
def test_a_format_reward_that_does_not_know_of_the_prefill(bench, models, reward):
    thinking = f"base.model={models(template=THINK_TEMPLATE)}"
    line = bench.line(f"rewards tried {TASK}", thinking, f"{TASK}.rewards=[{{fn: accuracy}}, {reward}]")
    assert line.startswith("error")
    assert "already opens the answer with '<think>\\n', which " in line
    assert "gives 0 to what is sampled after it and 1 with it" in line
    _, out = bench.check(thinking)  # ours looks for itself
    assert "format 1 1 0 0" in out
    assert (
        "what its format reward reads of the gold solution, after '<think>\\n' of the prompt\n<think>⏎\n⏎\nWhat" in out
    )


def test_a_reward_that_likes_long_texts_is_not_taken_for_one_that_looks_for_a_tag(bench, models):
    for template in (CHAT_TEMPLATE, THINK_TEMPLATE):
        for reward in ("longer_is_better", "shorter_is_better"):
            bench.tree["base"]["model"] = str(models(template=template))
            line = bench.line(f"rewards tried {TASK}", f"{SECOND}.fn=check_rewards.{reward}", f"{SECOND}.weight=0.001")
            assert not line.startswith("error"), line


def with_answer_tags(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<answer>", "</answer>"])


def test_the_answer_in_a_tag(bench, models):
    bench.tree["base"]["model"] = str(models(tweak=with_answer_tags, vocab_size=100))
    line = bench.line(f"rewards tried {TASK}", f"{FIRST}.kwargs.strict=answer", f"{SECOND}.kwargs.answer_tag=answer")
    assert "accuracy 1 0 0 0, format 1 1 0 0" in line


def test_an_evaluation_that_could_count_nothing(bench):
    for reward in ("{fn: format, kwargs: {opened: true}}", "{fn: check_rewards.right_is_bad}"):
        bench.says("error: ", "rewards tried evaluation.math", f"evaluation.math.format={reward}")


def test_filters_that_keep_nothing(bench):
    bench.tree["rejection_sampling"] = {
        "data": {"path": "train.jsonl"}, "group_size": 2, "sampling": {"max_tokens": 40}, "steps": 1, "batch_size": 1,
        "max_tokens": 40, "optimizer": {"lr": 1},
        "filters": [{"fn": "accuracy"}, {"fn": "check_rewards.longer_is_better"}],
    }  # fmt: skip
    words = "warning: 'longer_is_better' is 1.0 for none of the gold solutions"
    bench.says(words, "rewards tried rejection_sampling")


def test_a_program_of_the_data_is_its_gold_solution(bench):
    (bench.folder / "check_code.py").write_text(
        "def runs(completions):\n    return [float('print(1)' in c[-1]['content']) for c in completions]\n"
    )
    bench.rows("train.jsonl", [{"prompt": "Print 1.", "code": "print(1)"}])
    words = "ok: runs 1 0 0 0, sum 1 0 0 0"
    bench.says(words, f"rewards tried {TASK}", f"{TASK}.rewards=[{{fn: check_code.runs}}]")


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_what_nobody_sees_is_made_visible():
    assert visible("a \n\tb\u200b\u00a0c\r") == "a·⏎\n→b\\u200b⍽c␍"
    long = visible("x" * 5000)
    assert "[... 3400 characters ...]" in long
    assert len(long) < 1700


# The mistakes that recipes copied around contain: how each is found, or why it cannot be made here.
MISTAKES = {
    "labels shifted twice": "cannot be: labels are made by grpo.data.conversations alone and shifted by the model; "
    "no config and no data row can give them",
    "an assistant header after the last turn": "check 'chat template'; test_mistakes_of_a_model",
    "pad = eos, so that the end is never learnt": "check 'padding'; test_mistakes_of_a_model; ours masks by position",
    "ChatML tokens on a model that has others": "checks 'tokens of the chat template' and 'prompts'; "
    "test_mistakes_of_a_model, test_chatml_in_the_config_of_a_model_without_it",
    "tokens added without resizing the embeddings": "checks 'vocabulary' and 'prompts'; test_mistakes_of_a_model",
    "a wrong size of a model": "cannot be: sizes are counted from the weights (`parameters` in the manifest), none is "
    "written down",
    "q/k/v as LoRA targets on latent attention": "check 'lora'; test_lora_on_latent_attention_has_other_names",
    "autocast with an FP8 dtype": "cannot be: runtime.dtype has no such value; test_no_fp8_autocast",
    "cost per epoch divided by 3": "cannot be: no cost is divided by epochs",
    "pass@1 of one sample on 30 problems without an interval": "every pass@1 has an interval; check 'size of "
    "evaluation.math'; test_few_problems_with_one_sample_say_little",
}


def test_each_mistake_names_tests_that_exist():
    for text in MISTAKES.values():
        names = re.findall(r"test_\w+", text)
        assert names or text.startswith("cannot be: "), text
        assert all(name in globals() for name in names), text


def test_no_fp8_autocast(bench):
    (bench.folder / "c.yaml").write_text(dump_yaml(bench.tree))
    assert main(["check", "c.yaml", "runtime.dtype=float8_e4m3fn"]) == 2
    assert "runtime.dtype" in bench.capsys.readouterr().err


def test_the_tiny_config_is_right(monkeypatch, capsys):
    """Its tokenizer is built as the base stage will build it, from a smaller corpus here."""
    sizes = {
        "base.pretrain.corpus": 1500, "cold_start.data": 50, "reasoning_rl.tasks.arithmetic.data": 100,
        "rejection_sampling.data": 100, "rejection_sampling.general": 50, "helpfulness_model.data": 50,
        "safety_model.data": 50, "helpfulness_rl.tasks.arithmetic.data": 100, "helpfulness_rl.tasks.general.data": 50,
    }  # fmt: skip
    small = [f"{path}.kwargs.n={size}" for path, size in sizes.items()]
    assert main(["check", "tiny.yaml", *small]) == 0
    out = capsys.readouterr().out
    assert "as the base stage will make it" in out
    assert "; the chat template's <|im_end|> is among them" in out
    assert "rewards tried reasoning_rl.tasks.arithmetic: accuracy 1 0 0 0, language 1 1 0 " in out
    assert "'safety_model' not tried: needs a model of the run" in out


def test_outcomes_are_three():
    assert not issubclass(Warned, UserError)
    assert not issubclass(Skipped, UserError)
