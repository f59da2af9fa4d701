"""
Your own training loop
======================

SIGN needs no trainer of ours. The versions go into a *store*, a folder on disk; joined with your
data set, they are a ``torch.utils.data.Dataset`` like any other. Three loops: plain PyTorch,
Lightning and Hugging Face.
"""

# %%
# A data set and a network
# ------------------------
# Any map-style data set of (image, target) will do, an ``ImageFolder`` for example. Φ should be
# well trained; these few epochs are enough to show the mechanics.

import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sign_ext.data import load_data


def make_network() -> nn.Module:
    """Return a new small network that takes pixels 0–255."""
    from sign_ext.models import with_normalization

    return with_normalization(
        nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)),
        ),
        mean=(0.3, 0.3, 0.3),
        std=(0.24, 0.24, 0.24),
    )


def fit(network: nn.Module, loader: DataLoader, epochs: int) -> None:
    """Train as anyone would."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    network.train()
    for _ in range(epochs):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()


torch.manual_seed(0)
data = load_data("drawings", train_size=200, test_size=200)
originals = TensorDataset(data.train.images.float(), data.train.labels)
phi = make_network()
fit(phi, DataLoader(originals, batch_size=32, shuffle=True), epochs=6)

# %%
# Make a store
# ------------
# ``auto_step_size`` calibrates on some of the images, and ``transform_to_store`` transforms all of
# them. Stopped at any point, the second continues where it was when it is called again.

from sign_ext import SignTransform, load_transformed
from sign_ext.data import source_of
from sign_ext.store import auto_step_size, transform_to_store

folder = Path(tempfile.mkdtemp()) / "versions"
source = source_of(originals)
sign, found = auto_step_size(SignTransform(phi, steps=20, snapshots=(10, 20)), source, folder)
transform_to_store(sign, source, folder, about={"calibration": found})

# %%
# Join it with the data set
# -------------------------
# Originals first, then their versions, each with its label. Which version belongs to which image
# is proven, by paths where there are files, and by the contents:

train = load_transformed(folder).join(originals)
print(f"{len(originals)} images and their versions: {len(train)}, matched by {train.proof}")

import matplotlib.pyplot as plt

figure, grid = plt.subplots(3, 8, figsize=(8, 3.2))
for column in range(8):
    for version, name in enumerate(("original", "K = 10", "K = 20")):
        image, label = train[version * len(originals) + column]
        axes = grid[version, column]
        axes.imshow(image.permute(1, 2, 0).clamp(0, 255).byte())
        axes.set(xticks=[], yticks=[], ylabel=name if column == 0 else "")
        axes.set_title(data.class_names[int(label)] if version == 0 else "", fontsize=8)
figure.tight_layout()
plt.show()

# %%
# Plain PyTorch
# -------------
# The loop does not change. Your augmentation and normalisation go into ``join(…, transform=…)``,
# so that originals and versions get the same.


def accuracy(network: nn.Module) -> float:
    """Return the share of test images that are classified correctly."""
    with torch.no_grad():
        right = network.eval()(data.test.images.float()).argmax(1) == data.test.labels
    return float(right.double().mean())


torch.manual_seed(1)
network = make_network()
fit(network, DataLoader(train, batch_size=32, shuffle=True), epochs=3)
print(f"trained on originals and versions: {accuracy(network):.0%}")

# %%
# A fair comparison gives the other network as many gradient steps, 3 × 3 epochs of the originals.
# A difference of a few points on 200 test images is noise:

torch.manual_seed(1)
other = make_network()
fit(other, DataLoader(originals, batch_size=32, shuffle=True), epochs=9)
print(f"trained on originals, as many steps: {accuracy(other):.0%}")

# %%
# Lightning
# ---------

if importlib.util.find_spec("lightning"):
    import logging

    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(lightning.LightningModule):
        """The network, and its loss."""

        def __init__(self) -> None:
            """Build the network."""
            super().__init__()
            self.network = make_network()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            """Return the loss of a batch."""
            images, labels = batch
            return nn.functional.cross_entropy(self.network(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            """Train all weights."""
            return torch.optim.AdamW(self.parameters(), lr=2e-3)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet
    )
    # "random": beside each original one version, drawn anew in every epoch.
    mixed = load_transformed(folder).join(originals, versions="random")
    trainer.fit(Classifier(), DataLoader(mixed, batch_size=32, shuffle=True))
    print(f"Lightning: {trainer.global_step} steps on {len(mixed)} images")

# %%
# Hugging Face
# ------------
# The Trainer takes the joined data set as it is; a collator names what the model's forward pass
# takes.

if importlib.util.find_spec("transformers") and importlib.util.find_spec("accelerate"):
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        Trainer,
        TrainingArguments,
    )

    def collate(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Make what the model's forward pass takes."""
        images, labels = zip(*rows, strict=True)
        return {"pixel_values": torch.stack(images) / 255, "labels": torch.tensor(labels)}

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    config = ResNetConfig(**sizes, layer_type="basic", num_labels=10)
    trainer = Trainer(
        ResNetForImageClassification(config),
        TrainingArguments(
            str(folder.parent / "hf"),
            num_train_epochs=1,
            per_device_train_batch_size=32,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=train,
        data_collator=collate,
    )
    print(f"Hugging Face: {trainer.train().global_step} steps on {len(train)} images")

# %%
# :doc:`/loops` has all of this with image folders, timm's transforms, and SIGN on the fly,
# without a store.
