"""Networks that write in place, through views above all, against autograd of the same code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sign_ext import SignTransform, pullback_of_ones
from sign_ext.compiler.build import build, recording_again
from sign_ext.compiler.trace import trace
from sign_ext.errors import UnsupportedOperation

SHAPE = (4, 3, 6)  # one image's of what the functions are given


def slice_set(a: Tensor) -> Tensor:
    a[:, :1] = a[:, 1:2].clone().sin()
    return a


def slice_with_step(a: Tensor) -> Tensor:
    a[..., 1::2] = a[..., ::2] * 2
    return a.sin()


def select_added(a: Tensor) -> Tensor:
    a[..., 2].add_(a[..., 3].exp())
    return a


def augmented(a: Tensor) -> Tensor:
    a[:, 1] += a[:, 0].clone() ** 2
    a[:, :, 0] *= 3
    return a


def number_set(a: Tensor) -> Tensor:
    a[:, 2] = 0.5
    a[:, :, :, 0] = 0
    return a.square()


def zeroed(a: Tensor) -> Tensor:
    a[:, 1].zero_()
    a[:, 2].fill_(0.3)
    return a.square()


def view_of_view(a: Tensor) -> Tensor:
    a.flatten(2)[:, 1:3][..., 4].mul_(0.3).add_(1)
    return a.sin()


def transposed(a: Tensor) -> Tensor:
    a.transpose(1, 3)[:, 2:4].tanh_()
    return a


def permuted(a: Tensor) -> Tensor:
    a.permute(0, 3, 1, 2)[:, 0].exp_()
    return a


def squeezed(a: Tensor) -> Tensor:
    a[:, 1:2].squeeze(1).unsqueeze(-1).sin_()
    return a


def narrowed(a: Tensor) -> Tensor:
    a.narrow(-1, -4, 3).narrow(1, 1, 2).mul_(a[:, :1, :, :3].exp())
    return a


def views_read_later(a: Tensor) -> Tensor:
    before = a[:, 1:]
    copied = a.transpose(1, 2).reshape(len(a), -1) + 0
    a.exp_()
    return before * a[:, :1] + copied.view(len(a), 1, 1, -1).sum(-1, keepdim=True).sin()


def copy_by_reshape(a: Tensor) -> Tensor:
    copied = a.transpose(1, 3).reshape(len(a), -1)
    a.sin_()
    copied[:, :5].mul_(2)
    return a.flatten(1) + copied


def written_twice(a: Tensor) -> Tensor:
    view = a[:, :2]
    view.add_(1)
    row = view[:, 0]
    row.mul_(2)
    view[:, 1].sub_(row.clone().sin())
    return a * view.sum(1, keepdim=True)


def into_zeros(a: Tensor) -> Tensor:
    out = torch.zeros_like(a)
    out[:, 1:3] = a[:, :2]
    out[:, 0, 1:] = a[:, 3, :2].tanh()
    return out * 2


def into_new(a: Tensor) -> Tensor:
    out = a.new_zeros(a.shape[0], 9, 3, 6)
    for i in range(0, 8, 2):
        out[:, i] = a[:, i // 2].sin()
    return out


def by_index(a: Tensor) -> Tensor:
    a[:, [0, 2]] = a[:, [1, 3]].sin()
    a[a > 0.8] = 0.1
    return a


def diagonal(a: Tensor) -> Tensor:
    a.diagonal(0, 2, 3).mul_(2)
    return a.sin()


def first_image_half(a: Tensor) -> Tensor:
    a[:, :, :, :3] = a[:, :, :, 3:].flip(-1)
    a[:, :, 1] = a[:, :, 0].cumsum(-1)
    return a


def shifted(a: Tensor) -> Tensor:
    out = torch.zeros_like(a)
    out[:, :1, :, :-1] = a[:, :1, :, 1:]
    out[:, 1:2, :, 1:] = a[:, 1:2, :, :-1]
    out[:, 2:] = a[:, 2:]
    return out


CASES = [
    slice_set, slice_with_step, select_added, augmented, number_set, zeroed, view_of_view,
    transposed, permuted, squeezed, narrowed, views_read_later, copy_by_reshape,
    written_twice, into_zeros, into_new, by_index, diagonal, first_image_half, shifted,
]  # fmt: skip
COMPILED = (slice_set, select_added, augmented)  # without islands


class Network(nn.Module):
    """A convolution, a function that writes its argument, and a head."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, SHAPE[0], 3, padding=1)
        self.function = function
        features = function(torch.rand(1, *SHAPE)).flatten(1).shape[1]
        self.scale = nn.Parameter(torch.randn(features))
        self.head = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.first(x) * 1).flatten(1)
        return self.head((x * self.scale).tanh())


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_delta_is_autograds(function, torch_rng):
    torch.manual_seed(0)
    model = Network(function).double().eval().requires_grad_(False)
    sign = SignTransform(model, 1, step_size=1.0, backend="fused")
    for count in (2, 1, 5):
        images = torch.randn(count, 3, *SHAPE[1:], generator=torch_rng).double()
        wanted = pullback_of_ones(model, images)
        found = sign.transform(images) - images
        assert float((found - wanted).norm()) < 1e-12 * float(wanted.norm())
    if function in COMPILED:
        assert not sign.explain(images).islands


@pytest.mark.parametrize("what", ["its input", "a constant"])
def test_what_is_not_the_forward_pass_own_is_not_written(what):
    model = Network(slice_set).eval().requires_grad_(False)
    kept = torch.zeros(2, 3, 3, 6)

    def phi(x: Tensor) -> Tensor:
        written = x if what == "its input" else kept
        written[:1, 1:2] = x[:1, :1]
        return model(x + written[:1])

    image = torch.rand(1, 3, *SHAPE[1:])
    again = recording_again(phi, image)
    with pytest.raises(UnsupportedOperation, match=f"writes {what} in place"):
        build(trace(phi, image), torch.float32, again=again)
