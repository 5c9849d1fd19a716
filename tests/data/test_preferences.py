"""Preference sets as they are published -> a prompt and two answers; what cannot be read so is refused by its row."""

import json
from typing import Any

import pytest

from grpo.data.preferences import read_judged, read_pair
from grpo.errors import UserError
from support.chat import assistant, system, user

Q, GOOD, BAD = user("Q"), assistant("good"), assistant("bad")
BEFORE = [user("Q0"), assistant("A0")]
LONG = "\n\nHuman: Q0\n\nAssistant: A0\n\nHuman: Q\n\nAssistant: "

PAIRS: dict[str, tuple[dict[str, Any], Any]] = {
    "texts": ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, "Q"),
    "messages": ({"prompt": [Q], "chosen": [GOOD], "rejected": [BAD]}, [Q]),
    "UltraFeedback: the prompt in both": ({"prompt": "Q", "chosen": [Q, GOOD], "rejected": [Q, BAD], "score": 1}, "Q"),
    "TRL's implicit prompt": ({"chosen": [Q, GOOD], "rejected": [Q, BAD]}, [Q]),
    "several turns": ({"chosen": [*BEFORE, Q, GOOD], "rejected": [*BEFORE, Q, BAD]}, [*BEFORE, Q]),
    "turns after the prompt": ({"prompt": "Q0", "chosen": [BEFORE[1], Q, GOOD], "rejected": [BEFORE[1], Q, BAD]},
                               [*BEFORE, Q]),
    "hh-rlhf": ({"chosen": f"{LONG}good", "rejected": f"{LONG}bad"}, [*BEFORE, Q]),
    "in JSON": ({"chosen": json.dumps([Q, GOOD]), "rejected": json.dumps([Q, BAD])}, [Q]),
    "LLaMA-Factory": ({"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "good"},
                       "rejected": {"from": "gpt", "value": "bad"}}, [Q]),
    "LLaMA-Factory's Alpaca": ({"instruction": "Q", "input": "I", "chosen": "good", "rejected": "bad"}, "Q\n\nI"),
    "orca": ({"system": "S", "question": "Q", "chosen": "good", "rejected": "bad"}, [system("S"), Q]),
    "orca without a system": ({"system": "", "question": "Q", "chosen": "good", "rejected": "bad"}, "Q"),
    "PKU-SafeRLHF": ({"prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1,
                      "safer_response_id": 0}, "Q"),
    "a system message in the answers": ({"prompt": "Q", "chosen": [system("S"), Q, GOOD],
                                         "rejected": [system("S"), Q, BAD]}, [system("S"), Q]),
    "a system message beside": ({"system": "S", "chosen": [Q, GOOD], "rejected": [Q, BAD]}, [system("S"), Q]),
    "only the safer": ({"prompt": "Q", "response_0": "good", "response_1": "bad", "safer_response_id": 0}, "Q"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "prompt"), PAIRS.values(), ids=PAIRS)
def test_pairs(row, prompt):
    read = read_pair(row, "row 0")
    assert (read["prompt"], read["chosen"], read["rejected"]) == (prompt, "good", "bad")
    assert read_pair(read, "row 0") == read


def test_columns_of_a_classical_row_stay_in_their_order():
    row = {"rejected": "b", "id": 3, "prompt": "p", "chosen": "c"}
    assert list(read_pair(row, "row").items()) == list(row.items())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no answer": ({"prompt": "Q", "chosen": "good"}, "'rejected' is missing; rows need prompt, chosen, rejected"),
    "no prompt": ({"chosen": "good", "rejected": "bad"}, "column 'prompt' is missing"),
    "they part early": ({"chosen": [*BEFORE, Q, GOOD], "rejected": [BEFORE[0], assistant("other"), Q, BAD]},
                        "'chosen' must end in one message of the assistant"),
    "other lengths": ({"prompt": "Q", "chosen": [GOOD, user("more"), GOOD], "rejected": [BAD]}, "'chosen' must end in"),
    "another question": ({"prompt": "Q", "chosen": [user("X"), GOOD], "rejected": [user("X"), BAD]},
                         "begins with other messages than the prompt"),
    "ends with the user": ({"prompt": "Q", "chosen": [GOOD, Q], "rejected": [GOOD, user("R")]}, "it has user"),
    "reasoning beside": ({"prompt": "Q", "chosen": [{**GOOD, "reasoning_content": "r"}], "rejected": [BAD]},
                         "not its reasoning_content"),
    "an image": ({"prompt": "Q", "images": ["x"], "chosen": "good", "rejected": "bad"}, "'images' is not text"),
    "an image of an implicit prompt": ({"images": ["x"], "chosen": [Q, GOOD], "rejected": [Q, BAD]}, "'images'"),
    "tools": ({"prompt": "Q", "tools": [{"name": "f"}], "chosen": "good", "rejected": "bad"}, "column 'tools'"),
    "PKU without a choice": ({"prompt": "Q", "response_0": "a", "response_1": "b"}, "column 'chosen' is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "part"), REFUSED.values(), ids=REFUSED)
def test_pairs_that_are_refused(row, part):
    with pytest.raises(UserError, match="row 7") as caught:
        read_pair(row, "row 7")
    assert part in str(caught.value)


@pytest.mark.parametrize(("row", "prompt", "label"), [
    ({"prompt": "Q", "completion": "good", "label": 1}, "Q", 1.0),
    ({"prompt": [Q], "completion": [GOOD], "label": "unsafe"}, [Q], 0.0),
    ({"prompt": "Q", "response": "good", "is_safe": True}, "Q", 1.0),  # BeaverTails
    ({"question": "Q", "completion": [Q, GOOD], "label": "True"}, "Q", 1.0),
    ({"messages": [Q, GOOD], "kto_tag": True}, [Q], 1.0),  # LLaMA-Factory
    ({"messages": [*BEFORE, Q, GOOD], "label": False}, [*BEFORE, Q], 0.0),
])  # fmt: skip
def test_judged_rows(row, prompt, label):
    read = read_judged(row, "row 0")
    assert (read["prompt"], read["completion"], read["label"]) == (prompt, "good", label)


@pytest.mark.parametrize(("row", "part"), [
    ({"prompt": "Q", "completion": "x"}, "column 'label' is missing; rows need prompt, completion, label"),
    ({"prompt": "Q", "completion": "x", "label": float("nan")}, "column 'label' is missing"),
    ({"prompt": "Q", "completion": "x", "label": 0.5}, "label 0.5; use 1 or 0"),
    ({"messages": [Q, GOOD]}, "column 'label' is missing"),
    ({"prompt": "Q", "documents": ["d"], "completion": "x", "label": 1}, "column 'documents'"),
    ({"prompt": "Q", "completion": "x", "label": [1]}, "label [1]; use 1 or 0"),
])  # fmt: skip
def test_judged_rows_that_are_refused(row, part):
    with pytest.raises(UserError, match="row 7") as caught:
        read_judged(row, "row 7")
    assert part in str(caught.value)
