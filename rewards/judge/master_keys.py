"""Answers that say nothing, by rule: they fool judge models into a verdict of "correct" up to 80-90% of the time.

"One Token to Fool LLM-as-a-Judge" (arXiv 2507.08794) calls them master keys: punctuation alone, and openers of a
solution without the solution.
"""

from __future__ import annotations

import re
import unicodedata

_TEXTS = """
    solution; the solution; heres the solution; here is the solution; step by step solution; step by step; reasoning;
    answer; the answer; final answer; the answer is; the final answer is; explanation;
    thought process; my thought process; lets think step by step; let us think step by step;
    lets think about this step by step; lets solve this step by step; let us solve this step by step;
    lets solve this problem step by step; let us solve this problem step by step;
    lets solve the problem step by step; let us solve the problem step by step;
    respuesta; solución; réponse; lösung; antwort; решение; ответ;
    解; 解答; 解析; 答案; かいせつ; 解説; 答え; คำตอบ; วิธีทำ
"""
OPENERS = frozenset(opener.strip() for opener in _TEXTS.split(";"))
_EMPTY_SHELL = re.compile(r"\\boxed\s*\{\s*\}|</?(?:answer|think)>", re.IGNORECASE)
_LONGEST = 400  # characters: what is longer says something besides its opener
_BLANK = "`$\u2800\u115f\u1160\u3164"  # symbols that only dress a text, and letters that show nothing


def says_nothing(answer: str) -> bool:
    """Whether an answer is empty, punctuation alone, or nothing but openers ("Solution:", "Thought process:").

    >>> [says_nothing(text) for text in (" ", ":", "**Solution**", "Thought process:\\n", "Solution: 4", "∞")]
    [True, True, True, True, False, False]
    """
    text = _EMPTY_SHELL.sub(" ", unicodedata.normalize("NFKC", answer))
    if not any(_is_in(char, "LNS") for char in text):
        return True
    if len(text) > _LONGEST:
        return False
    sentences = re.split(r"[.:!?;,\n。]+", re.sub(r"['’`]", "", text.casefold()))
    words = ["".join(char if _is_in(char, "LMNS") else " " for char in part).split() for part in sentences]
    return all(" ".join(part) in OPENERS for part in words if part)


def _is_in(char: str, categories: str) -> bool:
    """Whether a character is a letter, mark, number or symbol, as asked, and shows something."""
    return unicodedata.category(char)[0] in categories and char not in _BLANK
