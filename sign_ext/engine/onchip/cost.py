"""The work of a step on chip for a multiprocessor, counted tile by tile as the kernel does it."""

from __future__ import annotations

from dataclasses import dataclass

from sign_ext.engine.onchip.network import OnChipNetwork
from sign_ext.engine.onchip.partition import OnChipLayer, padded
from sign_ext.engine.onchip.plan import WeightLoad
from sign_ext.formatting import bytes_in_words

PRODUCT_FLOP = 4096  # of one instruction of the matrix unit: 16×8×16 multiply-adds
A_BYTES, B_BYTES = 512, 256  # loaded by a warp for 16 rows, and for 8 channels, of a product
BANK_BYTES = 128  # loaded from shared memory in a clock
UNIT_FLOP = 4096  # done by a multiprocessor's matrix units in a clock, dense bfloat16 (Hopper)


@dataclass(frozen=True)
class Work:
    """The work of one image and step.

    Attributes:
        products: instructions of the matrix unit.
        loaded: bytes that they load from shared memory.
        copied: bytes of weights copied from global memory (or its cache) to shared memory.
        useful: floating-point operations of the network on chip; the products' other operations
            are padding, and zeros of poolings written as convolutions.
    """

    products: int
    loaded: int
    copied: int
    useful: int

    @property
    def clocks(self) -> float:
        """A multiprocessor's, at least: those of its matrix units or its shared memory."""
        return max(self.products * PRODUCT_FLOP / UNIT_FLOP, self.loaded / BANK_BYTES)

    def __str__(self) -> str:
        """One line."""
        share = self.useful / (self.products * PRODUCT_FLOP)
        return (
            f"{self.products:,} products of 16×8×16 ({share:.0%} without padding) from "
            f"{bytes_in_words(self.loaded)} of shared memory: at least {self.clocks:,.0f} clocks "
            "of a multiprocessor for an image and step"
        )


def tile_of(rows: int, channels: int, warps: int) -> tuple[int, int, int]:
    """A warp's tile in fragments, 16 rows by 8 channels each, and how many tiles there are.

    The rule of csrc/onchip/onchip_product.cuh, for_tiles.

    Args:
        rows: positions of the product.
        channels: padded.
        warps: of a block.
    """
    across = next(n for n in (4, 2, 1) if channels % (8 * n) == 0)
    columns = channels // (8 * across)
    down = 4 if -(-rows // 64) * columns >= warps else 2
    return down, across, -(-rows // (16 * down)) * columns


def _phase(layer: OnChipLayer, backward: bool, warps: int) -> tuple[int, int]:
    """Products, and bytes loaded, of one layer in one direction."""
    out_c, in_c = padded(layer.weight.shape[0]), layer.in_channels
    taps = layer.weight.shape[2] * layer.weight.shape[3]
    if backward:
        rows, channels, inner = layer.in_shape[1] * layer.in_shape[2], in_c, out_c
    else:
        _, height, width = layer.conv_shape
        rows = (height // 2) * (width // 2) * 4 if layer.pooled else height * width
        channels, inner = out_c, in_c
    down, across, tiles = tile_of(rows, channels, warps)
    steps = -(-taps * inner // 16)
    products = tiles * steps * down * across
    return products, tiles * steps * (down * A_BYTES + across * B_BYTES)


def work_of(network: OnChipNetwork) -> Work:
    """The work of one image and step.

    Args:
        network: what is on chip.
    """
    products = loaded = copied = 0
    for launch in network.launches:
        plan = launch.plan
        for (i, backward), load in plan.loads.items():
            layer = network.layers[i]
            of_phase = _phase(layer, backward, plan.threads // 32)
            products += of_phase[0]
            loaded += of_phase[1]
            copied += layer.weight_bytes if load != WeightLoad.THERE else 0
    useful = 0
    for layer in network.layers:
        _, height, width = layer.conv_shape
        useful += 4 * int(layer.weight.count_nonzero()) * height * width
    return Work(products, loaded, copied, useful)
