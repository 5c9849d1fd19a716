"""`grpo new`: what it writes passes `grpo check` and runs as it is, or it says what it lacks."""

from pathlib import Path
from typing import Any

import pytest

from grpo.config.data import DataConfig
from grpo.config.file import read_config
from grpo.data.rows import write_jsonl
from stages.check.new import quoted
from stages.cli import main
from stages.recipe.config import RecipeConfig, find
from support.models import EOS, IM_END, THINK_TEMPLATE, make_model, make_tokenizer

GSM8K = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(20)]
SMALL = ["runtime.threads=1", "runtime.device=cpu"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}
    for name, template in (("chat", ...), ("bare", None), ("thinking", THINK_TEMPLATE)):
        made[name] = folder = tmp_path_factory.mktemp(name)
        make_model("qwen3", end=[EOS, IM_END]).save_pretrained(folder)
        (make_tokenizer() if template is ... else make_tokenizer(template)).save_pretrained(folder)
    return made


@pytest.fixture
def new(tmp_path, monkeypatch, capsys, models):
    """`grpo new` on some rows: (exit code, what it says); what it wrote is in my.yaml."""
    monkeypatch.chdir(tmp_path)

    def run(rows: list[dict[str, Any]], *more: str, model: str = "chat") -> tuple[int, str]:
        write_jsonl(Path("rows.jsonl"), rows)
        capsys.readouterr()
        code = main(["new", "rows.jsonl", "--model", str(models[model]), "--out", "my.yaml", *more])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def written() -> RecipeConfig:
    return read_config(RecipeConfig, "my.yaml")


@pytest.mark.parametrize("model", ["chat", "bare", "thinking"])
def test_what_is_written_passes_the_check_and_runs(new, capsys, model):
    assert new(GSM8K, model=model) == (0, "written: my.yaml; next: grpo check my.yaml\n")
    assert main(["check", "my.yaml", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "error" not in out
    assert "rewards tried reasoning_rl.tasks.default: accuracy 1 0 0 0, format 1 1 0 0" in out
    small = ["group_size=2", "prompts_per_step=2", "steps=2", "sampling.max_tokens=8"]
    assert main(["run", "my.yaml", *SMALL, *(f"reasoning_rl.{name}" for name in small)]) == 0
    assert Path("runs/my/2-reasoning-rl/model/config.json").is_file()


def test_what_was_seen_is_written_beside_it(new):
    new(GSM8K)
    text = Path("my.yaml").read_text()
    for words in (
        "passes over the 20 rows",
        "# the prompt is the column question; of the golds '0 + 0 = 0 #### 0' is read as '0'",
        "# 20 of the 20 golds looked at can be read",
        '# evaluation:\n#   math:\n#     data: {path: held-out.jsonl, suffix: "\\nReason step by step inside',
    ):
        assert words in text, text
    config = written()
    task = config.reasoning_rl.tasks["default"]
    assert [spec.fn for spec in task.rewards] == ["accuracy", "format"]
    assert task.data.max_prompt_tokens % 64 == 0
    assert config.engine.kind == "auto"
    uncommented = text.replace("# evaluation:", "evaluation:").replace("\n#   ", "\n  ")
    Path("held-out.jsonl").write_text('{"question": "1?", "answer": "1"}\n')
    Path("my.yaml").write_text(uncommented)
    assert written().evaluation.math.data.suffix == task.data.suffix


def test_a_template_that_opens_the_thinking(new):
    new(GSM8K, model="thinking")
    assert "the model's chat template opens <think> itself" in Path("my.yaml").read_text()


def test_prompts_that_the_model_has_no_room_for_are_dropped(new, capsys):
    code, said = new([*GSM8K, {"question": "x" * 600, "answer": "1"}])
    assert code == 0, said
    text = Path("my.yaml").read_text()
    assert "longer ones are dropped" in text
    config = written()
    limits = config.reasoning_rl.tasks["default"].data.max_prompt_tokens, config.reasoning_rl.sampling.max_tokens
    assert sum(limits) <= 512
    assert main(["check", "my.yaml"]) == 0
    code, said = new([{"question": "x" * 600, "answer": "1"}], "--out", "other.yaml")
    assert (code, "the model 512 positions" in said) == (2, True)


@pytest.mark.parametrize(("rows", "stage", "rewards"), [
    ([{"prompt": f"Make {n}", "nums": [1, n], "target": n + 1} for n in range(9)], "reasoning_rl", ["countdown"]),
    ([{"prompt": "Add.", "tests": ["assert add(1, 2) == 3"]}] * 9, "reasoning_rl", ["code"]),
    ([{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]} for n in range(9)],
     "cold_start", None),
    ([{"instruction": f"Say {n}", "output": "It is a thing of beauty."} for n in range(9)], "cold_start", None),
    ([{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No!!"} for n in range(9)], "helpfulness_model", None),
    ([{"prompt": f"{n}?", "completion": "Yes.", "label": n % 2 == 0} for n in range(9)], "safety_model", None),
])  # fmt: skip
def test_what_the_rows_are_for(new, capsys, rows, stage, rewards):
    code, said = new(rows)
    assert code == 0, said
    config = written()
    assert [key for key, section in config if section is not None and key.endswith(("rl", "start", "model"))] == [stage]
    if rewards is not None:
        assert [spec.fn for spec in config.reasoning_rl.tasks["default"].rewards] == rewards
    assert main(["check", "my.yaml"]) == 0, capsys.readouterr().out


def test_a_reward_of_ones_own(new, monkeypatch, tmp_path):
    Path("new_rewards.py").write_text(
        "def short(completions):\n    return [-float(len(c[-1]['content'])) for c in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = [{"question": f"Why {n}?"} for n in range(9)]
    code, said = new(rows)
    assert (code, "to judge an answer by (its columns: question)" in said, "give --reward FN" in said) == (
        2,
        True,
        True,
    )
    assert not Path("my.yaml").exists()
    assert new(rows, "--reward", "new_rewards.short")[0] == 0
    task = written().reasoning_rl.tasks["default"]
    assert ([spec.fn for spec in task.rewards], task.data.suffix) == (["new_rewards.short"], "")
    code, said = new(rows, "--reward", "new_rewards.shrt", "--out", "b.yaml")
    assert (code, "did you mean 'short'" in said) == (2, True)


def test_a_file_is_never_written_over(new):
    Path("my.yaml").write_text("mine")
    assert new(GSM8K) == (2, "error: --out 'my.yaml': it is there already, and is not written over\n")
    assert Path("my.yaml").read_text() == "mine"


@pytest.mark.parametrize(("rows", "columns"), [
    ([{"Problem": f"What is {n}?", "Answer": str(n)} for n in range(9)], {"problem": "Problem", "answer": "Answer"}),
    ([{"ID": f"2024-{n}", "Problem": f"What is {n}?", "Solution": f"It is {n}.", "Answer": n} for n in range(9)],
     {"id": "ID", "problem": "Problem", "solution": "Solution", "answer": "Answer"}),
    ([{" question": f"What is {n}?", "ANSWER ": str(n)} for n in range(9)],
     {"question": " question", "answer": "ANSWER "}),
    ([{"Messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."}]}] * 9,
     {"messages": "Messages"}),
    ([{"Prompt": f"{n}?", "Chosen": "Yes.", "Rejected": "No!!"} for n in range(9)],
     {"prompt": "Prompt", "chosen": "Chosen", "rejected": "Rejected"}),
    ([{"question": f"{n}?", "answer": str(n), "Level": 3} for n in range(9)], {}),
    ([{"question": f"{n}?", "answer": str(n), "Answer": f"Say {n}"} for n in range(9)], {}),
])  # fmt: skip
def test_columns_in_capitals_are_written_as_what_they_are_read_as(new, capsys, rows, columns):
    code, said = new(rows)
    assert code == 0, said
    (data,) = (data for _, data in find(written(), DataConfig))
    assert data.columns == columns
    assert main(["check", "my.yaml"]) == 0, capsys.readouterr().out
    if columns and "evaluation" in Path("my.yaml").read_text():
        assert f"held-out.jsonl, columns: {{{next(iter(columns))}: " in Path("my.yaml").read_text()


def test_a_question_in_capitals_does_not_lose_its_passage(new):
    """svamp has `Body` and `Question`: the question alone is not what is asked."""
    rows = [{"Body": f"Jack has {n} apples.", "Question": "How many?", "Answer": float(n)} for n in range(9)]
    code, said = new(rows)
    assert (code, "column 'body' is no part of the messages" in said) == (2, True), said
    assert new([{"question": "How many?", "Body": "Jack has 3.", "answer": "3"}] * 3)[0] == 2


def test_columns_of_any_name_are_told(new):
    rows = [{"exercise": f"What is {n} + {n}?", "result": str(2 * n)} for n in range(9)]
    assert "--column answer=COLUMN" in new(rows)[1]
    code, said = new(rows, "--column", "answer=result")
    assert (code, "--column prompt=COLUMN" in said) == (2, True)
    assert new(rows, "--column", "answer=result", "--column", "prompt=exercise")[0] == 0
    assert written().reasoning_rl.tasks["default"].data.columns == {"answer": "result", "prompt": "exercise"}
    for word, said in (("answer", "expected NAME=COLUMN"), ("answer=no", "no column 'no'")):
        assert said in new(rows, "--column", word, "--out", "b.yaml")[1]


@pytest.mark.parametrize(("rows", "words"), [
    ([], "no rows"), ([{"text": "plain"}], "judge an answer by (its columns: text)"),
    ([{"answer": "4"}] * 3, "no column prompt | question"),
])  # fmt: skip
def test_rows_that_make_no_recipe(new, rows, words):
    code, said = new(rows)
    assert code == 2
    assert words in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1


def test_without_out_it_is_printed(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("rows.jsonl"), GSM8K)
    assert main(["new", "rows.jsonl", "--model", str(models["chat"])]) == 0
    Path("my.yaml").write_text(capsys.readouterr().out)
    assert written().reasoning_rl.steps == 200


def test_texts_are_quoted_where_they_need_it():
    for text in ("a b", "1e3", "null", ".nan", "x: y", "#a", "\n", "ก", "~", "-", "a: {b}"):
        assert quoted(text).startswith('"'), text
    assert quoted("data/train-1.jsonl") == "data/train-1.jsonl"
    assert quoted("../a_b.jsonl") == "../a_b.jsonl"
