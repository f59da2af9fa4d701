"""Transposed convolution, interpolation, borders and shuffles: each against autograd in float64."""

from __future__ import annotations

import pytest
import step_checks
import torch
from between import CHANNELS, check_between, line_of, program_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.ir.resample import FILTERS, Resample
from sign_ext.engine.fused.bind.resample import by_axes
from sign_ext.errors import UnsupportedOperation

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@st.composite
def transposed(draw) -> tuple[nn.Module, tuple[int, int]]:
    groups = draw(st.sampled_from([1, 1, 2, CHANNELS]))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.integers(1, 2))
    reach = [dilation * (k - 1) for k in kernel]
    padding = tuple(draw(st.integers(0, min(r, 1))) for r in reach)
    extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
    out = draw(st.sampled_from([groups, 2 * groups, CHANNELS]))
    layer = nn.ConvTranspose2d(
        CHANNELS, out, kernel, stride, padding, extra, groups, draw(st.booleans()), dilation
    )
    after = draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.BatchNorm2d(out), nn.Hardtanh()]))
    return nn.Sequential(layer, after), draw(st.tuples(st.integers(3, 6), st.integers(3, 6)))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(transposed())
def test_transposed_convolution(case):
    layers, size = case
    for buffer in layers.buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 2)
    program = check_between(layers.eval(), size)
    line = line_of(program, "transposed_convolution")
    assert "nothing" in line or "bit mask" in line


class Decoder(nn.Module):
    """BatchNorm before and after a transposed convolution, a sum with another branch, ReLU."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.before, self.after = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(CHANNELS, 4, 2, 2, groups=groups)
        self.other = nn.ConvTranspose2d(CHANNELS, 4, 4, 2, 1)
        for norm in (self.before, self.after):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight, 1)
        nn.init.zeros_(self.before.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.after(self.up(self.before(x))) + self.other(x))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_convolution_fuses_with_what_is_around_it(groups):
    program = check_between(Decoder(groups).eval())
    names = [op.kind for op in program.ops]
    assert names.count("transposed_convolution") == 2
    assert names.count("pointwise") == 1  # the BatchNorm before, whose shift reaches the border
    assert "+ relu" in line_of(program, "+ residual")


def test_a_scale_before_a_transposed_convolution_goes_into_its_weights():
    weight, scale = torch.rand(CHANNELS, 2, 3, 3), torch.rand(CHANNELS, 1, 1)
    program = check_between(
        lambda x: F.conv_transpose2d(
            torch.sigmoid(x) * scale.to(x), weight.to(x), None, 2, groups=2
        )
    )
    assert [op.kind for op in program.ops] == [
        "convolution",
        "smooth",
        "transposed_convolution",
        "convolution",
        "smooth",
    ]


@st.composite
def interpolated(draw):
    size = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    mode = draw(st.sampled_from(["bilinear", "bicubic", "nearest", "nearest-exact"]))
    smooth = mode in ("bilinear", "bicubic")
    options = {"align_corners": draw(st.booleans())} if smooth else {}
    if draw(st.booleans()):
        options["size"] = draw(st.tuples(st.integers(1, 13), st.integers(1, 13)))
    else:
        factors = st.sampled_from([1.0, 2.0, 3.0, 1.5, 1.7, 2.1])
        options["scale_factor"] = draw(st.tuples(factors, factors))
        options["recompute_scale_factor"] = draw(st.booleans())
    if smooth and draw(st.booleans()):
        options["antialias"] = True
        options["align_corners"] = False
    return size, {"mode": mode, **options}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(interpolated())
def test_interpolation(case):
    size, options = case
    program = check_between(lambda x: F.interpolate(x, **options), size)
    found = [op for op in program.ops if op.kind in ("resample", "upsample")]
    assert len(found) <= 1
    assert not any(op.residues() for op in found)


@pytest.mark.parametrize("scale", [2.0, 2.1])
def test_nearest_reads_the_pixels_of_the_factor_it_was_given(scale):
    """5 · 2.1 = 10 pixels as well, but other ones."""
    program = check_between(lambda x: F.interpolate(x, scale_factor=scale), (7, 5))
    assert ("upsample 2×2" in str(program)) == (scale == 2)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("align", [False, True])
def test_the_matrices_of_both_axes_are_the_operators_backward(name, align, torch_rng):
    """What CUDA runs: products instead of sums in any order."""
    if align and ("nearest" in name or "antialias" in name):
        return
    for scales in ((None, None), (2.6, 0.75)):
        op = Resample(
            inputs=(0,),
            output=1,
            in_shapes=((3, 5, 9),),
            shape=(3, 13, 6),
            filter=name,
            align_corners=align,
            scales=scales,
        )
        g = torch.randn(2, 3, 13, 6, dtype=torch.float64, generator=torch_rng)
        (wanted,) = op.linear_vjp(g, None)
        found = by_axes(
            g.contiguous(memory_format=torch.channels_last), op.axis(0).t(), op.axis(1).t()
        )
        torch.testing.assert_close(found, wanted)


@st.composite
def bordered(draw):
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    mode = draw(st.sampled_from(["reflect", "replicate", "circular"]))
    most = [n - (mode == "reflect") + 2 * (mode == "replicate") for n in (size[1], size[0])]
    amounts = [draw(st.integers(0, most[axis // 2])) for axis in range(4)]
    return size, mode, amounts


@settings(max_examples=25, deadline=None, derandomize=True)
@given(bordered())
def test_borders(case):
    size, mode, amounts = case
    program = check_between(lambda x: F.pad(x, amounts, mode=mode), size)
    assert any(amounts) == ("border" in str(program))
    assert not any(op.residues() for op in program.ops[:-1])


MOVED = {
    "to space": (lambda x: F.pixel_shuffle(x, 2), "pixel_shuffle to space by 2"),
    "to channels": (lambda x: F.pixel_unshuffle(x, 3), "pixel_shuffle to channels by 3"),
    "channel shuffle": (lambda x: F.channel_shuffle(x, 4), "channel_shuffle 4 groups"),
    "flip": (lambda x: x.flip(-1, 1), "flip dimensions 1, 3"),
    "padding mode": (
        nn.Conv2d(CHANNELS, 5, 3, padding=1, padding_mode="reflect"),
        "border reflect left 1 right 1 top 1 bottom 1",
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_moved_elements(name):
    function, words = MOVED[name]
    assert "nothing" in line_of(check_between(function, (6, 9)), words)


REFUSED = {
    "not below stride": lambda x: F.conv_transpose2d(
        x, torch.ones(CHANNELS, 2, 2, 2).to(x), None, 2, output_padding=2, dilation=3
    ),
    "the order of the images": lambda x: x.flip(0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message):
    with pytest.raises(UnsupportedOperation, match=message):
        program_of(REFUSED[message], (7, 5))


class Resized(nn.Module):
    """Every operation of this file, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, 1)
        self.each = nn.ConvTranspose2d(8, 8, 3, 2, 1, groups=8)
        self.second, self.last = nn.Conv2d(8, 8, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.up(torch.sigmoid(self.first(x))))
        y = F.relu(self.each(y) + F.interpolate(y, size=(35, 27), mode="bilinear"))
        y = F.interpolate(y, size=(13, 9), mode="bicubic")
        y = self.second(F.pad(y, (1, 2, 2, 1), mode="reflect"))
        y = F.pixel_shuffle(F.channel_shuffle(y, 2).flip(3), 2)
        return self.last(torch.tanh(F.interpolate(y, scale_factor=1.3)).mean((2, 3)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_bound_step_at_each_precision(precision, device, torch_rng):
    torch.manual_seed(3)
    images = torch.randn(3, 3, 9, 7, generator=torch_rng).to(device)
    network = Resized().eval().requires_grad_(False).to(device)
    step_checks.check(network, images, precision)


def kinds(program) -> list[str]:
    return [op.kind for op in program.ops]


EXCHANGED = {
    "bilinear": (
        lambda x: conv(F.interpolate(torch.sigmoid(x), size=(14, 11), mode="bilinear"), 4),
        ["convolution", "resample"],
    ),
    "nearest": (
        lambda x: conv(F.interpolate(torch.sigmoid(x), scale_factor=2), 4),
        ["convolution", "upsample"],
    ),
    "average pooling": (
        lambda x: F.avg_pool2d(conv(torch.sigmoid(x), 160), 2),
        ["average_pool", "convolution"],
    ),
    "padded average pooling that counts no zeros": (
        lambda x: F.avg_pool2d(conv(torch.sigmoid(x), 160), 3, 2, 1, count_include_pad=False),
        ["average_pool", "convolution"],
    ),
    "padded average pooling": (
        lambda x: F.avg_pool2d(conv(torch.sigmoid(x), 160), 3, 2, 1),
        ["convolution", "average_pool"],
    ),
    "a sum over each window": (
        lambda x: F.avg_pool2d(conv(torch.sigmoid(x), 160), 2, divisor_override=1),
        ["convolution", "average_pool"],
    ),
    "an activation between": (
        lambda x: F.avg_pool2d(F.relu(conv(torch.sigmoid(x), 160)), 2),
        ["convolution", "average_pool"],
    ),
}


def conv(x: Tensor, channels: int) -> Tensor:
    """A 1×1 convolution with bias."""
    weight = torch.linspace(-1, 1, channels * x.shape[1]).sin().view(channels, -1, 1, 1)
    return F.conv2d(x, weight.to(x), torch.linspace(-1, 1, channels).to(x))


@pytest.mark.parametrize("name", EXCHANGED)
def test_a_product_runs_where_the_image_is_smaller(name):
    function, wanted = EXCHANGED[name]
    program = check_between(function, (9, 6))
    assert kinds(program)[2:4] == wanted
