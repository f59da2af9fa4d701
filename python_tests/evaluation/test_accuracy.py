"""Prediction leaves the model alone; accuracies against counting in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext.evaluation import class_accuracy, predict


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(6 * 5 * 3, 4),
    )


class Viewer(nn.Module):
    """Flattens with view(), which channels_last features do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolution(images)
        return features.view(len(images), -1)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 512])
def test_predict_is_the_model_in_eval_mode(batch_size: int, torch_rng: torch.Generator) -> None:
    model = network()
    model(torch.rand(20, 3, 7, 5) * 255)  # gives BatchNorm something to keep
    images = torch.randint(0, 256, (11, 3, 7, 5), generator=torch_rng, dtype=torch.uint8)
    logits = predict(model, images, batch_size=batch_size)
    assert logits.dtype == torch.float32
    assert not logits.is_inference()
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = model(images.float())
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(predict(model, images.float()), expected, rtol=1e-5, atol=1e-4)


def test_predict_restores_every_flag_also_after_an_error() -> None:
    model = network()
    model[1].eval()
    flags = [each.training for each in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, torch.zeros(3, 3, 7, 5))
    assert [each.training for each in model.modules()] == flags
    with pytest.raises(RuntimeError):
        predict(model, torch.zeros(3, 3, 9, 9))
    assert [each.training for each in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_models_that_view_their_features_work(torch_rng: torch.Generator) -> None:
    model = Viewer()
    images = torch.rand(5, 3, 7, 5, generator=torch_rng) * 255
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(predict(model, images, batch_size=2), expected)


def test_other_dtypes(torch_rng: torch.Generator) -> None:
    images = torch.randint(0, 256, (5, 3, 7, 5), generator=torch_rng, dtype=torch.uint8)
    for dtype in (torch.float64, torch.bfloat16):
        model = network().to(dtype).eval()
        with torch.no_grad():
            expected = model(images.to(dtype)).float()
        found = predict(model, images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1.0)


def test_predict_refuses() -> None:
    with pytest.raises(ValueError, match="images is empty"):
        predict(network(), torch.zeros(0, 3, 7, 5))
    with pytest.raises(ValueError, match="batch_size=0"):
        predict(network(), torch.zeros(1, 3, 7, 5), batch_size=0)


@pytest.mark.gpu
def test_predict_on_a_gpu(torch_rng: torch.Generator) -> None:
    model = network()
    images = torch.randint(0, 256, (11, 3, 7, 5), generator=torch_rng, dtype=torch.uint8)
    expected = predict(model, images)
    found = predict(model.to("cuda"), images, batch_size=4)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1.0)


def test_class_accuracy_is_counting(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(997, 6)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 4, 5], 997)  # no image of class 3
    overall, per_class = class_accuracy(torch.from_numpy(logits), torch.from_numpy(labels), 6)
    right = logits.argmax(1) == labels
    assert overall == right.sum() / 997
    for each in (0, 1, 2, 4, 5):
        assert per_class[each] == right[labels == each].sum() / (labels == each).sum()
    assert math.isnan(per_class[3])


def test_class_accuracy_refuses() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="empty"):
        class_accuracy(torch.zeros(0, 2), labels[:0], 2)
    with pytest.raises(ValueError, match="shape"):
        class_accuracy(torch.zeros(2, 3), labels, 2)
    with pytest.raises(ValueError, match="not finite"):
        class_accuracy(torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), labels, 2)
