"""The types of options: what each one accepts, in words and as values."""

from __future__ import annotations

import contextlib
import math
import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from sign_ext.commands.console import UsageError
from sign_ext.formatting import did_you_mean


@dataclass(frozen=True)
class Number:
    """The type of an option that is a number, in words for the help and for errors.

    Args:
        whole: Accept whole numbers only.
        least: The smallest number that is accepted; None for no bound.
        above: Accept numbers above this one; None for no bound.

    Example:
        >>> PositiveInt.words, PositiveInt.read("12")
        ('a whole number of at least 1', 12)
    """

    whole: bool = False
    least: float | None = None
    above: float | None = None

    @property
    def words(self) -> str:
        """What is accepted."""
        least = "" if self.least is None else f" of at least {self.least:g}"
        above = "" if self.above is None else f" above {self.above:g}"
        return f"a {'whole ' if self.whole else ''}number{least}{above}"

    def read(self, value: object) -> float:
        """Return the number that was given as text or, in a file, as a number.

        Raises:
            ValueError: it is not accepted.
        """
        kind = int if self.whole else float
        number: float = math.nan
        if isinstance(value, str | int | kind) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                number = kind(value)
        bounded = self.least is not None or self.above is not None
        if (
            math.isnan(number)
            or (bounded and math.isinf(number))
            or (self.least is not None and number < self.least)
            or (self.above is not None and number <= self.above)
        ):
            raise ValueError(f"{value!r} is not {self.words}")
        return number


PositiveInt = Number(whole=True, least=1)
NonNegativeInt = Number(whole=True, least=0)
PositiveFloat = Number(above=0)
NonNegativeFloat = Number(least=0)
# Python's own types of numbers, as numbers without bounds.
_NUMBERS = {int: Number(whole=True), float: Number()}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone; Python's numbers as `Number`."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return tuple(_NUMBERS.get(each, each) for each in kinds if each is not type(None))


def read(kind: Any, name: str, value: Any) -> Any:
    """Convert a value to the type of an option.

    Args:
        kind: `str`, `bool`, `int`, `float`, a `Number`, a `Literal` or a union of these.
        name: of the option, for the error.
        value: text, or in a file what YAML made of it.

    Raises:
        UsageError: the type does not accept it.
    """
    choices: dict[str, Any] = {}
    for each in alternatives(kind):
        if isinstance(each, Number):
            with contextlib.suppress(ValueError):
                return each.read(value)
        elif get_origin(each) is Literal:
            choices |= {str(choice): choice for choice in get_args(each)}
        elif isinstance(value, each):
            return value
    if str(value) in choices:
        return choices[str(value)]
    hint = did_you_mean(str(value), choices) or ";"
    raise UsageError(f"{name} is {value!r}{hint} accepted: {words_of(kind)}")


def words_of(kind: Any) -> str:
    """Say what a type accepts.

    Example:
        >>> words_of(float | Literal["auto"])
        'a number or auto'
    """
    words = {str: "text", bool: "true or false"}
    return " or ".join(
        each.words
        if isinstance(each, Number)
        else words.get(each) or ", ".join(map(str, get_args(each)))
        for each in alternatives(kind)
    )


def name_of(kind: Any) -> str:
    """Return the name of a value of a type (one of `alternatives`) in the help; "" for text."""
    if get_origin(kind) is Literal:
        names = [str(each) for each in get_args(kind)]
        return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    return ("N" if kind.whole else "X") if isinstance(kind, Number) else ""
