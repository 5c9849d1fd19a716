"""Names of units and of numbers, in the languages of the sets that the grader is tried on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

Dimension = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """A measure with its factor to the base of its dimension; a noun has its words, and neither."""

    factor: Fraction
    dimension: Dimension
    nouns: frozenset[str] = frozenset()

    @property
    def is_any(self) -> bool:
        """ "units", "square units", "degrees" of anything: no more than a number."""
        return not self.nouns and all(base == "unit" for base, _ in self.dimension)


# Names of one unit: factor and base. Words come in the singular; abbreviations as they are written.
_TABLE = """
m metre meter м 米 公尺 เมตร メートル 미터 = 1 length
km kilometre kilometer км 千米 公里 กิโลเมตร = 1000 length
cm centimetre centimeter см 厘米 公分 เซนติเมตร = 1/100 length
mm millimetre millimeter мм 毫米 = 1/1000 length | dm decimetre decimeter дм 分米 = 1/10 length
μm um micrometre micrometer micron = 1/1000000 length | nm nanometre nanometer = 1/1000000000 length
in inch inche 英寸 = 254/10000 length | ft foot feet 英尺 = 3048/10000 length | yd yard = 9144/10000 length
mi mile 英里 = 1609344/1000 length | ly lightyear = 9460730472580800 length | Å angstrom = 1/10000000000 length
pc parsec = 30856775814913673 length | au AU = 149597870700 length | g gm gram gramme г 克 กรัม = 1/1000 mass
kg kilo kilogram кг 公斤 千克 กิโลกรัม = 1 mass | mg milligram 毫克 = 1/1000000 mass
t tonne ton т 吨 = 1000 mass | lb lbs pound 磅 = 45359237/100000000 mass
oz ounce = 28349523125/1000000000000 mass | s sec second сек 秒 วินาที = 1 time | ms millisecond = 1/1000 time
min minute мин 分钟 分 นาที = 60 time | h hr hour ч час 小时 小時 ชั่วโมง 時間 = 3600 time
day 天 日 วัน = 86400 time | week 周 = 604800 time | month 个月 เดือน = 1 months | year yr 年 ปี = 12 months
decade = 120 months | century = 1200 months | dollar usd USD buck ＄ $ 美元 ドル = 1 dollar
cent ¢ = 1/100 dollar | dime = 1/10 dollar | nickel = 1/20 dollar | euro eur EUR € = 1 euro
£ gbp GBP = 1 sterling | yuan rmb RMB CNY 元 块 = 1 yuan | ¥ yen JPY 円 = 1 yen
₹ rs rupee INR টাকা రూపాయలు रुपये = 1 rupee | ₩ won 원 = 1 won | ₫ dong = 1 dong | ฿ baht บาท THB = 1 baht
₽ руб рубль рублей = 1 rouble | лв = 1 lev | L l liter litre л 升 ลิตร = 1/1000 volume
mL ml milliliter millilitre мл 毫升 = 1/1000000 volume | gal gallon = 3785411784/1000000000000 volume
qt quart = 946352946/1000000000000 volume | pint = 473176473/1000000000000 volume | cc = 1/1000000 volume
ha hectare 公顷 = 10000 area | acre = 40468564224/10000000 area | mph = 44704/100000 speed
kmh kph kmph = 5/18 speed | degree deg ° = 1 angle | rad radian = 1 radian | rev revolution = 1 turn
N newton = 1 force | kN = 1000 force | dyn dyne = 1/100000 force | J joule = 1 energy | kJ = 1000 energy
MJ = 1000000 energy | erg = 1/10000000 energy | cal calorie = 4184/1000 energy | kcal = 4184 energy | eV = 1 ev
keV = 1000 ev | MeV = 1000000 ev | GeV = 1000000000 ev | kWh = 3600000 energy | W watt 瓦 = 1 power
mW = 1/1000 power | kW kilowatt 千瓦 = 1000 power | MW megawatt = 1000000 power | hp = 1 horsepower
Pa pascal = 1 pressure | kPa = 1000 pressure | bar = 100000 pressure | atm = 101325 pressure
V volt = 1 voltage | mV = 1/1000 voltage | kV = 1000 voltage | A amp ampere = 1 current | mA = 1/1000 current
Ω ohm = 1 resistance | kΩ = 1000 resistance | Hz hertz = 1 frequency | kHz = 1000 frequency
MHz = 1000000 frequency | GHz = 1000000000 frequency | K kelvin = 1 kelvin | celsius = 1 celsius
fahrenheit = 1 fahrenheit | mol mole = 1 amount | mmol = 1/1000 amount | M molar = 1 molar | B byte = 8 data
bit = 1 data | KB kB = 8000 data | MB = 8000000 data | GB = 8000000000 data | TB = 8000000000000 data
F farad = 1 farad | T tesla = 1 tesla | dB = 1 decibel | unit = 1 unit
"""
_SQUARED = {"area": ("length", 2), "volume": ("length", 3)}
NUMBER_WORDS: dict[str, Fraction] = {
    "half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4), "fifth": Fraction(1, 5),
    "sixth": Fraction(1, 6), "seventh": Fraction(1, 7), "eighth": Fraction(1, 8), "ninth": Fraction(1, 9),
    "tenth": Fraction(1, 10),
    "halve": Fraction(1, 2), "hundred": Fraction(100), "thousand": Fraction(1000), "dozen": Fraction(12),
    "score": Fraction(20), "million": Fraction(10**6), "billion": Fraction(10**9), "trillion": Fraction(10**12),
    "lakh": Fraction(10**5), "crore": Fraction(10**7), "hundredth": Fraction(1, 100), "fourth": Fraction(1, 4),
    "thousandth": Fraction(1, 1000), "millionth": Fraction(1, 10**6), "billionth": Fraction(1, 10**9),
    "gross": Fraction(144), "миллион": Fraction(10**6),
    "тысяч": Fraction(1000), "тысяча": Fraction(1000), "тысячи": Fraction(1000), "миллионов": Fraction(10**6),
    "ล้าน": Fraction(10**6), "แสน": Fraction(10**5), "หมื่น": Fraction(10**4), "พัน": Fraction(1000),
    "ร้อย": Fraction(100),
}  # fmt: skip
GLUED_WORDS = {
    "十": Fraction(10), "百": Fraction(100), "千": Fraction(1000), "万": Fraction(10**4), "萬": Fraction(10**4),
    "億": Fraction(10**8), "亿": Fraction(10**8), "만": Fraction(10**4), "억": Fraction(10**8), "천": Fraction(1000),
}  # fmt: skip


def tables() -> tuple[dict[str, Unit], dict[str, Unit]]:
    exact: dict[str, Unit] = {}
    for entry in re.split(r"[|\n]", _TABLE):
        names, _, meaning = entry.partition("=")
        for name in names.split():
            factor, base = meaning.split()
            base, exponent = _SQUARED.get(base, (base, 1))
            dimension: Dimension = (("length", 1), ("time", -1)) if base == "speed" else ((base, exponent),)
            exact[name] = Unit(Fraction(factor), dimension)
    folded = {name.casefold(): unit for name, unit in exact.items() if len(name) > 1}
    return exact, folded


EXACT, FOLDED = tables()
