"""A race's results as text: the cells of its table, its caption and its sentences."""

from __future__ import annotations

from typing import Any

from sign_ext.formatting import bytes_in_words, counted, duration, quantity

COMPILED_BACKENDS = ("fused", "onchip")  # those that `auto` prefers
WORTH_A_SENTENCE = 1.1  # how many times as fast another backend must be


def first_line(error: BaseException) -> str:
    """Return an error as one short line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:160]


def format_seconds(value: float) -> str:
    """Write a short time with three digits.

    Example:
        >>> format_seconds(0.00123)
        '1.23 ms'
    """
    return quantity(value, "s")


def format_rate(value: float) -> str:
    """Write a rate with about two digits, from 10 on as a whole number.

    Example:
        >>> format_rate(6.4321), format_rate(12_345.6)
        ('6.4', '12,346')
    """
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def format_shape(shape: tuple[int, ...]) -> str:
    """Write (3, 32, 32) as 3×32×32."""
    return "×".join(map(str, shape))


def table_row(row: dict[str, Any]) -> list[str]:
    """Return a contender's row: name, median, speed, rate, memory, error."""
    return [
        row["name"],
        format_seconds(row["median"]),
        "–" if row["speed"] is None else f"{row['speed']:.2f}×",
        format_rate(row["image_steps_per_second"]),
        bytes_in_words(row["bytes_per_image"]),
        f"{row['error']:.1g}",
    ]


def caption(race: dict[str, Any]) -> str:
    """Explain the table's columns.

    Args:
        race: `Race.to_dict()` with "rounds_wanted" and "seconds".
    """
    rounds = f"medians of {counted(race['rounds'], 'round')}"
    if race["rounds"] < race["rounds_wanted"]:
        rounds += f" ({race['rounds_wanted']} did not fit into {race['seconds']:g} s)"
    return (
        f"{rounds}; speed: the naive loop's time over this one's; memory beyond weights, images "
        f"and result; error: distance from {race['reference']}, over what the steps moved"
    )


def describe_auto(auto: dict[str, Any]) -> str:
    """Say which backend runs by default, and why.

    Args:
        auto: `SignTransform.explain().to_dict()`.
    """
    backend, reason = auto["backend"], auto["reason"].removeprefix("auto: ")
    if backend in COMPILED_BACKENDS:
        return f"backend auto: {backend} ({reason})"
    return f"backend auto: {backend}, not fused ({reason})"


def describe_cost(cost: dict[str, Any] | None, faster: dict[str, Any] | None = None) -> str:
    """Say what a set costs, and name a backend that is clearly faster, if there is one.

    Args:
        cost: `Cost.to_dict()`, or None if none of our backends was timed.
        faster: the cost with our fastest backend.
    """
    if cost is None:
        return "what SIGN will cost is not known: none of sign_ext's backends was timed"
    sentence = str(cost["sentence"])
    if faster is not None and cost["seconds"] > WORTH_A_SENTENCE * faster["seconds"]:
        sentence += f"; with --backend {faster['backend']} about {duration(faster['seconds'])}"
    return sentence
