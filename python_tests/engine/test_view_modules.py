"""Rules for attention, products, reductions and broadcasting, on modules as networks have them."""

from __future__ import annotations

from collections import Counter

import pytest
import step_checks
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.program import Program
from sign_ext.source_layer import Phi, SourceLayer

pytest.importorskip("timm")

from timm.layers import EcaModule, GlobalResponseNormMlp, SplitAttn
from timm.layers.attention2d import MultiQueryAttention2d
from timm.layers.cbam import CbamModule
from timm.layers.global_context import GlobalContext
from timm.layers.grn import GlobalResponseNorm
from timm.models.cait import ClassAttn, TalkingHeadAttn
from timm.models.efficientvit_mit import LiteMLA
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Attention
from timm.models.xcit import XCA

IMAGE = (3, 6, 10)  # cut into 3×5 positions, 24 channels


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class OnTokens(nn.Module):
    """Images as 15 tokens of 24 features, and back."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.inner = inner if isinstance(inner, nn.Module) else Function(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(2).transpose(1, 2))


def network(inner) -> nn.Module:
    """A convolution, what is tested, a function that is not linear, and a head."""
    inner = inner if isinstance(inner, nn.Module) else Function(inner)
    model = nn.Sequential(nn.Conv2d(3, 24, 2, 2), inner, nn.Tanh(), nn.Flatten())
    size = model.eval()(torch.rand(1, *IMAGE)).shape[1]
    model.append(nn.Linear(size, 2)).requires_grad_(False)
    for name, parameter in model.named_parameters():  # also those that begin as zeros or ones
        torch.manual_seed(sum(map(ord, name)))
        nn.init.normal_(parameter, 0.1, 0.3)
    return model


def compiled(name: str) -> tuple[Program, Phi]:
    """The program, and Φ, in float64."""
    model = network(CASES[name][0]())
    phi = Phi(model, SourceLayer("4", "input", "Linear"))
    if name in IN_FLOAT32:
        program = compile_phi(phi, torch.rand(1, *IMAGE), strict=True).to(torch.float64)
        model.double()
        return program, phi
    model.double()
    return compile_phi(phi, torch.rand(1, *IMAGE).double(), strict=name not in ISLANDS), phi


def written_out(module: nn.Module) -> nn.Module:
    """timm's attention by products and a softmax."""
    for each in module.modules():
        if hasattr(each, "fused_attn"):
            each.fused_attn = False
    return module


class SelfAttention(nn.MultiheadAttention):
    """PyTorch's, of one value."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


class Windows(nn.Module):
    """A block of Swin, shifted or not, on 4×4 positions with a border of zeros."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.block = SwinTransformerBlock(
            24, (3, 5), 2, window_size=(3, 4), shift_size=shift, always_partition=True
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.permute(0, 2, 3, 1))


def chunks(x: Tensor) -> tuple[Tensor, ...]:
    return x.chunk(3, -1)


def einsum_attention(x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (2, 4)) for part in chunks(x))
    weights = torch.einsum("bthd,bshd->bhts", q, k).mul(0.4).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v).flatten(2)


def masked(x: Tensor) -> Tensor:
    q, k, v = chunks(x)
    later = torch.ones(15, 15, dtype=torch.bool).triu(1)
    return (q @ k.mT / 3).masked_fill(later, -torch.inf).softmax(-1) @ v


def causal(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*chunks(x), is_causal=True)


def with_boolean_mask(x: Tensor) -> Tensor:
    mask = torch.arange(15).remainder(4) > 0
    return F.scaled_dot_product_attention(*chunks(x), attn_mask=mask.expand(15, 15))


def with_a_mask_of_all_images(x: Tensor) -> Tensor:
    mask = torch.linspace(-1, 1, 15).to(x).expand(len(x), 15, 15)
    return F.scaled_dot_product_attention(*chunks(x), attn_mask=mask)


def temperature(x: Tensor) -> Tensor:
    """A scale for each head: no attention that libraries have."""
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in chunks(x))
    scale = torch.tensor([0.3, 0.7]).to(x).view(2, 1, 1)
    return (((q @ k.mT) * scale).softmax(-1) @ v).transpose(1, 2).flatten(2)


def normalized(x: Tensor) -> Tensor:
    q, k, v = chunks(x)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=1)
    return (q.mT @ k).softmax(-1) @ v.mT


def coordinates(x: Tensor) -> Tensor:
    rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
    return x * rows.sigmoid() * columns.sigmoid() + (rows - columns)


def statistics(x: Tensor) -> Tensor:
    mean, deviation = x.mean((1, 2), keepdim=True), x.std((1, 2), keepdim=True)
    variance, centre = torch.var_mean(x, 1, keepdim=True)
    return torch.cat([mean / deviation + centre, variance.sqrt(), x - x.amin(1, True)], 1)


def extremes(x: Tensor) -> Tensor:
    y = torch.cat([x.max(1, keepdim=True)[0], x.amax(1, keepdim=True)], 1)
    return torch.maximum(y, x.min(1, keepdim=True)[0]) - torch.minimum(y, y.flip(1).detach() * 0)


def arithmetic(x: Tensor) -> Tensor:
    places = torch.linspace(0.5, 2, 15).view(1, 3, 5).to(x)
    y = x * places + places.square() - x.pow(2) / (1 + x.abs())
    y = torch.where(places > 1, y, 2 * y).masked_fill(places < 0.7, 0.25)
    return y.exp().add(1).log() + torch.rsqrt(y.square() + 1) - 1 / (2 + y.abs()).sqrt()


def outer(x: Tensor) -> Tensor:
    rows, columns = x.sum(2), x.sum(3)
    return columns.unsqueeze(3) * rows.unsqueeze(2) + torch.ones(2, 1, 1, 1, 1).to(x).sum()


def by_constants(x: Tensor) -> Tensor:
    left, right = torch.linspace(-1, 1, 28).view(4, 7), torch.linspace(1, 2, 48).view(24, 2)
    left = left[:, :1] * torch.linspace(0.1, 1, 15)
    return torch.einsum("pt,btc->bpc", left.to(x), x @ right.to(x))


def several_letters(x: Tensor) -> Tensor:
    """Positions by rows and columns with a table for each, one of them of one row."""
    y = x.unflatten(1, (3, 5)).unflatten(-1, (1, 24))
    rows = torch.linspace(-1, 1, 168).view(3, 7, 8)
    y = torch.einsum("bhwmc,hkc->bmhwk", y[..., :8], rows.to(x)) + y[..., 16:23].movedim(3, 1)
    return torch.einsum("bmhwk,bmhvk->bhmwv", y, y)


def soft_weights(x: Tensor) -> Tensor:
    return (x.log_softmax(2) * x.softmax(1)).logsumexp(-1) / 8


CASES = {
    "attention": (lambda: OnTokens(Attention(24, 3, qkv_bias=True)), {"attention": 1}),
    "attention written out": (
        lambda: OnTokens(written_out(Attention(24, 3, qk_norm=True, norm_layer=nn.LayerNorm))),
        {"attention": 1, "matmul": 0, "softmax": 0},
    ),
    "multi-head": (lambda: OnTokens(SelfAttention(24, 4, batch_first=True)), {"attention": 1}),
    "windows": (lambda: Windows(0), {"attention": 1}),
    "windows written out": (lambda: written_out(Windows(0)), {"attention": 1, "softmax": 0}),
    "shifted windows": (lambda: Windows(1), {"attention": 1}),
    "shifted windows written out": (lambda: written_out(Windows(1)), {"attention": 1}),
    "class": (lambda: OnTokens(ClassAttn(24, 3)), {"attention": 1}),
    "talking heads": (lambda: OnTokens(TalkingHeadAttn(24, 3)), {"matmul": 2, "softmax": 1}),
    "cross-covariance": (lambda: OnTokens(XCA(24, 3)), {"softmax": 1, "reduce": 2}),
    "multi-query": (lambda: MultiQueryAttention2d(24, num_heads=2), {"attention": 1}),
    "linear": (lambda: LiteMLA(24, 24, dim=8, scales=(3,)), {"matmul": 2, "broadcast": 1}),
    "split": (lambda: SplitAttn(24, radix=2), {"softmax": 1, "reduce": 2}),
    "split of one": (lambda: SplitAttn(24, radix=1), {"squeeze-excitation": 1}),
    "split of groups": (lambda: SplitAttn(24, groups=2, radix=3), {"softmax": 1}),
    "grn": (lambda: GlobalResponseNorm(24, channels_last=False), {"response_norm": 1}),
    "grn, channels last": (
        lambda: nn.Sequential(Function(lambda x: x.permute(0, 2, 3, 1)), GlobalResponseNorm(24)),
        {"response_norm": 1},
    ),
    "grn in a block": (lambda: GlobalResponseNormMlp(24, use_conv=True), {"response_norm": 1}),
    "eca": (lambda: EcaModule(24), {}),
    "cbam": (lambda: CbamModule(24, rd_ratio=0.25), {"reduce": 3}),
    "global context": (lambda: GlobalContext(24), {"softmax": 1, "matmul": 1}),
    "einsum": (lambda: OnTokens(einsum_attention), {"attention": 1}),
    "masked": (lambda: OnTokens(masked), {"attention": 1}),
    "causal": (lambda: OnTokens(causal), {"attention": 1}),
    "boolean mask": (lambda: OnTokens(with_boolean_mask), {"attention": 1}),
    "mask of all images": (lambda: OnTokens(with_a_mask_of_all_images), {"attention": 1}),
    "temperature": (lambda: OnTokens(temperature), {"attention": 0, "softmax": 1}),
    "normalized": (lambda: OnTokens(normalized), {"reduce": 2}),
    "coordinates": (lambda: coordinates, {"reduce": 2}),
    "statistics": (lambda: OnTokens(statistics), {"reduce": 5}),
    "arithmetic": (lambda: arithmetic, {"select": 2}),
    "outer": (lambda: outer, {"broadcast": 1}),
    "constants": (lambda: OnTokens(by_constants), {"matmul": 1}),
    "several letters": (lambda: OnTokens(several_letters), {"matmul": 2}),
    "soft weights": (lambda: OnTokens(soft_weights), {"softmax": 2, "reduce": 1}),
}
IN_FLOAT32 = ("linear",)  # it asks for float32 by name
# A convolution in one dimension.
ISLANDS = ("eca",)


@pytest.mark.parametrize("name", CASES)
def test_delta_is_autograds(name, torch_rng):
    kinds = CASES[name][1]
    program, phi = compiled(name)
    tolerance = 1e-4 if name in IN_FLOAT32 else 1e-8
    counted = Counter(op.kind for op in program.ops)
    assert {kind: counted[kind] for kind in kinds} == kinds, str(program)
    for count in (1, 3):
        images = torch.randn(count, *IMAGE, generator=torch_rng).double()
        x = images.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(phi(x).sum(), x)
        found = program.pullback_of_ones(images)
        assert float((found - wanted).norm()) < tolerance * float(wanted.norm())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_a_step_is_as_near_as_eager(name, precision, torch_rng):
    model = network(CASES[name][0]())
    batches = [torch.randn(15, *IMAGE, generator=torch_rng) for _ in range(3)]
    step_checks.check_median(model, batches, precision)
