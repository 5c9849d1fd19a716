"""A sampled completion becomes a conversation in the chat template, or the run says at its start that it can't."""

import pytest

from grpo.config.data import DataConfig, EvalConfig
from grpo.data.conversations import build_examples
from grpo.data.prompts import build_prompts
from grpo.types import Completion
from stages import rejection_sampling
from stages.cli import main
from stages.recipe.config import BaseConfig, EvaluationConfig, RecipeConfig, RejectionSamplingConfig
from stages.recipe.sampled import after_prompt, check_sampled, conversation
from stages.tiny_world import build_tokenizer
from support.models import word_model
from support.templates import metaspace_tokenizer

ZERO = "A chat.\nUser: {prompt}\nAssistant: <think>"
TAGGED = {"fn": "format", "kwargs": {"answer_tag": "answer"}}
ROW = {"question": "What is 1 + 1?", "answer": "2", "id": "a"}
ENDLESS = (  # no turn has an end
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHANNELS = (  # as gpt-oss has it: what the model writes of itself is refused in a message
    "{% for m in messages %}{% if '<|channel|>' in m['content'] %}{{ raise_exception('no channels, please') }}"
    "{% endif %}{% set a, b = m['content'].split('</think>') if '</think>' in m['content'] else ('', m['content']) %}"
    "<|im_start|>{{ m['role'] }}{% if a %}<|channel|>{{ a + '</think>' }}<|channel|>{% endif %}{{ b }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def texts():
    return ["What is 1 + 1? What is 2 + 3? user assistant system I add the two numbers. \\boxed{5}"] * 30


@pytest.fixture
def tokenizer():
    return build_tokenizer(texts(), 400)


def recipe(data=None, filters=({"fn": "accuracy"},), evaluation=None, base="unused", **settings):
    section = {"steps": 1, "data": data or {"path": "d"}, "filters": filters, **settings}
    math = evaluation and EvalConfig(data=DataConfig(path="d"), max_tokens=8, **evaluation)
    return RecipeConfig(
        base=BaseConfig(model=base),
        evaluation=EvaluationConfig(math=math),
        rejection_sampling=RejectionSamplingConfig(**section),
    )


def talk(config, tokenizer, text):
    (prompt,) = build_prompts([ROW], config.rejection_sampling.data, tokenizer)
    return conversation(prompt, text, config)


def test_after_a_plain_text_template_the_question_is_the_rows_own(tokenizer):
    """The whole "User: ..." stood in the user's message, and the tags in the answer."""
    config = recipe(
        {"path": "d", "template": ZERO, "suffix": " Be brief."}, ({"fn": "format", "kwargs": {"answer_tag": "answer"}},)
    )
    asked, said = talk(config, tokenizer, " I add.</think> <answer> 2 </answer>")
    assert asked == {"role": "user", "content": "What is 1 + 1? Be brief."}
    assert said == {"role": "assistant", "content": "<think> I add.</think> 2"}


def test_answer_tags_stay_where_the_evaluation_wants_them(tokenizer):
    wanted = {"fn": "format", "kwargs": {"answer_tag": "answer"}}
    config = recipe({"path": "d", "template": ZERO}, (wanted,), {"format": wanted})
    assert (
        talk(config, tokenizer, "so</think><answer>2</answer>")[1]["content"] == "<think>so</think><answer>2</answer>"
    )


def test_thoughts_may_speak_of_the_tags(tokenizer):
    config = recipe({"path": "d", "template": ZERO})
    said = talk(config, tokenizer, "in <answer> tags</think><answer>2</answer>")[1]["content"]
    assert said == "<think>in <answer> tags</think>2"


def test_a_stop_text_is_no_part_of_the_answer(tokenizer):
    config = recipe({"path": "d", "template": ZERO}, sampling={"stop": ["\nUser:"], "max_tokens": 8})
    assert talk(config, tokenizer, "so</think>2\nUser:")[1]["content"] == "<think>so</think>2"


def test_a_chat_keeps_its_messages_and_what_was_written(tokenizer):
    config = recipe()
    said = talk(config, tokenizer, "<think>so</think><answer>2</answer>")
    assert said == [
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "<think>so</think><answer>2</answer>", "verbatim": True},
    ]


@pytest.mark.parametrize("data", [None, {"path": "d", "template": ZERO}])
def test_a_template_that_can_write_samples_passes(tokenizer, data):
    check_sampled(recipe(data), tokenizer)


RESPONSES = (  # as Command R7B has it: the template writes the tags around an answer itself
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ '<|channel|>' if m['role'] == 'assistant' }}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think></think>{% endif %}"
)


@pytest.mark.parametrize("template", [CHANNELS, RESPONSES])
@pytest.mark.parametrize("text", ["<|channel|>so</think><|channel|>2", "<|channel|>2", "<think>so</think>2"])
def test_what_was_sampled_is_trained_as_it_was_sampled(tokenizer, template, text):
    """Told to the template as an answer, its tags were doubled, or refused when all was sampled."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|channel|>"]})
    tokenizer.chat_template = template
    config = recipe()
    check_sampled(config, tokenizer)
    (prompt,) = build_prompts([ROW], config.rejection_sampling.data, tokenizer)
    (example,) = build_examples([{"messages": conversation(prompt, text, config)}], tokenizer)
    assert example.input_ids[: len(prompt.token_ids)] == list(prompt.token_ids)
    assert tokenizer.decode(example.input_ids[len(prompt.token_ids) :]) == f"{text}<|im_end|>"
    assert all(label != -100 for label in example.labels[len(prompt.token_ids) :])


def test_after_another_template_it_goes_through_the_bases(tokenizer):
    config = recipe()
    (prompt,) = build_prompts([ROW], config.rejection_sampling.data, tokenizer)
    *_, said = conversation(prompt, "so", config, verbatim=False)
    assert said == {"role": "assistant", "content": "so"}


def test_the_blank_that_a_tokenizer_loses_is_kept():
    tokenizer = metaspace_tokenizer("<s>[INST] {{ messages[0]['content'] }} [/INST]")
    (prompt,) = build_prompts([ROW], DataConfig(path="d"), tokenizer)
    for text in (" two plus", "two plus"):
        ids = tokenizer(prompt.text + text, add_special_tokens=False)["input_ids"][len(prompt.token_ids) :]
        completion = Completion(tuple(ids), (0.0,) * len(ids), "stop", tokenizer.decode(ids))
        assert after_prompt(prompt, completion, tokenizer) == text


def test_check_and_the_run_say_so_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    """It came out after the RL and the sampling."""
    base = word_model(texts(), 400, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(ENDLESS)
    (tmp_path / "rows.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    (tmp_path / "c.yaml").write_text(
        f"base: {{model: {base}}}\nreasoning_rl: {{steps: 1, tasks: {{math: {{data: {{path: rows.jsonl}}, "
        "rewards: [{fn: accuracy}]}}}\n"
        "rejection_sampling: {steps: 1, data: {path: rows.jsonl}, filters: [{fn: accuracy}]}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rejection_sampling, "sample", lambda *_: pytest.fail("sampled"))
    assert main(["run", "c.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: rejection_sampling: what would be sampled")
    assert not (tmp_path / "runs").exists()
    assert main(["check", "c.yaml"]) == 2
    assert "error    samples of rejection_sampling: what would be sampled" in capsys.readouterr().out
