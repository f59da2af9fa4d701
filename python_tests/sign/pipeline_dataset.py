"""A data set that uses SIGN in a worker process; spawned ones import it from this module."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sign_ext import SignTransform


class Transformed(Dataset[Tensor]):
    """Each item is a batch of two images, transformed where it is read."""

    def __init__(self, sign: SignTransform, images: Tensor) -> None:
        self.sign = sign
        self.images = images

    def __len__(self) -> int:
        return len(self.images) // 2

    def __getitem__(self, index: int) -> tuple[Tensor, bool]:
        in_worker = torch.utils.data.get_worker_info() is not None
        moved = self.sign(self.images[2 * index : 2 * index + 2])
        assert isinstance(moved, Tensor)
        return moved, in_worker
