"""`runtime.profile`: a trace of a few steps, and where their time went, in the run's profile/ folder."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from grpo.system.clock import Clock
from grpo.system.files import write_text
from grpo.system.world import is_main

log = logging.getLogger("grpo")

WARM_UP = 1  # steps before the profiled ones
OPERATORS = 20  # lines of the table


class Profiler:
    """Told of every step as it ends; profiles `steps` of them after the first and writes what it saw.

    The phases of the loop stand in the trace under their names. Of several processes each traces itself, the main one
    writes.
    """

    def __init__(self, folder: Path, steps: int, device: torch.device):
        self.folder, self.steps, self.device = folder, steps, device
        self.rows: list[Mapping[str, Any]] = []
        gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
        self.trace = profile(
            activities=[ProfilerActivity.CPU, *gpu],
            schedule=schedule(wait=0, warmup=WARM_UP, active=steps, repeat=1),
            on_trace_ready=self._write,
        )

    def step(self, row: Mapping[str, Any]) -> None:
        """A step has ended; `row` is its line of metrics.jsonl."""
        self.rows.append(row)
        self.trace.step()

    def _write(self, trace: Any) -> None:
        rows = self.rows[WARM_UP : WARM_UP + self.steps]
        if not is_main() or not rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "trace.json.gz"
        file.unlink(missing_ok=True)  # a link would be followed
        trace.export_chrome_trace(str(file))
        order = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        operators = trace.key_averages().table(sort_by=order, row_limit=OPERATORS, max_name_column_width=48)
        table = phase_table(rows)
        write_text(self.folder / "table.txt", f"{table}\n\nOperators, of all of these steps together:\n{operators}\n")
        log.warning("profile of %d steps, with the profiler's own cost in it:\n%s", len(rows), table)
        log.warning("operators: %s; trace (chrome://tracing): %s", self.folder / "table.txt", file)


def phase_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds of each phase in each step, and its share of all of them."""
    total = sum(row["seconds"] for row in rows)
    lines = [f"{'phase':<10}" + "".join(f"{'step ' + str(row['step']):>12}" for row in rows) + f"{'share':>9}"]
    for phase in (*Clock.PHASES, None):
        values = [row["seconds" if phase is None else f"seconds/{phase}"] for row in rows]
        share = sum(values) / total if total else 0.0
        lines.append(f"{phase or 'all':<10}" + "".join(f"{value:>12.3f}" for value in values) + f"{share:>9.1%}")
    return "\n".join(lines)


@contextmanager
def profiled(folder: Path, steps: int | None, device: torch.device) -> Iterator[Profiler | None]:
    """Around the loop; None when nothing is to be profiled. What a run too short for it did is written all the same."""
    if steps is None:
        yield None
        return
    profiler = Profiler(folder, steps, device)
    with profiler.trace:
        yield profiler
    if len(profiler.rows) <= WARM_UP:
        log.warning("nothing was profiled: the first of %d steps is a warm-up", len(profiler.rows))
