"""Data sets behind one interface: `load_data`, `open_data` and `load_ood`.

datasets/ holds a module for each data set, formats/ one for each file format. May import the core
(`sign` and below) only.
"""

from typing import TYPE_CHECKING

from sign_ext.lazy_import import lazy_names

if TYPE_CHECKING:
    from sign_ext.data.decode import Unreadable, UnreadableImages
    from sign_ext.data.from_pairs import source_of
    from sign_ext.data.image_set import ImageSet, fingerprint
    from sign_ext.data.load import load_data, load_ood, open_data
    from sign_ext.data.names import DATA_NAMES, OOD_NAMES
    from sign_ext.data.source import ImageSource
    from sign_ext.data.splits import Splits

__all__ = [
    "DATA_NAMES",
    "OOD_NAMES",
    "ImageSet",
    "ImageSource",
    "Splits",
    "Unreadable",
    "UnreadableImages",
    "fingerprint",
    "load_data",
    "load_ood",
    "open_data",
    "source_of",
]

lazy_names(
    __name__,
    {
        "sign_ext.data.decode": ["Unreadable", "UnreadableImages"],
        "sign_ext.data.from_pairs": ["source_of"],
        "sign_ext.data.image_set": ["ImageSet", "fingerprint"],
        "sign_ext.data.load": ["load_data", "load_ood", "open_data"],
        "sign_ext.data.names": ["DATA_NAMES", "OOD_NAMES"],
        "sign_ext.data.source": ["ImageSource"],
        "sign_ext.data.splits": ["Splits"],
    },
)
