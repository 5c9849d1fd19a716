"""The command line. Each command imports what it needs when it runs, so help and mistakes cost no time."""

from __future__ import annotations

import sys
from collections.abc import Callable

from grpo.errors import UserError, nearest
from stages.commands.common import Parser, guarded

SCORE_EXAMPLES = """\
  grpo score samples.jsonl --reward accuracy --reward format
  grpo score samples.jsonl --reward my_rewards.brevity --out scores.jsonl"""

HELP = """\
usage: grpo COMMAND [options]

The DeepSeek-R1 recipe as one resumable run.

commands:
  run      CONFIG             run the recipe: finished stages are skipped, an unfinished one goes on
  eval     MODEL --data SET   pass@1 and more, as a table and as JSON
  compare  A.json B.json      paired comparison of two evaluations
  score    FILE --reward R    apply reward functions to a JSONL file
  serve    CONFIG             vLLM servers for engine=vllm-server
  check    CONFIG             what can be wrong before spending compute
  view     RUN                completions, rewards and advantages step by step; --html FILE: a page

examples:
  grpo run tiny.yaml seed=1
  grpo eval runs/tiny/4-helpfulness-rl/model --data gsm8k --limit 100
  grpo compare runs/a/eval.json runs/b/eval.json
  grpo view runs/tiny --html page.html

`grpo COMMAND --help` says more."""


def _run(arguments: list[str]) -> int:
    from stages.commands.run import run_command

    return run_command(arguments)


def _eval(arguments: list[str]) -> int:
    from stages.commands.eval import eval_command

    return eval_command(arguments)


def _compare(arguments: list[str]) -> int:
    from stages.commands.compare import compare_command

    return compare_command(arguments)


def _check(arguments: list[str]) -> int:
    from stages.check.command import check_command

    return check_command(arguments)


def _view(arguments: list[str]) -> int:
    from stages.commands.view import view_command

    return view_command(arguments)


def _serve(arguments: list[str]) -> int:
    from stages.commands.serve import serve_command

    return serve_command(arguments)


def _score(arguments: list[str]) -> int:
    parser = Parser(
        "grpo score", "Apply reward functions to a JSONL file of {prompt, completion, ...columns}.", SCORE_EXAMPLES
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--reward", action="append", required=True, metavar="NAME_OR_PATH", help="may be repeated")
    parser.add_argument("--tokenizer", metavar="DIR", help="for rewards that read token ids or thinking tags")
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")
    chosen = parser.read(arguments)

    from stages.commands.score import score_file

    score_file(chosen.file, chosen.reward, chosen.tokenizer, chosen.out)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "eval": _eval,
    "compare": _compare,
    "score": _score,
    "serve": _serve,
    "check": _check,
    "view": _view,
}


def dispatch(arguments: list[str]) -> int:
    """The command named by the first word."""
    if not arguments:
        raise UserError("no command given; see grpo --help")
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'{nearest(name, COMMANDS)}; see grpo --help")
    return COMMANDS[name](rest)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `grpo`; the exit code."""
    return guarded(dispatch, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
