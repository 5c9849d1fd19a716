"""Students: stage 3's data in another model's own form, nothing lost; and teachers that can teach, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo.config.file import read_config
from grpo.data.conversations import IGNORE, build_examples
from grpo.errors import UserError
from stages.check.subject import Subject
from stages.check.trained import training_checks
from stages.cli import main
from stages.commands.common import find_config
from stages.recipe.ahead import Ahead
from stages.recipe.config import RecipeConfig
from stages.recipe.retold import retold
from stages.recipe.students import check_distill, check_student
from stages.recipe.table import STAGES, active_parents, active_stages, lineage_of
from support.chat import user
from support.models import make_model, make_tokenizer
from support.recipe import SHORT
from support.runs import Killed, assert_same_run, interrupt_at
from support.templates import byte_tokenizer, metaspace_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENED = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
LLAMA = (
    "{% for m in messages %}<|header|>{{ m['role'] }}<|end_header|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
)
FIELD = CHATML.replace(
    "{{ m['content'] }}",
    "{% if m['reasoning_content'] %}<think>{{ m['reasoning_content'] }}</think>{% endif %}{{ m['content'] }}",
)
SAMPLED = {"role": "assistant", "content": "I see\n</think>\n\nIt is 4", "verbatim": True}
ROW = {"id": "1", "messages": [user("2 + 2?"), SAMPLED]}


def trained(row: dict[str, Any], tokenizer: Any) -> str:
    (example,) = build_examples([row], tokenizer)
    return tokenizer.decode([label for label in example.labels if label != IGNORE])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (CHATML, "<think>\nI see\n</think>\n\nIt is 4<|im_end|>"),
        (LLAMA, "<think>\nI see\n</think>\n\nIt is 4<|eot_id|>"),
        (FIELD, "<think>I see</think>It is 4<|im_end|>"),
        (OPENED, "I see\n</think>\n\nIt is 4<|im_end|>"),  # its own prompt opens the thought, too
    ],
    ids=["chatml", "llama", "field", "opened"],
)
@pytest.mark.parametrize("make", [byte_tokenizer, metaspace_tokenizer])
def test_what_was_sampled_is_told_in_the_student_s_own_form(template, text, make):
    """The thought that the writer's prompt had opened is whole again, and nothing else is there."""
    reader = make(template)
    assert trained(retold(ROW, byte_tokenizer(OPENED), reader, "row 0"), reader) == text


def test_a_row_that_any_template_can_write_stays():
    plain = {"messages": [user("Hi"), {"role": "assistant", "content": "Hello"}]}
    for row in (plain, {"prompt": "Hi", "completion": "Hello"}):
        assert retold(row, byte_tokenizer(OPENED), byte_tokenizer(LLAMA), "row 0") is row
    assert retold(ROW, byte_tokenizer(OPENED), byte_tokenizer(OPENED), "row 0") is ROW  # as it was sampled


def test_a_token_of_the_writer_s_own_form_is_refused():
    channels = CHATML.replace("<|im_end|>", "<|channel|><|im_end|>")
    row = {"messages": [user("Hi"), {**SAMPLED, "content": "<|channel|>final It is 4"}]}
    with pytest.raises(UserError, match=r"row 7: the answer holds <\|channel\|>, a token of the model that wrote it"):
        retold(row, byte_tokenizer(channels), byte_tokenizer(CHATML), "row 7")
    assert retold(row, byte_tokenizer(channels), byte_tokenizer(channels), "row 7") is row


# ---- stages and teachers

WORLD = {
    "corpus": {"fn": "stages.tiny_world.corpus", "kwargs": {"n": 300, "seed": 0}}, "vocab_size": 300, "hidden_size": 16,
    "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 32, "max_tokens": 128, "batch_size": 16,
    "optimizer": {"lr": 3e-3},
}  # fmt: skip
ARITHMETIC = {"fn": "stages.tiny_world.arithmetic", "kwargs": {"split": "train", "n": 32}}
TEACHER = "{run}/3-rejection-sampling/model"
STUDENT: dict[str, Any] = {
    "student_base": {"steps": 3, "pretrain": WORLD},
    "student": {"steps": 2, "batch_size": 8, "max_tokens": 160},
    "student_rl": {
        "steps": 2, "group_size": 4, "prompts_per_step": 4, "sampling": {"max_tokens": 32},
        "tasks": {"arithmetic": {"data": ARITHMETIC, "rewards": [{"fn": "support.recipe.anything"}]}},
        "loss": {"aggregation": "token", "distill": {"model": TEACHER}}, "checkpoint": {"every": 1},
    },
}  # fmt: skip
ABSENT = ("cold_start", "reasoning_rl", "helpfulness_model", "safety_model", "helpfulness_rl")


def overrides(tree: dict[str, Any]) -> list[str]:
    kept = [text for text in SHORT if not text.startswith(ABSENT)]
    return [*kept, *(f"{key}=null" for key in ABSENT), *(f"{key}={json.dumps(value)}" for key, value in tree.items())]


def config_of(**changes: Any) -> RecipeConfig:
    return read_config(RecipeConfig, find_config("tiny.yaml"), overrides(STUDENT | changes))


def test_the_stages_of_a_student():
    config = config_of()
    keys = [stage.key for stage in active_stages(config)]
    assert keys == ["base", "rejection_sampling", "student_base", "student", "student_rl"]
    assert [STAGES[key].folder for key in keys[2:]] == ["student-base", "student", "student-rl"]
    assert active_parents(STAGES["student_base"], config) == []
    assert active_parents(STAGES["student"], config) == ["student_base", "rejection_sampling"]
    assert active_parents(STAGES["student_rl"], config) == ["student", "rejection_sampling"]
    assert [lineage_of(key) for key in keys] == ["base", "base", *["student_base"] * 3]


def distilled(config: RecipeConfig, folder: Path, key: str = "student_rl") -> None:
    distill = getattr(config, key).loss.distill
    check_distill(config, key, distill, Ahead(folder))


def teacher_of(model: str) -> dict[str, Any]:
    return {"student_rl": {**STUDENT["student_rl"], "loss": {"distill": model}}}


def test_a_teacher_of_the_run_with_the_same_tokens_is_taken(tmp_path):
    distilled(config_of(), tmp_path)


def test_a_teacher_with_other_tokens_is_refused_before_anything_is_trained(tmp_path):
    other = {"student_base": {"steps": 3, "pretrain": {**WORLD, "vocab_size": 310}}}
    with pytest.raises(
        UserError, match=r"cannot score what this student samples: .* is 309 for the student and 299 for the teacher"
    ):
        distilled(config_of(**other), tmp_path)
    check_student(config_of(**other), Ahead(tmp_path))  # to learn from its answers it may have others


@pytest.mark.parametrize(
    ("model", "phrase"),
    [
        ("{run}/4-helpfulness-rl/model", "stage student_rl does not start from, or after, one that makes"),
        ("{run}/3-rejection-samplng/model", "did you mean '3-rejection-sampling'"),
        ("./nowhere", "nowhere"),
    ],
)
def test_a_teacher_that_is_not_there_is_refused(model, phrase, tmp_path):
    with pytest.raises(UserError, match=phrase):
        distilled(config_of(**teacher_of(model)), tmp_path)


def test_an_existing_student_and_teacher_are_compared(tmp_path):
    for name, tokenizer in (("student", make_tokenizer()), ("teacher", byte_tokenizer(CHATML))):
        make_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    student = {"student_base": str(tmp_path / "student")}
    with pytest.raises(UserError, match=r"and \d+ tokens differ in all"):
        distilled(config_of(**student, **teacher_of(str(tmp_path / "teacher"))), tmp_path)
    distilled(config_of(**student, **teacher_of(str(tmp_path / "student"))), tmp_path)


def test_a_student_without_a_template_is_refused_before_anything_is_trained(tmp_path):
    make_model().save_pretrained(tmp_path / "student")
    make_tokenizer(None).save_pretrained(tmp_path / "student")
    with pytest.raises(UserError, match="chat template"):
        check_student(config_of(student_base=str(tmp_path / "student"), student_rl=None), Ahead(tmp_path))


@pytest.mark.slow
def test_a_student_is_trained_and_distilled_on_policy(tmp_path, capsys):
    """Half of the teacher's width, in one command; run again, nothing is left to do; killed in its RL, it ends so."""
    run = tmp_path / "run"
    command = ["run", "tiny.yaml", "--out", str(run), *overrides(STUDENT)]
    assert main(command) == 0, capsys.readouterr().err
    stages = [row["stage"] for row in json.loads((run / "summary.json").read_text())["stages"]]
    assert stages == ["0-base", "3-rejection-sampling", "student-base", "student", "student-rl"]
    rows = [json.loads(line) for line in (run / "student-rl" / "metrics.jsonl").read_text().splitlines()]
    assert [row["applied"] for row in rows] == [1.0, 1.0]
    assert all(row["teacher_kl"] > 0 for row in rows)
    learnt, taught = (
        [json.loads(line)["messages"] for line in (run / stage / "data" / "sft.jsonl").read_text().splitlines()]
        for stage in ("student", "3-rejection-sampling")
    )
    assert learnt == taught  # the same template: as they were sampled
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*.safetensors")}
    assert main(command) == 0
    assert before == {file: file.stat().st_mtime_ns for file in run.rglob("*.safetensors")}
    killed = ["run", "tiny.yaml", "--out", str(tmp_path / "cut"), *command[4:]]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 1)  # only RL has a second rollout
        with pytest.raises(Killed):
            main(killed)
    assert not (tmp_path / "cut" / "student-rl" / "model").exists()
    assert main(killed) == 0
    assert_same_run(tmp_path / "cut" / "student-rl", run / "student-rl")
    ours, theirs = (json.loads((folder / "summary.json").read_text())["stages"] for folder in (tmp_path / "cut", run))
    assert [row | {"seconds": 0} for row in ours] == [row | {"seconds": 0} for row in theirs]


def test_grpo_check_says_so_too(tmp_path):
    """Of the same function, without the checks of everything else."""
    other = {"student_base": {"steps": 3, "pretrain": {**WORLD, "vocab_size": 310}}}
    found = {}
    for name, changes in (("same", {}), ("other", other)):
        checks = dict(training_checks(Subject(config_of(**changes), tmp_path)))
        found[name] = checks["what student_rl.loss.distill.model reads"]
    assert found["same"]() == ""
    with pytest.raises(UserError, match=r"loss\.distill: the teacher .* cannot score what this student samples"):
        found["other"]()
