"""Numbers in the pages that are constants or defaults of the code, or results of a benchmark: both say the same."""

import json
import math
import re

import pytest

from grpo.config.algorithm import PRESETS, AdvantageConfig, CorrectionConfig, DifficultyConfig, LossConfig
from grpo.config.data import DataConfig
from grpo.config.engine import EngineConfig, RuntimeConfig, ServerConfig, VllmConfig
from grpo.config.training import RLConfig
from grpo.config.yaml import load_yaml
from grpo.engines.vllm.request import COLDEST
from grpo.engines.vllm.start import CPU_CACHE_GIB
from grpo.engines.vllm.weights import CHUNK_BYTES
from grpo.learner.gate import MISMATCH_LIMIT
from grpo.learner.stats import BAND
from grpo.monitoring.health import DUMPS, NONFINITE_LIMIT
from grpo.rollout.difficulty import NEW_WEIGHT
from grpo.scoring.calls import REWARD_TIMEOUT
from grpo.scoring.groups import MAX_FAILED
from grpo.scoring.job import HANGS
from grpo.system.http import MAX_WAIT, PASSING
from grpo.system.stopping import GRACE
from rewards.format import ENOUGH_STEPS
from rewards.judge.reward import ASKS, Judge
from stages.check.rewards import TRIED
from stages.recipe.config import DecontaminateConfig
from support.documents import REPOSITORY, blocks, text

WORDS = {"a tenth": 0.1, "a quarter": 0.25, "half": 0.5, "three": 3, "five": 5, "ten": 10, "twenty": 20}
TINY = load_yaml((REPOSITORY / "configs" / "tiny.yaml").read_text(encoding="utf-8"), "tiny.yaml")
ZERO = load_yaml((REPOSITORY / "configs" / "tiny-zero.yaml").read_text(encoding="utf-8"), "tiny-zero.yaml")
MATH = TINY["evaluation"]["math"]
LORA = json.loads((REPOSITORY / "benchmarks" / "lora.json").read_text(encoding="utf-8"))


def per_cent(share: float) -> float:
    return round(100 * share, 1)


# (page, what stands there with its numbers in groups, the numbers). A blank matches any white space.
NUMBERS: list[tuple[str, str, list[float]]] = [
    (
        "algorithm.md",
        r"must not be above (\S+) in fp32, (\S+) in half precision, (\S+) with fp8 weights",
        [MISMATCH_LIMIT["float32"], MISMATCH_LIMIT["bfloat16"], MISMATCH_LIMIT["fp8"]],
    ),
    ("algorithm.md", r"\$\\epsilon = 10\^\{(-\d)\}\$, as in TRL", [math.log10(AdvantageConfig().epsilon)]),
    ("algorithm.md", r"`advantage\.std_floor` \(default (\d)\)", [AdvantageConfig().std_floor]),
    ("algorithm.md", r"Defaults: token, clip, \[(\d), (\d)\]", [CorrectionConfig().low, CorrectionConfig().high]),
    ("algorithm.md", r"`clip: cispo` has the default ([\d.]+)\.", [LossConfig().clip_low or 0]),
    ("algorithm.md", r"GSPO's bounds are (\S+)\)", [PRESETS["gspo"]["loss"]["clip_low"]]),
    (
        "algorithm.md",
        r"GSPO's small bounds \((\S+), (\S+)\)",
        [PRESETS["gspo"]["loss"][bound] for bound in ("clip_low", "clip_high")],
    ),
    ("algorithm.md", r"the latest group weighing (half)", [NEW_WEIGHT]),
    ("algorithm.md", r"past (a tenth) of a task's rows in a rollout", [MAX_FAILED]),
    ("metrics.md", r"above ([\d.]+) of a task's rows in a rollout the run stops", [MAX_FAILED]),
    ("metrics.md", r"whose probability differs by more than (a quarter)", [math.exp(BAND) - 1]),
    ("rewards.md", r"more than (a tenth) of a task's completions", [MAX_FAILED]),
    ("rewards.md", r"A call has (ten) minutes", [REWARD_TIMEOUT / 60]),
    ("rewards.md", r"after (three) calls in a row on which it hung", [HANGS]),
    ("rewards.md", r"begin like a step, (three) of them for 1\.0", [ENOUGH_STEPS]),
    ("rewards.md", r"means of (\d+) rows", [TRIED]),
    ("judge.md", r"verdict is asked for (three) times", [ASKS]),
    ("judge.md", r"on (\d+), (\d+), (\d+), 5xx, timeouts", list(PASSING)),
    ("judge.md", r"Retry-After up to (\d+) s", [MAX_WAIT]),
    ("judge.md", r"for one call on all rows; below (\d+)", [REWARD_TIMEOUT]),
    ("resume.md", r"`nonfinite/` \((five) at most", [DUMPS]),
    ("resume.md", r"and (\d+) in a row end the run", [NONFINITE_LIMIT]),
    ("resume.md", r"`runtime\.grace` seconds \((\d+);", [RuntimeConfig().grace]),
    ("resume.md", r"`runtime\.grace` seconds \((\d+);", [GRACE]),
    ("speed.md", r"`micro_batch_tokens` \(default (\d+)\)", [RLConfig.model_fields["micro_batch_tokens"].default]),
    ("vllm.md", r"pieces of at most (\d+) MiB", [CHUNK_BYTES / 2**20]),
    ("vllm.md", r"A temperature between 0 and ([\d.]+), which vLLM replaces by", [COLDEST]),
    ("vllm.md", r"which vLLM replaces by ([\d.]+),", [COLDEST]),
    ("vllm.md", r"instead of a share; on a CPU (\d+)", [CPU_CACHE_GIB]),
    (
        "../README.md",
        r"at temperature ([\d.]+) \(top-p ([\d.]+), (\d+) samples a problem\)",
        [MATH["temperature"], MATH["top_p"], MATH["samples"]],
    ),
    ("../README.md", r"\| 0-base \| \d+ \| (\d+) \|", [MATH["data"]["kwargs"]["n"]]),
    (
        "results.md",
        r"In per cent, (\d+) held-out problems, temperature ([\d.]+)",
        [ZERO["evaluation"]["math"]["data"]["kwargs"]["n"], ZERO["evaluation"]["math"]["temperature"]],
    ),
    ("results.md", r"With 100 steps instead of (\d+)", [ZERO["r1_zero"]["steps"]]),
    (
        "lora.md",
        r"pass@1 ([\d.]+)% in full and ([\d.]+)% with LoRA, difference (\S+) points \[(\S+), (\S+)\]",
        [
            per_cent(value)
            for value in (
                LORA["full"]["pass@1"],
                LORA["lora"]["pass@1"],
                LORA["difference"]["pass@1"],
                *LORA["difference"]["ci95"],
            )
        ],
    ),
]


@pytest.mark.parametrize(("page", "pattern", "numbers"), NUMBERS, ids=lambda value: value if type(value) is str else "")
def test_numbers_are_those_of_the_code(page, pattern, numbers):
    found = re.search(pattern.replace(" ", r"\s+"), text(page))
    assert found is not None, f"{page} no longer says this: change the pattern with it"
    words = [" ".join(word.split()) for word in found.groups()]
    said = [WORDS[word] if word in WORDS else float(word.replace("−", "-")) for word in words]
    assert said == pytest.approx(numbers, rel=1e-9)


def test_half_precision_has_one_limit():
    assert MISMATCH_LIMIT["float16"] == MISMATCH_LIMIT["bfloat16"]


def test_the_zone_of_the_over_long_penalty():
    tree = {"steps": 1, "group_size": 2, "prompts_per_step": 1, "optimizer": {"lr": 1}, "truncated": "penalise"}
    assert RLConfig.model_validate({**tree, "sampling": {"max_tokens": 100}}).penalty_zone == 100 / 5
    assert "is a fifth of the limit unless `penalty_tokens`" in text("algorithm.md").replace("\n", " ")


def test_sections_with_their_defaults():
    """Shown whole in a page, with the values that they have when nothing is said."""
    assert "`difficulty: {reward: accuracy, low: 0, high: 1, rest_epochs: 1}`" in text("algorithm.md")
    assert DifficultyConfig(reward="accuracy", low=0, high=1, rest_epochs=1) == DifficultyConfig(reward="accuracy")
    assert "`evaluation: {decontaminate: {ngram: 10, share: 0.5}}`" in text("evaluation.md")
    assert DecontaminateConfig(ngram=10, share=0.5) == DecontaminateConfig()
    assert DataConfig.model_fields["split"].default == "train"
    assert "of a hub data set: `train` unless told otherwise" in text("data.md")


def test_settings_of_vllm():
    """The blocks show the defaults, but for what only some want."""
    in_process, servers = (load_yaml(block, "vllm.md")["engine"] for block in blocks("vllm.md", "yaml"))
    assert in_process["max_rows"] == EngineConfig().max_rows
    for wanted in ("quantization", "kv_cache_gib"):
        in_process["vllm"].pop(wanted)
    assert in_process["vllm"] == {name: getattr(VllmConfig(), name) for name in in_process["vllm"]}
    servers["server"].pop("urls")
    assert servers["server"] == {name: getattr(ServerConfig(), name) for name in servers["server"]}


def test_defaults_of_the_judge():
    """The rows of the table whose cells are numbers: `retries`, `backoff` | 5, 1 s."""
    compared = {}
    for line in text("judge.md").splitlines():
        names = re.findall(r"`(\w+)`", line.split("|")[1]) if line.startswith("| `") else []
        values = [value.removesuffix(" s") for value in line.split("|")[2].strip().split(", ")] if names else []
        if len(names) == len(values) and all(re.fullmatch(r"[\d.]+", value) for value in values):
            compared |= dict(zip(names, map(float, values), strict=True))
    assert len(compared) >= 10
    assert compared == {name: Judge.model_fields[name].default for name in compared}


def numbers_of(cells: list[str]) -> list[float]:
    return [float(cell.strip("*× ").replace(",", "")) for cell in cells]


def rows_of(page: str, beginning: str) -> list[list[str]]:
    """The cells of a page's table rows that begin so."""
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text(page).splitlines()
        if line.startswith(f"| {beginning}")
    ]


def test_step_times_are_those_measured():
    results = json.loads((REPOSITORY / "benchmarks" / "step_time.json").read_text(encoding="utf-8"))["results"]
    for name, *cells in rows_of("speed.md", "W"):
        row = next(row for row in results if row["workload"] == name[:2] and row["beta"] == 0)
        expected = [row["ours"]["seconds"], row["trl"]["seconds"], row["trl/ours"]["seconds"]["ratio"]]
        expected += [row["ours"]["peak_mb"], row["trl"]["peak_mb"]]
        assert numbers_of(cells) == pytest.approx(expected, rel=0.03), name


def test_tokens_a_second_are_those_measured():
    cases = json.loads((REPOSITORY / "benchmarks" / "rollout.json").read_text(encoding="utf-8"))["cases"]
    beginnings = {"short": "32 prompts", "grouped": "8 prompts", "tailed": "the same, natural ends"}
    for case, beginning in beginnings.items():
        ((_, *cells),) = rows_of("speed.md", beginning)
        expected = [round(cases[case][engine]["tokens_per_second"]) for engine in ("embedded", "vllm", "generate")]
        assert numbers_of(cells) == expected
