"""Transformed data sets on disk: sharded, checked, resumable, made by many processes."""

from sign_ext.errors import StoreError, StoreInUseError
from sign_ext.store.inspect import Verdict, verify
from sign_ext.store.reader import Snapshot, Transformed, load_transformed
from sign_ext.store.save import save_transformed
from sign_ext.store.transform import StoreRun, transform_to_store

__all__ = [
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
