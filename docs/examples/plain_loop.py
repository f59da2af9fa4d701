"""A plain PyTorch loop on an ImageFolder joined with its store."""

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sign_ext import load_transformed
from sign_ext.models import with_normalization

augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(64, padding=4)])
as_pixels = v2.Compose([v2.PILToTensor(), v2.Resize((64, 64)), v2.ToDtype(torch.float32)])

# Originals and versions, all float32 in 0–255; `augment` is applied to both.
train = load_transformed("store").join(ImageFolder("photos/train"), transform=augment)
print(f"{len(train)} training images, matched by {train.proof}")
val = ImageFolder("photos/val", transform=as_pixels)
train_loader = DataLoader(train, batch_size=16, shuffle=True)
val_loader = DataLoader(val, batch_size=16)

network = timm.create_model("resnet18", num_classes=3)
model = with_normalization(network, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

for epoch in range(2):
    model.train()
    for images, labels in train_loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        hits = sum((model(x).argmax(1) == y).sum().item() for x, y in val_loader)
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}, validation {hits / len(val):.0%}")
