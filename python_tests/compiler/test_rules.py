"""The rules: what they cover equals autograd, and what they do not is refused by name if strict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi, SourceLayer


class Middle(nn.Module):
    """A function between a convolution and a classifier."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function
        self.classifier = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.function(self.first(x)).flatten(1))


def compile_middle(function):
    model = Middle(function).eval()
    images = torch.rand(2, 3, 6, 6)
    model(images)
    phi = Phi(model.requires_grad_(False), SourceLayer("classifier", "input", "Linear"))
    return compile_phi(phi, images[:1], strict=True)


def no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


def padded(x: Tensor) -> Tensor:
    """An image of 18×18."""
    return nn.functional.pad(x, (6, 6, 6, 6))


def written_after_a_copy(copy):
    def function(x: Tensor) -> Tensor:
        before = copy(x)
        x.relu_()
        return torch.cat([before, x * 2], 1)

    return function


def in_place_under_a_view(x: Tensor) -> Tensor:
    part = x[:, :2]
    x.relu_()
    return torch.cat([part, x], 1)


REFUSED = {
    "no rule": (lambda x: x.logcumsumexp(1), "aten.logcumsumexp.default on (4, 6, 6)"),
    "layer norm": (lambda x: nn.functional.layer_norm(x, (6, 6)), "aten.layer_norm"),
    "a value read back": (lambda x: x * float(x.sum()), "cannot be recorded"),
    "a branch on a value": (lambda x: x if x.sum() > 0 else -x, "cannot be recorded"),
    "gradients switched off": (
        no_grad,
        "calls _set_grad_enabled (torch.no_grad inside the network)",
    ),
    "complex numbers": (lambda x: (x * (1 + 2j)).abs(), "complex64; rules are for real numbers"),
    "images mixed": (lambda x: x - x.mean(0, keepdim=True), "aten.mean.dim"),
    "images moved": (lambda x: x.flip(0), "aten.flip"),
    "a view changed in place": (in_place_under_a_view, "read later through a view"),
    "a random mask": (lambda x: nn.functional.dropout(x, 0.5), "active in evaluation"),
    "another type": (lambda x: x.to(torch.bfloat16).float(), "a change of type"),
    "a window too large": (lambda x: nn.functional.max_pool2d(padded(x), 17), "256 positions"),
    "an adaptive window too large": (
        lambda x: nn.functional.adaptive_max_pool2d(padded(x), 1),
        "256 positions",
    ),
    "a transposed convolution with another window": (
        lambda x: nn.functional.conv_transpose2d(
            x, torch.ones(4, 1, 2, 2), stride=2, output_padding=2, dilation=3
        ),
        "not below stride",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    function, message = REFUSED[case]
    with pytest.raises(UnsupportedOperation) as refusal:
        compile_middle(function)
    assert message in str(refusal.value)


ACCEPTED = {
    "weights made of weights": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 5, 1)),
    "in place": nn.ReLU(inplace=True),
    "in place with both names read": lambda x: x.relu_() + x,
    "in place after a clone": written_after_a_copy(lambda x: x.clone()),
    "in place after another layout": written_after_a_copy(
        lambda x: x.contiguous(memory_format=torch.channels_last)
    ),
    "in place after a copy": written_after_a_copy(lambda x: x.to(x.dtype, copy=True)),
    "in place after no copy": written_after_a_copy(lambda x: x.contiguous()),
    "dropout that is off": nn.Dropout(0.5).eval(),
    "even more padding than kernel": nn.Conv2d(4, 3, 1, padding=2),
    "same": nn.Conv2d(4, 3, (2, 4), padding="same"),
    "transposes of weights": lambda x: nn.functional.conv2d(x, torch.eye(4).t()[:, :, None, None]),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts(case):
    torch.manual_seed(0)
    model = Middle(ACCEPTED[case]).eval()
    images = torch.rand(2, 3, 6, 6)
    model(images)
    model = model.double().requires_grad_(False)
    if case == "transposes of weights":
        model = model.float()
    images = images.to(next(model.parameters()).dtype)
    phi = Phi(model, SourceLayer("classifier", "input", "Linear"))
    program = compile_phi(phi, images[:1], strict=True)
    x = images.clone().requires_grad_()
    (delta,) = torch.autograd.grad(phi(x).sum(), x)
    torch.testing.assert_close(program.pullback_of_ones(images), delta, rtol=1e-4, atol=1e-5)


def test_a_constant_network_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    phi = Phi(model, SourceLayer("1", "output", "Linear"))
    phi_of_nothing = lambda x: torch.ones(len(x), 3)  # noqa: E731
    phi_of_nothing.source = phi.source
    with pytest.raises(UnsupportedOperation, match="does not depend on the images"):
        compile_phi(phi_of_nothing, torch.rand(1, 3, 2, 2))
