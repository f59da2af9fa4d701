"""What a race found, in words for people."""

from __future__ import annotations

from typing import Any

from sign_ext.formatting import bytes_in_words, duration

COMPILED = ("fused", "onchip")  # the backends that `auto` prefers
MUCH = 1.1  # times as fast, and a difference is worth a sentence


def first_line(error: BaseException) -> str:
    """An error in one short line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:160]


def seconds_in_words(value: float) -> str:
    """A short time with three digits.

    Example:
        >>> seconds_in_words(0.00123)
        '1.23 ms'
    """
    for unit, one in (("s", 1.0), ("ms", 1e-3)):
        if value >= one:
            return f"{value / one:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def rate_in_words(value: float) -> str:
    """A rate with about two digits, from 10 on as a whole number.

    Example:
        >>> rate_in_words(6.4321), rate_in_words(12_345.6)
        ('6.4', '12,346')
    """
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def shape_in_words(shape: tuple[int, ...]) -> str:
    """(3, 32, 32) as 3×32×32."""
    return "×".join(map(str, shape))


def cells(row: dict[str, Any]) -> list[str]:
    """A contender's row of the table: name, median, speed, rate, memory, error."""
    return [
        row["name"],
        seconds_in_words(row["median"]),
        "–" if row["speed"] is None else f"{row['speed']:.2f}×",
        rate_in_words(row["image_steps_per_second"]),
        bytes_in_words(row["bytes_per_image"]),
        f"{row['error']:.1g}",
    ]


def caption(race: dict[str, Any]) -> str:
    """What the table's columns are.

    Args:
        race: `Race.to_dict()` with "rounds_wanted" and "seconds".
    """
    rounds = f"medians of {race['rounds']} rounds"
    if race["rounds"] < race["rounds_wanted"]:
        rounds += f" ({race['rounds_wanted']} did not fit into {race['seconds']:g} s)"
    return (
        f"{rounds}; speed: the naive loop's time over this one's; memory beyond weights, images "
        f"and result; error: distance from {race['reference']}, over what the steps moved"
    )


def auto_in_words(auto: dict[str, Any]) -> str:
    """Which backend runs where none is asked for; a fallback says why.

    Args:
        auto: `SignTransform.explain().to_dict()`.
    """
    backend, reason = auto["backend"], auto["reason"].removeprefix("auto: ")
    if backend in COMPILED:
        return f"backend auto: {backend} ({reason})"
    return f"backend auto: {backend}, not fused ({reason})"


def cost_in_words(cost: dict[str, Any] | None, faster: dict[str, Any] | None = None) -> str:
    """The sentence about a user's set, and a faster backend where there is one.

    Args:
        cost: `Cost.to_dict()`, or None where nothing of ours was timed.
        faster: that of our fastest backend.
    """
    if cost is None:
        return "what SIGN will cost is not known: none of sign_ext's backends was timed"
    sentence = str(cost["sentence"])
    if faster is not None and cost["seconds"] > MUCH * faster["seconds"]:
        sentence += f"; with --backend {faster['backend']} about {duration(faster['seconds'])}"
    return sentence
