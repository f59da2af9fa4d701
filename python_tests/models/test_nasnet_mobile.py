"""NASNet-A Mobile: its published size, its wiring, and what SIGN makes of it."""

from __future__ import annotations

import pytest
import torch
from networks import lively, step_for
from torch import Tensor, nn

from sign_ext import iterative_sign
from sign_ext.models import build_model, model_options
from sign_ext.reference import iterative_sign_reference
from sign_ext.source_layer import find_source_layer

SMALL = {"num_classes": 5, "repeats": 2, "filters": 4}


def test_the_published_size() -> None:
    model = build_model("nasnet_mobile", num_classes=1000, image_shape=(3, 224, 224)).eval()
    assert sum(each.numel() for each in model.parameters()) == 5_289_978
    # "4 @ 1056": cells a stage, and channels of the last features.
    assert len(model.network.cells) == 3 * 4 + 2
    assert model.network.classifier.in_features == 1056
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
        assert model(torch.zeros(3, 3, 32, 32)).shape == (3, 1000)


@pytest.mark.parametrize("size", [(3, 3), (4, 5), (33, 47), (65, 31)])
@pytest.mark.parametrize("repeats", [1, 3])
def test_odd_sizes(size: tuple[int, int], repeats: int) -> None:
    options = {**SMALL, "repeats": repeats}
    model = build_model("nasnet_mobile", image_shape=(3, *size), **options)
    logits = model(torch.rand(3, 3, *size) * 255)
    assert logits.shape == (3, 5)
    assert torch.isfinite(logits).all()
    logits.square().sum().backward()
    assert all(each.grad is not None for each in model.parameters())


def test_each_cell_reads_the_two_layers_before_it() -> None:
    network = build_model("nasnet_mobile", **SMALL).network.eval()
    layers = [network.conv0, network.cell_stem_0, network.cell_stem_1, *network.cells]
    read: dict[nn.Module, tuple[Tensor, ...]] = {}
    made: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read[module], made[module] = inputs, output

    for layer in layers:
        layer.register_forward_hook(note)
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64))
    assert read[layers[2]] == (made[layers[0]], made[layers[1]])
    for i in range(3, len(layers)):
        last, before = read[layers[i]]
        assert last is made[layers[i - 1]]
        assert before is made[layers[i - 2]]
    # filters/4 and /2 in the stem, then 1×, 2× and 4× filters; 4 or 6 branches are joined.
    shapes = [(made[each].shape[1], made[each].shape[2]) for each in layers]
    stages = [(24, 8), (24, 8), (32, 4), (48, 4), (48, 4), (64, 2), (96, 2), (96, 2)]
    assert shapes == [(32, 31), (4, 16), (8, 8), *stages]


def test_options() -> None:
    assert model_options("nasnet_mobile") == {"dropout": 0.0, "repeats": 4, "filters": 44}
    model = build_model("nasnet_mobile", dropout=0.25, **SMALL)
    assert [each.p for each in model.modules() if isinstance(each, nn.Dropout)] == [0.25]


def test_sign_takes_the_features_before_the_classifier(torch_rng: torch.Generator) -> None:
    model = lively(build_model("nasnet_mobile", **SMALL), torch_rng).eval().double()
    model.requires_grad_(False)
    images = torch.rand(2, 3, 33, 35, generator=torch_rng, dtype=torch.float64) * 255
    assert find_source_layer(model, images).name == "network.classifier"
    seen: list[Tensor] = []
    model.network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def phi(x: Tensor) -> Tensor:
        seen.clear()
        model(x)
        return seen[0]

    delta = iterative_sign_reference(phi, images, steps=1) - images
    step = step_for(delta)
    exact = iterative_sign_reference(phi, images, steps=3, step_size=step)
    for backend in ("auto", "autograd"):
        found = iterative_sign(model, images, 3, step_size=step, backend=backend)
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)
