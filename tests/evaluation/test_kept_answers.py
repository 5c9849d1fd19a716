"""An evaluation that is stopped asks only for what it has no answers to, and comes out as if it had not been."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from grpo.config.data import EvalConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.data.rows import read_jsonl
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.evaluation import asking
from grpo.evaluation.evaluate import GeneralEval, ProblemSet, _made_with, evaluate, evaluate_sets
from grpo.evaluation.kept import Kept, kept_file
from grpo.evaluation.metrics import Judges
from grpo.evaluation.result import EvalResult
from grpo.scoring.table import Reward
from stages.tiny_world import build_tokenizer, model_config

ROWS = [{"question": f"What is {a} + 2?", "answer": str(a + 2)} for a in range(12)]
CLOCK = ("seconds",)


def right(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(str(text)) % 2) for text in completions]


def requests() -> list[dict[str, str]]:
    return [{"prompt": f"Hello {number}"} for number in range(6)]


JUDGES = Judges(Reward("right", right))
RULES = {name: Reward("x", right) for name in ("general", "helpfulness", "safety", "over_refusal")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer([row["question"] for row in ROWS], 300)
    path = tmp_path_factory.mktemp("tiny")
    Qwen3ForCausalLM(model_config(len(tokenizer), hidden_size=32, layers=2)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that the engine is asked for, but for those that try it out."""
    prompts: list[str] = []
    plain = LocalEngine.generate

    def generate(self: LocalEngine, chosen: Any, *arguments: Any, **options: Any) -> Any:
        prompts.extend(prompt.text for prompt in chosen)
        return plain(self, chosen, *arguments, **options)

    monkeypatch.setattr(LocalEngine, "generate", generate)
    return prompts


def run(folder: Path, out: Path | None = None, *, rows: Any = ROWS, seed: int = 3, **options: Any) -> EvalResult:
    tree = {"data": {"path": "set.jsonl"}, "max_tokens": 12, "samples": 3, "temperature": 1.0, **options}
    general = GeneralEval(EvalConfig.model_validate(tree | {"data": {"fn": f"{__name__}.requests"}}).data, 5, RULES)
    result = evaluate(
        str(folder),
        EvalConfig.model_validate(tree),
        judges=JUDGES,
        engine=EngineConfig(kind="local", max_rows=4),
        seed=seed,
        rows=rows,
        general=general,
        kept=None if out is None else kept_file(out),
    )
    if out is not None:
        result.write(out)
    return result


def stopped(patch: pytest.MonkeyPatch, folder: Path, out: Path, after: int, **options: Any) -> list[str]:
    """The ids of whose answers were kept when it was stopped."""
    count, plain = 0, Kept.add

    def add(self: Kept, key: tuple[str, int], answer: Any) -> None:
        nonlocal count
        plain(self, key, answer)
        count += 1
        if count == after:
            raise KeyboardInterrupt

    with patch.context() as once:
        once.setattr(Kept, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run(folder, out, **options)
    return [row["id"] for row in read_jsonl(kept_file(out))]


def comes_out(result: EvalResult) -> Any:
    metrics = {key: value for key, value in result.metrics.items() if key not in CLOCK}
    return metrics, result.problems, result.completions


@pytest.mark.parametrize("after", [20, 39])  # the second: in the general prompts
def test_only_what_is_missing_is_asked_for(folder, tmp_path, monkeypatch, asked, after):
    """Before: everything, from the beginning."""
    whole = run(folder)
    assert len(asked) == 18
    out = tmp_path / "eval.json"
    kept = stopped(monkeypatch, folder, out, after)
    finished = {name for name in kept if kept.count(name) == (1 if "general" in name else 3)}
    asked.clear()
    again = run(folder, out)
    assert len(asked) == 18 - len(finished)
    assert comes_out(again) == comes_out(whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "eval.completions.jsonl", "eval.json", "eval.problems.jsonl",
    ]  # fmt: skip


def test_answers_of_an_adapter_are_not_those_of_another_base(tmp_path, folder):
    """Before: the adapter's own folder alone was hashed. A whole model's hash stays what it was."""

    def made_with(model: Path) -> str | None:
        return _made_with(str(model), "local", EngineConfig(), RuntimeConfig(), 0)

    base, adapter, upper = tmp_path / "base", tmp_path / "adapter", tmp_path / "upper"
    for name, below in ((adapter, "../base"), (upper, "../adapter")):
        name.mkdir()
        (name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": below}))
    shutil.copytree(folder, base)
    first = [made_with(model) for model in (folder, base, adapter, upper)]
    assert first[0] == first[1]
    assert len(set(first)) == 3
    (base / "generation_config.json").write_text("{}")
    assert not set(first) & {made_with(model) for model in (base, adapter, upper)}


def test_what_a_kill_cut_short_or_somebody_edited_is_asked_for_again(folder, tmp_path, monkeypatch, asked, caplog):
    whole, out = run(folder), tmp_path / "eval.json"
    stopped(monkeypatch, folder, out, 30)
    file = kept_file(out)
    first, *rest = file.read_text().splitlines()
    row = json.loads(first)
    row["answer"]["text"] = "\\boxed{42}"
    file.write_text("\n".join([json.dumps(row), *rest, '{"made_with": "half a li']))
    edited = {row["id"] for row in (json.loads(first),)}
    asked.clear()
    with caplog.at_level("WARNING", "grpo"):
        again = run(folder, out)
    assert "1 answers were edited or damaged: asked again" in caplog.text
    kept = [json.loads(line)["id"] for line in rest]
    finished = {name for name in kept if kept.count(name) == 3} - edited
    assert len(asked) == 18 - len(finished)
    assert comes_out(again) == comes_out(whole)


def test_answers_to_another_question_are_not_taken(folder, tmp_path, monkeypatch, asked):
    out = tmp_path / "eval.json"
    stopped(monkeypatch, folder, out, 36)
    kept = kept_file(out).read_text()
    for change in (
        {"seed": 4}, {"temperature": 0.9}, {"top_p": 0.5}, {"max_tokens": 11}, {"data": {"path": "x", "suffix": "!"}},
        {"rows": ROWS[1:]},
    ):  # fmt: skip
        kept_file(out).write_text(kept)
        asked.clear()
        run(folder, out, **change)
        assert len(asked) == len(change.get("rows", ROWS)) + 6


def test_another_model_of_that_name_answers_anew(folder, tmp_path, monkeypatch, asked):
    model, out = tmp_path / "model", tmp_path / "eval.json"
    model.mkdir()
    for file in folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    stopped(monkeypatch, model, out, 36)
    other = Qwen3ForCausalLM.from_pretrained(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    other.save_pretrained(model)
    asked.clear()
    run(model, out)
    assert len(asked) == 18


def test_more_samples_ask_whole_problems_fewer_ask_none(folder, tmp_path, monkeypatch, asked):
    out = tmp_path / "eval.json"
    stopped(monkeypatch, folder, out, 36)
    asked.clear()
    again = run(folder, out, samples=2)
    assert len(asked) == 6  # the general prompts
    assert comes_out(again) == comes_out(run(folder, samples=2))


def test_other_answers_are_the_users_to_move_away_where_strict(tmp_path):
    file = tmp_path / "e.json.asked"
    Kept(file, "a").add(("1", 0), {"text": "x"})
    assert Kept(file, "b", strict=False).read() == {}
    with pytest.raises(UserError, match=r"e\.json\.asked': these answers were asked with other settings"):
        Kept(file, "b").read()
    assert Kept(file, "a").read() == {("1", 0): {"text": "x"}}


def test_a_file_of_one_torn_line_takes_the_next_answers(tmp_path):
    file = tmp_path / "e.asked"
    file.write_text('{"made_with"')
    kept = Kept(file, "a")
    assert kept.read() == {}
    kept.add(("1", 0), {"text": "x"})
    assert kept.read() == {("1", 0): {"text": "x"}}


def test_the_bar_moves_as_completions_finish(folder, monkeypatch):
    """Before: once for 4 x max_rows of them."""
    moves: list[int] = []

    class Bar:
        def __init__(self, label: str, total: int, done: int = 0) -> None:
            moves.append(total)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: Any) -> None:
            assert sum(moves[1:]) == moves[0]

        def advance(self, amount: int) -> None:
            moves.append(amount)

    monkeypatch.setattr(asking, "progress", Bar)
    config = EvalConfig.model_validate({"data": {"path": "x"}, "max_tokens": 12, "samples": 3, "temperature": 1.0})
    evaluate(str(folder), config, judges=JUDGES, engine=EngineConfig(kind="local"), rows=ROWS)
    assert moves[0] == 36
    assert moves.count(1) == 36


def test_several_sets_load_the_model_once(folder, monkeypatch):
    from grpo.evaluation import evaluate as module

    loads: list[str] = []
    plain = module.load_for_sampling
    monkeypatch.setattr(module, "load_for_sampling", lambda *given: loads.append(given[0]) or plain(*given))
    config = EvalConfig.model_validate({"data": {"path": "x"}, "max_tokens": 12, "samples": 2})
    sets = {
        "evaluation.math": ProblemSet(config, JUDGES, rows=ROWS),
        "evaluation.sets.few": ProblemSet(config.model_copy(update={"samples": 1}), JUDGES, rows=ROWS[:5]),
    }
    together = list(evaluate_sets(str(folder), sets, seed=1))
    assert len(loads) == 1
    alone = [evaluate(str(folder), one.config, judges=JUDGES, rows=one.rows, seed=1) for one in sets.values()]
    assert list(map(comes_out, together)) == list(map(comes_out, alone))
    with pytest.raises(UserError, match=r"evaluation\.sets\.none: no rows"):
        list(evaluate_sets(str(folder), {"evaluation.sets.none": ProblemSet(config, JUDGES, rows=[])}))
