"""The command line as a new user meets it: one line that names the culprit, exit code 2, nothing touched."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from grpo.config.yaml import dump_yaml
from grpo.data.rows import write_jsonl
from grpo.engines import vllm as optional
from grpo.errors import UserError
from grpo.evaluation.result import problems_file
from stages.cli import COMMANDS, main
from stages.commands.common import find_config, guarded
from stages.commands.eval import data_settings
from stages.commands.run import stage_command
from stages.recipe.output import check_out_file
from support.command import python, refused
from support.files import contents
from support.processes import ROOT

RL = {
    "steps": 2, "group_size": 2, "prompts_per_step": 2, "sampling": {"max_tokens": 8}, "optimizer": {"lr": 1e-3},
    "tasks": {"math": {"data": {"path": "train.jsonl"}, "rewards": [{"fn": "accuracy"}]}},
}  # fmt: skip
RECIPE = {
    "evaluation": {"math": {"data": {"path": "test.jsonl"}, "max_tokens": 8}},
    "base": {"model": "base-model"},
    "reasoning_rl": RL,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user has it: a config, data, a folder that is no model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(RECIPE))
    answered = {"question": "2+2", "answer": "4"}
    for name, row in {
        "train": answered, "test": answered, "no-answer": {"question": "2+2", "label": "4"},
        "scored": {"prompt": "2+2", "completion": "#### 4", "answer": "4"},
    }.items():  # fmt: skip
        write_jsonl(tmp_path / f"{name}.jsonl", [row])
    (tmp_path / "base-model").mkdir()
    (tmp_path / "base-model" / "notes.txt").write_text("not a model")
    (tmp_path / "a-file").write_text("mine")
    return tmp_path


def staged(key, *words):
    """The exit code of a stage's script."""
    return guarded(lambda words: stage_command(key, words), ["recipe.yaml", *words])


@pytest.mark.parametrize(("arguments", "culprit"), [
    (["run", "recipe.yaml", "reasoning_rl.steps"], "key.path=value"),
    (["run", "recipe.yaml", "engine=vllm"], "vLLM is not installed"),
    (["run", "recipe.yaml", "engine.kind=vllm"], "make setup-vllm"),
    (["eval", "base-model", "--data", "test.jsonl", "engine=vllm"], "pip install -e '.[vllm]'"),
    (["run", "missing.yaml"], "missing.yaml"), (["run", "base-model"], "base-model"),
    (["run", "recipe.yaml", "--out", "a-file"], "a-file"),
    (["run", "recipe.yaml", "--out", "a-file/run"], "a-file"), (["run", "recipe.yaml", "--form", "base"], "--form"),
    (["run", "recipe.yaml", "--from", "basis"], "basis"), (["run"], "CONFIG"), (["rnu", "recipe.yaml"], "rnu"),
    ([], "no command"),
    (["eval", "base-model", "--data", "test.jsonl"], "base-model"),
    (["eval", "./nowhere", "--data", "test.jsonl"], "nowhere"),
    (["eval", "a-file", "--data", "test.jsonl"], "a-file"),
    (["eval", "base-model", "--data", "missing.jsonl"], "missing.jsonl"),
    (["eval", "base-model", "--data", "gsm8"], "gsm8k"),
    (["eval", "base-model", "--data", "aime42=test.jsonl"], "aime42"),
    (["eval", "base-model", "--data", "aime24=missing.jsonl"], "missing.jsonl"),
    (["eval", "base-model", "--data", "test.jsonl", "--samples", "0"], "samples"),
    (["eval", "base-model", "--data", "test.jsonl", "--samples", "few"], "--samples"),
    (["eval", "base-model", "--data", "test.jsonl", "eval.format.fn=nonsense"], "nonsense"),
    (["compare", "missing.json", "other.json"], "missing.json"),
    (["compare", "recipe.yaml", "recipe.yaml"], "recipe.yaml"),
    (["score", "missing.jsonl", "--reward", "accuracy"], "missing.jsonl"), (["score", "test.jsonl"], "--reward"),
    (["score", "scored.jsonl", "--reward", "accuracy", "--out", "base-model"], "base-model"),
    (["score", "scored.jsonl", "--reward", "accuracy", "--out", "a-file/scores.jsonl"], "a-file"),
    (["eval", "base-model", "--data", "test.jsonl", "--out", "base-model"], "--out 'base-model': a folder"),
    (["eval", "base-model", "--data", "test.jsonl", "--out", "new/"], "--out 'new/': a folder"),
    (["eval", "base-model", "--data", "test.jsonl", "--out", "a-file/eval.json"], "'a-file' is a file"),
    (["eval", "base-model", "--data", "test.jsonl", "--language", "english"], "language code 'english'"),
    (["eval", "base-model", "--data", "test.jsonl", "eval.accuracy.kwargs={strict: maybe}"], "maybe"),
    (["check", "missing.yaml"], "missing.yaml"),
])  # fmt: skip
def test_mistakes_get_one_line(here, capsys, monkeypatch, arguments, culprit):
    monkeypatch.setattr(optional, "vllm_is_there", lambda: False)
    if arguments[:2] == ["eval", "base-model"] and culprit != "base-model":  # the model is looked at first
        (here / "base-model" / "config.json").write_text("{}")
    before = contents(here)
    assert culprit in refused(capsys, main(arguments))
    assert contents(here) == before
    assert not (here / "runs").exists()


def test_a_base_model_that_is_none_names_the_folder(here, capsys):
    assert "base-model" in refused(capsys, main(["run", "recipe.yaml"]))


def test_a_stage_before_its_input_exists(here, capsys):
    before = contents(here)
    line = refused(capsys, staged("reasoning_rl"))
    assert "needs the model of stage base" in line
    assert "python stages/base.py" in line
    assert contents(here) == before


def test_a_stage_without_a_section(here, capsys):
    assert "no section 'r1_zero'" in refused(capsys, staged("r1_zero"))


def test_data_without_an_answer_column(here, capsys):
    (here / "base-model" / "config.json").write_text("{}")
    line = refused(capsys, main(["eval", "base-model", "--data", "no-answer.jsonl"]))
    assert "no-answer.jsonl" in line
    assert "answer | gold | solution" in line


def test_check_names_what_is_wrong_and_goes_on(here, capsys):
    overrides = ["reasoning_rl.tasks.math.rewards.0.fn=accuracies", "evaluation.math.data.path=no-answer.jsonl"]
    overrides.append("evaluation.leak_check=stages.tiny_world.problem_key")
    assert main(["check", "recipe.yaml", *overrides]) == 2
    lines = capsys.readouterr().out.splitlines()
    errors = [line for line in lines if line.startswith("error")]
    assert any("accuracies" in line for line in errors)
    assert any("evaluation.leak_check" in line and "problem_keys" in line for line in errors)
    assert any("evaluation.math.data" in line and "label" in line for line in errors)
    assert any("base-model" in line for line in errors)
    assert any(line.startswith("ok") for line in lines)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_examples(capsys, command):
    with pytest.raises(SystemExit, match="0") if command else nullcontext():
        main([*command, "--help"])
    assert "examples:" in capsys.readouterr().out


def test_overrides_may_stand_between_options(here, capsys):
    words = ["run", "recipe.yaml", "seed=1", "--out", "a-file", "reasoning_rl.stepz=1"]
    assert "reasoning_rl.stepz" in refused(capsys, main(words))


def test_shipped_configs_are_found_from_anywhere(here):
    assert find_config("tiny.yaml").samefile(ROOT / "configs" / "tiny.yaml")
    assert find_config("configs/tiny.yaml").is_file()
    (here / "tiny.yaml").write_text("seed: 1\n")
    assert find_config("tiny.yaml") == Path("tiny.yaml")  # the user's own comes first


def ending(error):
    """The exit code of a command that ends with this error."""

    def command(_):
        raise error

    return guarded(command, [])


def test_a_bug_is_shown_whole_and_is_not_a_user_error(capsys):
    assert ending(ZeroDivisionError()) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "line"), [
    (PermissionError(13, "Permission denied", "data/rows.jsonl"), "error: 'data/rows.jsonl': Permission denied\n"),
    (OSError(28, "No space left on device"),
     "error: No space left on device; once that is mended, the same command goes on from here\n"),
    (ConnectionError("the hub\ndoes not answer"), "error: ConnectionError: the hub does not answer\n"),
])  # fmt: skip
def test_what_the_system_refuses_is_one_line(capsys, error, line):
    assert refused(capsys, ending(error)) == line


def test_a_folder_that_is_not_ours_to_write(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who can write everywhere
    with pytest.raises(UserError, match=r"--out 'new/eval\.json'|no permission to write to '\.'"):
        check_out_file("new/eval.json")


def test_files_that_eval_reads_and_writes(here):
    (here / "runs" / "seed=1").mkdir(parents=True)
    (here / "runs" / "seed=1" / "test.jsonl").write_text('{"question": "2+2", "answer": "4"}\n')
    assert data_settings("runs/seed=1/test.jsonl") == {"path": "runs/seed=1/test.jsonl"}
    assert data_settings("aime24=test.jsonl")["path"] == "test.jsonl"
    assert check_out_file("results/eval") == Path("results/eval")  # no suffix is needed
    assert problems_file(Path("results/eval")) == Path("results/eval.problems.jsonl")


def test_score_writes_to_a_new_folder(here):
    assert main(["score", "scored.jsonl", "--reward", "accuracy", "--out", "new/folder/scores"]) == 0
    assert json.loads((here / "new" / "folder" / "scores").read_text())["rewards"] == {"accuracy": 1.0}


def test_a_stage_checks_what_it_names_before_it_writes(here, capsys):
    before = contents(here)
    reward = "reasoning_rl.tasks.math.rewards.0"
    assert reward in refused(capsys, staged("reasoning_rl", "--init", "some/model", f"{reward}.fn=acuracy"))
    assert "./nowhere" in refused(capsys, staged("reasoning_rl", "--init", "./nowhere"))
    assert contents(here) == before


def test_an_interrupt_is_130(capsys):
    assert ending(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.count("\n") == 1


def evaluation(folder, name, correct, **changes):
    settings = {
        "data_hash": "a", "samples_per_problem": 1, "temperature": 0.6, "top_p": 0.95, "max_tokens": 8,
        "template_hash": "t", "format_required": True,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(settings | changes))
    rows = [{"id": str(i), "part": "math", "judged": True, "pass@1": value} for i, value in enumerate(correct)]
    rows.append({"id": "0", "part": "general", "helpfulness": 1.0})
    write_jsonl(folder / f"{name}.problems.jsonl", rows)
    return str(folder / f"{name}.json")


def test_compare_says_worse_by_its_exit_code(tmp_path, capsys):
    good = evaluation(tmp_path, "good", [1.0] * 20)
    bad = evaluation(tmp_path, "bad", [0.0] * 10 + [1.0] * 10)
    assert main(["compare", good, bad]) == 1
    assert "B - A: -50.0 points" in capsys.readouterr().out
    assert main(["compare", bad, good]) == 0
    assert main(["compare", good, good]) == 0
    assert main(["compare", good, bad, "--metric", "helpfulness"]) == 0


@pytest.mark.parametrize(
    "key", ["data_hash", "samples_per_problem", "temperature", "top_p", "max_tokens", "template_hash"]
)
def test_compare_refuses_other_settings(tmp_path, capsys, key):
    one, two = evaluation(tmp_path, "one", [1.0]), evaluation(tmp_path, "two", [1.0], **{key: 77})
    line = refused(capsys, main(["compare", one, two]))
    assert key in line
    assert "77" in line


def test_compare_refuses_what_was_not_measured(tmp_path, capsys):
    one = evaluation(tmp_path, "one", [1.0])
    assert "safety" in refused(capsys, main(["compare", one, one, "--metric", "safety"]))
    assert "did you mean 'safety'" in refused(capsys, main(["compare", one, one, "--metric", "safty"]))


@pytest.mark.parametrize("words", [["stages/reasoning_rl.py"], ["-m", "stages.reasoning_rl"]])
def test_stage_scripts_run_as_files_and_as_modules(words):
    done = python(*words, "missing.yaml")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: config 'missing.yaml'")


def test_a_closed_pipe_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does once it has seen enough
    done = python("-m", "stages.cli", "--help", stdout=writer)
    os.close(writer)
    assert done.stderr == ""


def test_accepting_changes_is_an_option_of_both_commands(here, monkeypatch):
    seen: list[bool] = []
    monkeypatch.setattr("stages.recipe.pipeline.run_pipeline", lambda *arguments: seen.append(arguments[-1]))
    monkeypatch.setattr(
        "stages.recipe.planning.plan_stage", lambda *_, accept_changes, **__: seen.append(accept_changes)
    )
    for words in ([], ["--accept-changes"]):
        assert main(["run", "recipe.yaml", *words]) == 0
        with pytest.raises(AttributeError):  # what `plan_stage` gave was no plan
            stage_command("reasoning_rl", ["recipe.yaml", "--init", "some/model", *words])
    assert seen == [False, False, True, True]
