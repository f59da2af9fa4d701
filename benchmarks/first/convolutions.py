"""BasicCNN's four convolutions and their backward passes to the input alone, by cuDNN.

In bfloat16 and channels_last, with cuDNN's algorithms chosen by heuristic and by benchmarking. The
sum is a lower bound for any engine that uses the library's products, to compare with the onchip
backend.
"""

from __future__ import annotations

import torch
from common import begin, share_of_floor, timed
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.models import build_model

IMAGES = 1056


def convolutions_of(model: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, torch.Size]]:
    """The network's convolutions in order, with their input shapes."""
    found: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, inputs: found.append((m, inputs[0].shape)))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def main() -> None:
    """Record eight timings and their sum, with each way to choose algorithms."""
    device, facts = begin()
    images = IMAGES if device.type == "cuda" else 2
    model = build_model("basic_cnn", image_shape=(3, 32, 32)).to(device).eval()
    found = convolutions_of(model, 255 * torch.rand(images, 3, 32, 32, device=device))
    last = torch.channels_last
    for benchmark in (False, True):
        torch.backends.cudnn.benchmark = benchmark
        total = 0.0
        for conv, shape in found:
            x = torch.randn(shape, device=device).bfloat16().contiguous(memory_format=last)
            weight = conv.weight.detach().bfloat16().contiguous(memory_format=last)
            y = F.conv2d(x, weight, padding=conv.padding)
            g = torch.randn_like(y)

            def forward(x: Tensor = x, weight: Tensor = weight, conv: nn.Conv2d = conv) -> Tensor:
                return F.conv2d(x, weight, padding=conv.padding)

            def backward(
                x: Tensor = x, weight: Tensor = weight, conv: nn.Conv2d = conv, g: Tensor = g
            ) -> object:
                return torch.ops.aten.convolution_backward(
                    g, x, weight, None, conv.stride, conv.padding, (1, 1), False, (0, 0), 1,
                    (True, False, False),
                )  # fmt: skip

            flop = 2 * y.numel() * weight[0].numel()
            moved = x.nbytes + y.nbytes + weight.nbytes
            for name, run in (("forward", forward), ("input-backward", backward)):
                timing = timed(run, device)
                total += timing.median
                facts.record(
                    "convolution",
                    direction=name,
                    shape="x".join(map(str, shape)),
                    channels=len(weight),
                    dtype="bfloat16",
                    cudnn_benchmark=benchmark,
                    **timing.us(),
                    **share_of_floor(facts, timing, moved, flop),
                )
        facts.record(
            "all convolutions of a step",
            network="basic_cnn",
            images=images,
            dtype="bfloat16",
            cudnn_benchmark=benchmark,
            sum_of_medians_us=1e6 * total,
            us_an_image_and_step=1e6 * total / images,
        )


if __name__ == "__main__":
    main()
