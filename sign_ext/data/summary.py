"""What a data set was found to hold: its classes and parts, and what of the files is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sign_ext.data.classes import unique_names
from sign_ext.data.listing import in_words

# What may happen to an image when it is decoded: kind → how a note says it.
CONVERTED = {
    "transparency": "lost transparency",
    "frames": "animated, read by the first frame",
    "pages": "of several pages, read by the first",
    "scaled": "scaled to 8 bits a channel",
}
MOST_CLASSES = 40  # that are listed in a message; all are in to_dict()


@dataclass(frozen=True)
class DataSummary:
    """What a data set holds, for messages and for ``--json``.

    Args:
        name: the data set's name.
        note: what the data really is, one line for reports.
        parts: ``"train"``, ``"validation"`` and ``"test"`` → number of images, before subsets.
        classes: name → number of images in all parts together.
        left_out: kind → number of files that are not among the images (docs/data.md).
        converted: kind → number of images that were changed in decoding, of those decoded so far.
        cut: the parts that have no files of their own and are cut out of the training images.
        hints: what was guessed, and what else could be asked for, a line each.
    """

    name: str
    note: str
    parts: Mapping[str, int]
    classes: Mapping[str, int]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    converted: Mapping[str, int] = dataclasses.field(default_factory=dict)
    cut: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """The number of images in all parts together."""
        return sum(self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "name": self.name,
            "note": self.note,
            "images": self.images,
            "parts": dict(self.parts),
            "classes": dict(self.classes),
            "left_out": dict(self.left_out),
            "converted": dict(self.converted),
            "cut": list(self.cut),
        }

    def lines(self) -> list[str]:
        """Return what a command prints before it starts: note, classes, parts and hints."""
        lines = [self.note, f"{len(self.classes):,} classes: {self._classes_in_words()}"]
        if self.cut:
            parts = ", ".join(f"{count:,} {part}" for part, count in self.parts.items())
            lines.append(
                f"{' and '.join(self.cut)} images are cut out of the training images: {parts} "
                "(--split all takes them all, where a command has it)"
            )
        return [*lines, *self.hints]

    def converted_in_words(self) -> str:
        """Say how many images were changed in decoding; empty if none was."""
        shown = (f"{count:,} {CONVERTED[kind]}" for kind, count in self.converted.items())
        words = ", ".join(shown)
        return f"images {words}" if words else ""

    def _classes_in_words(self) -> str:
        """List the classes with their numbers of images, the first ones if there are many."""
        listed = [f"{name} {count:,}" for name, count in self.classes.items()]
        if len(listed) <= MOST_CLASSES:
            return ", ".join(listed)
        rest = list(self.classes.values())[MOST_CLASSES:]
        return (
            f"{', '.join(listed[:MOST_CLASSES])} and {len(rest):,} more of {min(rest):,} to "
            f"{max(rest):,} images (all are in --json)"
        )


def count_classes(class_names: tuple[str, ...], counts: list[int]) -> dict[str, int]:
    """Map each class name to its number of images; a name that occurs twice gets a number.

    Args:
        class_names: one name a class.
        counts: one number a class.

    Example:
        >>> count_classes(("cat", "cat"), [3, 4])
        {'cat': 3, 'cat (2)': 4}
    """
    return dict(zip(unique_names(class_names), counts, strict=True))


def with_left_out(note: str, left_out: Mapping[str, int]) -> str:
    """Add to a note what was left out; return the note as it is if nothing was.

    Args:
        note: ends with a closing bracket.
        left_out: kind → number.

    Example:
        >>> with_left_out("images of zoo (40)", {"broken_links": 1})
        'images of zoo (40; left out: 1 broken link)'
    """
    words = in_words({kind: count for kind, count in left_out.items() if count})
    return f"{note.removesuffix(')')}; left out: {words})" if words else note
