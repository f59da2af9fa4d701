"""Tokens: class tokens, positions, windows, norms, gated products, against autograd."""

from __future__ import annotations

import pytest
import torch
from test_views import back, check, weight, windows
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.gather import Gather
from sign_ext.compiler.ir.insert import Insert
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.ir.shaping import Slice
from sign_ext.errors import UnsupportedOperation


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def of(program: Program, *kinds: type) -> list:
    return [op for op in program.ops if isinstance(op, kinds)]


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def class_token(x: Tensor) -> Tensor:
    """With positions, which are of shape (1, T, F)."""
    token = weight(1, 1, 8).expand(len(x), -1, -1)
    return torch.cat([token, tokens(x)], 1) + weight(1, 25, 8)


def two_tokens_after(x: Tensor) -> Tensor:
    """Registers behind the patches, repeated with a copy."""
    return F.layer_norm(torch.cat([tokens(x), weight(1, 2, 8).repeat(len(x), 1, 1)], 1), (8,))


def coordinates(x: Tensor) -> Tensor:
    """Constants as further channels of an image."""
    return F.conv2d(
        torch.cat([x, weight(1, 2, 6, 4).expand(len(x), -1, -1, -1)], 1), weight(3, 10, 2, 1)
    )


def mlp(x: Tensor, width: int = 12) -> Tensor:
    y = F.layer_norm(x, (8,), weight(8) + 2, weight(8))
    y = F.linear(F.gelu(F.linear(y, weight(width, 8), weight(width))), weight(8, width))
    return x + weight(8) * y


def swiglu(x: Tensor) -> Tensor:
    a, b = F.linear(tokens(x), weight(12, 8), weight(12)).chunk(2, -1)
    return F.linear(F.silu(a) * b, weight(8, 6))


def rotary(x: Tensor) -> Tensor:
    """Halves turned by an angle for each position, but for the first token."""
    x = tokens(x).reshape(len(x), 24, 2, 4).transpose(1, 2)
    first, rest = x[:, :, :1], x[:, :, 1:]
    turned = torch.stack([-rest[..., 1::2], rest[..., ::2]], -1).reshape(rest.shape)
    return torch.cat([first, rest * weight(23, 4).cos() + turned * weight(23, 4).sin()], 2)


def shifted(x: Tensor) -> Tensor:
    """Swin's: a norm, a shift, windows, a product, and all the way back."""
    x = x.permute(0, 2, 3, 1)
    y = torch.roll(F.layer_norm(x, (8,), weight(8), weight(8)), (-1, -1), (1, 2))
    y = F.linear(windows(F.pad(y, (0, 0, 0, 0, 0, 0))), weight(8, 8)).tanh()
    return x + torch.roll(back(y, x), (1, 1), (1, 2))


CASES = {
    "class token": class_token,
    "two tokens after": two_tokens_after,
    "coordinates": coordinates,
    "layer scale": lambda x: mlp(tokens(x)),
    "gated product": swiglu,
    "rotary embedding": rotary,
    "shifted windows": shifted,
    "rms norm": lambda x: F.rms_norm(tokens(x), (8,), weight(8), 1e-5),
    "rms norm of vectors": lambda x: F.rms_norm(x.mean((2, 3)), (8,)),
    "layer norm of vectors": lambda x: F.layer_norm(tokens(x).mean(1), (8,), weight(8)),
    "mean over tokens": lambda x: mlp(tokens(x))[:, 1:].mean(1),
    "class token alone": lambda x: mlp(mlp(class_token(x)))[:, 0],
    "some tokens": lambda x: mlp(mlp(class_token(x)))[:, 3:7] * 2,
    "some patches": lambda x: mlp(tokens(x))[:, 3:7] * 2,
    "padding with channels last": lambda x: F.layer_norm(
        F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 0, 2, 1)), (8,)
    ),
    "stacked": lambda x: torch.stack([tokens(x), 2 * tokens(x).relu()], 2).flatten(2),
    "joined windows": lambda x: torch.cat(
        [windows(x.permute(0, 2, 3, 1)), weight(1, 1, 8).expand(6 * len(x), -1, -1)], 1
    ).reshape(len(x), 6, 40),
    "joined features": lambda x: torch.cat([tokens(x), tokens(x).relu()], -1),
}


@pytest.mark.parametrize("name", CASES)
def test_delta_is_autograds(name):
    check(CASES[name])


def test_a_class_token_is_one_pass_and_what_follows_copies_nothing():
    program = check(lambda x: mlp(class_token(x)))
    (insert,) = of(program, Insert)
    assert (insert.dim, insert.starts) == (3, (1,))
    assert not of(program, Rearrange)[:-1], str(program)  # the last one flattens


def test_shifting_and_windows_are_one_copy_each_way():
    program = check(shifted)
    assert len(of(program, Gather)) == 2, str(program)
    assert not of(program, Rearrange)[:-1], str(program)
    # The norm's scale and shift went through the copy into the product.
    assert "scale shift" not in str(program)


def test_a_gated_product_is_two_products():
    program = check(swiglu)
    assert not of(program, Slice)
    outputs = sorted(op.shape[0] for op in of(program, Convolution))
    assert outputs == [6, 6, 8, 8]


def test_what_reads_overlapping_channels_is_not_split():
    program = check(
        lambda x: (lambda y: y[..., :5] * y[..., 3:8])(F.linear(tokens(x), weight(8, 8)))
    )
    assert len(of(program, Slice)) == 2


def test_only_the_class_token_goes_through_the_last_blocks():
    """The products of both blocks are computed at one position of 25."""
    program = check(CASES["class token alone"])
    assert [op.shape[1:] for op in of(program, Convolution)][1:] == 4 * [(1, 1)], str(program)
    program = check(lambda x: mlp(class_token(x))[:, 0] + class_token(x).relu().mean(1))
    assert of(program, Convolution)[-1].shape == (8, 1, 1)


def test_layer_scale_folds_into_the_product_before_it():
    program = check(CASES["layer scale"])
    names = [str(op) for op in program.ops]
    assert "convolution 1×1 + residual" in names
    assert not any(name.startswith("pointwise") for name in names)


def test_constants_must_be_the_same_for_all_images():
    def numbered(x: Tensor) -> Tensor:
        token = torch.arange(len(x)).to(x).view(-1, 1, 1).expand(-1, 1, 8)
        return torch.cat([token, tokens(x)], 1)

    def counted(x: Tensor) -> Tensor:
        return torch.cat([torch.full((len(x), 1, 8), len(x)).to(x), tokens(x)], 1)

    for function in (numbered, counted):
        with pytest.raises(UnsupportedOperation):
            check(function)


def test_what_rolls_channels_or_images_is_refused():
    for function in (lambda x: x.roll(1, 1), lambda x: x.roll(1, 0), lambda x: x.roll(3)):
        with pytest.raises(UnsupportedOperation, match=r"roll|images"):
            check(function)
