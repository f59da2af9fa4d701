"""What a step on chip asks of a multiprocessor: counted, tile by tile, as the kernel works."""

from __future__ import annotations

from dataclasses import dataclass

from sign_ext.engine.onchip.network import OnChipNetwork
from sign_ext.engine.onchip.partition import OnChipLayer, padded
from sign_ext.engine.onchip.plan import Loads

PRODUCT_FLOP = 4096  # of one instruction of the matrix unit: 16×8×16 multiply-adds
A_BYTES, B_BYTES = 512, 256  # that a warp loads for 16 rows, and for 8 channels, of a product
BANK_BYTES = 128  # that shared memory gives in a clock
UNIT_FLOP = 4096  # that the matrix units of a multiprocessor do in a clock, dense bfloat16 (Hopper)


@dataclass(frozen=True)
class Work:
    """Of one image and step.

    Attributes:
        products: instructions of the matrix unit.
        loaded: bytes that they take from shared memory.
        copied: bytes of weights that come from global memory (or its cache) to shared memory.
        useful: floating-point operations of the network on chip; the rest of the products' is
            padding, and zeros of poolings.
    """

    products: int
    loaded: int
    copied: int
    useful: int

    @property
    def clocks(self) -> float:
        """Of a multiprocessor, at least: the slower of its matrix units and its shared memory."""
        return max(self.products * PRODUCT_FLOP / UNIT_FLOP, self.loaded / BANK_BYTES)

    def __str__(self) -> str:
        """One line."""
        share = self.useful / (self.products * PRODUCT_FLOP)
        return (
            f"{self.products:,} products of 16×8×16 ({share:.0%} of them no padding) from "
            f"{self.loaded / 1e6:.3g} MB of shared memory: at least {self.clocks:,.0f} clocks of a "
            "multiprocessor for an image and step"
        )


def tile_of(rows: int, channels: int, warps: int) -> tuple[int, int, int]:
    """Rows of 16 and channels of 8 in a warp's tile, and how many tiles there are.

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
    """Products and bytes of one layer in one direction."""
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
            more, of = _phase(layer, backward, plan.threads // 32)
            products += more
            loaded += of
            copied += layer.weight_bytes if load != Loads.THERE else 0
    useful = 0
    for layer in network.layers:
        _, height, width = layer.conv_shape
        useful += 4 * int(layer.weight.count_nonzero()) * height * width
    return Work(products, loaded, copied, useful)
