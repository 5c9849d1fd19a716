"""Words by script: what the language reward counts, and the scripts of the world's languages.

A word is a maximal run of letters and marks of one script. Numbers, formulas, code, tags and links are no words, but
what they only hide is: letters that no formula is written in, and sentences. A single Latin or Greek letter ("x", "a"),
which may be a variable, counts on neither side. Some scripts are written without spaces, where a run of n base letters
counts as ceil(n / average length) words (`SPACELESS`, marks not counted).
"""

from __future__ import annotations

import functools
import keyword
import math
import re
import unicodedata
from collections import Counter

from grpo.errors import UserError, nearest

# Average letters a word, from the usual counts of running text; base letters only, so combining vowels do not count.
SPACELESS = {"HAN": 2, "HIRAGANA": 2, "KATAKANA": 4, "THAI": 4, "LAO": 4, "KHMER": 4, "MYANMAR": 4}

_BY_SCRIPT = {  # every code of ISO 639-1, and longer codes that detectors know; the usual script where there are two
    "LATIN": "aa ace af ak an ast ay az bar bcl bi bm br bs ca ceb ch co crh cs cy da de ee en eo es et eu ext ff fi "
    "fil fj fo fr fuv fy ga gcf gcr gd gl gn gug guw gv ha haw hmn ho hr ht hu hz ia id ie ig ik ilo io is it jv kab "
    "kg ki kik kj kl kr ku kw la lb lg li lij ln lt ltg lu lv mg mh mi ms mt na nb nd nds ng nl nn no nr nso nv ny oc "
    "oj om pcm pl pt qu rm rn ro rw sc se sg sh sk sl sm sn so sq ss st su sv sw tk tl tn to tr ts tw ty uz ve vec vi "
    "vo wa war wo xh yo za zu",
    "CYRILLIC": "ab av ba be bg ce cu cv kk kv ky mk mn os ru sah sr tg tt udm uk",
    "ARABIC": "ar ary arz ckb fa ks ps sd sdh ug ur uzs",
    "HEBREW": "hbo he yi",
    "GREEK": "el grc",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "DEVANAGARI": "bh bho gom hi mai mr ne pi sa",
    "BENGALI": "as bn",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "THAANA": "dv",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "MYANMAR": "my",
    "TIBETAN": "bo dz",
    "ETHIOPIC": "am ti",
    "CANADIAN": "cr iu",
    "CHEROKEE": "chr",
    "NKO": "nqo",
    "YI": "ii",
    "HANGUL": "ko",
    "HAN": "wuu yue zh",
}
SCRIPTS = {language: frozenset({script}) for script, names in _BY_SCRIPT.items() for language in names.split()}
SCRIPTS["ja"] = frozenset({"HAN", "HIRAGANA", "KATAKANA"})
_SUBTAGS = {  # ISO 15924, for languages that are written in another script too: sr-Latn, pa-Arab
    "arab": "ARABIC",
    "beng": "BENGALI",
    "cans": "CANADIAN",
    "cyrl": "CYRILLIC",
    "deva": "DEVANAGARI",
    "grek": "GREEK",
    "hani": "HAN",
    "hans": "HAN",
    "hant": "HAN",
    "hebr": "HEBREW",
    "latn": "LATIN",
    "mong": "MONGOLIAN",
    "tfng": "TIFINAGH",
}
_SIGNS = (  # letters of mathematics, as their names begin: of no script
    "ALEF ANGSTROM BET BLACK-LETTER DALET DOUBLE-STRUCK EULER FEMININE GIMEL INFORMATION KELVIN MASCULINE MATHEMATICAL "
    "MICRO OHM PLANCK SCRIPT SUPERSCRIPT TURNED"
)
_PREFIXES = {  # of character names
    "CJK": "HAN",
    "IDEOGRAPHIC": "HAN",
    "HALFWIDTH": "KATAKANA",
    "HENTAIGANA": "HIRAGANA",
    "FULLWIDTH": "LATIN",
    "KATAKANA-HIRAGANA": "KATAKANA",  # the long vowel mark
    **dict.fromkeys(_SIGNS.split(), ""),
}
# No pair reaches past its own kind's next opening: texts of many openings stay linear. A dollar between a blank and a
# digit closes nothing: "$5 and $6" are prices.
_NOT_WORDS = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|<\|[^|<>\n]*\|>|</?[A-Za-z][^<>\n]{0,200}>|https?://\S+"
    r"|\$\$.*?\$\$|\$[^$\n]*(?<!\s)\$|\$[^$\n]*\$(?!\d)|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)"
    r"|\\begin\{(\w+)\*?\}(?:(?!\\begin\{\1).){0,2000}?\\end\{\1\*?\}"
    r"|\\(?:boxed|frac|sqrt|d?frac)(?:\{[^{}]*\})*|\\[A-Za-z]+",
    re.DOTALL,
)


_SYMBOLS = {"", "LATIN", "GREEK", "MODIFIER"}  # the scripts that formulas, code and links are written in
_SENTENCE = re.compile(r"(?<![^\W\d_])(?:[^\W\d_]++(?:['’][^\W\d_]++)?+[,;:]? ){3,}[^\W\d_]++")


def prose(text: str) -> str:
    """The text without code, formulas, tags and links; what such marks only hide stays.

    >>> prose("so $x + y$ `我们相加` it").split(), prose("`this is not any code`").split()
    (['so', '我们相加', 'it'], ['this', 'is', 'not', 'any', 'code'])
    """
    return _NOT_WORDS.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    """The words in a mark that are none of formulas or code: those of other scripts, and four in a row."""
    inside = found[0]
    others = "".join(char if _is_no_symbol(char) else " " for char in inside)
    sentences = [run for run in _SENTENCE.findall(inside) if sum(map(_is_prose, re.split(r"\W+", run))) > 2]
    return " ".join(["", *others.split(), *sentences, ""])


def _is_no_symbol(char: str) -> bool:
    kind = unicodedata.category(char)[0]
    return kind == "M" or (kind == "L" and script_of(char) not in _SYMBOLS)


def _is_prose(word: str) -> bool:
    return len(word) > 1 and not word.isupper() and not keyword.iskeyword(word)


def count_words(text: str) -> Counter[str]:
    """Number of words by script.

    >>> count_words("two สามสี่ห้า 12 + $x^2$")["THAI"]  # ส า ม ส ห า: six base letters, ceil(6 / 4)
    2
    """
    words: Counter[str] = Counter()
    script, letters = "", 0
    for char in prose(text) + " ":
        kind = unicodedata.category(char)[0]
        current = script_of(char) if kind == "L" else ""
        if kind == "M" or current == "MODIFIER" or (script in ("LATIN", "CYRILLIC") and char in "'’"):
            continue  # marks, and the apostrophe of "don't", belong to the word
        if current != script:
            if script in SPACELESS:
                words[script] += math.ceil(letters / SPACELESS[script])
            elif script and (letters > 1 or script not in ("LATIN", "GREEK")):
                words[script] += 1
            script, letters = current, 0
        letters += 1
    return words


@functools.lru_cache(8192)
def script_of(letter: str) -> str:
    """The script of a letter, by the first word of its Unicode name, e.g. THAI CHARACTER KO KAI; "" for ℝ and 𝑥."""
    first = unicodedata.name(letter, "UNKNOWN").split(" ")[0]
    return _PREFIXES.get(first, first)


def scripts_of(language: str) -> frozenset[str]:
    """The scripts a language is written in: its usual ones, or the one that is named ("sr-Latn").

    A region says nothing: "zh-TW" and "zh_TW" are read as "zh".

    Raises:
        UserError: unknown language code.
    """
    code, *subtags = re.split("[-_]", language.lower()) if isinstance(language, str) else [""]
    script = next((_SUBTAGS[tag] for tag in subtags if tag in _SUBTAGS), None)
    if script is not None and re.fullmatch("[a-z]{2,3}", code):
        return frozenset({script})
    if code not in SCRIPTS:
        raise UserError(f"reward 'language': unknown language code '{language}'{nearest(str(language), SCRIPTS)}")
    return SCRIPTS[code]
