"""Check a store of transformed images: read every shard and compare it with the manifest.

Exit code 0 means that every shard exists with the right checksum, 1 that the
store is unfinished or something is wrong; each fault is a line on stdout. Run
the `sign-ext transform` command that made the store again to make what is
missing and to repair what is damaged.
"""

from __future__ import annotations

import dataclasses

from sign_ext.commands import console
from sign_ext.commands.shared import StoreOptions

EXAMPLES = ("sign-ext verify runs/transformed", "sign-ext verify runs/transformed --json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    """Options of `sign-ext verify`."""


def run(options: Options) -> None:
    """Verify the store and print the faults.

    Raises:
        StoreError: something is wrong.
    """
    from sign_ext.formatting import bytes_in_words, counted
    from sign_ext.store import StoreError, verify

    with console.progress("verifying") as report:
        verdict = verify(options.store, progress=report)
    if options.json:
        console.print_json({"store": options.store, **dataclasses.asdict(verdict)})
    else:
        for line in verdict.faults:
            print(line)
        for note in verdict.notes:
            console.say(f"note: {note}")
    if verdict.unfinished and len(verdict.faults) == 1:
        raise StoreError(
            f"{options.store} is unfinished; its {counted(verdict.whole, 'shard')} so far "
            f"{'is' if verdict.whole == 1 else 'are'} intact. Run its `sign-ext transform` "
            "command again to make the others"
        )
    if verdict.faults:
        raise StoreError(
            f"{options.store} is damaged or incomplete: {verdict.whole:,} of "
            f"{counted(verdict.shards, 'shard is', 'shards are')} intact; run its `sign-ext "
            "transform` again to repair it"
        )
    if not options.json:
        print(
            f"{options.store} is intact: {counted(verdict.shards, 'shard')}, "
            f"{bytes_in_words(verdict.bytes)} read"
        )
