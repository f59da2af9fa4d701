"""Describe a store of transformed images: counts, sizes, and how it was made.

Reads the manifest, not the images; `sign-ext verify` reads those. For an
unfinished store, shows how much is done.
"""

from __future__ import annotations

import dataclasses

from sign_ext.commands import console
from sign_ext.commands.shared import StoreOptions

EXAMPLES = ("sign-ext inspect runs/transformed", "sign-ext inspect runs/transformed --json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    """Options of `sign-ext inspect`."""


def run(options: Options) -> None:
    """Print the description, or JSON."""
    from sign_ext.store.inspect import describe, in_words

    store = describe(options.store)
    if options.json:
        console.print_json(store)
        return
    for name, text in in_words(store):
        print(f"{name:<11}{text}")
