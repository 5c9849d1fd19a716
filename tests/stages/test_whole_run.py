"""The whole recipe for real: every stage of configs/tiny.yaml, a few steps each, through the command line."""

import json
from pathlib import Path
from typing import Any

from grpo.config.yaml import load_yaml
from stages.cli import main
from support.recipe import SHORT

NUMBERED = ["0-base", "1-cold-start", "2-reasoning-rl", "3-rejection-sampling", "4-helpfulness-rl"]
REWARD_MODELS = ["reward-helpfulness", "reward-safety"]

# The contracts of the run directory.
SUMMARY = {"config", "seed", "seconds", "stages"}
ROW = {
    "stage", "seconds", "n_problems", "pass@1", "pass@1_ci95", "format_rate", "language_consistency", "general",
    "general_ci95", "helpfulness", "helpfulness_ci95", "safety", "safety_ci95", "over_refusal",
}  # fmt: skip
EVAL = {
    "model", "data", "n_problems", "samples_per_problem", "pass@1", "pass@1_ci95", "pass@2", "maj@2", "format_rate",
    "language_consistency", "truncation_rate", "no_answer_rate", "mean_tokens", "temperature", "top_p", "max_tokens",
    "seed", "engine", "template_hash", "template_date", "data_hash", "seconds",
}  # fmt: skip
EVAL_MORE = {
    "sha256", "problems_sha256",
    "format_required", "general", "general_ci95", "helpfulness", "helpfulness_ci95", "safety", "safety_ci95",
    "over_refusal", "over_refusal_ci95", "unjudged_problems", "pass@2_ci95", "maj@2_ci95", "prompt_hash",
}  # fmt: skip
MANIFEST = {
    "stage", "status", "config", "config_hash", "hash", "parents", "parent_hash", "input_hashes", "data_hashes",
    "model_files", "evaluation_hash", "versions", "seed", "engine", "seconds", "tokens", "training", "metrics",
    "finished", "accepted_changes", "sha256",
}  # fmt: skip
RL_METRICS = {
    "step", "reward", "reward/accuracy", "reward_std", "frac_zero_variance", "kl", "clip_fraction", "entropy",
    "grad_norm", "lr", "loss", "completion_length", "truncated_fraction", "logprob_mismatch", "logprob_mismatch_max",
    "seconds", "tokens_per_second",
}  # fmt: skip


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def state(run: Path) -> dict[Path, tuple[int, int]]:
    """What is in a run folder, but for the two files that every call writes anew."""
    files = [file for file in run.rglob("*") if file.is_file() and file.name not in ("config.yaml", "summary.json")]
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in files}


def test_the_whole_recipe(tmp_path, capsys):
    run = tmp_path / "run"
    curve = ["evaluation.every={steps: 2, problems: 4, samples: 1}", "reasoning_rl.checkpoint.best=eval/pass@1"]
    command = ["run", "tiny.yaml", "--out", str(run), *SHORT, *curve]
    assert main(command) == 0, capsys.readouterr().err

    summary = read(run / "summary.json")
    assert summary.keys() == SUMMARY
    assert (summary["config"], summary["seed"]) == ("tiny.yaml", 0)
    assert [row["stage"] for row in summary["stages"]] == NUMBERED
    at_k = {f"{name}@2{ends}" for name in ("pass", "maj") for ends in ("", "_ci95")}  # as the config asks
    assert all(row.keys() == ROW | at_k for row in summary["stages"])
    assert load_yaml((run / "config.yaml").read_text(encoding="utf-8"), "yaml")["base"]["steps"] == 3
    for stage in [*NUMBERED, *REWARD_MODELS]:
        folder = run / stage
        manifest = read(folder / "manifest.json")
        assert manifest.keys() == MANIFEST
        assert (manifest["stage"], manifest["status"]) == (stage, "finished")
        assert {file.name for file in (folder / "model").iterdir()} >= {"config.json", "model.safetensors"}
        assert (folder / "metrics.jsonl").is_file()
        assert list((folder / "data").glob("*.jsonl"))
        if stage in NUMBERED:
            result = read(folder / "eval.json")
            assert result.keys() == EVAL | EVAL_MORE
            assert result["n_problems"] == 8
    for stage in ("2-reasoning-rl", "4-helpfulness-rl"):
        rows = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [row["step"] for row in rows] == [0, 1, 2]  # 0: of the model before, with its point of the curve alone
        assert all(row.keys() >= RL_METRICS for row in rows)
        assert [row["eval/pass@1"] is not None for row in rows] == [True, False, True]
    assert (run / "2-reasoning-rl" / "checkpoints" / "best").read_text() == "step-000002\n"

    before = state(run)
    capsys.readouterr()
    assert main(command) == 0
    assert state(run) == before  # every stage is finished and skipped
    assert read(run / "summary.json") == summary

    assert main([*command, "cold_start.steps=3"]) == 2
    assert "cold_start.steps: 2 -> 3" in capsys.readouterr().err
    assert state(run) == before
