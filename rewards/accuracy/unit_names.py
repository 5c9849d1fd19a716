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
N newton = 1 force | dyn dyne = 1/100000 force | J joule = 1 energy
erg = 1/10000000 energy | cal calorie = 4184/1000 energy | kcal = 4184 energy | eV = 1 ev
kWh = 3600000 energy | W watt 瓦 = 1 power
kW kilowatt 千瓦 = 1000 power | MW megawatt = 1000000 power | hp = 1 horsepower
Pa pascal = 1 pressure | bar = 100000 pressure | atm = 101325 pressure
V volt = 1 voltage | A amp ampere = 1 current
Ω ohm = 1 resistance | Hz hertz = 1 frequency
K kelvin = 1 kelvin | celsius = 1 celsius
fahrenheit = 1 fahrenheit | mol mole = 1 amount | M molar = 1 molar | B byte = 8 data
bit = 1 data | KB kB = 8000 data | MB = 8000000 data | GB = 8000000000 data | TB = 8000000000000 data
F farad = 1 farad | T tesla = 1 tesla | dB = 1 decibel | unit = 1 unit | pt pts point = 1 point
C coulomb = 1 charge | H henry = 1 henry | Wb weber = 1 weber | psi = 1 psi | torr mmHg = 1 torr | rpm = 1 rpm
kb Kb kbit = 1000 data | Mb Mbit = 1000000 data | Gb Gbit = 1000000000 data | pence penny = 1/100 sterling
"""
_PREFIXES = {"p": -12, "n": -9, "μ": -6, "u": -6, "m": -3, "c": -2, "k": 3, "M": 6, "G": 9, "T": 12}
_SPELT = {"pico": -12, "nano": -9, "micro": -6, "milli": -3, "centi": -2, "kilo": 3, "mega": 6, "giga": 9, "tera": 12}
_PREFIXED = "m g s A V W J N Pa Hz F C Ω eV mol L K T H Wb pc bar"
_SPELT_OUT = "metre meter gram second ampere volt watt joule newton pascal hertz farad coulomb ohm mole liter litre"
_SQUARED = {"area": ("length", 2), "volume": ("length", 3)}
# What the words multiply by; in the singular where that only lacks an s.
_NUMBER_TABLE = """
half halve = 1/2 | third = 1/3 | quarter fourth = 1/4 | fifth = 1/5 | sixth = 1/6 | seventh = 1/7 | eighth = 1/8
ninth = 1/9 | tenth = 1/10 | eleventh = 1/11 | twelfth = 1/12 | fifteenth = 1/15 | sixteenth = 1/16 | twentieth = 1/20
hundredth = 1/100 | thousandth = 1/1000 | millionth = 1/1000000 | billionth = 1/1000000000
ten = 10 | dozen = 12 | score = 20 | hundred ร้อย = 100 | gross = 144
thousand тысяч тысяча тысячи тыс พัน mil mille tausend elfu हजार हज़ार হাজার వేల వేలు nghìn ngàn ribu = 1000
หมื่น = 10000 | lakh แสน লাখ लाख లక్ష లక్షలు = 100000 | crore করোড় কোটি करोड़ కోట్లు = 10000000
million ล้าน миллион миллионов млн mln mio millón millones millionen milhão milhões milione milioni juta triệu = 1000000
billion bn milliard milliarde milliarden bilhão bilhões miliardo miliardi миллиард миллиарда миллиардов млрд tỷ
  = 1000000000
trillion = 1000000000000 | quadrillion = 1000000000000000
"""
NUMBER_WORDS: dict[str, Fraction] = {
    name: Fraction(value.strip())
    for names, value in re.findall(r"([^|=]+)=\s*([\d/]+)", _NUMBER_TABLE)
    for name in names.split()
}
# Behind a price; elsewhere K is kelvin and M molar.
MONEY_WORDS = {"k": Fraction(1000), "K": Fraction(1000), "m": Fraction(10**6), "M": Fraction(10**6),
               "B": Fraction(10**9), "b": Fraction(10**9)}  # fmt: skip
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
    exact = _prefixed(exact, _SPELT, _SPELT_OUT) | exact
    folded = {name.casefold(): unit for name, unit in exact.items() if len(name) > 1}
    return _prefixed(exact, _PREFIXES, _PREFIXED) | exact, folded


def _prefixed(units: dict[str, Unit], prefixes: dict[str, int], names: str) -> dict[str, Unit]:
    """kV, microfarads: in capitals as they are written, for mW is not MW."""
    return {
        prefix + name: Unit(units[name].factor * Fraction(10) ** power, units[name].dimension)
        for prefix, power in prefixes.items()
        for name in names.split()
    }


EXACT, FOLDED = tables()
