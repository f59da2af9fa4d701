"""The types of options: what each one accepts, in words and as values."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin


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
        number = self._converted(value)
        bounded = self.least is not None or self.above is not None
        if (
            math.isnan(number)
            or (bounded and math.isinf(number))
            or (self.least is not None and number < self.least)
            or (self.above is not None and number <= self.above)
        ):
            raise ValueError(f"{value!r} is not {self.words}")
        return number

    def _converted(self, value: object) -> float:
        """Return a value as a number, NaN if it is none."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return math.nan
        if self.whole and isinstance(value, float):
            return math.nan
        try:
            return int(value) if self.whole else float(value)
        except ValueError:
            return math.nan


PositiveInt = Number(whole=True, least=1)
NonNegativeInt = Number(whole=True, least=0)
PositiveFloat = Number(above=0)
NonNegativeFloat = Number(least=0)
# Python's own types of numbers, as numbers without bounds.
_NUMBERS = {int: Number(whole=True), float: Number()}


def as_number(kind: Any) -> Any:
    """Return a type, as a `Number` if it is one of Python's own types of numbers."""
    return _NUMBERS.get(kind, kind)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(each for each in get_args(kind) if each is not type(None))
    return (kind,)


def is_literal(kind: Any) -> bool:
    """Return whether a type lists its values."""
    return get_origin(kind) is Literal


def is_mapping(kind: Any) -> bool:
    """Return whether a type is that of a mapping."""
    return isinstance(origin := get_origin(kind) or kind, type) and issubclass(origin, Mapping)


def convert(kind: Any, value: Any) -> Any:
    """Convert a value, text or what YAML made of it, to a type that is no union.

    Args:
        kind: `str`, `bool`, `int`, `float`, a `Number`, a `Literal` or a type of mapping.
        value: what was given.

    Raises:
        ValueError: the type does not accept it.
    """
    kind = as_number(kind)
    if isinstance(kind, Number):
        return kind.read(value)
    if is_literal(kind):
        accepted = {str(each): each for each in get_args(kind)}
        if isinstance(value, bool) or str(value) not in accepted:
            raise ValueError
        return accepted[str(value)]
    if is_mapping(kind):
        found = plain_value(value) if isinstance(value, str) else value
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise ValueError
        return found
    if kind not in (bool, str):
        raise TypeError(f"an option cannot be of the type {kind!r}")
    if not isinstance(value, kind):
        raise ValueError
    return value


def plain_value(text: str) -> Any:
    """Return a number, a truth value, a list or a mapping where a text is one, or the text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def words_of(kind: Any) -> str:
    """Say what a type accepts.

    Example:
        >>> words_of(float | Literal["auto"])
        'a number or auto'
    """
    return " or ".join(_words_of_one(each) for each in alternatives(kind))


def _words_of_one(kind: Any) -> str:
    kind = as_number(kind)
    if isinstance(kind, Number):
        return kind.words
    if is_literal(kind):
        return ", ".join(str(each) for each in get_args(kind))
    if kind is bool:
        return "true or false"
    return "text" if kind is str else "{NAME: VALUE, …}"


def name_of(kind: Any) -> str:
    """Return the name of a value of a type in the help; "" for text."""
    kind = as_number(kind)
    if is_literal(kind):
        names = [str(each) for each in get_args(kind)]
        return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    return ("N" if kind.whole else "X") if isinstance(kind, Number) else ""
