"""The GPU version of step_time.py: Qwen2.5-0.5B and 1.5B with random weights, bf16 over fp32 masters.

    python benchmarks/step_time_gpu.py [--workload G1 G2] [--steps 5] [--beta 0 0.001] [--trl-rows 16]

8 x 16 completions of up to 1,024 tokens, long-tailed with mean 400, after 160 prompt tokens; forced lengths, turns and
figures as in step_time.py, with the peak of allocated device memory and the MFU of our update. Writes
benchmarks/step_time_gpu.json and .md.
"""

from __future__ import annotations

import argparse
import sys

from step_time import BETA, HERE, run, settings_of, table, write
from workloads import GPU_WORKLOADS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", choices=list(GPU_WORKLOADS), default=list(GPU_WORKLOADS))
    parser.add_argument("--steps", type=int, default=5, help="after the warm-up")
    parser.add_argument("--beta", nargs="+", type=float, default=[0.0, BETA])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--trl-rows", type=int, help="completions in one forward of TRL")
    chosen = parser.parse_args()

    import torch

    if not torch.cuda.is_available():
        print("error: torch finds no CUDA device here; step_time.py is for the CPU", file=sys.stderr)
        return 2
    cases = [(name, beta) for name in chosen.workload for beta in chosen.beta]
    results = run(cases, chosen.steps, chosen.threads, chosen.trl_rows)
    write(HERE / "step_time_gpu", results, chosen.threads)
    print(torch.cuda.get_device_name() + "\n" + settings_of(results, chosen.threads) + table(results))
    for row in results:
        print(f"{row['workload']}, beta {row['beta']:g}: MFU of our update {row['mfu'] or float('nan'):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
