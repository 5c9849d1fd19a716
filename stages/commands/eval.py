"""`grpo eval`: a model on a named set or a file."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from pydantic import model_validator
from rich.table import Table

from grpo.config.data import EvalConfig, RewardConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.file import apply_override, validate
from grpo.config.section import changed
from grpo.config.training import Section, Seed
from grpo.data.files import kind_of
from grpo.data.folders import every_file, folder_splits, is_path
from grpo.data.rows import Row, load_rows
from grpo.errors import UserError, nearest
from grpo.evaluation.kept import kept_file
from grpo.evaluation.metrics import Judges
from grpo.evaluation.result import EvalResult, problems_file
from grpo.model.loading.path import check_model
from grpo.system.console import SafeConsole, say
from grpo.system.runtime import apply_quietly, quiet
from grpo.system.service import KEY_ENV
from rewards.language.reward import scripts_of
from stages.commands.common import Parser, add_overrides
from stages.commands.eval_sets import SETS, read_rows
from stages.recipe.config import find
from stages.recipe.handover import given_model
from stages.recipe.output import check_out_file
from stages.recipe.preflight import check_reward
from stages.recipe.summary import percent
from stages.served.config import EndpointConfig
from stages.served.endpoint import service_of
from stages.served.evaluate import evaluate_endpoint

EXAMPLES = """\
  grpo eval Qwen/Qwen2.5-0.5B-Instruct --data gsm8k --limit 100 --out gsm8k.json
  grpo eval runs/a/2-reasoning-rl/model --data aime24=aime.jsonl --samples 64 eval.k=[8,64]
  grpo eval MODEL --data mine.jsonl --temperature 0 --require-format runtime.threads=2
  grpo eval BASE_MODEL --data gsm8k 'eval.data.template="Q: {prompt}\\nA:"'     a model without a chat template
  grpo eval openai:MODEL --data math500 --base-url http://localhost:8000/v1 --price-in 0.3 --price-out 1.2
settings that overrides reach: seed, engine.*, runtime.*, eval.* (data, k, accuracy, format, language, top_p),
endpoint.* of openai:MODEL (concurrency, timeout, retries, fields, key_env); its key: the environment's OPENAI_API_KEY,
or that of the variable endpoint.key_env"""
SERVED = "openai:"
MOST_TOKENS = 2048  # of a completion, where --max-tokens is not given
SERVING = (
    "first_token_p50", "first_token_p99", "latency_p50", "latency_p99", "tokens_per_second", "failed_requests", "cost",
)  # fmt: skip


class EvalCommandConfig(Section):
    """What the command's options and overrides fill in."""

    seed: Seed = 0
    engine: EngineConfig = EngineConfig()
    runtime: RuntimeConfig = RuntimeConfig(log_level="warning")
    eval: EvalConfig
    endpoint: EndpointConfig | None = None

    @model_validator(mode="after")
    def _one_place(self) -> EvalCommandConfig:
        if self.endpoint is not None:
            for section in (self.engine, self.runtime):
                for name in changed(section, [name for name in type(section).model_fields if name != "log_level"]):
                    raise ValueError(f"'{name}' has no effect on {SERVED}MODEL, which runs elsewhere; remove it")
        return self


def named_set(text: str) -> str | None:
    """The name in `--data NAME` or `--data NAME=FILE`; None for a file or a hub name."""
    name = text if text in SETS else text.partition("=")[0]
    return name if name in SETS and not Path(text).is_file() else None


def data_settings(text: str) -> dict[str, Any]:
    """`--data`: a named set, a file, NAME=FILE, or a hub name. Named sets ask for a boxed answer."""
    name, equals, file = text.partition("=")
    if equals and not every_file(text):  # a path may hold a "=" too
        if name not in SETS:
            raise UserError(f"--data '{text}': no set named '{name}'{nearest(name, SETS)}")
        if not every_file(file):
            raise UserError(f"--data '{text}': no such file '{file}'")
        return {**_on_disk(file), "suffix": SETS[name].suffix}
    if text in SETS:
        if not SETS[text].hub:
            raise UserError(f"--data {text}: this set needs a file: {text}=FILE")
        return {**SETS[text].hub, "suffix": SETS[text].suffix}
    if every_file(text):
        return _on_disk(text)
    if kind_of(Path(text)):
        raise UserError(f"--data '{text}': no such file")
    if text.count("/") != 1 or is_path(text):
        raise UserError(f"--data '{text}': neither a named set nor a file{nearest(text, SETS)}")
    return {"path": text, "split": "test"}


def _on_disk(path: str) -> dict[str, Any]:
    """A folder's test split, where it has one."""
    folder = Path(path).expanduser()
    return {"path": path, **({"split": "test"} if folder.is_dir() and "test" in folder_splits(folder) else {})}


def _settings(chosen: argparse.Namespace) -> EvalCommandConfig:
    name = named_set(chosen.data)
    tree: dict[str, Any] = {
        "seed": chosen.seed,
        "eval": {
            "data": data_settings(chosen.data) | ({"limit": chosen.limit} if chosen.limit is not None else {}),
            **{option: getattr(chosen, option) for option in ("samples", "temperature", "top_p", "max_tokens")},
            "accuracy": {"fn": SETS[name].accuracy if name else "accuracy"},
            "format": {"fn": "format"},
            "language": {"fn": "language"},
        },
        "runtime": {"log_level": "warning"},
        **_endpoint(chosen),
    }
    for override in chosen.overrides:
        apply_override(tree, override)
    served = tree.get("endpoint")
    if isinstance(served, dict) and served.get("base_url") and os.environ.get(KEY_ENV, "").strip():
        served.setdefault("key_env", KEY_ENV)  # whoever types the address has said where the key goes
    if not tree["eval"]["accuracy"]["fn"]:
        raise UserError(f"--data {name}: no judge ships for this set; name a function of yours: eval.accuracy.fn=PATH")
    return validate(EvalCommandConfig, tree, "grpo eval")


def _endpoint(chosen: argparse.Namespace) -> dict[str, Any]:
    options = {name: getattr(chosen, name) for name in ("base_url", "price_in", "price_out")}
    options = {name: value for name, value in options.items() if value is not None}
    if chosen.model.startswith(SERVED):
        return {"endpoint": {"model": chosen.model.removeprefix(SERVED), **options}}
    for name in options:
        raise UserError(f"--{name.replace('_', '-')} is for a served model: grpo eval {SERVED}MODEL")
    return {}


def _rows(config: EvalConfig, name: str | None) -> list[Row]:
    """Of a named set, as questions; the limit counts those."""
    if name is None:
        return load_rows(config.data)
    whole = load_rows(config.data.model_copy(update={"limit": None}))
    return read_rows(name, whole)[: config.data.limit]


def _with_language(config: EvalConfig, rows: list[Row], language: str | None) -> EvalConfig:
    """The language to measure: as asked, else each row's own, else English."""
    if config.language is None or config.language.fn != "language" or config.language.kwargs:
        return config
    if language is None and all(row.get("language") is not None for row in rows):
        return config
    spec = config.language.model_copy(update={"kwargs": {"language": language or "en"}})
    return config.model_copy(update={"language": spec})


def _check_judges(config: EvalConfig, language: str | None) -> None:
    """Before any sampling: the judges are there and take their arguments, a given language is one."""
    for _, spec in find(config, RewardConfig):
        check_reward(spec, Path())
    if language is not None:
        scripts_of(language)


def eval_command(arguments: list[str]) -> int:
    """`grpo eval`."""
    parser = Parser("grpo eval", "Evaluate a model: pass@1 with its 95% interval over problems, and more.", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file or hub name, or openai:MODEL")
    parser.add_argument(
        "--data", required=True, metavar="SET", help=f"{', '.join(SETS)}, a FILE, NAME=FILE, a hub name"
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="samples per problem (default 1)")
    parser.add_argument("--temperature", type=float, default=0.6, metavar="T", help="0: greedy (default 0.6)")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="(default 0.95)")
    most = f"per completion (default {MOST_TOKENS}, or the fewer that the model has positions for)"
    parser.add_argument("--max-tokens", type=int, metavar="M", help=most)
    parser.add_argument("--limit", type=int, metavar="K", help="only the first K problems")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--language", metavar="CODE", help="of the thinking (default: the column language, else en)")
    parser.add_argument("--require-format", action="store_true", help="an answer counts only in the required format")
    parser.add_argument("--base-url", metavar="URL", help="of openai:MODEL (default: OPENAI_BASE_URL, else OpenAI)")
    parser.add_argument("--price-in", type=float, metavar="X", help="of a million prompt tokens, for the cost")
    parser.add_argument("--price-out", type=float, metavar="X", help="of a million completion tokens")
    parser.add_argument("--out", metavar="FILE", help="write the JSON there, per-problem results beside it")
    add_overrides(parser)
    chosen = parser.read(arguments)
    settings = _settings(chosen)
    if settings.endpoint is None:
        chosen.model = given_model(chosen.model)
        check_model(chosen.model)
    else:
        service_of(settings.endpoint, "--base-url")
    out = check_out_file(chosen.out) if chosen.out else None
    _check_judges(settings.eval, chosen.language)
    quiet(settings.runtime.log_level)

    from stages.recipe.evaluation import load_judges  # torch, which a mistake need not wait for

    rows = _rows(settings.eval, named_set(chosen.data))
    judges = load_judges(_with_language(settings.eval, rows, chosen.language), chosen.require_format)
    kept = kept_file(out) if out is not None else None
    result = _evaluate(chosen.model, settings, judges, rows, kept)
    _print(result.metrics)
    if out is None:
        print(json.dumps(result.metrics))
    else:
        result.write(out)
        say(f"written: {out}, {problems_file(out)}")
    return 0


def _evaluate(
    model: str, settings: EvalCommandConfig, judges: Judges, rows: list[Row], kept: Path | None
) -> EvalResult:
    if settings.endpoint is not None:
        return evaluate_endpoint(
            settings.endpoint,
            settings.eval,
            judges=judges,
            seed=settings.seed,
            rows=rows,
            file=kept,
            most=MOST_TOKENS,
        )
    from grpo.evaluation.evaluate import evaluate

    apply_quietly(settings.runtime, settings.seed)
    return evaluate(
        model,
        settings.eval,
        judges=judges,
        engine=settings.engine,
        runtime=settings.runtime,
        seed=settings.seed,
        rows=rows,
        most=MOST_TOKENS,
        kept=kept,
        strict=True,
    )


def _print(metrics: dict[str, Any]) -> None:
    table = Table(title=f"{metrics['model']} on {metrics['data']}", show_header=False)
    at_k = [name for name in metrics if name.startswith(("pass@", "maj@")) and not name.endswith("_ci95")]
    rates = ("format_rate", "language_consistency", "truncation_rate", "no_answer_rate")
    cells = {name: percent(metrics[name], metrics.get(f"{name}_ci95")) for name in (*at_k, *rates)}
    cells |= {name: str(metrics[name]) for name in ("n_problems", "samples_per_problem")}
    cells |= {name: f"{metrics[name]:.4g}" for name in ("mean_tokens", *SERVING) if metrics.get(name) is not None}
    for name, cell in cells.items():
        table.add_row(name, cell)
    counts = "counts only in the required format" if metrics["format_required"] else "counts in any format"
    caption = f"In per cent, 95% interval over problems; temperature {metrics['temperature']}, an answer {counts}."
    console = SafeConsole()
    console.print(table)
    console.print(caption, style="dim")
