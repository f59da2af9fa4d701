"""Lightning's Trainer on an ImageFolder joined with its store."""

import lightning as L
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sign_ext import load_transformed

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Classifier(L.LightningModule):
    """A ResNet that takes normalised images."""

    def __init__(self) -> None:
        """Build the network."""
        super().__init__()
        self.network = timm.create_model("resnet18", num_classes=3)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train all weights."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


# With value_range=1 the usual transforms of images in 0–1 can stay as they are.
augment = v2.Compose([v2.RandomHorizontalFlip(), v2.Normalize(MEAN, STD)])
# "random": beside each original one version, drawn anew in every epoch.
train = load_transformed("store").join(
    ImageFolder("photos/train"), "random", transform=augment, value_range=1
)
loader = DataLoader(train, batch_size=16, shuffle=True)

quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = L.Trainer(max_epochs=2, log_every_n_steps=1, **quiet)
trainer.fit(Classifier(), loader)
print(f"{trainer.global_step} steps, loss {trainer.callback_metrics['loss']:.3f}")
