"""No store: SIGN of the network in training, with a K of its own for each batch."""

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sign_ext.augment import OnTheFlySign
from sign_ext.models import with_normalization

as_pixels = v2.Compose(
    [v2.PILToTensor(), v2.Resize((64, 64)), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)]
)
loader = DataLoader(ImageFolder("photos/train", transform=as_pixels), batch_size=8, shuffle=True)

network = timm.create_model("resnet18", num_classes=3)
model = with_normalization(network, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

# Or with a network that was trained before: OnTheFlySign(phi, …). The step size is what
# SignTransform(model, 4).calibrate(images) proposes: for the largest K here.
sign = OnTheFlySign(model, steps=(0, 2, 4), step_size=1000.0)

for epoch in range(2):
    model.train()
    for batch in loader:
        images, labels = sign(*batch)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"epoch {epoch + 1}: K = {sign.last_steps}, loss {loss.item():.3f}")
