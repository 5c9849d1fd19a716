"""YAML 1.2 in config files, overrides, and the config.yaml of a run."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.config.engine import VllmConfig
from grpo.config.file import read_tree
from grpo.config.yaml import dump_yaml, load_yaml
from grpo.errors import UserError
from rewards.loader import load_reward
from stages.recipe.config import RecipeConfig
from stages.recipe.pipeline import save_config
from stages.recipe.preflight import check_function

TEXTS = [
    "no", "No", "NO", "yes", "on", "off", "y", "N", "nUll", "nan", "ไทย", "=", "<<", "-_", "._", "e5", "1e", "1_000",
    "0b11",
]  # fmt: skip
TEXTS += ["1_000", "0b11", "1:30", "190:20:30.15", "2026-01-01", "2026-02-30", "2026-01-01 10:00:00"]
VALUES = {
    "010": 10, "-08": -8, "+1": 1, "0o17": 15, "0x1F": 31, "1e-6": 1e-6, "1E+3": 1000.0, "1.e3": 1000.0, "-.5": -0.5,
    ".5e3": 500.0, "-.inf": float("-inf"), "true": True, "FALSE": False, "null": None, "~": None, "": None,
    "[1, no]": [1, "no"],
}  # fmt: skip
READ = [(text, text) for text in TEXTS] + list(VALUES.items())
TRICKY = [*TEXTS, *VALUES, "1e3", "'1'", '"', "a: b", "# no", "- x", "a\nb", " a ", "\x85\u2028", "!!int 3"]


@pytest.mark.parametrize(("written", "value"), READ)
def test_what_a_plain_value_is(tmp_path, written, value):
    file = tmp_path / "c.yaml"
    file.write_text(f"plain: {written}\nquoted: '{written}'\ntwice: \"{written}\"\nlist: [{written or 'null'}]\n")
    tree = read_tree(file, [f"override={written}", f"text='{written}'", f'deep.text="{written}"'])
    assert repr(tree["plain"]) == repr(tree["override"]) == repr(tree["list"][0]) == repr(value)
    assert tree["quoted"] == tree["twice"] == tree["text"] == tree["deep"]["text"] == written


def test_the_faults_that_were_seen(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text('kwargs: {marker: "1e3", language: no}\n')
    assert read_tree(file) == {"kwargs": {"marker": "1e3", "language": "no"}}


@pytest.mark.parametrize(("text", "message"), [
    ("a: 1\nb: {c: 1,\n  c: 2}", "c.yaml, line 3: key 'c' given twice"),
    ("a: 1\n'a': 2", "c.yaml, line 2: key 'a' given twice"),
    ("{prompt}: 1", "c.yaml, line 1: a key must be a word, not {'prompt': None}"),
    ("a: &x [*x]", "c.yaml, line 1: not valid YAML: what contains itself"),
    ("a:\n  b: !!python/name:os.system", "c.yaml, line 2: not valid YAML: the tag 'tag:yaml.org,2002:python/name:os"),
    ("a: !!int x", "c.yaml, line 1: not valid YAML: the tag 'tag:yaml.org,2002:int' has no meaning here"),
    ("a: !!binary aGk=", "c.yaml, line 1: not valid YAML: the tag"),
    ("a: !!map [1]", "c.yaml, line 1: not valid YAML: the tag"),
    ("a: 1\n--- \nb: 2", "c.yaml, line 2: not valid YAML: but found another document"),
    ("a: " + "[" * 5000, "c.yaml: not valid YAML: maximum recursion depth exceeded"),
    ("a: " + "1" * 5000, "c.yaml: not valid YAML: Exceeds the limit"),
])  # fmt: skip
def test_what_is_refused(text, message):
    with pytest.raises(UserError) as caught:
        load_yaml(text, "c.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_config_with_any_text_comes_back_from_its_run_folder(tmp_path):
    data = {"fn": "f", "kwargs": {**dict.fromkeys(TRICKY, 1), "list": TRICKY}}
    training = {"steps": 1, "batch_size": 1, "max_tokens": 9, "optimizer": {"lr": 1e-6}}
    tree = {
        "base": {"model": "010"},
        "cold_start": {"data": data, **training},
        "evaluation": {"math": {"data": data, "max_tokens": 9}},
    }
    config = RecipeConfig.model_validate(tree)
    save_config(config, tmp_path)
    assert RecipeConfig.model_validate(read_tree(tmp_path / "config.yaml")) == config
    assert read_tree(tmp_path / "config.yaml") == config.model_dump(mode="json")
    assert "    lr: 1.0e-06\n" in (tmp_path / "config.yaml").read_text()  # a float to readers of YAML 1.1 as well


WRITABLE = st.text(st.characters(codec="utf-8", exclude_characters="\0"))  # what YAML can hold
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WRITABLE | st.sampled_from(TRICKY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WRITABLE | st.sampled_from(TRICKY), inner, max_size=3),
    max_leaves=8,
)


@given(trees)
def test_what_is_written_is_read(tree):
    assert load_yaml(dump_yaml(tree), "c.yaml") == tree


OLD = """\
seed: 0
kwargs:
  'no': 'no'
  time: '1:30'
  date: '2026-01-01'
  octal: '010'
  n: 240
  lr: 1.0e-06
  big: 1.0e+16
  empty: ''
  none: null
  'yes': true
  exp: 1e3
  thai: ไทย
  long: a text of more than eighty characters, which the writer has broken where a
    line ended
list: []
"""


def test_what_earlier_runs_have_written_means_the_same():
    """As PyYAML wrote it."""
    tree = load_yaml(OLD, "config.yaml")
    assert tree.pop("kwargs") == {
        "no": "no",
        "time": "1:30",
        "date": "2026-01-01",
        "octal": "010",
        "empty": "",
        "thai": "ไทย",
        "n": 240,
        "lr": 1e-6,
        "big": 1e16,
        "exp": 1000.0,
        "none": None,
        "yes": True,
        "long": "a text of more than eighty characters, which the writer has broken where a line ended",
    }
    assert tree == {"seed": 0, "list": []}


def rows(shuffled: bool = False, name: str = "") -> None:
    """A data function."""


def test_no_is_not_taken_for_true(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(UserError, match=r"reward 'accuracy': kwargs: 'strict' must be true or false, got 'no'"):
        load_reward({"fn": "accuracy", "kwargs": {"strict": "no"}})
    with pytest.raises(UserError, match=r"test_yaml\.rows': 'shuffled' must be true or false, got 'off'"):
        check_function("test_yaml.rows", {"shuffled": "off"})
    check_function("test_yaml.rows", {"shuffled": True, "name": "off"})


@pytest.mark.parametrize(("word", "value"), [("no", False), ("on", True), ("Off", False), ("yes", True)])
def test_a_switch_takes_the_words_as_before(word, value):
    assert VllmConfig.model_validate({"sleep": load_yaml(word, "override")}).sleep is value


def test_a_merge_key_is_refused():
    """YAML 1.1's, which would silently be a key of that name; quoted it is one."""
    with pytest.raises(UserError, match=r"c\.yaml, line 2: '<<' merges nothing in YAML 1\.2: write the keys out"):
        load_yaml("a: &x {b: 1}\n<<: *x\n", "c.yaml")
    assert load_yaml("'<<': 1\n", "c.yaml") == {"<<": 1}
