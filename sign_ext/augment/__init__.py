"""The augmentations that the paper compares, SIGN's among them, behind one interface.

May import sign_ext.data and the core (`sign` and below).
"""

from sign_ext.augment.adversarial import Adversarial
from sign_ext.augment.advprop import AdvProp, auxiliary_batch_norm
from sign_ext.augment.base import Augment, Compose, NoAugment
from sign_ext.augment.classical import Classical, classical_for
from sign_ext.augment.distil import Distilled
from sign_ext.augment.field import AugMix, CutMix, RandAugment, TrivialAugment
from sign_ext.augment.mixup import Mixup
from sign_ext.augment.on_the_fly import OnTheFlySign
from sign_ext.augment.operations import OPERATION_NAMES, Operation, operation_names
from sign_ext.augment.policy import (
    SUB_POLICIES,
    DeepAugment,
    Policy,
    SubPolicy,
    load_policies,
    save_policies,
)
from sign_ext.augment.registry import AUGMENT_NAMES, build_augment
from sign_ext.augment.sign import sign_training_set

__all__ = [
    "AUGMENT_NAMES",
    "OPERATION_NAMES",
    "SUB_POLICIES",
    "AdvProp",
    "Adversarial",
    "AugMix",
    "Augment",
    "Classical",
    "Compose",
    "CutMix",
    "DeepAugment",
    "Distilled",
    "Mixup",
    "NoAugment",
    "OnTheFlySign",
    "Operation",
    "Policy",
    "RandAugment",
    "SubPolicy",
    "TrivialAugment",
    "auxiliary_batch_norm",
    "build_augment",
    "classical_for",
    "load_policies",
    "operation_names",
    "save_policies",
    "sign_training_set",
]
