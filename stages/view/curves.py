"""A metric's values as lines of a chart: smoothed, thinned to what can be seen, scaled, with ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

POINTS = 400  # of one line: more than a chart has pixels
SIZE = 1000  # a plot is this wide and this high in its own units
SMOOTH_SHARE = 15  # the mean reaches over about one step in so many
SMOOTH_FROM = 12  # points; below it there is nothing to smooth
Values = Sequence[float | None]


@dataclass(frozen=True)
class Tick:
    """`place`: from 0 (left, bottom) to 100."""

    place: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Values between `low` and `high` to 0..1, by their logarithm when `log`."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        return (self._of(value) - self._of(self.low)) / (self._of(self.high) - self._of(self.low))

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value


def value_scale(values: Sequence[float], log: bool = False) -> Scale:
    """Around the values, from 0 when they are near it. A logarithm needs values above 0 that span a power of ten, else
    the scale is linear."""
    low, high = min(values), max(values)
    if log and 0 < 10 * low <= high:
        return Scale(low / 1.2, high * 1.2, log=True)
    if 0 < low < high / 2:
        low = 0.0
    if low == high == 0:
        return Scale(0.0, 1.0)
    if low == high:
        return Scale(low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
    room = (high - low) / 20
    return Scale(low if low == 0 else low - room, high + room)


def step_scale(steps: Sequence[int]) -> Scale:
    """The steps from edge to edge."""
    return Scale(steps[0], steps[-1]) if steps[-1] > steps[0] else Scale(steps[0] - 1, steps[0] + 1)


def ticks(scale: Scale, count: int, whole: bool = False) -> list[Tick]:
    """About `count` round values (1, 2 or 5 times a power of ten); powers of ten of a logarithm. `whole`: integers."""
    if scale.log:
        lowest, highest = math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high))
        exponents = range(lowest, highest + 1, max(1, math.ceil((highest - lowest + 1) / count)))
        return [Tick(round(100 * scale(10.0**exponent), 2), f"1e{exponent:+03d}") for exponent in exponents]
    least = (scale.high - scale.low) / count
    power = 10.0 ** math.floor(math.log10(least))
    stride = power * next(factor for factor in (1, 2, 5, 10) if least <= factor * power * (1 + 1e-9))
    stride = max(1.0, stride) if whole else stride
    first, last = math.ceil(scale.low / stride - 1e-9), math.floor(scale.high / stride + 1e-9)
    values = [index * stride for index in range(first, last + 1)]
    plain = 1e-3 <= max(abs(scale.low), abs(scale.high)) < 1e5
    return [Tick(round(100 * scale(value), 2), _label(value, stride, plain)) for value in values]


def _label(value: float, stride: float, plain: bool) -> str:
    """As many digits as tell neighbours apart; `plain`: without an exponent."""
    if value == 0:
        return "0"
    power = math.floor(math.log10(stride) + 1e-9)
    if plain:
        return f"{value:.{max(0, -power)}f}"
    return f"{value:.{max(0, math.floor(math.log10(abs(value)) + 1e-9) - power)}e}"


def smooth(values: Values) -> list[float | None]:
    """Mean over about n / 15 values around each, so that it does not lag; near an end over fewer, so that it follows.
    Gaps stay, and are passed over."""
    radius = max(2, len(values) // (2 * SMOOTH_SHARE))
    sums = list(accumulate((value or 0.0 for value in values), initial=0.0))
    counts = list(accumulate((value is not None for value in values), initial=0))
    result: list[float | None] = []
    for index, value in enumerate(values):
        reach = max(min(radius, index, len(values) - 1 - index), radius // 3)
        low, high = max(0, index - reach), min(len(values), index + reach + 1)
        result.append(None if value is None else (sums[high] - sums[low]) / (counts[high] - counts[low]))
    return result


def thin(values: Values, limit: int = POINTS) -> list[int]:
    """Indices to draw, at most about `limit`: of each stretch its lowest and highest, so that no spike is lost."""
    if len(values) <= limit:
        return list(range(len(values)))
    kept: set[int] = {0, len(values) - 1}
    stretch = math.ceil(2 * len(values) / limit)
    for start in range(0, len(values), stretch):
        defined = [(v, i) for i in range(start, min(start + stretch, len(values))) if (v := values[i]) is not None]
        kept.update((min(defined)[1], max(defined)[1]) if defined else (start,))
    return sorted(kept)


def path(steps: Sequence[int], values: Values, x: Scale, y: Scale) -> str:
    """The `d` of an SVG path, y down; a gap breaks the line, a lone point is a dot."""
    pieces = []
    for defined, run in groupby(zip(steps, values, strict=True), lambda pair: pair[1] is not None):
        if defined:
            points = [_point(x(step), y(value)) for step, value in run if value is not None]
            pieces.append(f"M{'L'.join(points)}" if len(points) > 1 else f"M{points[0]}h0")
    return "".join(pieces)


def area(steps: Sequence[int], low: Sequence[float], high: Sequence[float], x: Scale, y: Scale) -> str:
    """The `d` of the area between two lines."""
    there = [_point(x(step), y(value)) for step, value in zip(steps, high, strict=True)]
    back = [_point(x(step), y(value)) for step, value in zip(steps, low, strict=True)]
    return f"M{'L'.join([*there, *reversed(back)])}Z"


def _point(x: float, y: float) -> str:
    return f"{round(SIZE * x)} {SIZE - round(SIZE * y)}"
