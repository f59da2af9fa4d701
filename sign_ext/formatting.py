"""How results are put into words: percentages, spreads, durations, counts, names that are close."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NORMAL_95 = 1.959963984540054  # 95% of a normal distribution lie within so many deviations


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in 0–1 as a percentage without its sign: 0.9812 is `98.1`, None and NaN `–`."""
    if share is None or math.isnan(share):
        return "–"
    return f"{100 * share:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """Write a difference with its sign, with a typographic minus.

    Args:
        value: the difference.
        digits: after the decimal point.

    Example:
        >>> signed(-0.21, 1), signed(8.4, 1)
        ('−0.2', '+8.4')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def binomial_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy measured on `images` images, √(a(1−a)/n).

    Args:
        accuracy: Share of correct answers, 0–1.
        images: How many images were classified, at least 1.

    Example:
        >>> round(binomial_error(0.9, 100), 4)
        0.03
    """
    return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / images)


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, which has a width also where all or none are right.

    Args:
        right: how many answers are right.
        images: how many images were classified, at least 1.

    Example:
        >>> [round(end, 3) for end in wilson_interval(100, 100)]
        [0.963, 1.0]
    """
    share, z2 = right / images, NORMAL_95**2
    centre = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = math.sqrt(share * (1 - share) * z2 / images + (z2 / (2 * images)) ** 2)
    half /= 1 + z2 / images
    return max(centre - half, 0.0), min(centre + half, 1.0)


def error_of_share(right: int, images: int) -> tuple[str, str]:
    """Return the error of a share in percent, and what it is: an interval where all or none count.

    The binomial standard error is 0 there, as if no other images could be wrong.

    Args:
        right: how many images count.
        images: of how many, at least 1.

    Example:
        >>> error_of_share(90, 100)
        ('3.0', 'binomial standard error')
        >>> error_of_share(0, 100)
        ('0.0 to 3.7', 'Wilson’s 95% interval, none of 100')
    """
    if right in (0, images):
        low, high = wilson_interval(right, images)
        every = "none" if right == 0 else "all"
        return f"{percent(low)} to {percent(high)}", f"Wilson’s 95% interval, {every} of {images:,}"
    return percent(binomial_error(right / images, images)), "binomial standard error"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (0 for one value)."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def duration(seconds: float) -> str:
    """Write a duration as people do: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Write a number of things: `1 shard`, `1,024 shards`.

    Args:
        number: how many.
        singular: the name of one.
        plural: the name of several; by default the singular with an s.

    Example:
        >>> counted(1, "image"), counted(2000, "image"), counted(0, "class", "classes")
        ('1 image', '2,000 images', '0 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def listed(items: Iterable[object]) -> str:
    """Write "K", "K and L", "K, L and M".

    Example:
        >>> listed([10, 50, 100])
        '10, 50 and 100'
    """
    *before, last = map(str, items)
    return f"{', '.join(before)} and {last}" if before else last


def closest(given: str, accepted: Iterable[str]) -> str | None:
    """Return the accepted name that is most like the given one; None if none is alike.

    Example:
        >>> closest("transfrom", ("train", "transform")), closest("x", ("train", "transform"))
        ('transform', None)
    """
    return next(iter(difflib.get_close_matches(given, list(accepted), n=1)), None)


def did_you_mean(given: str, accepted: Iterable[str]) -> str:
    """Return ", did you mean 'name'?" for the closest accepted name, or "" if none is alike.

    Example:
        >>> did_you_mean("fuse", ("fused", "graphed")), did_you_mean("x", ("fused", "graphed"))
        (", did you mean 'fused'?", '')
    """
    close = closest(given, accepted)
    return "" if close is None else f", did you mean {close!r}?"


def bytes_in_words(size: float) -> str:
    """A number of bytes with a unit.

    Args:
        size: bytes.

    Example:
        >>> bytes_in_words(10_240), bytes_in_words(17)
        ('10.2 kB', '17 B')
    """
    return quantity(size if size >= 1 else round(size), "B")


PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6))


def quantity(value: float, unit: str) -> str:
    """Write a quantity with three digits and the SI prefix that suits it.

    Args:
        value: not negative, in the unit.
        unit: without a prefix: "B", "FLOP", "s".

    Example:
        >>> quantity(4.72e9, "FLOP"), quantity(0.0604, "s"), quantity(999_900, "B")
        ('4.72 GFLOP', '60.4 ms', '1 MB')
    """
    if value == 0:
        return f"0 {unit}"
    value = float(f"{value:.3g}")  # rounded first, so that 999.9 k becomes 1 M
    prefix, factor = next((each for each in PREFIXES if value >= each[1]), PREFIXES[-1])
    scaled = value / factor
    digits = f"{scaled:,.0f}" if scaled >= 1000 else f"{scaled:.3g}"
    return f"{digits} {prefix}{unit}"


def share_in_words(share: float) -> str:
    """Write an estimated share in 0–1 as a whole percentage: `40%`, `under 1%`.

    Example:
        >>> share_in_words(0.402), share_in_words(0.003), share_in_words(0.0)
        ('40%', 'under 1%', '0%')
    """
    return "under 1%" if 0 < share < 0.01 else f"{share:.0%}"


# The metadata of a dataclass's field that came after values without it were on disks.
ADDED: Mapping[str, Any] = {"added": True}


def plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into what JSON has.

    Fields that were added later (`ADDED`) are left out where they have their default, so that what
    is written, or hashed, of old values stays what it was.

    Example:
        >>> @dataclasses.dataclass
        ... class Pair:
        ...     a: int
        ...     b: int = dataclasses.field(default=0, metadata=ADDED)
        >>> plain((Pair(1), Pair(1, 2)))
        [{'a': 1}, {'a': 1, 'b': 2}]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(item)
            for field in dataclasses.fields(value)
            if not is_added_default(field, item := getattr(value, field.name))
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def is_added_default(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field was added later (`ADDED`) and has its default.

    Args:
        field: of a dataclass.
        value: of an instance.
    """
    if not field.metadata.get("added"):
        return False
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return bool(value == field.default)


def finite(value: Any) -> Any:
    """Prepare nested dicts and lists for JSON: tuples become lists, NaN and Inf None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
