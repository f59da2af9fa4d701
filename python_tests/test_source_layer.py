"""Finding Φ: torchvision, timm and home-made networks; refusing what cannot be Φ."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from networks import tiny_cnn
from torch import nn

from sign_ext import SourceLayerError, iterative_sign, jacobian
from sign_ext.errors import NegligibleDeltaWarning
from sign_ext.source_layer import (
    Phi,
    check_source,
    find_source_layer,
    guess_source_layer,
    hint_of_layer,
    way_back,
)


def find(model: nn.Module, size: int = 64) -> str:
    return find_source_layer(model.eval(), torch.rand(1, 3, size, size)).name


@pytest.mark.parametrize(
    ("name", "expected", "size"),
    [
        ("resnet18", "fc", 64),
        ("mobilenet_v2", "classifier.1", 64),
        ("squeezenet1_1", "classifier.1", 64),
        ("vgg11", "classifier.6", 32),
        ("densenet121", "classifier", 64),
        ("efficientnet_b0", "classifier.1", 64),
        ("swin_t", "head", 64),
    ],
)
def test_torchvision(name, expected, size):
    options = {"init_weights": False} if name == "vgg11" else {}
    assert find(torchvision.models.get_model(name, weights=None, **options), size) == expected


@pytest.mark.parametrize(
    ("name", "expected", "size"),
    [
        ("inception_resnet_v2", "classif", 96),
        ("mobilenetv3_small_100", "classifier", 64),
        ("vit_tiny_patch16_224", "head", 224),
    ],
)
def test_timm(name, expected, size):
    assert find(timm.create_model(name, pretrained=False), size) == expected


def test_sequential_and_what_may_follow_or_precede_the_classifier():
    assert find(tiny_cnn()) == "9"
    trailing = nn.Sequential(*tiny_cnn(), nn.Dropout(), nn.Softmax(1))
    assert find(trailing) == "9"
    by_convolution = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(4, 2, 1),
        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    assert find(by_convolution) == "3"


class TwoHeads(nn.Module):
    """Logits and their spread from the same features, as the aleatoric network has."""

    def __init__(self, shared: bool = True):
        super().__init__()
        self.body = tiny_cnn()[:9]
        self.more = nn.Identity() if shared else nn.ReLU()
        self.logits, self.spread = nn.Linear(28, 4), nn.Linear(28, 4)

    def forward(self, x):
        features = self.body(x)
        return self.logits(features), self.spread(self.more(features))


def test_two_heads_on_the_same_features_are_one_classifier():
    assert find(TwoHeads()) == "logits"
    with pytest.raises(SourceLayerError, match="'logits', 'spread'"):
        find(TwoHeads(shared=False))


class FeaturesToo(nn.Module):
    """Returns a dict of logits and features, and runs a projection that leads nowhere."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.unused = tiny_cnn()[:9], nn.Linear(28, 4), nn.Linear(28, 4)

    def forward(self, images):
        features = self.body(images)
        self.unused(features)
        return {"logits": self.head(features), "features": features}


def test_only_the_way_to_the_output_counts():
    assert find(FeaturesToo()) == "head"


def test_networks_without_a_classifier_are_refused():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    with pytest.raises(SourceLayerError, match=r"'1' \(BatchNorm2d\).*layer=NAME"):
        find(backbone)
    with pytest.raises(SourceLayerError, match="not there"):
        find(nn.Flatten())
    with pytest.raises(SourceLayerError, match="layer=NAME"):
        iterative_sign(backbone, torch.rand(2, 3, 8, 8))
    assert iterative_sign(backbone, torch.rand(2, 3, 8, 8), 1, layer="2").shape == (2, 3, 8, 8)


def test_a_softmax_source_is_refused():
    for normalise in (nn.Softmax(1), nn.LogSoftmax(1)):
        model = nn.Sequential(*tiny_cnn(), normalise)
        with pytest.raises(SourceLayerError, match="softmax"):
            iterative_sign(model, torch.rand(2, 3, 9, 9), layer="10")


class Attending(nn.Module):
    """A softmax in the middle is no softmax source."""

    def forward(self, x):
        return x.flatten(2).softmax(2).square().reshape(x.shape)


def test_a_softmax_before_the_source_is_fine():
    model = nn.Sequential(Attending(), *tiny_cnn())
    assert iterative_sign(model, torch.rand(2, 3, 9, 9), 1, step_size=1e3).isfinite().all()


class Branches(nn.Module):
    """A layer that Φ does not need, one cut from the images, one run twice, one of two outputs."""

    def __init__(self):
        super().__init__()
        self.never, self.cut, self.twice = nn.Linear(2, 2), nn.ReLU(), nn.Tanh()
        self.pair = nn.LSTM(9, 3)
        self.rank = nn.Identity()
        self.rest = tiny_cnn()

    def forward(self, x):
        self.cut(x.detach())
        self.rank(x.argmax(1))
        self.pair(x[:, 0])
        return self.rest(self.twice(self.twice(x)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("never", "did not run"),
        ("cut", "no gradient to the images"),
        ("rank", "no gradient to the images"),
        ("twice", "runs 2 times"),
        ("pair", "not one tensor"),
    ],
)
def test_layers_that_cannot_be_phi_are_refused(layer, message):
    with pytest.raises(SourceLayerError, match=message):
        iterative_sign(Branches(), torch.rand(2, 3, 9, 9), layer=layer)


def test_phi_is_the_input_of_the_classifier(torch_rng):
    model = tiny_cnn().eval()
    x = torch.rand(3, 3, 9, 9, generator=torch_rng)
    phi = Phi(model, find_source_layer(model, x[:1]))
    torch.testing.assert_close(phi(x), model[:9](x), rtol=0, atol=0)
    assert check_source(model, phi.source, x[:1])
    assert guess_source_layer(model) == phi.source
    assert guess_source_layer(nn.Flatten()) is None


def test_a_constant_sum_is_noticed_and_a_dead_image_is_not():
    x = torch.rand(1, 3, 4, 4)
    constant = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.LayerNorm(9), nn.Linear(9, 2))
    assert not check_source(constant, find_source_layer(constant, x), x)
    dead = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 2))
    nn.init.constant_(dead[1].bias, -1e3)
    assert check_source(dead, find_source_layer(dead, x), x)


class Complement(nn.Module):
    """Two features that add up to 1."""

    def forward(self, x):
        share = x.mean(1, keepdim=True).sigmoid()
        return torch.cat([share, 1 - share], 1)


class Scaled(nn.LayerNorm):
    """A LayerNorm whose weights differ by about `spread`, as early in training."""

    def __init__(self, width, spread, generator):
        super().__init__(width)
        noise = torch.randn(width, generator=generator)
        self.weight.data += spread * noise


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_constant_sum_of_two_outputs_is_noticed(seed):
    """Of two outputs, random signs are equal half of the time."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 3, 4, 4, generator=generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), Complement(), nn.Linear(2, 3))
    variation = check_source(model, source := find_source_layer(model, x), x)
    assert not variation
    assert "constant but for rounding" in variation.doubt(source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
def test_what_a_layer_norm_leaves_of_the_sum(dtype, spread, torch_rng):
    """Its weights' deviation is the share of the sum that varies, against Σ J² in float64."""
    width = 64
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 96), nn.Tanh(), nn.Linear(96, width),
        Scaled(width, spread, torch_rng), nn.Linear(width, 5),
    )  # fmt: skip
    x = torch.rand(1, 3, 4, 4, generator=torch_rng)
    rows = jacobian(model.double(), x.double()).flatten(2)[0]
    share = float(rows.sum(0).norm() / rows.norm())
    model, x = model.to(dtype), x.to(dtype)
    variation = check_source(model, source := find_source_layer(model, x), x)
    doubt = variation.doubt(source)
    assert bool(doubt) == (spread < 1)
    if spread and dtype.itemsize >= 4:
        assert variation.ratio == pytest.approx(share, rel=0.4)  # of one set of signs
        assert share == pytest.approx(spread / (1 + spread**2) ** 0.5, rel=0.4)
        assert variation
    if spread == 0.01:
        assert "layer=NAME (--layer NAME)" in doubt
    if not spread and dtype.itemsize >= 4:
        assert not variation


def test_the_way_back_has_every_node_and_how_they_join(torch_rng):
    x = torch.randn(2, 3, generator=torch_rng).requires_grad_()
    y = torch.relu(x)
    joined = (y + y.exp()).grad_fn
    assert way_back(joined) == (
        ("AddBackward0", (1, 0), (2, 0)),
        ("ReluBackward0", (3, 0)),
        ("ExpBackward0", (1, 0)),
        ("torch::autograd::AccumulateGrad",),
    )
    assert way_back((y.exp() + y).grad_fn) != way_back(joined)
    assert way_back((y + y.detach().exp()).grad_fn) != way_back(joined)
    assert way_back(None) is None
    written = y.clone()
    written[0] = 1  # its node hides another one
    assert way_back(written.grad_fn) is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit_tiny_patch16_224", "blocks.11"),
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1"),
        ("convnext_atto", "stages.3.blocks.1"),
        ("resnet18", "layer4.1"),
    ],
)
def test_the_hint_names_the_last_block(name, layer):
    """A layer of the network, with which SIGN runs."""
    model = timm.create_model(name).eval()
    assert hint_of_layer(model).endswith(f"for example --layer {layer}")
    assert layer in dict(model.named_modules())


def test_the_hint_names_no_layer_where_there_are_no_blocks():
    assert hint_of_layer(tiny_cnn()) == "pass layer=NAME (--layer NAME) of an earlier layer"


def test_a_vit_whose_sum_is_constant_runs_with_the_layer_of_the_hint(torch_rng):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3).eval()
    images = 255 * torch.rand(2, 3, 32, 32, generator=torch_rng)
    with pytest.warns(NegligibleDeltaWarning, match=r"for example --layer blocks\.2"):
        iterative_sign(model, images, 1)
    moved = iterative_sign(model, images, 1, layer="blocks.2")
    assert (moved - images).abs().max() > 0
