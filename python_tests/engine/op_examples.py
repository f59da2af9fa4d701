"""Small networks that together hold every kind of the compiler's operations, to run each on CUDA.

A new kind needs an example whose program has it. `python_tests/engine/test_ops_on_fake_cuda.py`
says so where none has, and runs all of them on a CUDA device without data; `test_ops_gpu.py` runs
them on a GPU, in a graph. What the compiler has no rule for is an island there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from networks import unsettled
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = (8, 12)  # of the images, which have 3 channels
CHANNELS = 6  # of what an example's middle is given


class Example(nn.Module):
    """A first convolution, layers that a function calls, and a classifier.

    Args:
        function: of the features (N, 6, 8, 12) and the layers; its value is flattened.
        *layers: what it is given.
        images: whether it is given the images (N, 3, 8, 12), without a convolution before.
    """

    def __init__(self, function: Callable[..., Tensor], *layers: Any, images: bool = False) -> None:
        super().__init__()
        self.first = nn.Identity() if images else nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.function = function
        self.layers = nn.ModuleList(layer for layer in layers if isinstance(layer, nn.Module))
        self.values = nn.ParameterList(v for v in layers if not isinstance(v, nn.Module))
        with torch.no_grad():
            features = self.middle(torch.zeros(2, 3, *SIZE)).shape[1]
        self.mix = nn.Parameter(torch.randn(features))  # a norm's last sum is a constant
        self.classifier = nn.Linear(features, 3)

    def middle(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), *self.layers, *self.values).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.middle(x) * self.mix)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def normed(*shape: int) -> nn.Module:
    """A convolution and a BatchNorm, which fold into one."""
    return nn.Sequential(nn.Conv2d(*shape, 3, 2, 1, bias=False), nn.BatchNorm2d(shape[1]))


def attended(x: Tensor, qkv: nn.Module, last: nn.Module, *bias: Tensor) -> Tensor:
    """Attention of two heads, q, k and v in one product."""
    count, length, width = x.shape
    q, k, v = qkv(x).reshape(count, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, *bias)
    return x + last(y.transpose(1, 2).reshape(count, length, width))


def weighted(x: Tensor, norm: nn.Module, qkv: nn.Module, bias: Tensor) -> Tensor:
    """The same by products and a softmax."""
    q, k, v = qkv(norm(x)).chunk(3, -1)
    return (q @ k.transpose(1, 2) * 0.4 + bias).softmax(-1) @ v


def windowed(x: Tensor, qkv: nn.Module, last: nn.Module, bias: Tensor) -> Tensor:
    """Attention inside windows of 4×4, shifted by one."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).roll((-1, -1), (1, 2))
    x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    x = attended(x, qkv, last, bias)
    x = x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
    return x.roll((1, 1), (1, 2)).permute(0, 3, 1, 2)


def grouped_heads(x: Tensor, qkv: nn.Module) -> Tensor:
    """Attention of four heads of q, two of k and v."""
    q, k, v = qkv(x).split((12, 6, 6), -1)
    q, k, v = (part.unflatten(2, (-1, 3)).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


def bias_of_images(x: Tensor, qkv: nn.Module, bias: nn.Module) -> Tensor:
    q, k, v = qkv(x).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias(x).transpose(1, 2))


def linear_attention(x: Tensor, qkv: nn.Module) -> Tensor:
    q, k, v = qkv(tokens(x)).chunk(3, -1)
    q, k = F.relu(q), F.elu(k) + 1
    return (q @ (k.transpose(1, 2) @ v)) / (q @ k.sum(1, keepdim=True).transpose(1, 2) + 1)


def rotary(x: Tensor, angles: Tensor) -> Tensor:
    x = tokens(x)
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * angles.cos() + turned * angles.sin()


def turned_attention(x: Tensor, qkv: nn.Module, angles: Tensor) -> Tensor:
    """Attention of two heads whose queries and keys are turned."""
    q, k, v = qkv(tokens(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)

    def turn(y: Tensor) -> Tensor:
        turned = torch.stack([-y[..., 1::2], y[..., ::2]], -1).reshape(y.shape)
        return y * angles.cos() + turned * angles.sin()

    return F.scaled_dot_product_attention(turn(q), turn(k), v)


def class_token(x: Tensor, token: Tensor, positions: Tensor) -> Tensor:
    x = torch.cat([token.expand(len(x), -1, -1), tokens(x)], 1) + positions
    return torch.tanh(x)[:, :5]


def squeeze(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    return x * torch.sigmoid(last(F.silu(first(x.mean((2, 3), keepdim=True)))))


def split_attention(x: Tensor, scores: nn.Module) -> Tensor:
    parts = torch.stack([x, x.tanh()], 1)
    gates = scores(parts.sum(1).mean((2, 3), keepdim=True))
    return (parts * gates.view(len(x), 2, 6, 1, 1).softmax(1)).sum(1)


def inverted_residual(x: Tensor, wide: nn.Module, *inside: nn.Module) -> Tensor:
    expand, spread, project = inside
    x = F.relu(wide(x))
    return F.relu(x + project(F.relu6(spread(F.relu6(expand(x))))))


def response(x: Tensor, gain: Tensor) -> Tensor:
    size = (x.square().sum((2, 3), keepdim=True) + 0.1).sqrt()
    return x + gain * (x * (size / (size.mean(1, keepdim=True) + 1e-3)))


def global_response(x: Tensor, gain: Tensor) -> Tensor:
    x = F.gelu(x)
    size = x.norm(dim=(2, 3), keepdim=True)
    return x + gain * (x * (size / (size.mean(1, keepdim=True) + 1e-3)))


def standardised(x: Tensor, weight: Tensor) -> Tensor:
    mean, spread = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
    return F.conv2d(x, (weight - mean) / (spread + 1e-3), padding=1).relu()


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return F.silu(x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def channels_first_norm(x: Tensor, gain: Tensor) -> Tensor:
    x = x - x.mean(1, keepdim=True)
    return gain * x / (x.square().mean(1, keepdim=True) + 1e-3).sqrt()


conv, linear, randn = nn.Conv2d, nn.Linear, torch.randn

# Each makes a network; the names say what is meant to be in it, which nothing relies on.
EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: Example(
        lambda x, a, b, c: F.leaky_relu(a(x) + b(c(x)), 0.2),
        conv(6, 5, 3, 2, 1), conv(6, 5, 1, 2), conv(6, 6, 5, padding=2, groups=6)),
    "grouped": lambda: Example(
        lambda x, a: F.relu(a(x)), conv(6, 9, (3, 2), padding=(0, 1), groups=3, dilation=2)),
    "batch_norm": lambda: Example(lambda x, a: F.relu6(a(x) + 0.1), normed(6, 10)),
    "block": lambda: Example(
        inverted_residual,
        conv(6, 8, 1), conv(8, 24, 1), conv(24, 24, 3, padding=1, groups=24), conv(24, 8, 1)),
    "same_padding": lambda: Example(
        lambda x, a: F.relu(a(F.pad(x, (0, 1, 0, 1)))), conv(6, 6, 3, 2)),
    "pad": lambda: Example(lambda x: F.pad(F.relu(x), (1, 0, 2, 1)).tanh()),
    "linear": lambda: Example(
        lambda x, a, b: F.relu(b(F.gelu(a(x.flatten(1))))), linear(6 * 96, 11), linear(11, 7)),
    "max_pool": lambda: Example(lambda x: F.max_pool2d(F.relu(x), 3, 2, 1).tanh()),
    "average_pool": lambda: Example(
        lambda x, a: F.relu(a(F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))), conv(6, 4, 1)),
    "adaptive_pool": lambda: Example(
        lambda x: F.adaptive_avg_pool2d(x.tanh(), (3, 5)).sin()),
    "adaptive_max_pool": lambda: Example(lambda x: F.adaptive_max_pool2d(x, (3, 5)).tanh()),
    "smooth": lambda: Example(
        lambda x, a: F.silu(x) + F.gelu(a(x)) + F.hardswish(x) * F.hardsigmoid(x) + F.mish(x),
        conv(6, 6, 1)),
    "exponential_units": lambda: Example(lambda x: F.elu(x, 0.7) + F.selu(x) - F.celu(x, 1.3)),
    "rare_activations": lambda: Example(
        lambda x: F.softplus(x, 2) + F.logsigmoid(x) + F.softsign(x) + F.softshrink(x, 0.2)),
    "prelu": lambda: Example(lambda x, a: a(x), nn.PReLU(6)),
    "group_norm": lambda: Example(lambda x, a: F.relu(a(x)), nn.GroupNorm(2, 6)),
    "instance_norm": lambda: Example(
        lambda x, a: F.relu(a(x)), nn.InstanceNorm2d(6, affine=True)),
    "layer_norm": lambda: Example(
        lambda x, a, b: F.gelu(b(a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2),
        nn.LayerNorm(6), linear(6, 6)),
    "layer_norm_of_tokens": lambda: Example(lambda x, a: a(tokens(x)).tanh(), nn.LayerNorm(6)),
    "layer_norm_of_images": lambda: Example(lambda x, a: a(x).tanh(), nn.LayerNorm([6, 8, 12])),
    "rms_norm": lambda: Example(lambda x, a: a(tokens(x)).tanh(), nn.RMSNorm(6, eps=1e-3)),
    "channels_first_norm": lambda: Example(channels_first_norm, randn(6, 1, 1)),
    "response_norm": lambda: Example(response, randn(6, 1, 1)),
    "global_response_norm": lambda: Example(global_response, randn(6, 1, 1)),
    "standardised_weights": lambda: Example(standardised, randn(5, 6, 3, 3)),
    "perceptron": lambda: Example(
        lambda x, a, b, g: tokens(x) + g * b(F.gelu(a(tokens(x)))),
        linear(6, 13), linear(13, 6), randn(6)),
    "gated_perceptron": lambda: Example(
        lambda x, a, b: b(F.silu(a(tokens(x)).chunk(2, -1)[0]) * a(tokens(x)).chunk(2, -1)[1]),
        linear(6, 14), linear(7, 6)),
    "attention": lambda: Example(
        lambda x, *a: attended(tokens(F.avg_pool2d(x, 2)), *a), linear(6, 18), linear(6, 6)),
    "biased_attention": lambda: Example(
        lambda x, *a: attended(tokens(F.avg_pool2d(x, 2)), *a),
        linear(6, 18), linear(6, 6), randn(2, 24, 24)),
    "weighted_sum": lambda: Example(
        lambda x, *a: weighted(tokens(F.avg_pool2d(x, 2)), *a),
        nn.LayerNorm(6), linear(6, 18), randn(24, 24)),
    "multihead": lambda: Example(
        lambda x, a: a(tokens(x), tokens(x), tokens(x))[0],
        nn.MultiheadAttention(6, 2, batch_first=True)),
    "windows": lambda: Example(windowed, linear(6, 18), linear(6, 6), randn(2, 16, 16)),
    "linear_attention": lambda: Example(linear_attention, linear(6, 18)),
    "class_token": lambda: Example(class_token, randn(1, 1, 6), randn(1, 97, 6)),
    "turned_attention": lambda: Example(turned_attention, linear(6, 24), randn(96, 4)),
    "rotary": lambda: Example(rotary, randn(96, 6)),
    "mixer": lambda: Example(
        lambda x, a: a(tokens(x).transpose(1, 2)).tanh(), linear(96, 5)),
    "squeeze_excitation": lambda: Example(squeeze, conv(6, 4, 1), conv(4, 6, 1)),
    "split_attention": lambda: Example(split_attention, conv(6, 12, 1)),
    "spatial_gate": lambda: Example(
        lambda x, a: x * torch.sigmoid(
            a(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))),
        conv(2, 1, 3, padding=1)),
    "concat": lambda: Example(
        lambda x, a: F.relu(torch.cat([a(x), x[:, 1:4]], 1) - 0.2), conv(6, 4, 1)),
    "upsample": lambda: Example(
        lambda x, a: F.interpolate(a(x), scale_factor=2).tanh(), conv(6, 4, 3, 2, 1)),
    "bilinear": lambda: Example(
        lambda x, a: F.interpolate(a(x), (7, 11), mode="bilinear").tanh(), conv(6, 4, 3, 2, 1)),
    "bicubic": lambda: Example(
        lambda x: F.interpolate(x, (5, 9), mode="bicubic", align_corners=True).tanh()),
    "transposed": lambda: Example(
        lambda x, a, b: F.relu(a(x)).sum(1) + b(x).tanh().sum(1),
        nn.ConvTranspose2d(6, 4, 2, 2), nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6)),
    "pixel_shuffle": lambda: Example(
        lambda x, a: F.pixel_unshuffle(F.pixel_shuffle(a(x), 2).tanh(), 4), conv(6, 8, 1)),
    "channel_shuffle": lambda: Example(shuffled),
    "borders": lambda: Example(
        lambda x, a, b: F.relu(a(x)) + b(x).tanh(),
        conv(6, 4, 3, padding=1, padding_mode="reflect"),
        conv(6, 4, 3, padding=1, padding_mode="replicate")),
    "circular_border": lambda: Example(
        lambda x, a: a(x).tanh(), conv(6, 4, 3, padding=1, padding_mode="circular")),
    "flips": lambda: Example(lambda x: (x.flip(2) * x.roll(1, 3)).tanh()),
    "one_dimension": lambda: Example(
        lambda x, a: F.relu(a(x.flatten(2))), nn.Conv1d(6, 4, 3, padding=1)),
    "three_dimensions": lambda: Example(
        lambda x, a: F.relu(a(x.unsqueeze(1))), nn.Conv3d(1, 2, 3, padding=1)),
    "broadcasting": lambda: Example(
        lambda x, a, b: (x * a + b) / (1 + x.abs().amax(1, keepdim=True)) - x.mean((2, 3), True),
        randn(6, 1, 1), randn(1, 12)),
    "reductions": lambda: Example(
        lambda x: torch.cat([x.amax((2, 3)), x.std((2, 3)), x.norm(dim=(2, 3)), x.sum((2, 3))], 1)),
    "comparisons": lambda: Example(
        lambda x: torch.where(x > 0.1, x * x, torch.maximum(x, 0.2 - x.sin()))),
    "written": lambda: Example(lambda x, a: a(x).mul_(0.5).add_(x).relu_(), conv(6, 6, 1)),
    "channel_shuffle_layer": lambda: Example(lambda x, a: a(x).tanh(), nn.ChannelShuffle(2)),
    "masked": lambda: Example(
        lambda x, a: torch.where(a > 0, x, 0.3 * x.sin()).masked_fill(a > 1, 0.2).tanh(),
        randn(8, 12)),
    "first_largest": lambda: Example(
        lambda x: x.max(1)[0].tanh().sum(1) + x.min(2)[0].sum(1) * x.amin((1, 2))),
    "taken": lambda: Example(
        lambda x: x[:, [2, 1, 0, 2]].tanh().sum(1) * x[:, 0].rot90(2, (1, 2))),
    "repeated": lambda: Example(
        lambda x: x.repeat(1, 2, 1, 1).tanh()[:, 3:8] * x[:, :1].repeat_interleave(5, 1)),
    "chosen": lambda: Example(
        lambda x: torch.where((x > 0) & (x.sin() < 0.8), x * x, 0.3).masked_fill(x > 1, 0.2)),
    "cumulative_sum": lambda: Example(lambda x: x.cumsum(1).tanh() + x.cumsum(3)),
    "rare_functions": lambda: Example(
        lambda x: torch.atan2(x, x.exp2() + 1) + torch.remainder(x, 0.7) * x.floor()
        + F.softplus(x, 2, 3) + x * x.detach()),
    "grouped_heads": lambda: Example(
        lambda x, a: grouped_heads(tokens(F.avg_pool2d(x, 2)), a), linear(6, 24)),
    "bias_of_images": lambda: Example(
        lambda x, *a: bias_of_images(tokens(F.avg_pool2d(x, 2)), *a), linear(6, 18), linear(6, 1)),
    "batch_norm_of_tokens": lambda: Example(
        lambda x, a, b: b(a(tokens(x)).flatten(0, 1)).reshape(len(x), 96, 5).tanh(),
        linear(6, 5), nn.BatchNorm1d(5)),
    "islands": lambda: Example(lambda x: x.sort(1)[0].tanh() + F.relu(x.logcumsumexp(2))),
    "frames": lambda: Example(
        lambda x, a, b: b(F.relu(a(x.reshape(len(x), 6, 2, 4, 12)))).tanh(),
        nn.Conv3d(6, 4, (1, 3, 3)), nn.Conv3d(4, 4, (2, 1, 1), padding=(1, 0, 0))),
    "without_stem": lambda: Example(lambda x: (x / 2 - 0.2).tanh() * x, images=True),
}  # fmt: skip


def example(name: str) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode, and five images.

    Args:
        name: of `EXAMPLES`.
    """
    torch.manual_seed(11)
    generator = torch.Generator().manual_seed(11)
    model = unsettled(EXAMPLES[name]().eval().requires_grad_(False), generator)
    return model, torch.randn(5, 3, *SIZE, generator=generator)
