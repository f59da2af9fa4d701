"""
What SIGN does to an image
==========================

Each step adds to the image the gradient of ΣΦ, the sum of the outputs of the network's last layer
before the logits. This tutorial looks at what that changes: where, by how much, and what the
network thinks of it.
"""

# %%
# A trained network
# -----------------
# Three convolutions and a linear classifier, trained for some seconds on generated drawings.

from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import nn

from sign_ext import SignTransform
from sign_ext.data import load_data
from sign_ext.models import with_normalization
from sign_ext.training import TrainSettings, train


def make_network() -> nn.Module:
    """Return a new network for pixels 0–255, in evaluation mode."""
    layers: list[nn.Module] = []
    for a, b in pairwise((3, 16, 32, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return with_normalization(nn.Sequential(*layers), mean=[0.3] * 3, std=[0.24] * 3).eval()


data = load_data("drawings", train_size=400, test_size=50)
torch.manual_seed(0)
model, untrained = make_network(), make_network()
settings = TrainSettings(epochs=15, batch_size=32, learning_rate=3e-3)
result = train(model, data.train, data.validation, settings)
print(f"validation accuracy {result.best_validation_accuracy:.0%}")

# One image of each class.
first = [int((data.train.labels == label).nonzero()[0]) for label in range(10)]
images, labels = data.train.images[first].float(), data.train.labels[first]

# %%
# Before, after, and the change
# -----------------------------
# δ is drawn around grey: lighter where SIGN added, darker where it subtracted, for each colour. It
# runs along edges, in the directions that this network's features react to.

sign = SignTransform(model, 100)
step_size = sign.calibrate(images).proposed
stops = (1, 5, 10, 25, 50, 75, 100)
versions = sign.with_options(step_size=step_size, snapshots=stops).transform(images)


def show(rows: dict[str, torch.Tensor]) -> None:
    """Draw rows of images (N, 3, H, W) in 0–255."""
    figure, grid = plt.subplots(len(rows), 10, figsize=(9, 0.95 * len(rows) + 0.3))
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for column, axes in enumerate(line):
            axes.imshow(pictures[column].permute(1, 2, 0).clamp(0, 255).byte())
            axes.set(xticks=[], yticks=[])
            axes.set_title(data.class_names[column] if name == "p" else "", fontsize=8)
        line[0].set_ylabel(name, fontsize=8)
    figure.tight_layout(pad=0.3)
    plt.show()


def around_grey(change: torch.Tensor) -> torch.Tensor:
    """Scale a change so that its 99th percentile is white or black."""
    return 127.5 * (1 + change / change.abs().flatten().quantile(0.99))


delta = versions[100] - images
show({"p": images, "K = 50": versions[50], "K = 100": versions[100], "δ": around_grey(delta)})

# %%
# Where: a heat map of the change
# -------------------------------

figure, grid = plt.subplots(1, 10, figsize=(9, 1.2))
for axes, image, change in zip(grid, images, delta, strict=True):
    axes.imshow(image.mean(0), cmap="gray", vmin=0, vmax=255)
    axes.imshow(change.abs().amax(0), cmap="inferno", alpha=0.65)
    axes.set_axis_off()
figure.tight_layout(pad=0.3)
plt.show()

# %%
# How much
# --------
# The change grows with K, and so does ΣΦ, the quantity whose gradient is followed. It is small
# beside the pixel range of 255: the step size was chosen for that.


def phi_sum(batch: torch.Tensor) -> float:
    """Return the mean of ΣΦ: the input of the last linear layer, summed."""
    with torch.no_grad():
        return float(model.network[:-1](model.normalize(batch)).sum(1).mean())


rms = [float((versions[k] - images).square().mean().sqrt()) for k in stops]
sums = [phi_sum(images), *(phi_sum(versions[k]) for k in stops)]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
left.plot([0, *stops], [0, *rms], marker="o")
left.set(xlabel="K", ylabel="rms change, grey levels")
right.plot([0, *stops], sums, marker="o", color="tab:orange")
right.set(xlabel="K", ylabel="mean ΣΦ")
figure.tight_layout()
plt.show()

# %%
# Most pixels change by little, some by tens of grey levels:

figure, axes = plt.subplots(figsize=(6, 2.6))
for k in (50, 100):
    moved = (versions[k] - images).flatten().numpy()
    axes.hist(moved, bins=120, histtype="step", label=f"K = {k}", log=True)
axes.set(xlabel="change, grey levels", ylabel="pixels")
axes.legend()
figure.tight_layout()
plt.show()

# %%
# What the network says
# ---------------------
# SIGN uses no labels and aims at no class: it strengthens all features that the network found. Its
# answers may stay or change, and so may its confidence:

with torch.no_grad():
    for k in (0, 50, 100):
        batch = versions[k] if k else images
        probability, answer = model(batch).softmax(1).max(1)
        right = (answer == labels).sum()
        print(f"K = {k:3}: {right} of 10 right, mean confidence {probability.mean():.2f}")

# %%
# An untrained network
# --------------------
# Its features have no meaning yet: its δ follows the image's own outlines, whatever they are of.
# The paper asks for a well trained Φ.

unsure = SignTransform(untrained, 100)
unsure = unsure.with_options(step_size=unsure.calibrate(images).proposed)
show(
    {
        "p": images,
        "trained δ": around_grey(delta),
        "untrained δ": around_grey(unsure(images) - images),
    }
)
