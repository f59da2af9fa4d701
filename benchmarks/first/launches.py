"""The launches that ncu profiles: onchip forward and backward, depthwise, activate."""

from __future__ import annotations

import torch
from common import device_here
from onchip_setup import OnChipSetup

from sign_ext.ops.activate import activate
from sign_ext.ops.activation import RELU, RELU6, mask_shape
from sign_ext.ops.depthwise import depthwise

IMAGES = 1056


def main() -> None:
    """Run each launch once before profiling, so that modules are already loaded."""
    device = device_here()
    on_gpu = device.type == "cuda"
    images = IMAGES if on_gpu else 1
    setup = OnChipSetup("basic_cnn", images, 32 if on_gpu else 8, device)
    trajectory = setup.on_chip()
    features = trajectory._features
    assert features is not None
    cotangent = torch.randn_like(features)
    x = torch.randn(images, 96, 32, 32, device=device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(3, 3, 96, device=device), torch.randn(96, device=device)
    mask = torch.empty(mask_shape(x.shape), dtype=torch.uint8, device=device)
    out = torch.empty_like(x)

    def run() -> None:
        trajectory._launch(0, 1)
        trajectory._launch(1, 1, cotangent)
        depthwise(x, weight, out, bias=bias, activation=RELU6, mask=mask, padding=(1, 1))
        activate(x, out, activation=RELU, bias=bias, mask=mask)

    run()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        run()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    main()
