"""Islands: what has no rule is run and differentiated by PyTorch, and everything else is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.island import Island
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.memory_plan import plan_memory
from sign_ext.compiler.schedule import schedule
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi, SourceLayer


class Middle(nn.Module):
    """A function of images (N, 4, 7, 5) between a convolution and a classifier."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function
        self.classifier = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.function(self.first(x)).flatten(1))


IMAGE = (3, 7, 5)


def compiled(function, seed: int = 0) -> tuple[Program, Phi]:
    torch.manual_seed(seed)
    model = Middle(function).eval()
    model(torch.rand(2, *IMAGE))
    model.double().requires_grad_(False)
    phi = Phi(model, SourceLayer("classifier", "input", "Linear"))
    return compile_phi(phi, torch.rand(1, *IMAGE).double()), phi


def check(function, islands: int | None = None, counts=(1, 2, 5)) -> Program:
    """δ of other numbers of images than were recorded, against autograd."""
    program, phi = compiled(function)
    for count in counts:
        images = torch.randn(count, *IMAGE).double()
        x = images.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(phi(x).sum(), x)
        got = program.pullback_of_ones(images)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    if islands is not None:
        assert len(islands_of(program)) == islands, str(program)
    return program


def islands_of(program: Program) -> list[Island]:
    return [op for op in program.ops if isinstance(op, Island)]


def seeded(make):
    torch.manual_seed(3)
    return make()


class Attention(nn.Module):
    """Tokens with a class token and positions, one block, and the class token alone."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.token, self.positions = (nn.Parameter(torch.randn(1, n, 4)) for n in (1, 36))
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.batch_first = batch_first
        self.mlp = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y = self.norm(x)
        y = y if self.batch_first else y.transpose(0, 1)
        y = self.attention(y, y, y, need_weights=False)[0]
        x = x + (y if self.batch_first else y.transpose(0, 1))
        return (x + self.mlp(x))[:, 0]


class Windows(nn.Module):
    """Shifted windows of 2×2 with a bias by relative position, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.table = nn.Linear(4, 12), nn.Parameter(torch.randn(9, 2))
        index = torch.arange(4)
        rows, columns = index // 2, index % 2
        between = (rows[:, None] - rows + 1) * 3 + columns[:, None] - columns + 1
        self.register_buffer("index", between)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1)).permute(0, 2, 3, 1)  # 8×6
        n, h, w, c = x.shape
        x = torch.roll(x, (-1, -1), (1, 2))
        x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(x).reshape(-1, 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        x = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        x = x.transpose(1, 2).reshape(n, h // 2, w // 2, 2, 2, c)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return torch.roll(x, (1, 1), (1, 2)).permute(0, 3, 1, 2)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 6, 3, 2, 1)
        self.up = nn.ConvTranspose2d(6, 4, 3, 2, 1)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.up(F.relu(self.down(x)))))
        y = F.interpolate(y, scale_factor=2, mode="bilinear")
        return self.last(torch.cat([F.interpolate(x, scale_factor=2), y], 1))


def two_outputs(x: Tensor) -> Tensor:
    a, b = x.logcumsumexp(1), x.logcumsumexp(2)[:, :, :4]
    return F.relu(F.conv2d(a + 0.5, torch.ones(3, 4, 1, 1).to(x))).sum((1, 2, 3), keepdim=True) * b


def around_a_convolution(x: Tensor) -> Tensor:
    """The second sum reads the first one directly, and through a convolution."""
    a = x.logcumsumexp(1)
    b = F.conv2d(a, torch.linspace(-1, 1, 16).reshape(4, 4, 1, 1).to(x))
    return (a * b.relu()).logcumsumexp(1) + a


def rows_that_mix(x: Tensor) -> Tensor:
    """Windows (N · 7, 4, 5), which no value of a program can hold, past a convolution."""
    rows = x.transpose(1, 2).reshape(-1, 4, 5)
    y = F.conv2d(x.logcumsumexp(1), torch.eye(4)[:, :, None, None].to(x)).relu()
    return (rows * y.transpose(1, 2).reshape(-1, 4, 5)).view(len(x), 7, 4, 5)


def written_view(x: Tensor) -> Tensor:
    part = x[:, :2]
    x.relu_()
    return torch.cat([part, x], 1).logcumsumexp(1)


def written_under_another_name(x: Tensor) -> Tensor:
    y = F.dropout(x, 0.5, training=False).contiguous()
    y.mul_(2).relu_()
    return (x + 1).logcumsumexp(1) * y


def sized(x: Tensor) -> Tensor:
    scale = torch.arange(5, dtype=x.dtype).expand(len(x), 4, 7, 5)
    return x.reshape(len(x) * 2, 2, 7, 5).logcumsumexp(1).reshape(x.shape) * scale.cos()


def one_row(x: Tensor) -> Tensor:
    return x.logcumsumexp(1).mean((2, 3), keepdim=True).squeeze().logcumsumexp(1)


def exact(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return x.logcumsumexp(1)


def detached(x: Tensor) -> Tensor:
    return x * x.detach().logcumsumexp(1)


NETWORKS = {
    "attention": (lambda: Attention(True), None),
    "attention over the first dimension": (lambda: Attention(False), None),
    "windows": (Windows, None),
    "u-net": (UNet, None),
    "channels last": (lambda: lambda x: (x.permute(0, 2, 3, 1) * 2).logcumsumexp(3), 1),
    "local norm": (
        lambda: nn.Sequential(nn.LocalResponseNorm(2), nn.ReLU(), nn.Conv2d(4, 3, 3)),
        0,
    ),
    "tokens between": (lambda: lambda x: (x.flatten(2).relu() * 2).logcumsumexp(1), 1),
    "two outputs": (lambda: two_outputs, None),
    "around a convolution": (lambda: around_a_convolution, 2),
    "rows that mix": (lambda: rows_that_mix, 1),
    "a view changed in place": (lambda: written_view, 1),
    "written under another name": (lambda: written_under_another_name, None),
    "sized": (lambda: sized, 1),
    "without autocast": (lambda: exact, 1),
    "the number of images": (lambda: lambda x: x.logcumsumexp(1) / len(x), 1),
    "detached": (lambda: detached, None),
    "a quotient": (lambda: lambda x: x / (x * x + 1), None),
    "an image of constants": (lambda: lambda x: x * torch.linspace(0, 1, 35).view(7, 5).to(x), 0),
    "reflection": (lambda: nn.ReflectionPad2d(2), 0),
    "an activation between islands": (
        lambda: lambda x: x.logcumsumexp(1).relu().logcumsumexp(1),
        1,
    ),
    "views alone": (lambda: lambda x: x.permute(0, 2, 3, 1).transpose(1, 2), 0),
    "twice the same value": (lambda: lambda x: torch.fmax(x, x.contiguous()), 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_delta_is_autograds(name):
    make, islands = NETWORKS[name]
    check(seeded(make), islands)


def test_what_the_network_runs_without_autocast_an_island_runs_without_it():
    """And nothing else of the island."""

    def function(x: Tensor) -> Tensor:
        return exact(x.logcumsumexp(1)).logcumsumexp(1)

    (island,) = islands_of(check(function, 1))
    calls = [node.target for node in island.graph.graph.nodes if node.op == "call_function"]
    aten = torch.ops.aten
    logcumsumexp = aten.logcumsumexp.default
    assert calls == [logcumsumexp, _enter_autocast, logcumsumexp, _exit_autocast, logcumsumexp]


def test_one_image_keeps_its_dimension():
    """A micro-batch may be one image where the network is given several."""
    program, _ = compiled(one_row)
    images = torch.randn(3, *IMAGE).double()
    whole = program.pullback_of_ones(images)
    torch.testing.assert_close(program.pullback_of_ones(images[:1]), whole[:1])


def test_everything_around_stays_compiled():
    program = check(
        nn.Sequential(
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.LayerNorm([4, 7, 5]),
            nn.Conv2d(4, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
        ),
        1,
    )
    assert [str(op) for op in program.ops] == [
        "convolution 3×3 + relu",
        "island layer_norm (function.2)",
        "convolution 3×3 + relu",
    ]


def test_operations_without_islands_are_as_before():
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert not islands_of(check(model, 0))


FALLS_BACK = {
    "a value read back": (lambda x: x.logcumsumexp(1) * float(x.sum()), "cannot be recorded"),
    "a random mask": (lambda x: F.dropout(x, 0.5).logcumsumexp(1), "draws random numbers"),
    "a share of the images": (lambda x: x.logcumsumexp(1) * (1 / len(x)), "for 2 images and 0.33"),
    "another number of operations": (
        lambda x: (x if len(x) > 2 else x + 1).logcumsumexp(1),
        "another number of images",
    ),
}


@pytest.mark.parametrize("name", FALLS_BACK)
def test_what_no_island_can_hold_is_refused(name):
    function, message = FALLS_BACK[name]
    with pytest.raises(UnsupportedOperation, match=message):
        compiled(function)


def test_a_write_through_a_view_shows_in_the_whole():
    def function(x: Tensor) -> Tensor:
        x[:, :2].sin_()
        return x.logcumsumexp(1)

    check(function, 1)


def test_residues_are_what_autograd_saves():
    """tan keeps its output, which is the island's; layer norm its input and two numbers."""
    (tan,) = islands_of(check(lambda x: x.tan()))
    assert tan.residue.bytes == 0
    assert (tan.residue.inputs, tan.residue.output) == ((), True)
    assert tan.backward_reads(0) == (tan.output,)
    norm_program = check(nn.LayerNorm([4, 7, 5]))
    (norm,) = islands_of(norm_program)
    assert norm.residue.bytes == 2 * 8  # mean and inverse deviation, float64
    assert (norm.residue.inputs, norm.residue.output) == ((0,), False)
    assert "keeps saved 16 B, input 560 B" in str(norm_program)


def test_what_keeps_much_and_multiplies_nothing_is_computed_again():
    def function(x: Tensor) -> Tensor:
        for _ in range(4):
            x = x.logcumsumexp(1).sin()
        return x

    (island,) = islands_of(check(function, 1))
    assert island.residue.again
    assert (island.residue.bytes, island.residue.inputs) == (0, (0,))
    assert "again backward" in str(island)


def test_what_is_alive_inside_is_in_the_memory_plan():
    program = check(lambda x: x.repeat(1, 8, 1, 1).logcumsumexp(2).sum(1, keepdim=True), 1)
    (island,) = islands_of(program)
    assert island.inner >= 2 * 8 * 4 * 35 * 8  # the repeated value and its sums, float64
    plan = plan_memory(schedule(program, 8))
    assert plan.peak >= island.inner + 4 * 35 * 8


class Recurrent(nn.Module):
    """A recurrent layer over the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x.flatten(2).transpose(1, 2))[0]


def test_shares_add_up_and_products_count():
    program = check(seeded(Recurrent), 1)
    (island,) = islands_of(program)
    # Three gates of 3 units read 4 channels and 3 units at each of 35 positions.
    assert island.products == 2 * 35 * 9 * (4 + 3)
    assert sum(program.shares()) == pytest.approx(1)
    assert program.flops() > 2 * island.products


def test_weights_are_named_and_shared():
    program, phi = compiled(seeded(Recurrent))
    (island,) = islands_of(program)
    assert island.where == "function.cell"
    own = {p.untyped_storage().data_ptr() for p in phi.model.parameters()}
    assert sum(w.untyped_storage().data_ptr() in own for w in island.weights) == 4


PIECES = {
    "cumulative logarithm": lambda x: x.logcumsumexp(1),
    "convolution": lambda x: F.conv2d(x, torch.linspace(-1, 1, 16).view(4, 4, 1, 1).to(x)),
    "relu": F.relu,
    "gelu": F.gelu,
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "transposed": lambda x: x.transpose(2, 3),
    "windows": lambda x: x.reshape(len(x) * 4, -1).logcumsumexp(1).reshape(x.shape),
    "pool": lambda x: F.max_pool2d(x, 3, 1, 1),
    "in place": lambda x: x.clone().mul_(2),
    "doubled": lambda x: x * 2 + 1,
}


def rewritten(x: Tensor, other: Tensor) -> Tensor:
    """A copy into a value: all of it comes from elsewhere, in its own shape."""
    y = torch.fmax(x, x.sin())
    y.copy_(other)
    return y * x


@pytest.mark.parametrize("of", [lambda x: x.sin() - x, lambda x: x.amax(1, keepdim=True)])
def test_a_copy_in_place_is_differentiated(of):
    check(lambda x: rewritten(x, of(x)))


def test_a_random_slope_is_constant_in_evaluation():
    """Its schema, not the call, says that it does not train."""
    check(F.rrelu)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(PIECES)), st.integers(0, 5), st.sampled_from("+*|")),
        min_size=1,
        max_size=7,
    )
)
def test_random_compositions(pieces):
    def function(x: Tensor) -> Tensor:
        values = [x]
        for name, back, join in pieces:
            y = PIECES[name](values[-1])
            other = values[-1 - min(back, len(values) - 1)]
            if join != "|" and other.shape == y.shape:
                y = y + other if join == "+" else y * other
            values.append(y)
        return values[-1]

    check(function, counts=(1, 3))
