"""Where arrays lie in shared memory: those that are never alive together may share it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from sign_ext.ops.rounding import rounded_up

ALIGNMENT = 128  # of an array: a line of all banks
SHUFFLES = 64  # orders that are tried


@dataclass(frozen=True)
class Array:
    """A part of shared memory.

    Attributes:
        name: ("p", -1), ("value", 2) and so on: what it is, and of which layer.
        bytes: its size.
        alive: the phases.
    """

    name: tuple[str, int]
    bytes: int
    alive: frozenset[int]

    @property
    def taken(self) -> int:
        """Bytes up to where the next one may begin."""
        return rounded_up(self.bytes, ALIGNMENT)


def crowded(arrays: Sequence[Array]) -> int:
    """Bytes that are alive at once at the worst: no placement needs less.

    Args:
        arrays: what is to be placed.
    """
    phases = frozenset[int]().union(*(array.alive for array in arrays))
    return max(sum(a.taken for a in arrays if t in a.alive) for t in phases)


def _place_in_order(arrays: Iterable[Array]) -> tuple[dict[tuple[str, int], int], int]:
    """Each at the lowest place beside those before it that are alive with it."""
    placed: list[tuple[int, Array]] = []
    for array in arrays:
        taken = sorted((at, at + a.taken) for at, a in placed if a.alive & array.alive)
        at = 0
        for begin, end in taken:
            if at + array.taken <= begin:
                break
            at = max(at, end)
        placed.append((at, array))
    end = max((at + a.taken for at, a in placed), default=0)
    return {array.name: at for at, array in placed}, end


def place(arrays: Sequence[Array]) -> tuple[dict[tuple[str, int], int], int]:
    """Give each array a place beside those that are alive with it: the best of some orders.

    Args:
        arrays: what to place.

    Returns:
        The byte of each by name, and the bytes of all.
    """
    least = crowded(arrays)
    random = Random(0)  # the same plan every time
    orders = [
        sorted(arrays, key=lambda a: (-len(a.alive), -a.bytes, a.name)),
        sorted(arrays, key=lambda a: (-a.bytes, a.name)),
    ]
    orders += [random.sample(list(arrays), len(arrays)) for _ in range(SHUFFLES)]
    best = _place_in_order(orders[0])
    for order in orders[1:]:
        if best[1] == least:
            break
        best = min(best, _place_in_order(order), key=lambda found: found[1])
    return best
