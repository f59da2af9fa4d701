"""Sizes in whole units."""

from __future__ import annotations


def rounded_up(n: int, multiple: int) -> int:
    """The smallest multiple that is not below n.

    Args:
        n: a count.
        multiple: of what.

    Example:
        >>> rounded_up(33, 16)
        48
    """
    return -(-n // multiple) * multiple
