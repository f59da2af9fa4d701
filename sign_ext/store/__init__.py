"""Stores: transformed data sets on disk, in shards, checksummed and resumable.

May import data, sign and what is below them; never training, evaluation or augment.
"""

from typing import TYPE_CHECKING

from sign_ext.lazy_import import lazy_names

if TYPE_CHECKING:
    from sign_ext.errors import StoreError, StoreInUseError
    from sign_ext.store.attack import AttackIteration
    from sign_ext.store.auto_step_size import auto_step_size
    from sign_ext.store.export import Export, export_store
    from sign_ext.store.inspect import Verdict, verify
    from sign_ext.store.join import Joined
    from sign_ext.store.reader import Snapshot, Transformed, load_transformed
    from sign_ext.store.save import save_transformed
    from sign_ext.store.transform import StoreRun, transform_to_store

__all__ = [
    "AttackIteration",
    "Export",
    "Joined",
    "Snapshot",
    "StoreError",
    "StoreInUseError",
    "StoreRun",
    "Transformed",
    "Verdict",
    "auto_step_size",
    "export_store",
    "load_transformed",
    "save_transformed",
    "transform_to_store",
    "verify",
]

lazy_names(
    __name__,
    {
        "sign_ext.errors": ["StoreError", "StoreInUseError"],
        "sign_ext.store.attack": ["AttackIteration"],
        "sign_ext.store.auto_step_size": ["auto_step_size"],
        "sign_ext.store.export": ["Export", "export_store"],
        "sign_ext.store.inspect": ["Verdict", "verify"],
        "sign_ext.store.join": ["Joined"],
        "sign_ext.store.reader": ["Snapshot", "Transformed", "load_transformed"],
        "sign_ext.store.save": ["save_transformed"],
        "sign_ext.store.transform": ["StoreRun", "transform_to_store"],
    },
)
