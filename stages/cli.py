"""The command line. Each command imports what it needs when it runs, so help and mistakes cost no time."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable

from grpo.errors import UserError, nearest
from stages.commands.common import guarded

COMMANDS = {
    "run": "stages.commands.run:run_command",
    "eval": "stages.commands.eval:eval_command",
    "compare": "stages.commands.compare:compare_command",
    "score": "stages.commands.score:score_command",
    "serve": "stages.commands.serve:serve_command",
    "check": "stages.check.command:check_command",
    "new": "stages.check.new:new_command",
    "view": "stages.commands.view:view_command",
}
HELP = """\
usage: grpo COMMAND [options]

The DeepSeek-R1 recipe as one resumable run.

commands:
  run      CONFIG             run the recipe: finished stages are skipped, an unfinished one goes on
  eval     MODEL --data SET   pass@1 and more, as a table and as JSON
  compare  A.json B.json      paired comparison of two evaluations
  score    FILE --reward R    apply reward functions to a JSONL file
  serve    CONFIG             vLLM servers for engine=vllm-server
  new      DATA --model M     a recipe for these rows and this model
  check    CONFIG             what can be wrong before spending compute
  view     RUN                completions, rewards and advantages step by step; --html FILE: a page

examples:
  grpo run tiny.yaml seed=1
  grpo eval runs/tiny/4-helpfulness-rl/model --data gsm8k --limit 100
  grpo compare runs/a/eval.json runs/b/eval.json
  grpo view runs/tiny --html page.html

`grpo COMMAND --help` says more."""


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
    command: Callable[[list[str]], int] = pkgutil.resolve_name(COMMANDS[name])
    return command(rest)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `grpo`; the exit code."""
    return guarded(dispatch, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
