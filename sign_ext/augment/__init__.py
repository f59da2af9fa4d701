"""Ways to enlarge or vary a training set that the paper compares, behind one interface."""

from sign_ext.augment.base import Augment, NoAugment
from sign_ext.augment.classical import Classical, classical_for
from sign_ext.augment.compose import Compose
from sign_ext.augment.mixup import Mixup
from sign_ext.augment.operations import OPERATION_NAMES, Operation, operation_names
from sign_ext.augment.policy import SUB_POLICIES, DeepAugment, Policy, SubPolicy
from sign_ext.augment.policy_files import load_policies, save_policies
from sign_ext.augment.registry import AUGMENT_NAMES, build_augment
from sign_ext.augment.sign import sign_training_set

__all__ = [
    "AUGMENT_NAMES",
    "OPERATION_NAMES",
    "SUB_POLICIES",
    "Augment",
    "Classical",
    "Compose",
    "DeepAugment",
    "Mixup",
    "NoAugment",
    "Operation",
    "Policy",
    "SubPolicy",
    "build_augment",
    "classical_for",
    "load_policies",
    "operation_names",
    "save_policies",
    "sign_training_set",
]
