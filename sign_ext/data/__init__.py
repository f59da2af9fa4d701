"""Data sets behind one interface."""

from sign_ext.data.image_set import ImageSet, fingerprint
from sign_ext.data.load import DATA_NAMES, OOD_NAMES, load_data, load_ood, open_data
from sign_ext.data.source import ImageSource
from sign_ext.data.splits import Splits

__all__ = [
    "DATA_NAMES",
    "OOD_NAMES",
    "ImageSet",
    "ImageSource",
    "Splits",
    "fingerprint",
    "load_data",
    "load_ood",
    "open_data",
]
