"""What stands behind a number: a unit with its dimension, a noun, a word that multiplies, or nothing of the kind.

Policy: a unit that either side leaves out changes nothing. Where both name one, units of one dimension convert (80
cents are 0.8 dollars), other units differ, and so do nouns without a word in common.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.accuracy.unit_names import EXACT, FOLDED, GLUED_WORDS, NUMBER_WORDS, Unit

WORD = re.compile(r"\w+")
# Behind a number these make another number of it, or a comparison, a list, a sentence.
_NO_UNITS = frozenset(
    WORD.findall(
        "is are was be not no or and but wrong if than then plus minus times over mod pi sqrt sin cos tan log ln "
        "exp infty infinity squared cubed more less fewer remainder factorial percent divided multiplied by to "
        "through until between double twice triple choose modulo raised power root up down below above greater "
        "smaller except without versus negative positive at least most approximately about cdot div equals equal "
        "does would should cannot could isn aren in base lakhs bigger larger higher lower"
    )
)
_ENDINGS = frozenset(
    WORD.findall(
        "each total altogether long tall high wide deep old away apart of left remaining more-or-less only exactly "
        "overall now ago later"
    )
)
_NAME = re.compile(r"(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0eff])++[.']?|[°¢$€£¥₹฿₩₫₽＄Ωµ]")


_ORDINAL = re.compile(r"(?:\^ ?)?\{? ?(?:st|nd|rd|th) ?\}?")
# 5t, 3kT, 2pV: products more often than tons, kilotesla and picovolts; with a space they are units.
_PRODUCT = re.compile(r"t|[a-zA-Z][TKHCF]|[pncT][A-Z]")
_NOTHING: tuple[Fraction, Unit | None] = Fraction(1), None


def named(name: str) -> Unit | None:
    """The measure of that name."""
    name = name.rstrip("./")
    found = EXACT.get(name) or FOLDED.get(name.casefold())
    if found is None and len(name) > 3:
        found = FOLDED.get(name.casefold().removesuffix("s")) or FOLDED.get(name.casefold().removesuffix("es"))
        found = EXACT.get("century") if name.casefold() == "centuries" else found
    return found


def number_word(name: str) -> Fraction | None:
    """What "million" or "hundredths" multiplies by."""
    low = name.casefold().rstrip(".")
    found = NUMBER_WORDS.get(low)
    return found if found is not None else NUMBER_WORDS.get(low.removesuffix("s"))


def read_unit(text: str, glued: bool) -> tuple[Fraction, Unit | None] | None:
    """(what the words multiply by, the unit) of what stands behind a number; None when that is no unit.

    `glued`: no space before it, as in 5x, which is a product, and 5km, which is not.
    """
    text = _spelt_out(text) if text.strip() else ""
    if not text or _ORDINAL.fullmatch(text):
        return _NOTHING
    times = Fraction(1)
    if text[:1] in GLUED_WORDS and named(text) is None and named(text.split()[0]) is None:  # 万元, but not 千瓦
        while text[:1] in GLUED_WORDS:
            times, text = times * GLUED_WORDS[text[0]], text[1:].strip()
        rest = read_unit(text, glued=False)
        return None if rest is None else (times * rest[0], rest[1])
    head = text.split()
    while head and (factor := number_word(head[0])) is not None:
        times *= factor
        head = head[1:]
    if times != 1 and head[:1] == ["of"]:
        return None  # "3 quarters of x" is a number only if x is one
    unit = _phrase(" ".join(head), glued and times == 1) if head else None
    return None if head and unit is None else (times, unit)


_TAIL = re.compile(
    r"(?P<value>.*[\d})!a-zA-Z]) ?"
    r"(?P<unit>(?:\\(?:text|mbox|mathrm|textrm) ?\{[^{}]*+\}(?: ?\^ ?\{?-?\d\}?)?+[ /·.]*+)++"
    r"|(?:\^ ?\\circ|\^ ?\{ ?\\circ ?\}|°)(?: ?[CF])?"
    r"|(?<=[\d})] )(?:[a-zA-Zµμ]{2,}+(?:\^ ?\{?[23]\}?)?+[ /]?+){1,3}+)\.?",
    re.DOTALL,
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""(formula, unit) of ``10\pi\text{ cm}``; no unit where what stands behind the formula is none."""
    match = _TAIL.fullmatch(text)
    if match is None:
        return text, None
    written = " ".join(re.sub(r"\\(?:text|mbox|mathrm|textrm) ?\{([^{}]*)\}", r" \1 ", match["unit"]).split())
    found = read_unit(written, glued=False)
    if found is None or found[1] is None or found[0] != 1:
        return text, None
    return match["value"].strip(), found[1]


def _spelt_out(text: str) -> str:
    r"""``\frac{m}{s}`` as m/s, "square cm" as cm^2, "°C" as celsius."""
    text = re.sub(r"\\frac\s*\{ ?([^{}]+?) ?\}\s*\{ ?([^{}]+?) ?\}", r" \1/\2 ", text)
    text = re.sub(
        r"(?:\^ ?\{? ?\\circ ?\}?|°) ?([CF])\b", lambda m: {"C": " celsius ", "F": " fahrenheit "}[m[1]], text
    )
    text = re.sub(r"\^ ?\{? ?\\circ ?\}?|\\degrees?(?![a-z])", " ° ", text)
    text = re.sub(r"\\mu(?![a-zA-Z]) ?|µ", "μ", re.sub(r"\\Omega(?![a-zA-Z]) ?", "Ω", text))
    if "μ" in text or "/" in text:
        text = re.sub(r"μ\s+(?=[A-Za-z]{1,3}\b)", "μ", re.sub(r"/ ?\(([^()]*)\)$", r"/\1", text))  # J/(mol K)
    text = re.sub(r"平方(\S+)", r"\1^2", re.sub(r"立方(\S+)", r"\1^3", text))
    text = re.sub(r"(?i)\b(?:square|sq)\b\.? ?([^\W\d_]+)", r"\1^2", re.sub(r"(?i)\bcubic ?([^\W\d_]+)", r"\1^3", text))
    text = re.sub(r"(?i)([^\W\d_]+) squared\b", r"\1^2", re.sub(r"(?i)([^\W\d_]+) cubed\b", r"\1^3", text))
    text = re.sub(r"(?<=[a-zа-я])([23])(?!\w)", r"^\1", text)  # km2
    text = re.sub(r"\\(?:cdot|times)(?![a-z])|·", " ", re.sub(r"(?i)\bper\b", "/", text))
    note = re.fullmatch(
        r"((?:.* )?)\(([^\W\d_]{2,}+(?:[ ,'-]++[^\W\d_]{2,}+)*+)\)\.?", text
    )  # "42 (forty-two)", not 5(x+1)
    if note and not re.search(r"(?i)\b(?:not|or|nor|wrong)\b", note[2]):
        text = note[1]
    return " ".join(text.rstrip(". ").split())


def _phrase(text: str, glued: bool) -> Unit | None:
    parts = re.findall(rf"(?P<over>/)? ?(?P<name>{_NAME.pattern})(?: ?\^ ?\{{? ?(?P<power>-?\d) ?\}}?)? ?-? ?", text)
    joined = re.sub(
        r"[ {}.-]", "", "".join(f"{over}{name}{'^' + power if power else ''}" for over, name, power in parts)
    )
    if not parts or (joined != re.sub(r"[ {}.-]", "", text) and joined != re.sub(r"[ {}.]", "", text)):
        return None
    names = [name for _, name, _ in parts]
    lowered = [name.casefold().rstrip("./'") for name in names]
    if len(parts) > 4 and not any(map(named, names)):
        return None
    units = [named(name) for name in names]
    if glued and _PRODUCT.fullmatch(names[0]):
        return None
    if all(unit is not None for unit in units) and not (glued and units[0] is None):
        return _product([(unit, over, power) for unit, (over, _, power) in zip(units, parts, strict=True) if unit])
    times = lowered == ["times"]
    if not times and any(name in _NO_UNITS for name in lowered):
        return None
    while len(lowered) > 1 and lowered[-1] in _ENDINGS:
        return _phrase(text[: text.rindex(names[-1])].strip(), glued)
    if units[0] is not None and len(names) > 1 and (lowered[1] in _ENDINGS or units[0].is_any):
        return units[0]
    if glued and (names[0].isascii() and len(names[0]) < 4):
        return None  # 5x and 3ab are products
    if any(len(name) == 1 and name.isascii() for name in lowered):
        return None
    if len(lowered) == 1 and len(lowered[0]) == 1 and not _is_sign(lowered[0]):
        return None
    return Unit(Fraction(1), (), frozenset(_stem(name) for name in lowered))


def _is_sign(letter: str) -> bool:
    """Letters that no formula uses: of scripts other than Latin and Greek."""
    return letter > "\u03ff"


def _stem(name: str) -> str:
    return re.sub(r"(?:ies|es|s|y)$", "", name) if name.isascii() and len(name) > 3 else name


def _product(parts: list[tuple[Unit, str, str]]) -> Unit:
    factor, powers, divided = Fraction(1), dict[str, int](), False
    for unit, over, power in parts:
        divided = divided or bool(over)
        exponent = int(power or 1) * (-1 if divided else 1)
        factor *= unit.factor**exponent
        for base, own in unit.dimension:
            powers[base] = powers.get(base, 0) + own * exponent
    return Unit(factor, tuple(sorted((base, power) for base, power in powers.items() if power)))


# Two units that are written alike: 25 C, 80 F.
_ONE_SIGN = [{(("celsius", 1),), (("charge", 1),)}, {(("fahrenheit", 1),), (("farad", 1),)}]


def conversion(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """What the answer's number is multiplied by before it is compared with the gold's; None: they are no units of one
    thing."""
    if gold is None or answer is None or gold.is_any or answer.is_any:
        return Fraction(1)
    if gold.nouns or answer.nouns:
        return Fraction(1) if gold.nouns & answer.nouns else None
    if gold.dimension == answer.dimension:
        return answer.factor / gold.factor
    if gold.factor == answer.factor == 1 and {gold.dimension, answer.dimension} in _ONE_SIGN:
        return Fraction(1)
    if {gold, answer} == {named("pound"), named("£")}:
        return Fraction(1)
    degrees = {(("angle", 1),), (("celsius", 1),), (("fahrenheit", 1),)}
    if {gold.dimension, answer.dimension} <= degrees and (("angle", 1),) in (gold.dimension, answer.dimension):
        return Fraction(1)  # "25°" of a temperature
    return None
