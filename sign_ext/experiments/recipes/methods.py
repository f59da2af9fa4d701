"""The methods that the tables compare, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        label: in tables, the paper's own where it has one.
        augment: augmentations of each batch, in order.
        sign: whether the training set is joined with SIGN's versions.
        note: what the paper leaves open; "" for nothing.
    """

    label: str
    augment: tuple[str, ...]
    sign: bool = False
    note: str = ""


METHODS = {
    "none": Method("Baseline", ()),
    "classical": Method("Classical", ("classical",)),
    "mixup": Method(
        "mixup", ("classical", "mixup"), note="α = 1, on top of classical augmentation"
    ),
    "sign": Method("SIGN", ("classical",), sign=True, note="with classical augmentation"),
    "sign_alone": Method("SIGN alone", (), sign=True, note="without any other augmentation"),
    "deepaugment": Method("DeepAugment", ("deepaugment",)),
    "deepaugment_sign": Method(
        "DeepAugment + SIGN",
        ("deepaugment",),
        sign=True,
        note="policies learned on the originals, applied to both; Φ trained classically",
    ),
}
