"""Stores: transformed data sets on disk, in shards, checksummed and resumable.

May import data, sign and what is below them; never training, evaluation or augment.
"""

from sign_ext.errors import StoreError, StoreInUseError
from sign_ext.store.inspect import Verdict, verify
from sign_ext.store.join import Joined
from sign_ext.store.reader import Snapshot, Transformed, load_transformed
from sign_ext.store.save import save_transformed
from sign_ext.store.transform import StoreRun, transform_to_store

__all__ = [
    "Joined",
    "Snapshot",
    "StoreError",
    "StoreInUseError",
    "StoreRun",
    "Transformed",
    "Verdict",
    "load_transformed",
    "save_transformed",
    "transform_to_store",
    "verify",
]
