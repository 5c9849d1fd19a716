"""The code reward on the reference solutions of HumanEval, MBPP and MBPP sanitized: all must pass. Counts and times.

python benchmarks/code_reward.py [--isolation namespaces|limits] [--limit N]

The sets are read from the folder in GRPO_DATA, by default ../shared/data beside the project. Exit 1 when one fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real_data import data_folder, rows_of
from rewards.code.reward import code_reward
from rewards.code.sets import humaneval_row, mbpp_row

SETS = {"humaneval": humaneval_row, "mbpp": mbpp_row, "mbpp_sanitized": mbpp_row}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isolation", choices=("auto", "namespaces", "limits"), default="auto")
    parser.add_argument("--limit", type=int, help="only the first N rows of each set")
    options = parser.parse_args()
    if data_folder() is None:
        print("error: no data; set GRPO_DATA to the folder that holds sets/ and cases/", file=sys.stderr)
        return 2
    failures = 0
    for name, prepare in SETS.items():
        rows = [prepare(row) for row in islice(rows_of(f"sets/{name}.jsonl"), options.limit)]
        errors: dict[int, str] = {}
        start = time.perf_counter()
        scores = code_reward(
            [f"```python\n{row['reference']}\n```" for row in rows],
            [row["tests"] for row in rows],
            isolation=options.isolation,
            log_error=errors.__setitem__,
        )
        seconds = time.perf_counter() - start
        print(
            f"{name}: {scores.count(1.0)}/{len(rows)} pass, {seconds:.1f} s, {1e3 * seconds / len(rows):.0f} ms a row"
        )
        for index, score in enumerate(scores):
            if score != 1.0:
                failures += 1
                print(f"  {rows[index]['task_id']}: {score} {errors.get(index, '')}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
