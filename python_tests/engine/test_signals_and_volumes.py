"""Networks for signals and volumes: every rule, odd sizes, and nothing of them an island."""

from __future__ import annotations

import pytest
import step_checks
import torch
from between import CHANNELS, check_between
from families import tv
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_memory import check_plan, peak_bytes
from networks import lively
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import SignTransform
from sign_ext.compiler.build import compile_phi
from sign_ext.eval_state import computing
from sign_ext.source_layer import Phi, SourceLayer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def norm_of(dims: int) -> nn.Module:
    torch.manual_seed(1)
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[dims](CHANNELS)
    for tensor in (norm.weight, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    for tensor in (norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    return norm.eval()


SIGNALS = {
    "strided": (nn.Conv1d(CHANNELS, 6, 4, 3, 2), "convolution 1×4"),
    "same": (nn.Conv1d(CHANNELS, 6, 4, padding="same", dilation=2), "convolution 1×4"),
    "depthwise": (nn.Conv1d(CHANNELS, CHANNELS, 3, groups=CHANNELS), "depthwise"),
    "transposed": (nn.ConvTranspose1d(CHANNELS, 6, 4, 3, 1, 2), "transposed_convolution 1×4"),
    "norm": (nn.Sequential(norm_of(1), nn.ReLU()), "relu"),
    "group norm": (nn.GroupNorm(2, CHANNELS), "group_norm"),
    "maximum": (nn.MaxPool1d(3, 2, 1), "max_pool 1×3"),
    "mean": (nn.AvgPool1d(3, 2, 1), "average_pool 1×3"),
    "adaptive maximum": (nn.AdaptiveMaxPool1d(3), "max_pool 1×4"),
    "adaptive mean": (nn.AdaptiveAvgPool1d(5), "adaptive_average"),
    "linear": (lambda x: F.interpolate(x, scale_factor=1.7, mode="linear"), "resample bilinear"),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2.0), "upsample 1×2"),
    "nearest to a size": (lambda x: F.interpolate(x, size=7), "resample nearest"),
    "a constant": (lambda x: F.pad(torch.sigmoid(x), (2, 1), value=0.3), "pad left 2 right 1"),
    "reflected": (lambda x: F.pad(x, (2, 1), mode="reflect"), "border reflect left 2 right 1"),
    "concatenation": (lambda x: torch.cat([x.sigmoid(), x.tanh()], 1), "concat"),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals(name):
    function, words = SIGNALS[name]
    assert words in str(check_between(function, (12,)))


VOLUMES = {
    "three axes": (nn.Conv3d(CHANNELS, 6, 3, 2, 1), "volume_convolution 3×3×3/2,2,2"),
    "groups": (nn.Conv3d(CHANNELS, 6, (2, 3, 1), groups=2), "2×3×1 2 groups"),
    "planes": (nn.Conv3d(CHANNELS, 6, (1, 3, 2), (1, 2, 1), (0, 1, 1)), "3×2/2 on each of 4"),
    "depth": (nn.Conv3d(CHANNELS, 6, (3, 1, 1), (2, 1, 1), (1, 0, 0)), "3×1/2 on 8×4×30"),
    "a product": (nn.Conv3d(CHANNELS, 6, 1), "convolution 1×1"),
    "transposed": (nn.ConvTranspose3d(CHANNELS, 6, 3, 2, 1, 1), "transposed 3×3×3/2,2,2"),
    "norm": (nn.Sequential(norm_of(3), nn.ReLU()), "relu"),
    "group norm": (nn.GroupNorm(2, CHANNELS), "group_norm"),
    "maximum": (nn.MaxPool3d(2), "max_pool 2×2/2 on each of 4"),
    "adaptive maximum": (nn.AdaptiveMaxPool3d((2, 2, 1)), "max_pool 2×1/2"),
    "mean of everything": (nn.AdaptiveAvgPool3d(1), "average_pool global"),
    "adaptive mean": (nn.AdaptiveAvgPool3d((3, 2, 3)), "adaptive_average  on 8×4×6"),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2.0), "upsample 2×1"),
    "trilinear": (
        lambda x: F.interpolate(x, size=(7, 3, 9), mode="trilinear"),
        "on each of 4",
    ),
    "aligned": (
        lambda x: F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True),
        "on each of 4",
    ),
    "zeros": (lambda x: F.pad(torch.sigmoid(x), (2, 1, 0, 1, 1, 0)), "on each of 4"),
    "replicated": (lambda x: F.pad(x, (2, 1, 0, 1, 1, 0), mode="replicate"), "on each of 4"),
    "concatenation": (lambda x: torch.cat([x.sigmoid(), x.tanh()], 1), "concat"),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes(name):
    function, words = VOLUMES[name]
    assert words in str(check_between(function, (4, 6, 5)))


@st.composite
def pooled(draw):
    kind = draw(st.sampled_from([nn.MaxPool3d, nn.AvgPool3d]))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * 3))
    stride = draw(st.tuples(*[st.integers(1, 3)] * 3))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    options = {"ceil_mode": draw(st.booleans())}
    if kind is nn.AvgPool3d:
        options["count_include_pad"] = draw(st.booleans())
    return kind(kernel, stride, padding, **options), draw(st.tuples(*[st.integers(3, 6)] * 3))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(pooled())
def test_pooling_of_volumes(case):
    check_between(*case)


def test_ties_go_to_the_first_maximum_of_a_volume():
    """Each value is there eight times, in windows that overlap."""
    check_between(lambda x: F.max_pool3d(F.interpolate(x, scale_factor=2), 3, 2, 1), (3, 2, 4))


class Blocks(nn.Module):
    """Residual sums around convolutions of each kind, with norms and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        kernels = [(3, 3, 3), (1, 3, 3), (3, 1, 1), (1, 1, 1)]
        self.convs = nn.ModuleList(
            nn.Conv3d(CHANNELS, CHANNELS, k, padding=tuple(n // 2 for n in k)) for k in kernels
        )
        self.norm = norm_of(3)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(self.norm(conv(F.relu(self.norm(conv(x))))) + x)
        return x


def test_norms_sums_and_activations_fuse():
    program = check_between(Blocks(), (4, 6, 5))
    assert [op.kind for op in program.ops[1:-2]] == [
        *["volume_convolution"] * 2,
        *["framewise"] * 4,
        *["convolution"] * 2,
    ]
    assert all("relu" in str(op) for op in program.ops[1:-2])


class ChannelAttention(nn.Module):
    """ECA: a convolution over the channels of a pooled image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * torch.sigmoid(y.view(x.shape[0], -1, 1, 1)).expand_as(x)


def test_a_convolution_over_channels():
    program = check_between(ChannelAttention(), (7, 5))
    assert "convolution 1×3" in str(program)


@pytest.mark.parametrize("name", ["r3d_18", pytest.param("r2plus1d_18", marks=pytest.mark.slow)])
def test_video_networks(name, torch_rng):
    torch.manual_seed(2)
    network = lively(tv(name), torch_rng).eval().requires_grad_(False)
    videos = torch.rand(2, 3, 3, 18, 14, generator=torch_rng)
    phi = Phi(network, SourceLayer("fc", "input", "Linear"))
    assert "island" not in str(compile_phi(phi, videos[:1], strict=True))
    step_checks.check_median(network, list(videos.split(1)))


class SignalNetwork(nn.Sequential):
    """Two strided convolutions, a norm, pooling."""

    def __init__(self, channels: int) -> None:
        torch.manual_seed(5)
        super().__init__(
            nn.Conv1d(channels, CHANNELS, 5, 2, 2),
            norm_of(1),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(CHANNELS, 6, 3),
            nn.SiLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_whole_networks_of_signals(channels, precision, device, torch_rng):
    network = SignalNetwork(channels).eval().requires_grad_(False).to(device)
    signals = torch.rand(28, channels, 33, generator=torch_rng).to(device)
    # In bfloat16 a maximum may be another in one batch.
    step_checks.check_median(network, list(signals.split(4)), precision)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: SignalNetwork(3), (3, 33)),
        (lambda: nn.Sequential(Video(), nn.Linear(4, 2)), (3, 4, 9, 7)),
    ],
)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_public_call_takes_them(make, shape, momentum, torch_rng):
    network = make().eval()
    images = torch.rand(5, *shape, generator=torch_rng)
    options = {"steps": 3, "step_size": 0.01, "momentum": momentum}
    fused = SignTransform(network, backend="fused", **options)
    found = fused(images)
    wanted = SignTransform(network, backend="autograd", **options)(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not fused.explain(images).islands


class Video(nn.Module):
    """A convolution of volumes, of planes, and the mean of everything."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Conv3d(3, 6, 3, 1, 1), nn.Conv3d(6, 4, (1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.max_pool3d(F.silu(self.first(x)), 2)))
        return x.mean((2, 3, 4))


@pytest.mark.parametrize("device", DEVICES)
def test_the_plan_is_the_allocators_peak(device, torch_rng):
    model, count = nn.Sequential(Video(), nn.Linear(4, 2)).eval().requires_grad_(False), 8
    videos = torch.rand(count, 3, 6, 20, 16, generator=torch_rng).to(device)
    videos = videos.to(memory_format=torch.channels_last_3d)
    step = step_checks.bound_step(model.to(device), videos, SourceLayer("1", "input", "Linear"))
    with computing(model), torch.no_grad():
        measured = peak_bytes(lambda: step.delta(videos), videos.device)
    check_plan(count * step.memory.peak, measured, videos.device, 0.05)
