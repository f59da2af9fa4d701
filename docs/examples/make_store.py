"""Make a store of the versions of an ImageFolder's images, in Python."""

from torchvision.datasets import ImageFolder

from sign_ext import SignTransform
from sign_ext.data import source_of
from sign_ext.models import open_network
from sign_ext.store import transform_to_store

# With timm's normalisation as its first module, Φ takes pixels 0–255.
phi, _ = open_network("timm:resnet18", weights="phi.pth", image_shape=64, say=print)

source = source_of(ImageFolder("photos/train"), image_size=64)
# For your network, sign_ext.store.auto_step_size proposes a step size, as for
# transform --step-size auto. The paper takes steps=100 and snapshots=(50, 100).
sign = SignTransform(phi, steps=10, snapshots=(5, 10), step_size=1000.0)
run = transform_to_store(sign, source, "store")
print(f"{run.shares.images} images, versions {run.manifest.snapshots}")
