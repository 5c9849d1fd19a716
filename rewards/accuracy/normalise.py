r"""One spelling for answers that only look different: signs, digits of other scripts, decoration, plain ASCII formulas.

Nothing here decides; what is left after `plain` is read by the kinds (numbers, times, texts, relations) and compared
by `rewards.accuracy.compare`. Callers cut what is longer than an answer, so that no pattern meets 100,000 characters.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable

DOLLAR = "＄"  # a dollar sign that was written as one, `\$`; the bare sign may be a mark of mathematics
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi "}
    | {"≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap "}
    | {"∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "≈": r"\approx ", "∅": r"\emptyset "}
    | {"°": r"^\circ ", "℃": r"^\circ C", "℉": r"^\circ F", "∨": r" or ", "→": r"\to ", "⟨": "(", "⟩": ")"}
    | {"∶": ":", "⁄": "/", "٬": ",", "٫": ".", "∠": r"\angle ", "△": r"\triangle ", "θ": r"\theta "}
    | {0x3000: " ", 0xA0: " ", 0x202F: " ", 0x2009: " "}
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_EXPONENT, _INDEX = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
# 4.5e33: to the LaTeX parser, e is 2.718
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,4})(?!\w|\.\d)")
_REPEATING = re.compile(  # 0.1\overline{6}
    r"(?<![\d.,])(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot) ?(?:\{(\d{1,20})\}|(\d))"
)
_DOUBLE_FACTORIAL = re.compile(r"(?<![\w.])(\d{1,2})!!(?!!)")  # the LaTeX parser reads (5!)!
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WRAPPERS = (  # say how something looks, not what it is
    "boldsymbol|bm|pmb|bold|textsf|texttt|mathsf|mathtt|mathit|mathnormal|emph|underline|uline|ensuremath|fbox|framebox|boxed"
    "|scriptsize|footnotesize|underbrace|Large|LARGE|large|huge|Huge|small|normalsize|tiny|bf|rm|it|sf|tt|displaystyle|textstyle|mathbf|overrightarrow|vec"
)
_WRAPPER = re.compile(rf"\\(?:{_WRAPPERS})(?![a-zA-Z])")
_SPACING = r"\\(?:h|v|hs|vs)?(?:phantom|pace)\*?\s*\{[^{}]*\}"
_COLOUR = (
    r"\\(?:textcolor|colorbox|fcolorbox|color|style|class|cssId)\s*(?:\[[^][{}]*\])?\s*\{[^{}]*\}|\\bbox\s*\[[^][{}]*\]"
)
_FUNCTION = r"arc(?:sin|cos|tan)|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt"
_TRIG = re.compile(r"\\(?:operatorname\{cis\}|(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z]))")
_DEGREE = (
    r"\^\s*\\circ(?![a-zA-Z])|\^\{\s*\\circ\s*\}|\\degrees?(?![a-zA-Z])|\\(?:text|mbox|mathrm)\s*\{\s*degrees?\s*\}"
)
_IN_DEGREES = re.compile(rf"(\d+(?:\.\d+)?)\s*(\}}?)\s*(?:{_DEGREE})")
_WORDS_OF_SIGNS = {"infinity": "infty", "inf": "infty", "oo": "infty"}
_INSIDE = r"\(((?:[^()]|\([^()]*\))*)\)"  # of a bracket
# What must occur for the pattern to be worth a try, the pattern, what it becomes.
_REWRITES: list[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    ("", re.compile(r"^\s*(\*\*|__|[*`'\"‘“])(?!\*)(.*?)(?:\1|[’”])\s*$", re.DOTALL), r"\2"),
    ("\\", re.compile(rf"{_COLOUR}|{_SPACING}"), ""),
    ("\\math", re.compile(r"\\math(?:bb|cal|frak|scr)\s*\{(\d+)\}"), r"\1"),
    (
        "\\",
        re.compile(r"\\(?:therefore|because|thinspace|enspace|limits|nolimits|hfill|checkmark|qed)(?![a-zA-Z])"),
        " ",
    ),
    (
        "\\begin",
        re.compile(r"^\s*\\begin\{(aligned|gathered|split)\}((?:(?!\\\\).)*)\\end\{\1\}\s*$", re.DOTALL),
        lambda m: m[2].replace("&", ""),
    ),
    ("{", re.compile(rf"\\(?:text|mathrm|mbox|operatorname\*?)\s*\{{\s*({_FUNCTION}|cis)\s*\}}"), r"\\\1 "),
    ("\\cis", re.compile(r"\\cis(?![a-zA-Z]) ?"), r"\\operatorname{cis}"),
    ("\\hat", re.compile(r"\\hat\s*\{?\s*\\?([ijk])(?:math)?\s*\}?(?![a-zA-Z])"), r"\1"),
    ("\\choose", re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (":", re.compile(r"\{:\}"), ":"),
    ("\\colon", re.compile(r"\\colon(?![a-zA-Z])"), ":"),
    ("(", re.compile(rf"(?<![A-Za-z\\])abs{_INSIDE}"), r"|\1|"),
    ("(", re.compile(rf"(?<![A-Za-z\\])(floor|ceil){_INSIDE}"), r"\\l\1 \2\\r\1 "),
    ("cbrt", re.compile(rf"(?<![A-Za-z\\])cbrt{_INSIDE}"), r"\\sqrt[3]{\1}"),
    ("\\\\", re.compile(r"\\\\\s*$|^\s*\\\\"), ""),
    (".", re.compile(r"(?<![A-Za-z\\])(?:np|numpy|math|sympy)\.(?=[a-z])"), ""),
    ("", re.compile(rf"(?<![A-Za-z\\])({_FUNCTION})(?![A-Za-z])(?=\s*[({{\d\\_^]|\s+[a-z\d]\b|[a-z]\b)"), r"\\\1"),
    (
        "",
        re.compile(
            r"(?<![A-Za-z\\])(pi|theta|infty|infinity|inf|oo|alpha|beta|gamma|delta|lambda|sigma|omega)(?![A-Za-z])"
        ),
        lambda m: rf"\{_WORDS_OF_SIGNS.get(m[1], m[1])} ",
    ),
    ("**", re.compile(r"\*\*"), "^"),
    ("√", re.compile(r"√\s*\(([^()]*)\)|√\s*(\d+|[a-z])"), lambda m: rf"\sqrt{{{m[1] or m[2]}}}"),
    ("∛", re.compile(r"∛\s*\(([^()]*)\)|∛\s*(\d+|[a-z])"), lambda m: rf"\sqrt[3]{{{m[1] or m[2]}}}"),
    ("(", re.compile(rf"\\(sqrt|exp)\s*{_INSIDE}"), r"\\\1{\2}"),  # \sqrt(2): the root of nothing
    ("\\exp", re.compile(r"\\exp\s*\{((?:[^{}]|\{[^{}]*\})*)\}"), r"e^{\1}"),
    ("^", re.compile(rf"\^\s*{_INSIDE}"), r"^{\1}"),
    ("\\log", re.compile(r"\\log\s*_\s*\{?\s*e\s*\}?"), r"\\ln "),
    ("\\lg", re.compile(r"\\lg(?![a-zA-Z])"), r"\\log_{10}"),
    ("frac", re.compile(r"\\(?:[dtc]|nice|s|x)frac(?![a-z])"), r"\\frac"),
    ("^", re.compile(r"(?<![\w}])\^\s*\{?(\d+)\}?\s*/\s*_\s*\{?(\d+)\}?"), r"\\frac{\1}{\2}"),  # ^3/_4
    ("frac", re.compile(r"\\frac\s*(\\[a-z]+)\s*(\d)"), r"\\frac{\1}{\2}"),  # \frac\pi4
    ("\\", re.compile(r"^\s*\\(?:approx|sim|simeq)(?![a-z])"), ""),
    ("", re.compile(r"(?<=\d)(?:,\s*\\!\s*|\{,\})(?=\d{3})"), ""),  # 10{,}000 and 32,\!349
    ("\\mathrm", re.compile(r"\\mathrm\s*\{([a-z])\}"), r"\1"),  # math-verify loses the sign before \mathrm{e}
    ("\\", re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\.?"), ""),
    ("angle", re.compile(r"\\[lr]angle(?![a-zA-Z])"), lambda m: "()"[m[0] == r"\rangle"]),
    ("\\varnothing", re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset "),
    ("\\", re.compile(r"\\(?:lor|vee)(?![a-zA-Z])"), " or "),
    ("\\", re.compile(r"\\(geq|leq|neq)(?:slant)?(?![a-zA-Z])"), lambda m: rf"\{m[1][:2]} "),
    ("$", re.compile(r"(?<!\\)\\\$|＄|^\s*\$(?=[\d.,]+ ?[KkMmBb]\s*$)"), DOLLAR),
    ("", re.compile(r"(?<!\\)\$|\\[()\[\]]"), ""),
    ("%", re.compile(r"(?<!\\)\\%"), "%"),
    ("", re.compile(r"(?<!\\)\\(?:[,;:! >]|q?quad)|~"), " "),
    (">=", re.compile(r">="), r"\\ge "),
    ("<=", re.compile(r"<="), r"\\le "),
    ("!=", re.compile(r"(?<!!)!="), r"\\ne "),
    ("x", re.compile(r"(?<=\d) ?x ?(?=10 ?\^)"), r"\\times "),
    ("", _SCIENTIFIC, r"\1\\times 10^{\2}"),
    (".", _REPEATING, lambda m: _repeating(m[1], m[2], m[3] or m[4])),
    ("!!", _DOUBLE_FACTORIAL, lambda m: str(math.prod(range(int(m[1]), 0, -2)))),
    ("\\", re.compile(r"(?<!\\)\\$"), ""),
    ("", re.compile(r"\s+"), " "),
]
TEXT = re.compile(r"\\(?:text|mbox|hbox|mathrm|textrm|textbf|mathbf|textit|textup|operatorname)\s*\{([^{}]*)\}")


_JOINS, _LOOSE_SPACES = re.compile(r",(?: ?and\b)?|;|\band\b"), re.compile(r"(?<!\d) +| +(?!\d)")


def plain(text: str) -> str:
    """One spelling for what only looks different. The result is for comparison and for the worker, not for people."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    if not text.isascii():
        text = _EXPONENT.sub(lambda found: f"^{{{found[0].translate(_RAISED)}}}", text)
        text = _INDEX.sub(lambda found: f"_{{{found[0].translate(_LOWERED)}}}", text)
        text = "".join(_ascii(char) for char in text.translate(_SIGNS) if unicodedata.category(char) != "Cf")
    text = unwrapped(text)
    for hint, pattern, replacement in _REWRITES:
        if hint in text:
            text = pattern.sub(replacement, text)
    text = bare(text.strip().rstrip(".,;").strip())
    return _radians(text) if _TRIG.search(text) else text


def words(text: str) -> str:
    r"""`text` with ``\text{}`` and its kin opened."""
    return " ".join((TEXT.sub(r" \1 ", text) if "\\" in text else text).split())


def unspaced(text: str) -> str:
    """Without spaces that mean nothing (2 1/4 is not 21/4), and with one sign between the parts of a list."""
    text = _JOINS.sub(",", words(text)).replace(DOLLAR, "")
    return _LOOSE_SPACES.sub("", text) if " " in text else text


def unwrapped(text: str) -> str:
    r"""Without ``\boldsymbol{...}`` and other wrappers; one pass over the braces."""
    if not _WRAPPER.search(text):
        return text
    kept: list[str] = []
    drops: list[bool] = []  # of each open brace, whether it goes
    position = 0
    for mark in re.finditer(rf"{_WRAPPER.pattern}\s*(?P<brace>\{{)?|\\.|[{{}}]", text, re.DOTALL):
        kept.append(text[position : mark.start()])
        position = mark.end()
        if mark[0] == "{":
            drops.append(False)
            kept.append("{")
        elif mark[0] == "}":
            kept.append("" if drops and drops.pop() else "}")
        elif mark["brace"]:
            drops.append(True)
            kept.append(" ")
        else:
            kept.append(" " if _WRAPPER.fullmatch(mark[0].strip()) else mark[0])
    return "".join(kept) + text[position:]


def bare(text: str) -> str:
    r"""Without the braces around all of it: {42}, and ``\text{}`` around a formula."""
    while True:
        begin = re.match(r"(?:\\text(?:rm|bf|it)? ?)?\{", text)
        if begin is None or matching(text, begin.end() - 1) != len(text) - 1:
            return text
        if begin[0] != "{" and "\\" not in text[begin.end() :]:
            return text
        text = text[begin.end() : -1].strip()


def matching(text: str, start: int) -> int:
    """Where the bracket at `start` closes, or -1."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            return index
    return -1


def _ascii(char: str) -> str:
    """Full-width forms, the digits of other scripts, ½ and ㎡ as ASCII."""
    if char <= "\x7f" or char == DOLLAR:
        return char
    if "！" <= char <= "～":
        return chr(ord(char) - 0xFEE0)
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    shape = unicodedata.decomposition(char)
    if shape.startswith("<fraction>"):
        over, _, under = unicodedata.normalize("NFKC", char).partition("⁄")
        return rf"\frac{{{over}}}{{{under}}}"
    return unicodedata.normalize("NFKC", char) if shape.startswith("<square>") else char


DEGREE_SIGN = re.compile(_DEGREE)


def _radians(text: str) -> str:
    r"""Degrees of an angle as a number, which ``\sin 30^\circ`` needs, and ``\operatorname{cis}`` written out."""
    text = _IN_DEGREES.sub(r"\\frac{\1\\pi}{180}\2", text)
    return re.sub(
        r"\\operatorname\{cis\}\s*(\\frac\{[^{}]*\}\{[^{}]*\}|\([^()]*\)|\\?[a-z]+|\d+)",
        r"(\\cos(\1)+i\\sin(\1))",
        text,
    )


def _repeating(whole: str, fixed: str, period: str) -> str:
    """The fraction of 12.3454545..., given "12", "3" and "45"."""
    before = int(f"0{whole}{fixed}")
    nines = 10 ** len(period) - 1
    return rf"\frac{{{before * nines + int(period)}}}{{{nines * 10 ** len(fixed)}}}"
