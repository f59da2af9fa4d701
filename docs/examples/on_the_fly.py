"""No store: SIGN of the network in training, with a K of its own for each batch."""

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sign_ext.augment import OnTheFlySign

as_pixels = v2.Compose(
    [v2.PILToTensor(), v2.Resize((64, 64)), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)]
)
loader = DataLoader(ImageFolder("photos/train", transform=as_pixels), batch_size=8, shuffle=True)

normalize = v2.Normalize([123.7, 116.3, 103.5], [58.4, 57.1, 57.4])  # of pixels 0–255
model = nn.Sequential(normalize, timm.create_model("resnet18", num_classes=3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

# Or with a network that was trained before: OnTheFlySign(phi, …). The step size is what
# SignTransform(model).calibrate(images) proposes.
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
