"""Settings that contradict each other: one line that says what contradicts what, also on the command line."""

import ast
import re
from pathlib import Path

import pytest

from grpo.config.data import EvalConfig
from grpo.config.file import read_config, validate
from grpo.config.training import TrainConfig
from grpo.config.yaml import dump_yaml
from grpo.errors import UserError
from stages.check.command import Warned, setting_checks
from stages.check.subject import Subject
from stages.cli import main
from stages.recipe.config import RecipeConfig
from support.command import refused as refused_command
from support.recipes import FULL, PLAIN, REPOSITORY, RL, SMALL, changed, dotted, refused, settings_of

# Overrides | words of the refusal.
OF_RL = """
advantage.scale=none advantage.epsilon=1e-3 | advantage': 'epsilon' has no effect with scale: none
advantage.scale=none advantage.std_floor=0.1 | advantage': 'std_floor' has no effect with scale: none
advantage.scale=none advantage.combine=normalise_then_sum | advantage': 'combine: normalise_then_sum' with scale: none
preset=dr_grpo advantage.std_floor=0.1 | advantage': 'std_floor' has no effect with scale: none
advantage.scale=mean advantage.epsilon=1e-3 | advantage': 'epsilon' has no effect with scale: mean
preset=maxrl advantage.std_floor=0.1 | advantage': 'std_floor' has no effect with scale: mean
preset=maxrl truncated=penalise | 'advantage.scale': mean divides by the mean reward, which 'truncated: penalise' makes
preset=maxrl loss.beta=0.1 loss.kl.placement=reward | mean reward, which 'loss.kl.placement: reward' makes negative
preset=maxrl tasks.math.rewards.1.weight=-1 | mean reward, which a negative 'weight' makes negative
preset=dppo loss.ratio=sequence | loss': 'clip': dppo bounds the probability of each token
preset=dppo loss.clip_high=1 | loss': with clip: dppo 'clip_low' and 'clip_high' bound a difference of probabilities
preset=dppo loss.clip_low=10 | loss': with clip: dppo 'clip_low' and 'clip_high' bound a difference of probabilities
loss.beta=0.1 loss.kl.placement=reward loss.kl.weighted=true | loss.kl': 'weighted' is for a KL in the loss
loss.beta=0.1 loss.kl.estimator=k1 | loss.kl': unweighted k1 in the loss has zero expected gradient
loss.ratio=sequence loss.beta=0.1 loss.kl={estimator: k1, weighted: true} | loss': 'kl': k1 weighted by a sequence ratio
preset=gspo loss.beta=0.1 loss.kl={estimator: k1, weighted: true} | loss': 'kl': k1 weighted by a sequence ratio
loss.clip=cispo loss.dual_clip=3 | loss': 'dual_clip' has no effect with clip: cispo
preset=cispo loss.dual_clip=3 | loss': 'dual_clip' has no effect with clip: cispo
loss.kl.estimator=k2 | loss': 'kl' has no effect with beta: 0
loss.distill=t loss.ratio=sequence | loss': 'distill' gives each token its own advantage, which ratio: sequence
loss.distill=t preset=gspo | loss': 'distill' gives each token its own advantage, which ratio: sequence
loss.distill=t loss.off_policy_mask=0.1 | loss': 'off_policy_mask' is for sequences with one advantage
loss.distill=t advantage.scale=none | 'advantage' has no effect: the advantages are the teacher's
loss.distill=t preset=dapo | 'truncated: penalise' has no effect: the advantages are the teacher's
loss.distill={model: t} loss.beta=0.1 loss.kl={estimator: k1, placement: reward} |
    'loss.kl.placement: reward' has no effect: the advantages are the teacher's
loss.distill={model: t, urls: [http://a]} sampling.temperature=0.7 | 'loss.distill.urls': vLLM scores at temperature 1
loss.distill={horizon: token} | loss.distill.model' is missing
preset=deepseek_r1 loss.beta=0 loss.kl.estimator=k2 | loss': 'kl' has no effect with beta: 0
difficulty.reward=format difficulty.low=0.5 difficulty.high=0.5 | difficulty': 'low' must be below 'high'
difficulty.reward=format difficulty.high=0.9 difficulty.target=1 | difficulty': 'target' lies outside 'low' and 'high'
difficulty.reward=format difficulty.low=0.5 difficulty.retire=0.5 | difficulty': 'low' must be below 'retire'
difficulty.reward=format difficulty.high=0.95 difficulty.retire=0.9 | difficulty': 'high' has no effect: what reaches
difficulty.reward=format difficulty.target=0.95 difficulty.retire=0.9 | difficulty': 'target' lies outside 'low' and
difficulty.reward=fromat | 'difficulty.reward': no task has a reward 'fromat' (did you mean 'format'?)
dynamic_sampling.reward=acuracy |
    'dynamic_sampling.reward': no task has a reward 'acuracy' (did you mean 'accuracy'?)
lora={r: 4, alpha: 8, targets: []} | lora.targets': must be all-linear, a regular expression, or a list
lora={r: 4, alpha: 8, targets: [q_proj, 3]} | lora.targets': must be all-linear, a regular expression, or a list
lora={r: 4, alpha: 8, targets: ''} | lora.targets': must be all-linear, a regular expression, or a list
optimizer.min_lr=1 optimizer.schedule=linear | optimizer': 'min_lr' is above 'lr'
optimizer.min_lr=1e-4 | optimizer': 'min_lr' has no effect with schedule: constant
checkpoint.keep=5 | checkpoint': 'keep' has no effect without 'every'
checkpoint={every: 5, best: reward/acuracy} |
    'checkpoint.best': no reward 'reward/acuracy' (did you mean 'reward/accuracy'?)
checkpoint={every: 5, best: eval/pass} | 'checkpoint.best': no reward 'eval/pass' (did you mean 'eval/pass@1'?)
rollout_prompts=6 | 'rollout_prompts' must be a multiple of 'prompts_per_step'
reference_every=4 | 'reference_every' without 'loss.beta' > 0
penalty_tokens=4 | 'penalty_tokens' has no effect without truncated: penalise
truncated=penalise penalty_tokens=33 | 'penalty_tokens' is more than 'sampling.max_tokens'
loss.beta=0.1 loss.kl.placement=reward advantage.combine=normalise_then_sum |
    'loss.kl.placement: reward' needs advantage.combine: sum_then_normalise
truncated=penalise tasks.math.rewards.1.name=overlong | a reward is called 'overlong'
preset=dapo tasks.math.rewards.1.name=overlong | a reward is called 'overlong'
tasks={a/b: {data: {path: x.jsonl}, rewards: [accuracy]}} | cannot be the name of a file
tasks.math.last_steps=9 | every task has 'last_steps'
tasks.math.rewards.0.weight=0 tasks.math.rewards.1.weight=0 | tasks.math': 'rewards': each has weight 0
tasks.math.rewards.1.fn=other.accuracy | tasks.math.rewards': two of them are called 'accuracy'
tasks.math.data.fn=my.rows | tasks.math.data': give exactly one of 'path' and 'fn'
tasks.math.data.path=null | tasks.math.data': give exactly one of 'path' and 'fn'
tasks.math.data.kwargs.n=3 | tasks.math.data': 'kwargs' has no effect without 'fn'
tasks.math.data={fn: my.rows, split: test} | tasks.math.data': 'split' is of a hub data set
tasks.math.data={fn: my.rows, subset: main} | tasks.math.data': 'subset' is of a hub data set
tasks.math.data.template=Question | tasks.math.data': 'template' must contain {prompt}
tasks.math.data.template='{prompt}' tasks.math.data.system=s |
    tasks.math.data': 'system' has no place in a plain-text 'template'
tasks.math.data.overlong=error | tasks.math.data': 'overlong: error' has no effect without 'max_prompt_tokens'
"""
OF_SECTIONS = """
engine=vlm | 'engine.kind': Input should be 'local', 'vllm', 'vllm-server' or 'auto'
engine={kind: vllm, vllm: {memry: 0.5}} | 'engine.vllm.memry'
engine={kind: vllm-server, server: {urls: []}} | 'engine.server.urls'
base={} | 'base': give exactly one of 'model' and 'pretrain'
base.steps=3 | 'base': 'steps' and 'pretrain' belong together
cold_start.epochs=1 | 'cold_start': give exactly one of 'steps' and 'epochs'
cold_start.micro_batch_size=3 | 'cold_start': 'batch_size' must be a multiple
cold_start.data={path: c, suffix: '!'} | 'cold_start.data': 'suffix' has no effect here
cold_start.data={path: c, template: '{prompt}'} | 'template' has no effect here
evaluation={leak_check: my.keys} | 'evaluation': 'leak_check' needs the problems of 'math' beside it
evaluation={every: 10} | 'evaluation': 'every' needs the problems of 'math' beside it
evaluation.every=0 | 'evaluation.every.steps': Input should be greater than or equal to 1, got 0
evaluation.every=2.5 | 'evaluation.every.steps': Input should be a valid integer
evaluation.every=many | 'evaluation.every': must be a section (key: value), got 'many'
evaluation.every=true | 'evaluation.every': must be a section (key: value), got True
evaluation.every={steps: 5, sampels: 2} | unknown key 'evaluation.every.sampels' (did you mean 'samples'?)
evaluation.every={problems: 5} | 'evaluation.every.steps' is missing
evaluation.math.temperature=0 evaluation.every={steps: 5, samples: 2} | 'every.samples' must be 1 with temperature: 0
reasoning_rl.checkpoint={every: 5, best: eval/pass@1} |
    'reasoning_rl.checkpoint.best: eval/pass@1' needs a policy that is evaluated on its way: set 'evaluation.every'
evaluation={decontaminate: {}} | 'decontaminate' needs the problems
reasoning_rl.data=train.jsonl |
    'reasoning_rl': 'data' and 'rewards' are those of the only task, and here are 'tasks' too
student={} | 'student' needs 'student_base', the model that it trains
student_rl={steps: 1, data: t.jsonl, rewards: [accuracy]} | 'student_rl' needs 'student_base', the model that it trains
student_base=m student={} | 'student' without 'data' learns from stage 3's
evaluation=null | 'evaluation': must be a section (key: value), got nothing
reasoning_rl.tasks.math.rewards=null | rewards': must be a list, got nothing
reasoning_rl.tasks.math.rewards=[] | rewards': must not be empty, got []
evaluation.sets={math: {data: x.jsonl}} | 'sets': 'math' is what the problems beside them are called
evaluation.sets={a/b: {data: x.jsonl}} | 'sets': 'a/b' cannot be the name of a file
evaluation.sets={a: {data: x.jsonl, after: [base, cold]}} | 'evaluation.sets.a.after': 'cold': no stage of this config
evaluation.math.k=[2] | pass@k needs k from 1 to 'samples' (1), got 2
evaluation.math.k=[0] | pass@k needs k from 1
evaluation.math.temperature=0 evaluation.math.samples=2 | 'samples' must be 1 with temperature: 0
evaluation.math.format={fn: format, weight: 2} | 'evaluation.math.format': 'weight' has no effect here
evaluation.math.accuracy={fn: accuracy, name: a} | 'evaluation.math.accuracy': 'name' has no effect here
seed=true | 'seed': must be a number
seed=1e300 | is beyond 9.22e+18, which no run can honour
"""
OF_FULL = """
base.model=m | 'base': give exactly one of 'model' and 'pretrain'
base.template_kwargs={thinking: true} | 'base': 'chat_template' and 'template_kwargs' are for an existing 'model'
base.steps=null | 'base': 'steps' and 'pretrain' belong together
base.pretrain.hidden_size=30 | 'base.pretrain': 'hidden_size' must be an even
base.pretrain.hidden_size=12 | 'base.pretrain': 'hidden_size' must be an even
base.pretrain.kv_heads=3 | 'heads' must be a multiple of 'kv_heads'
base.pretrain.micro_batch_size=3 | multiple of 'micro_batch_size'
base.pretrain.corpus={path: c, system: s} | 'base.pretrain.corpus': 'system' has no effect here
reasoning_rl=null helpfulness_rl=null r1_zero=null student_rl=null |
    'evaluation.every' has no effect: no stage of reinforcement learning is here
safety_model.router_loss=0.1 | 'router_loss' has no effect here: a reward model learns from scores alone
safety_model.data={path: c, max_prompt_tokens: 3} | 'safety_model.data': 'max_prompt_tokens'
rejection_sampling.filters=[] | 'rejection_sampling.filters'
rejection_sampling.filters=[{fn: format, weight: 2}] |
    'rejection_sampling.filters.0': 'weight' has no effect here: a filter
rejection_sampling.filters=[{fn: format}, {fn: format}] | two of them are called 'format'
rejection_sampling.general={path: g, suffix: '!'} | 'rejection_sampling.general': 'suffix'
"""
CONTRADICTIONS = [
    (changed(tree, overrides, below), words)
    for table, tree, below in ((OF_RL, SMALL, "reasoning_rl."), (OF_SECTIONS, SMALL, ""), (OF_FULL, FULL, ""))
    for overrides, words in (line.split(" | ") for line in table.replace("|\n    ", "| ").strip().splitlines())
]


@pytest.mark.parametrize(("tree", "words"), CONTRADICTIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_contradiction_says_what_contradicts_what(tree, words):
    line = refused(tree)
    assert words in line
    if tree["cold_start"] == SMALL["cold_start"] and tree["reasoning_rl"] != SMALL["reasoning_rl"]:
        assert "'reasoning_rl" in line


def test_the_small_and_the_full_one_are_right():
    validate(RecipeConfig, SMALL, "small")
    validate(RecipeConfig, FULL, "full")


def test_the_list_above_holds_every_refusal_of_the_validators():
    """Each `raise ValueError(...)` in the config files is met by one of the lines."""
    lines = [refused(tree) for tree, _ in CONTRADICTIONS]
    names = ("grpo/config/" + name for name in ("algorithm", "engine", "data", "training", "section"))
    for file in (*names, "stages/recipe/config"):
        patterns = raised(ast.parse((REPOSITORY / f"{file}.py").read_text()))
        assert patterns
        for pattern in patterns:
            assert any(re.search(pattern, line) for line in lines), (file, pattern)


def raised(tree: ast.AST) -> list[str]:
    """A pattern for the text of every ValueError that is raised."""
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    texts = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "ValueError"]
    return [
        "".join(
            re.escape(part.value) if isinstance(part, ast.Constant) else ".*"
            for part in (text.values if isinstance(text, ast.JoinedStr) else [text])
        )
        for text in texts
    ]


def test_what_may_stand_together_is_not_refused():
    allowed = [
        "difficulty={reward: accuracy} dynamic_sampling={reward: format}",
        "advantage.combine=normalise_then_sum tasks.math.rewards=[{fn: accuracy}]",
        "checkpoint.every=1000",  # a shortened run keeps its other settings
        "optimizer.warmup_steps=1000",
        "loss.beta=0.1 reference_every=1000",
        "loss.beta=0.1 loss.kl={placement: reward, estimator: k1}",
        "preset=cispo loss.ratio=sequence",
        "preset=gspo loss.beta=0.1 loss.kl.weighted=true",
        "loss.beta=0.1 loss.kl={estimator: k1, weighted: true}",
        "difficulty={reward: accuracy, target: 1}",
        "preset=dapo truncated=mask",
        "preset=dapo loss.distill={model: t, reward_weight: 0.1}",
        "loss.distill=t loss.distill.horizon=completion preset=cispo loss.beta=0.1 loss.entropy_bonus=0.1",
        "preset=scalerl difficulty={reward: accuracy, low: null, retire: 0.9, target: 0.5}",
        "difficulty={reward: accuracy, high: 0.8, retire: 0.9}",
        "preset=dppo loss.clip_low=null loss.dual_clip=3",
        "preset=maxrl advantage.combine=normalise_then_sum",
    ]
    for overrides in allowed:
        validate(RecipeConfig, changed(SMALL, overrides, "reasoning_rl."), overrides)


def test_a_contradiction_at_the_root_of_a_config_has_no_key_to_name():
    line = refused(PLAIN | {"model": "m", "out": "o", "rollout_prompts": 3}, TrainConfig)
    assert line == "config 'c.yaml': 'rollout_prompts' must be a multiple of 'prompts_per_step'"


# --- through the file and the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [RecipeConfig, TrainConfig, EvalConfig])
def test_from_a_file_and_by_override(tmp_path, model):
    tree = {
        RecipeConfig: FULL,
        TrainConfig: {**RL, "dynamic_sampling": None, "difficulty": None, "model": "m", "out": "o"},
        EvalConfig: FULL["evaluation"]["math"],
    }[model]
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(tree))
    right = read_config(model, file)
    for path, _ in list(settings_of(right))[:: 9 if model is RecipeConfig else 3]:
        if any(isinstance(key, int) for key in path):
            continue
        with pytest.raises(UserError) as caught:
            read_config(model, file, [f"{dotted(path)}z=1"])
        assert f"c.yaml': unknown key '{dotted(path)}z' (did you mean '{path[-1]}'?)" in str(caught.value)


@pytest.mark.parametrize(("override", "words"), [
    ("reasoning_rl.loss.beeta=1", "'reasoning_rl.loss.beeta' (did you mean 'beta'?)"),
    ("reasoning_rl.tasks.math.reward=1", "(did you mean 'rewards'?)"),
    ("reasoning_rl.loss.clip_low=-1", "'reasoning_rl.loss.clip_low'"),
    ("reasoning_rl.group_size=1", "'reasoning_rl.group_size'"),
    ("reasoning_rl.sampling=3", "'reasoning_rl.sampling': must be a section (key: value), got 3"),
    ("reasoning_rl.preset=grpo", "'reasoning_rl.preset'"),
    ("reasoning_rl.reference_every=3", "'reasoning_rl': 'reference_every' without 'loss.beta' > 0"),
    ("reasoning_rl.dynamic_sampling.reward=fmt", "no task has a reward 'fmt' (did you mean 'format'?)"),
    ("runtime.dtype=float8", "'runtime.dtype'"), ("seed=-1", "'seed'"),
    ("evaluation.math.k=[8]", "'samples' (1), got 8"),
    ("base.modle=x", "'base.modle' (did you mean 'model'?)"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["run", "check"])
def test_the_command_line_exits_with_2_and_one_line(tmp_path, monkeypatch, capsys, command, override, words):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(dump_yaml(SMALL))
    line = refused_command(capsys, main([command, "c.yaml", override]))
    assert line.startswith("error: config 'c.yaml': ")
    assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]


def test_check_warns_of_what_a_short_run_does_not_reach():
    """No refusal: a run shortened by `steps` keeps its other settings."""
    tree = changed(SMALL, "optimizer.warmup_steps=40 loss.beta=0.1 reference_every=50", "reasoning_rl.")
    checks = dict(setting_checks(Subject(RecipeConfig.model_validate(tree), Path("runs"))))
    assert checks["steps of cold_start"]() == ""
    with pytest.raises(Warned, match=r"40 steps do not reach optimizer\.warmup_steps=40, reference_every=50"):
        checks["steps of reasoning_rl"]()
