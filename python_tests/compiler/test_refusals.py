"""What the compiler does not know it refuses by name, and it notices what has changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.trace import structure_key, weights_digest
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
    return compile_phi(phi, images[:1])


def no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


def in_place_under_a_view(x: Tensor) -> Tensor:
    part = x[:, :2]
    x.relu_()
    return torch.cat([part, x], 1)


REFUSED = {
    "softmax": (lambda x: x.softmax(1), "aten.softmax.int on (4, 6, 6)"),
    "layer norm": (lambda x: nn.functional.layer_norm(x, (6,)), "aten.layer_norm"),
    "quotient": (lambda x: x / (x * x + 1), "a quotient of values"),
    "a value read back": (lambda x: x * float(x.sum()), "cannot be recorded"),
    "a branch on a value": (lambda x: x if x.sum() > 0 else -x, "cannot be recorded"),
    "gradients switched off": (no_grad, "_set_grad_enabled"),
    "detach": (lambda x: x.detach(), "aten.detach"),
    "images mixed": (lambda x: x - x.mean(0, keepdim=True), "aten.mean.dim"),
    "images moved": (lambda x: x.flip(0), "aten.flip"),
    "a view changed in place": (in_place_under_a_view, "read later through a view"),
    "a random mask": (lambda x: nn.functional.dropout(x, 0.5), "active in evaluation"),
    "another type": (lambda x: x.to(torch.bfloat16).float(), "a change of type"),
    "reflection": (
        lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"),
        "padding by reflect",
    ),
    "an image of constants": (lambda x: x * torch.rand(6, 6), "not one number a channel"),
    "a negative slope": (lambda x: nn.functional.leaky_relu(x, -0.1), "a negative slope"),
    "a transposed convolution": (
        lambda x: nn.functional.conv_transpose2d(x, torch.ones(4, 1, 2, 2)),
        "conv_transpose2d",
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
    program = compile_phi(phi, images[:1])
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


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[0].weight.data.mul_(-1),
        lambda m: m[0].weight.data.copy_(m[0].weight.data.flip(0)),
        lambda m: m[1].running_mean.add_(1),
        lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
        lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight * 1)),
    ],
    ids=["data", "data permuted", "buffer", "state dict", "replaced"],
)
def test_every_change_of_weights_is_noticed(change):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = weights_digest(model)
    assert weights_digest(model) == before
    change(model)
    assert weights_digest(model) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m[0], "stride", (2, 2)),
        lambda m: setattr(m[1], "inplace", True),
        lambda m: m.append(nn.ReLU()),
        lambda m: m[0].register_forward_hook(lambda *_: None),
        lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight * 1)),
        lambda m: setattr(m, "threshold", 3.0),
        lambda m: m.train(),
    ],
    ids=["stride", "flag", "layer", "hook", "parameter", "attribute", "mode"],
)
def test_every_change_of_structure_is_noticed(change):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    before = structure_key(model)
    assert structure_key(model) == before
    change(model)
    assert structure_key(model) != before
    hash(structure_key(model))
