"""Warnings about units: given where the units are wrong, and nowhere else."""

from __future__ import annotations

import copy
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext import PixelRangeWarning, SignTransform, iterative_sign, problem
from sign_ext.evaluation import warn_of_units
from sign_ext.models import build_model, with_normalization

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All tests of this file."""


def photos(generator: torch.Generator, count: int, side: int = 24) -> Tensor:
    """Smooth 8-bit images with an edge, (count, 3, side, side), 0–255."""
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = nn.functional.interpolate(coarse, side, mode="bilinear")
    fine[..., side // 2 :] *= torch.rand(count, 3, 1, 1, generator=generator)
    noise = 0.02 * torch.randn(fine.shape, generator=generator)
    return ((fine + noise).clamp(0, 1) * 255).round()


def standardised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return (images / 255 - mean) / std


UNITS = {
    "grey": lambda images: images,
    "unit": lambda images: images / 255,
    "standardised": standardised,
    "signed": lambda images: images / 127.5 - 1,
}


def network(*first: nn.Module) -> nn.Sequential:
    """A stem as most networks have it: convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        *first,
        nn.Conv2d(3, 9, 3, bias=False),
        nn.BatchNorm2d(9),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 3),
    ).eval()


def trained_on(images: Tensor, model: nn.Module | None = None) -> nn.Module:
    """A network whose running statistics are those of these images."""
    model = model or network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    model.train()
    with torch.no_grad():
        for part in images.split(8):
            model(part)
    return model.eval()


def warned(model: nn.Module, images: Tensor) -> list[str]:
    """The messages about units of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        iterative_sign(model, images, 1, step_size=1e-3)
    return [str(each.message) for each in caught if each.category is PixelRangeWarning]


# ---------------------------------------------------------------- the first BatchNorm


@pytest.mark.parametrize("given", UNITS)
@pytest.mark.parametrize("trained", UNITS)
def test_running_statistics_tell_grey_levels_from_the_rest(torch_rng, trained, given):
    model = trained_on(UNITS[trained](photos(torch_rng, 40)))
    images = photos(torch_rng, 5)
    messages = warned(model, UNITS[given](images))
    assert len(messages) == ((trained == "grey") != (given == "grey"))
    for message in messages:
        low, high = UNITS[given](images).aminmax()
        assert f"span {low:.3g}…{high:.3g}" in message
        assert "'1' (BatchNorm2d)" in message
        assert "with_normalization" in message


def test_how_far_away_the_values_are(torch_rng):
    """The number of the message, against the network's own BatchNorm."""
    model = trained_on(UNITS["unit"](photos(torch_rng, 40)))
    image = photos(torch_rng, 1)
    (message,) = warned(model, image)
    model[1].weight.data.fill_(1)
    with torch.no_grad():
        normalised = model[:2](image)
    squares = normalised.square().mean((0, 2, 3)).median()
    away = float(message.split(" is ")[1].split(" standard deviations")[0].replace(",", ""))
    assert away == pytest.approx(float(squares.sqrt()), rel=0.01)


ODD_IMAGES = {
    "zeros": lambda images: torch.zeros_like(images),
    "white": lambda images: torch.full_like(images, 255),
    "dark": lambda images: (images / 100).round(),
    "dim": lambda images: images / 30,
    "moved": lambda images: images * 1.3 - 40,
    "noise": lambda images: (images + 30 * images.roll(1, 0) % 97) % 256,
    "16 bits, scaled": lambda images: (images * 257 + 100) / 257,
    "ramp": lambda images: torch.linspace(0, 255, images.shape[-1]).expand(images.shape).clone(),
}


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_odd_images_in_the_right_units(torch_rng, kind):
    images = ODD_IMAGES[kind](photos(torch_rng, 5))
    assert not warned(trained_on(photos(torch_rng, 40)), images)
    normalised = nn.Sequential(build_model("basic_cnn", image_shape=(3, 24, 24)).eval())
    assert not warned(normalised, images)
    assert not warned(network(), images)  # fresh


@pytest.mark.parametrize("kind", ["zeros", "white", "moved", "noise", "ramp"])
def test_odd_images_of_zero_to_one(torch_rng, kind):
    images = ODD_IMAGES[kind](photos(torch_rng, 5)) / 255
    assert not warned(trained_on(photos(torch_rng, 40) / 255), images)


def test_statistics_that_are_still_initial_tell_nothing(torch_rng):
    # Of 0–1 images, whose variance behind the convolution is far below 1.
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(0.01)
        model.train()(photos(torch_rng, 8) / 255)
    model.eval()
    assert float(model[1].running_var.median()) > 0.8
    assert not warned(model, photos(torch_rng, 5) / 255)


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(torch_rng, dims):
    convolution = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    norm, pool = {1: (nn.BatchNorm1d, nn.AdaptiveAvgPool1d), 3: (nn.BatchNorm3d, None)}[dims]
    pool = pool or nn.AdaptiveAvgPool3d
    model = nn.Sequential(
        convolution(2, 5, 3), norm(5), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(5, 2)
    )
    shape = (6, 2) + ((41,) if dims == 1 else (7, 8, 9))
    values = torch.randn(shape, generator=torch_rng)
    model[1].momentum = None
    with torch.no_grad():
        model.train()(values)
    model.eval()
    assert not warned(model, values)
    assert len(warned(model, values * 1000)) == 1


def test_float64_and_a_network_of_one_image(torch_rng):
    images = photos(torch_rng, 4).double()
    model = trained_on(images.float() / 255).double()
    assert len(warned(model, images)) == 1
    model = trained_on(images.float()).double()
    assert not warned(model, images)


# ---------------------------------------------------------------- a normalisation


class Standardise(nn.Module):
    """As people write it, for images of 0–1."""

    def __init__(self, mean=MEAN, std=STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


def test_grey_levels_into_a_normalisation_for_zero_to_one(torch_rng):
    images = photos(torch_rng, 5)
    (message,) = warned(network(Standardise()), images)
    assert "'0' (Standardise)" in message
    for number in (f"0…{images.max():.0f}", "0.449", "0.229"):
        assert number in message
    assert not warned(network(Standardise()), images / 255)


def test_normalisations_that_leave_grey_levels_large(torch_rng):
    images = photos(torch_rng, 5)
    means_only = network(Standardise((123.7, 116.8, 103.9), (1.0, 1.0, 1.0)))
    assert not warned(means_only, images)
    assert len(warned(means_only, images / 255)) == 1
    for given in UNITS.values():
        assert not warned(network(Standardise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))), given(images))


def test_torchvisions_transform_as_a_module(torch_rng):
    transforms = pytest.importorskip("torchvision.transforms.v2")
    images = photos(torch_rng, 5)
    assert len(warned(network(transforms.Normalize(MEAN, STD)), images)) == 1
    assert not warned(network(transforms.Normalize(MEAN, STD)), images / 255)


@pytest.mark.parametrize("given", ["unit", "standardised", "signed"])
def test_other_units_into_our_own_networks(torch_rng, given):
    images = photos(torch_rng, 5)
    model = build_model("basic_cnn", image_shape=(3, 24, 24)).eval()
    (message,) = warned(model, UNITS[given](images))
    assert "'normalize' (Normalize)" in message
    assert "multiply those of 0–1 by 255" in message


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("basic_cnn", 17),
        ("mobilenet_v2", 33),
        pytest.param("inception_resnet_v2", 75, marks=pytest.mark.slow),
        ("nasnet_mobile", 33),
    ],
)
def test_the_four_networks_and_grey_levels(torch_rng, name, side):
    model = build_model(name, image_shape=(3, side, side)).eval()
    images = photos(torch_rng, 2, side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_units(model, images.to(torch.uint8))
    with pytest.warns(PixelRangeWarning):
        warn_of_units(model, images / 255)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("given", ["grey", "unit"])
def test_fresh_networks_of_timm_say_nothing(torch_rng, name, given):
    timm = pytest.importorskip("timm")
    size = {"img_size": 32} if "vit" in name else {}
    model = timm.create_model(name, num_classes=3, **size).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PixelRangeWarning)
        warn_of_units(model, UNITS[given](photos(torch_rng, 2, 32)))


class Patches(nn.Module):
    """A network without BatchNorm, with timm's record of its preprocessing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 8, 6, 6), nn.LayerNorm(8), nn.Linear(8, 3)
        self.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, 24, 24)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.embed(x).flatten(2).mean(2))))


def test_a_record_of_timms(torch_rng):
    images = photos(torch_rng, 5)
    fresh = Patches().eval()
    assert not warned(fresh, images)
    nn.init.normal_(fresh.norm.weight, 1, 0.1)  # the same network, trained meanwhile
    (message,) = warned(fresh, images)
    assert "(0.485, 0.456, 0.406)" in message
    assert not warned(copy.deepcopy(fresh), standardised(images))
    # With its preprocessing as its first module nothing is left to say.
    wrapped = nn.Sequential(Standardise([255 * v for v in MEAN], [255 * v for v in STD]), fresh)
    wrapped.pretrained_cfg = fresh.pretrained_cfg
    assert not warned(wrapped.eval(), images)


# ---------------------------------------------------------------- once, and harmless


def test_once_for_a_network_and_a_cause(torch_rng):
    images = photos(torch_rng, 5)
    model = trained_on(images / 255)
    assert len(warned(model, images)) == 1
    assert not warned(model, images)
    assert not warned(model, images[:, :, 1:])  # another shape, the same cause
    assert len(warned(copy.deepcopy(model), images)) == 1
    transform = SignTransform(model, 1, step_size=1e-3)
    transform.reset()
    with pytest.warns(PixelRangeWarning):
        transform.transform(images)


def test_a_black_first_image_does_not_settle_it(torch_rng):
    images = photos(torch_rng, 5)
    model = trained_on(images / 255)
    black = torch.zeros_like(images[:1])
    for _ in range(3):
        assert not warned(model, black)
    assert len(warned(model, images)) == 1
    # Not for ever: each question costs two passes.
    model = trained_on(images / 255)
    for _ in range(4):
        assert not warned(model, black)
    assert not warned(model, images)


def test_threads_give_one_warning(torch_rng):
    images = photos(torch_rng, 3)
    model = trained_on(images / 255)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [
            threading.Thread(target=iterative_sign, args=(model, images, 1)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(each.category is PixelRangeWarning for each in caught) == 1


def test_the_warning_points_to_the_caller(torch_rng):
    images = photos(torch_rng, 3)
    model = trained_on(images / 255)
    with pytest.warns(PixelRangeWarning) as caught:
        SignTransform(model, 1).transform(images)
    assert caught[0].filename == __file__


class Noisy(nn.Module):
    """Draws from every generator, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        drawn = random.random() + np.random.random() + float(torch.rand(()))  # noqa: NPY002
        return x * (1 + 0.01 * drawn) + self.calls


def test_looking_changes_nothing(torch_rng, monkeypatch):
    images = photos(torch_rng, 5)
    model = trained_on(images / 255, network(Noisy()))

    def moved(look: bool) -> Tensor:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        twin = copy.deepcopy(model)
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if not look:
                patch.setattr(problem, "check_units", lambda *_, **__: None)
            result = iterative_sign(twin, images, 2, step_size=50.0, backend="autograd")
        told = [each for each in caught if each.category is PixelRangeWarning]
        assert len(told) == look
        assert twin[0].calls == model[0].calls
        return result

    assert torch.equal(moved(True), moved(False))


def test_a_network_that_takes_no_single_image_is_left_alone(torch_rng):
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) != 2:
                raise ValueError("two at a time")
            return x

    images = photos(torch_rng, 4)
    model = network(Pairs())
    model[2].running_var.fill_(1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SignTransform(model, 1, step_size=1e-3, batch_size=2).transform(images)


# ---------------------------------------------------------------- normalised twice


class OwnNormalisation(nn.Module):
    """Normalises in its forward pass, which no module and no record tells of."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(standardised(x))


def hooked(inner: nn.Module) -> nn.Module:
    """A network that a hook gives normalised images."""
    inner.register_forward_pre_hook(lambda _, args: (standardised(args[0]),))
    return inner


@pytest.mark.parametrize("own", [OwnNormalisation, hooked], ids=["forward", "hook"])
@pytest.mark.parametrize("padding", [0, 1])
def test_images_that_are_normalised_twice(torch_rng, own, padding):
    """Padding with 0 makes a border, which varies more than the images do then."""
    stem = network()
    stem[0].padding = (padding, padding)
    trained = trained_on(standardised(photos(torch_rng, 40)), stem)
    model = own(trained).eval()
    images = photos(torch_rng, 5)
    assert not warned(model, images)
    (message,) = warned(with_normalization(model, MEAN, STD), images)
    assert "normalised twice" in message
    assert "--normalize none" in message
    number = float(message.split(" varies ")[1].split(" times less")[0])
    assert 30 < number < 90  # std · 255 is 57 to 58


@pytest.mark.parametrize("contrast", [0.4, 1.0])
def test_smooth_or_pale_images_are_not_taken_for_normalised_twice(torch_rng, contrast):
    model = with_normalization(trained_on(standardised(photos(torch_rng, 40))), MEAN, STD)
    ramp = torch.linspace(0, 255, 24).expand(3, 3, 24, 24)
    for images in (ramp, photos(torch_rng, 5), photos(torch_rng, 5, 24).flip(1)):
        assert not warned(copy.deepcopy(model), 100 + contrast * (images - 100))
