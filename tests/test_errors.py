"""How an error becomes one line, also when it says nothing, and the places that do so."""

import json

import pytest

from grpo.config.data import DataConfig
from grpo.data.rows import load_rows
from grpo.errors import UserError, describe, first_line, one_line, shorten
from grpo.supervised.reward_reader import load_reward_model
from stages.check.subject import BaseModel, existing_model
from stages.check.trained import checkpointing
from stages.cli import main


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_error_that_says_nothing_has_its_type(text):
    error = ValueError(text)
    assert first_line(error) == first_line(error, typed=True) == describe(error) == "ValueError"


def test_an_error_of_several_lines():
    error = OSError("\n no such \n file")
    assert (first_line(error), first_line(error, typed=True)) == ("no such ", "OSError: no such ")
    assert describe(error) == "OSError: no such file"
    assert len(describe(ValueError("a\n" * 500))) == len("ValueError: ") + 300


def test_a_text_that_is_too_long_ends_in_dots():
    assert shorten("a" * 80) == "a" * 80
    assert shorten("a" * 81) == "a" * 77 + "..."
    assert one_line("a\n b\n", 7) == "a b"
    assert one_line("a\n b" * 3, 8) == "a ba ..."
    assert one_line("a\n b" * 3, 9) == "a ba ba b"


def silent(kind):
    """What raises an error without a message, whatever it is asked."""

    def fails(*arguments, **options):
        raise kind

    return fails


@pytest.fixture
def model(tmp_path):
    """A folder that has what is looked for before a model is loaded."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    return str(tmp_path)


def test_data_that_cannot_be_read(tmp_path, monkeypatch):
    import datasets
    import pyarrow.parquet

    file = tmp_path / "rows.parquet"
    file.touch()
    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", silent(OSError))
    with pytest.raises(UserError, match=r"not a parquet file: OSError$"):
        load_rows(DataConfig(path=str(file)))
    monkeypatch.setattr(datasets, "load_dataset", silent(ConnectionError))
    with pytest.raises(UserError, match=r"nor a data set the hub gives: .*ConnectionError$"):
        load_rows(DataConfig(path="name/of-a-set"))


def test_models_that_cannot_be_loaded(model, monkeypatch):
    import transformers

    for loader in ("AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, loader), "from_pretrained", silent(ValueError))
    monkeypatch.setattr("grpo.model.loading.tokenizer.load_tokenizer", lambda name: None)
    with pytest.raises(UserError, match=r"reward model '.*': its config.json cannot be read: ValueError$"):
        load_reward_model(model, None, None)
    with pytest.raises(UserError, match=r"its config.json cannot be read: ValueError$"):
        existing_model(model)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", silent(NotImplementedError))
    with pytest.raises(UserError, match=r"config.json makes no model: NotImplementedError$"):
        checkpointing(BaseModel(None, transformers.LlamaConfig(), ()))


def test_commands_say_that_one_cannot_be_loaded(model, tmp_path, monkeypatch, capsys):
    import transformers

    for loader in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, loader), "from_pretrained", silent(OSError))
    monkeypatch.setattr("grpo.engines.vllm.require_vllm", lambda command: None)
    assert main(["serve", "tiny.yaml", "--init", model]) == 2
    assert capsys.readouterr().err == f"error: model '{model}': its config.json cannot be read: OSError\n"
    file = tmp_path / "rows.jsonl"
    file.write_text('{"completion": "7", "answer": "7"}\n')
    assert main(["score", str(file), "--reward", "accuracy", "--tokenizer", "here"]) == 2
    assert capsys.readouterr().err == "error: --tokenizer 'here': no tokenizer can be loaded: OSError\n"
