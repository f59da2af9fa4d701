"""Ways to enlarge or vary a training set that the paper compares, behind one interface."""

from sign_ext.augment.base import Augment, NoAugment
from sign_ext.augment.classical import Classical
from sign_ext.augment.registry import AUGMENT_NAMES, build_augment
from sign_ext.augment.sign import sign_training_set

__all__ = [
    "AUGMENT_NAMES",
    "Augment",
    "Classical",
    "NoAugment",
    "build_augment",
    "sign_training_set",
]
