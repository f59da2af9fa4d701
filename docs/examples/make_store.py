"""Make a store of the versions of an ImageFolder's images, in Python."""

import timm
import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sign_ext import SignTransform
from sign_ext.data import source_of
from sign_ext.store import transform_to_store

# Φ takes pixels 0–255, so the mean and deviation that it was trained with are in these units.
normalize = v2.Normalize([123.7, 116.3, 103.5], [58.4, 57.1, 57.4])
network = timm.create_model("resnet18", num_classes=3)
network.load_state_dict(torch.load("phi.pth", weights_only=True))
phi = nn.Sequential(normalize, network).eval()

source = source_of(ImageFolder("photos/train"), image_size=64)
# The step size is what SignTransform(phi).calibrate(source.read(0, 64).float()) proposes for your
# network. The paper takes steps=100 and snapshots=(50, 100).
sign = SignTransform(phi, steps=10, snapshots=(5, 10), step_size=1000.0)
run = transform_to_store(sign, source, "store")
print(f"{run.shares.images} images, versions {run.manifest.snapshots}")
