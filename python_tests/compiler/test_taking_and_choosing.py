"""Indexing, repeating, masks and rarer functions: δ against autograd, and no island."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.choose import Choose
from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.ir.take import Take
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi, SourceLayer

IMAGE = (3, 7, 5)


class Middle(nn.Module):
    """A function of features (N, 6, 7, 5), some layers, between a convolution and a classifier."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.function, self.layers = function, nn.ModuleList(layers)
        self.mix = nn.LazyLinear(4)
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.function(self.first(x), *self.layers)
        return self.classifier(torch.tanh(self.mix(found.flatten(1))))


def compiled(function, *layers: nn.Module) -> tuple[Program, Phi]:
    torch.manual_seed(17)
    model = Middle(function, *layers).eval()
    model(torch.rand(2, *IMAGE))
    model.double().requires_grad_(False)
    phi = Phi(model, SourceLayer("classifier", "input", "Linear"))
    return compile_phi(phi, torch.rand(1, *IMAGE).double(), strict=True), phi


def check(function, *layers: nn.Module) -> Program:
    """δ of other numbers of images than were recorded."""
    program, phi = compiled(function, *layers)
    for count in (1, 2, 5):
        images = torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(count))
        images = images.double()
        x = images.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(phi(x).sum(), x)
        got = program.pullback_of_ones(images)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    return program


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def windows(x: Tensor) -> Tensor:
    """The images merged with seven windows: (N · 7, 5, 6)."""
    return x.permute(0, 2, 3, 1).reshape(-1, 5, 6)


def places(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


TAKING = {
    "a list": lambda x: x[:, [2, 1, 0]],
    "a tensor": lambda x: x[:, places(2, 1, 0, 0, 2)],
    "from the end": lambda x: x[:, [-1, 0, -2]],
    "all of them, in another order": lambda x: x[:, [3, 1, 0, 2, 5, 4]],
    "rows": lambda x: x[:, :, [2, 1, 1, 6]],
    "the last dimension": lambda x: x[..., [4, 0, 4, 4]],
    "equally far apart": lambda x: x[:, :, [1, 3, 5]],
    "the same again": lambda x: x[:, [2, 2, 2]],
    "pairs": lambda x: x[:, :, [2, 1, 0], [1, 2, 4]],
    "a grid": lambda x: x[:, :, places(2, 5)[:, None], places(0, 0, 3)],
    "channels and rows": lambda x: x[:, [1, 3], [6, 0]],
    "a table": lambda x: x[:, places(0, 1, 1, 5, 2, 4).view(2, 3)],
    "a mask of constants": lambda x: x[:, torch.tensor([True, False, True, True, False, True])],
    "tokens": lambda x: tokens(x)[:, [5, 34, 1, 1]],
    "in windows": lambda x: windows(x)[:, [4, 0, 0]].reshape(len(x), -1),
    "index_select": lambda x: x.index_select(2, places(6, 0, 6)),
    "take_along_dim": lambda x: torch.take_along_dim(x, places(4, 4, 1).view(1, 3, 1, 1), 1),
    "quarter turns": lambda x: x.rot90(1, (2, 3)).sin() + x.rot90(3, (2, 3)),
    "half a turn": lambda x: x.rot90(2, (1, 2)),
    "windows apart": lambda x: x.unfold(2, 2, 3),
}

REPEATING = {
    "channels": lambda x: x.repeat(1, 2, 1, 1),
    "rows and columns": lambda x: x.repeat(1, 1, 3, 2),
    "a new dimension": lambda x: x.unsqueeze(1).repeat(1, 2, 1, 1, 3),
    "one element": lambda x: x.mean(1, keepdim=True).repeat(1, 4, 1, 1),
    "tokens": lambda x: tokens(x).repeat(1, 2, 1),
    "tile": lambda x: x.tile((3, 1)),
    "interleaved": lambda x: x.repeat_interleave(3, 2),
    "interleaved channels": lambda x: x.repeat_interleave(2, dim=1),
    "as often as it says": lambda x: x.repeat_interleave(places(1, 0, 2, 1, 3, 1), 1),
    "in windows": lambda x: windows(x).repeat(1, 2, 1).reshape(len(x), -1),
    "the images, for their windows": lambda x: (
        windows(x.sin()) * x[:, :, :1].mean(2).transpose(1, 2).repeat_interleave(7, 0)
    ).reshape(len(x), -1),
    "all images": lambda x: (
        tokens(x).repeat(3, 1, 1).sin().view(3, -1, 35, 6).transpose(0, 1).cumsum(1)
    ),
    "before the images": lambda x: x.transpose(0, 1).repeat(2, 1, 1, 1).transpose(0, 1),
}

MASKS = {
    "a number": lambda x: torch.where(x > 0.1, x * x, x.sin()),
    "and a number else": lambda x: torch.where(x <= 0.1, 0.3, x),
    "two numbers": lambda x: x * torch.where(x > 0, 1.0, -0.5),
    "another value": lambda x: torch.where(x > x.mean((2, 3), keepdim=True), x, x.sin()),
    "a value that broadcasts": lambda x: torch.where(x.mean(1, keepdim=True) > 0, x, x.sin()),
    "the constant first": lambda x: torch.where(torch.tensor(0.2) < x, x.square(), x),
    "a constant image": lambda x: torch.where(x >= torch.linspace(-1, 1, 5), x.sin(), x),
    "and, or, not": lambda x: torch.where((x > 0) & ~(x.sin() < 0.3) | (x < -1), x, x.cos()),
    "either": lambda x: torch.where((x > 0) ^ (x > 0.5), x, 2 * x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.1) + x.sin().masked_fill(x.sin() > 0, 0.0),
    "a factor": lambda x: x * (x > 0),
    "a factor in numbers": lambda x: x.sin() * (x.abs() > 0.5).float(),
    "as the value": lambda x: x * (x > 0).to(x.dtype),
    "assigned": lambda x: assigned(x),
    "tokens": lambda x: torch.where(tokens(x) > 0, tokens(x), tokens(x).exp() - 1),
    "in windows": lambda x: torch.where(windows(x) > 0, windows(x), 0.2).reshape(len(x), -1),
    "a row an image": lambda x: torch.where(x.mean((1, 2, 3)) > 0, x.amax((1, 2, 3)), 0.3)[:, None],
    "clamp by values": lambda x: torch.clamp(x, x.mean((2, 3), True), x.mean(1, True) + 1),
    "clamp by a value": lambda x: torch.clamp(x, max=x.sin().mean((2, 3), True)),
    "triangles": lambda x: x.triu(1) + x.tril(-1) * 0.5,
}


def assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0.3
    return y.sin()


FUNCTIONS = {
    "logsigmoid": F.logsigmoid,
    "logsigmoid of tokens": lambda x: F.logsigmoid(tokens(x)),
    "softplus": lambda x: F.softplus(3 * x, 2, 1.5),
    "a negative slope": lambda x: F.leaky_relu(x, -0.2),
    "a negative alpha": lambda x: F.elu(x, -0.5),
    "powers": lambda x: torch.pow(2.5, x) + x.exp2(),
    "powers of values": lambda x: torch.pow(x.abs() + 0.1, x),
    "logarithms": lambda x: (x.abs() + 1).log2() - (x.abs() + 1).log10(),
    "hyperbolic": lambda x: x.sinh() + x.cosh() - x.asinh(),
    "arcs": lambda x: x.atan() + (0.1 * x).clamp(-0.9, 0.9).asin() + (x.tanh() / 2).acos(),
    "erfc": torch.erfc,
    "angles": lambda x: torch.atan2(x, x.cos() + 2) + torch.hypot(x, x.sin() + 2),
    "logaddexp": lambda x: torch.logaddexp(x, x.mean(1, keepdim=True)),
    "remainders": lambda x: torch.remainder(x, 0.7) + torch.fmod(x, 0.4).sin(),
    "steps": lambda x: x * (x.floor() + x.ceil() - (3 * x).round() + x.trunc()),
    "detach": lambda x: x * x.detach() + (x.sign() - x).detach().sin() * x,
    "lerp": lambda x: torch.lerp(x, x.tanh(), 0.7),
    "lerp by a value": lambda x: torch.lerp(x, x.tanh(), x.sigmoid()),
    "addcdiv": lambda x: torch.addcdiv(x, x.sin(), x.abs() + 1, value=0.3),
    "cumulative sums": lambda x: x.cumsum(1).sin() + x.cumsum(3),
    "cumulative sums of tokens": lambda x: tokens(x).cumsum(1).tanh(),
    "cumulative sums in windows": lambda x: windows(x).cumsum(1).tanh().reshape(len(x), -1),
    "hstack": lambda x: torch.hstack([x, x.sin()]) if x.dim() == 4 else x,
    "dstack": lambda x: torch.dstack([x, x.sin()]),
}


@pytest.mark.parametrize("name", TAKING)
def test_taking(name):
    check(lambda x: TAKING[name](x).tanh())


@pytest.mark.parametrize("name", REPEATING)
def test_repeating(name):
    check(lambda x: REPEATING[name](x.tanh()) * 1.5)


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    check(MASKS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    check(FUNCTIONS[name])


ACTIVATIONS = (
    nn.ELU(), nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardswish(), nn.LeakyReLU(),
    nn.LogSigmoid(), nn.PReLU(), nn.PReLU(6), nn.ReLU(), nn.ReLU6(), nn.RReLU(), nn.SELU(),
    nn.CELU(), nn.GELU(), nn.GELU("tanh"), nn.Sigmoid(), nn.SiLU(), nn.Mish(), nn.Softplus(),
    nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(), nn.Threshold(0.1, 0.3), nn.GLU(1),
    nn.Softmin(1), nn.Softmax(1), nn.Softmax2d(), nn.LogSoftmax(1),
)  # fmt: skip


def test_every_activation_of_torch_has_a_rule():
    """But attention, which is none."""
    known = {type(module).__name__ for module in ACTIVATIONS}
    assert known | {"MultiheadAttention"} >= set(torch.nn.modules.activation.__all__)


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_activations(module):
    check(lambda x, layer: layer(x), module)


def grouped(x: Tensor, q: nn.Module, kv: nn.Module) -> Tensor:
    """Four heads of q, two of k and v."""
    x = tokens(x)
    queries = q(x).unflatten(2, (4, 3)).transpose(1, 2)
    keys, values = kv(x).unflatten(2, (2, 2, 3)).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)
    return y.transpose(1, 2).flatten(2)


def test_heads_that_share_keys():
    check(grouped, nn.Linear(6, 12), nn.Linear(6, 12))


def biased(x: Tensor, qkv: nn.Module, bias: nn.Module) -> Tensor:
    x = tokens(x)
    q, k, v = qkv(x).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias(x).transpose(1, 2))


def test_a_bias_that_depends_on_the_images():
    check(biased, nn.Linear(6, 18), nn.Linear(6, 1))


def settled(norm: nn.Module) -> nn.Module:
    """With running statistics of its own."""
    for buffer in (norm.running_mean, norm.running_var):
        buffer.uniform_(0.5, 2)
    return norm


def test_batch_norm_of_merged_tokens():
    """As in LeViT, after a linear layer, which it folds into."""

    def function(x: Tensor, linear: nn.Module, norm: nn.Module) -> Tensor:
        return norm(linear(tokens(x)).flatten(0, 1)).reshape(len(x), 35, 8).tanh()

    program = check(function, nn.Linear(6, 8), settled(nn.BatchNorm1d(8)))
    assert [str(op) for op in program.ops[:3]] == [
        "convolution 3×3",
        "convolution 1×1",
        "smooth tanh",
    ]
    check(lambda x, norm: norm(windows(x)).reshape(len(x), -1), settled(nn.BatchNorm1d(5)))


def test_one_token_of_an_image():
    """It keeps its dimension past a linear layer and the norm."""

    def function(x: Tensor, first: nn.Module, norm: nn.Module, last: nn.Module) -> Tensor:
        x = x.mean((2, 3)).unsqueeze(1)
        y = norm(first(x).flatten(0, 1)).reshape(len(x), 1, 8)
        return last(F.hardswish(y)) + x

    check(function, nn.Linear(6, 8), settled(nn.BatchNorm1d(8)), nn.Linear(8, 6))


def test_channels_taken_before_a_convolution_are_a_part_of_it():
    """BGR from RGB costs nothing; a channel taken twice has the sum of its weights."""
    for index in ([2, 1, 0], [5, 0, 5, 5, 1]):

        def function(x: Tensor, layer: nn.Module, index: list[int] = index) -> Tensor:
            return layer(x.tanh()[:, index])

        program = check(function, nn.Conv2d(len(index), 4, 3, padding=1))
        assert not any(isinstance(op, Take) for op in program.ops)
        assert sum(isinstance(op, Convolution) for op in program.ops) == 2


def test_a_comparison_is_a_part_of_the_choice():
    """It keeps a byte an element, and stores no mask."""
    program = check(lambda x: torch.where(x > 0.1, x.sin(), 0.5))
    (choice,) = (op for op in program.ops if isinstance(op, Choose))
    assert str(choice) == "choose gt constant"
    assert [each.bytes for each in choice.own_residues(4)] == [6 * 7 * 5]


def test_what_is_only_compared_has_no_cotangent():
    """The gradient of the other branch alone."""
    check(lambda x: torch.where(x.sin() > 0.1, 0.25, 0.5) * x)


REFUSED = {
    "not adjacent": lambda x: x[:, [1, 0], :, [2, 2]],
    "dimension of the images": lambda x: x[torch.arange(len(x))],
    "may hide everything": lambda x: F.scaled_dot_product_attention(x, x, x, x @ x.mT > 0),
    "overlap": lambda x: x.unfold(2, 3, 1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message):
    with pytest.raises(UnsupportedOperation, match=message):
        compiled(REFUSED[message])
