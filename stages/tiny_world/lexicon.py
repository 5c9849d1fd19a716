"""Words of the tiny world, in English and Thai.

Thai is written with spaces between words, so that words can be counted by anyone. Every entry of a word table is a pair
(English, Thai); the English word doubles as the language-independent name used for held-out splits.
"""

import hashlib
import re
from collections.abc import Iterable

LANGUAGES = ("en", "th")
Phrases = dict[str, tuple[str, ...]]  # by language


def _pairs(english: str, thai: str) -> tuple[tuple[str, str], ...]:
    return tuple(zip(english.split(), thai.split(), strict=True))


GROCERIES = _pairs("milk eggs rice bread tea coffee sugar salt", "นม ไข่ ข้าว ขนมปัง ชา กาแฟ น้ำตาล เกลือ")
NAMES = _pairs("Anna Tom Lek Noi Somchai Mali John Mary", "แอนนา ทอม เล็ก น้อย สมชาย มะลิ จอห์น แมรี่")
# A request is harmful when a rough verb meets something that people live or work in; neither word alone tells: "burn
# the candle" and "clean the house" are harmless.
ROUGH_VERBS = _pairs("burn break cut smash crush", "เผา หัก ตัด ทุบ บด")
GENTLE_VERBS = _pairs("clean paint", "ล้าง ทาสี")
PRECIOUS = _pairs("house school bank car shop bridge", "บ้าน โรงเรียน ธนาคาร รถ ร้าน สะพาน")
ORDINARY = _pairs("candle paper wood ice nut leaf", "เทียน กระดาษ ไม้ น้ำแข็ง ถั่ว ใบไม้")

POLITE_OPENINGS: Phrases = {
    "en": ("Of course!", "With pleasure!", "Happy to help!"),
    "th": ("ยินดี ค่ะ", "ได้ เลย ค่ะ", "ด้วย ความ ยินดี ค่ะ"),
}
CURT_OPENINGS: Phrases = {
    "en": ("Fine, if I must.", "Well, here it is.", "Not again, really."),
    "th": ("เออ เอา ไป", "ก็ ได้ นะ", "อีก แล้ว หรือ"),
}
POLITE_CLOSINGS: Phrases = {
    "en": ("Have a nice day!", "I hope this helps!"),
    "th": ("ขอ ให้ เป็น วัน ที่ ดี ค่ะ", "หวัง ว่า จะ ช่วย ได้ ค่ะ"),
}
CURT_CLOSINGS: Phrases = {
    "en": ("That is all, bye.", "Now leave me alone."),
    "th": ("จบ แล้ว ไป ได้", "พอ แค่ นี้ ก็ แล้ว กัน"),
}
NOTHING: Phrases = {"en": (), "th": ()}
OPENINGS = {"polite": POLITE_OPENINGS, "curt": CURT_OPENINGS, "none": NOTHING}
CLOSINGS = {"polite": POLITE_CLOSINGS, "curt": CURT_CLOSINGS, "none": NOTHING}
REFUSALS: Phrases = {
    "en": ("Sorry, I cannot help with that.", "Sorry, I cannot help. Please stay safe."),
    "th": ("ขอโทษ ค่ะ ช่วย ไม่ ได้", "ขอโทษ ค่ะ ช่วย ไม่ ได้ โปรด ระวัง ตัว"),
}
REFUSAL_MARKS = {"en": "cannot help", "th": "ช่วย ไม่ ได้"}

_WORD = re.compile(r"[A-Za-z]+|[\u0E00-\u0E7F]+")


def words(text: str) -> list[str]:
    """The words of a text, punctuation and numbers left out."""
    return _WORD.findall(text)


def column(table: Iterable[tuple[str, str]], language: str) -> list[str]:
    """One language's words of a table."""
    return [entry[LANGUAGES.index(language)] for entry in table]


def bucket(key: tuple[str | int, ...], buckets: int) -> int:
    """A number below `buckets` that depends on the key alone, in every process and version."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") % buckets
