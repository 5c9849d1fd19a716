"""`grpo check`: what can be wrong before spending compute. One line a check, exit 2 when one of them is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from grpo.config import DataConfig, RewardConfig, RLConfig, SFTConfig
from grpo.config_file import read_config
from grpo.errors import UserError
from stages.command import Parser, add_overrides, find_config, reason
from stages.config import RecipeConfig
from stages.preflight import RUN, check_function, check_reward, check_source, find, folders_before
from stages.runtime import quiet

EXAMPLES = "  grpo check my.yaml\n  grpo check tiny.yaml reasoning_rl.group_size=8"
PROBE = "What is 2 + 3?"


class Warned(Exception):
    """A check that found something to think about, but nothing that stops a run."""


def check_command(arguments: list[str]) -> int:
    """`grpo check`."""
    parser = Parser(
        "grpo check", "Check a config, its data, rewards and chat template before spending compute.", EXAMPLES
    )
    parser.add_argument("config", metavar="CONFIG")
    add_overrides(parser)
    chosen = parser.read(arguments)
    config = read_config(RecipeConfig, find_config(chosen.config), chosen.overrides)
    quiet("error")
    print(f"ok       config: {chosen.config}")
    worst = 0
    for name, check in checks(config, Path("runs") / Path(chosen.config).stem):
        state, text = "ok", ""
        try:
            text = check()
        except Warned as warning:
            state, text = "warning", str(warning)
        except UserError as error:
            state, text, worst = "error", str(error), 2
        except OSError as error:
            state, text, worst = "error", reason(error), 2
        print(f"{state:<8} {name}{': ' if text else ''}{text}", flush=True)
    return worst


def checks(config: RecipeConfig, run: Path = Path("runs")) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, check); a check returns what it saw, or raises `Warned` or `UserError`."""
    for kind in (RLConfig, SFTConfig):
        for path, section in find(config, kind):
            yield f"steps of {path}", lambda section=section: _steps(section)  # type: ignore[misc]
    for path, spec in find(config, RewardConfig):
        made = folders_before(config, path.partition(".")[0])
        yield f"reward {path} ({spec.fn})", lambda spec=spec, made=made: _reward(spec, run, made)  # type: ignore[misc]
    if config.evaluation.leak_check is not None:
        yield "evaluation.leak_check", partial(_leak_check, config.evaluation.leak_check)
    if config.evaluation.decontaminate is not None:
        for path, data in find(config, DataConfig):
            if not path.startswith("evaluation."):
                yield f"near copies of evaluation problems in {path}", partial(_near_copies, config, data)
    for path, data in find(config, DataConfig):
        wants_gold = path.startswith("evaluation.math") or _is_judged(config, path)
        yield f"data {path}", lambda data=data, gold=wants_gold: _data(data, gold)  # type: ignore[misc]
    if config.base.model is not None:
        model = config.base.model
        yield f"tokenizer of {model}", lambda: _tokenizer(model)
        yield f"end token of {model}", lambda: _end_token(model)
    else:
        yield "tokenizer", lambda: "made by the base stage, nothing to check yet"


def _is_judged(config: RecipeConfig, path: str) -> bool:
    """Whether the accuracy reward judges the rows at `path`: its sibling in a task or a stage's filters."""
    parent = path.rpartition(".")[0]
    judges = [key for key, spec in find(config, RewardConfig) if spec.fn == "accuracy" and key.startswith(parent + ".")]
    return bool(judges) and not path.endswith(".general")


def _steps(section: RLConfig | SFTConfig) -> str:
    """A shortened run may stop before some settings act: no error, but it should be known."""
    if section.steps is None:
        return ""
    every = section.reference_every if isinstance(section, RLConfig) else None
    settings = {"optimizer.warmup_steps": section.optimizer.warmup_steps, "reference_every": every or 0}
    late = [f"{name}={value}" for name, value in settings.items() if value >= section.steps]
    if late:
        raise Warned(f"{section.steps} steps do not reach {', '.join(late)}")
    return ""


def _reward(spec: RewardConfig, run: Path, made: list[str] | None) -> str:
    check_reward(spec, run, made)
    return "needs a model of the run, loaded by its stage" if RUN in str(spec.kwargs) else ""


def _leak_check(path: str) -> str:
    check_function(path)
    return path


def _near_copies(config: RecipeConfig, data: DataConfig) -> str:
    check_source(data)
    sources = (data, config.evaluation.math.data)
    if any(source.path is not None and not Path(source.path).is_file() for source in sources):
        return "hub data set, not fetched: its stage looks"
    from grpo.data import load_rows
    from stages.leaks import near_copies

    rows = load_rows(data)
    found = list(near_copies(config, rows))
    if found:
        numbers = ", ".join(str(number) for number, _, _ in found)
        raise UserError(f"{len(found)} of {len(rows)} rows, e.g. {found[0][1][:80]!r}: rows {numbers}")
    return f"none in {len(rows)} rows"


def _data(data: DataConfig, wants_gold: bool) -> str:
    check_source(data)
    if data.path is not None and not Path(data.path).is_file():
        return f"hub data set '{data.path}', not fetched"
    from grpo.data import canonical_answer, load_rows
    from rewards.accuracy import gold_is_parseable

    rows = load_rows(data)
    if not wants_gold:
        return f"{len(rows)} rows"
    golds = [canonical_answer(row) for row in rows]
    if all(gold is None for gold in golds):
        raise UserError(f"no column answer | gold | solution to judge by (it has: {', '.join(rows[0])})")
    bad = [number for number, gold in enumerate(golds) if not gold_is_parseable(gold)]
    if len(bad) == len(rows):
        raise UserError(f"none of {len(rows)} golds can be read, e.g. {golds[0]!r}")
    if bad:
        raise Warned(f"{len(bad)} of {len(rows)} golds cannot be read, e.g. row {bad[0]}: {golds[bad[0]]!r}")
    return f"{len(rows)} rows, every gold can be read"


def _tokenizer(model: str) -> str:
    from grpo.data import render_chat
    from grpo.policy import load_tokenizer

    tokenizer = load_tokenizer(model)
    question = [{"role": "user", "content": PROBE}]
    if not getattr(tokenizer, "chat_template", None):
        raise Warned("no chat template: every data section needs a plain-text 'template'")
    prompt, opened = render_chat(question, tokenizer)
    full = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "5"}], tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    full_ids = tokenizer(full, add_special_tokens=False)["input_ids"]
    if full_ids[: len(prompt_ids)] != prompt_ids:
        raise Warned("the prompt is not a prefix of the whole conversation: SFT and RL see different templates")
    return f"the template renders, the prompt is a prefix; it opens the turn with {opened!r}"


def _end_token(model: str) -> str:
    from grpo.policy import load_tokenizer

    tokenizer = load_tokenizer(model)
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end token: set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise Warned(
            f"pad token and end token are the same ({tokenizer.eos_token!r}); other tools may never learn to stop"
        )
    return f"{tokenizer.eos_token!r}, pad {tokenizer.pad_token!r}"
