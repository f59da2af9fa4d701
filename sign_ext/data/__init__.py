"""Data sets behind one interface, and transformed images on disk."""

from sign_ext.data.image_set import ImageSet, fingerprint
from sign_ext.data.load import DATA_NAMES, load_data
from sign_ext.data.ood import OOD_NAMES, load_ood
from sign_ext.data.splits import Splits
from sign_ext.data.transformed import Transformed, load_transformed, save_transformed

__all__ = [
    "DATA_NAMES",
    "OOD_NAMES",
    "ImageSet",
    "Splits",
    "Transformed",
    "fingerprint",
    "load_data",
    "load_ood",
    "load_transformed",
    "save_transformed",
]
