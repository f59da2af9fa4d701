"""
Your own network and weights
============================

You have a PyTorch classifier, a file of weights (``.pth``, a ``state_dict``) and images. This
tutorial brings them to SIGN: the normalisation goes into the network, SIGN finds the layer, you
choose a step size, and out come the images after 50 and after 100 steps.
"""

# %%
# A network
# ---------
# This stands for yours. Like most networks, it expects images that were divided by 255 and
# standardised.

import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from sign_ext.data import load_data

MEAN, STD = (0.30, 0.30, 0.30), (0.24, 0.24, 0.24)


class SmallNet(nn.Module):
    """Four convolutions, global average pooling, and a linear classifier."""

    def __init__(self, classes: int = 10) -> None:
        """Build the layers."""
        super().__init__()
        sizes = (3, 16, 32, 64, 64)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(sizes)
            )
        )
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        return self.head(self.blocks(x).mean((2, 3)))


torch.manual_seed(0)
data = load_data("drawings", train_size=400, test_size=200)
images, labels = data.train.images.float(), data.train.labels  # (N, 3, 32, 32), 0–255
network = SmallNet()

# %%
# Your weights are trained already. Here it takes a few seconds to train some and save them as
# people do:

mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
for _ in range(15):
    for batch in torch.randperm(len(images)).split(32):
        loss = nn.functional.cross_entropy(network((images[batch] - mean) / std), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

folder = Path(tempfile.mkdtemp())
torch.save(network.state_dict(), folder / "smallnet.pth")

# %%
# Load the weights, and put the normalisation inside
# --------------------------------------------------
# With the normalisation as the network's first module, images stay what they are, 0 to 255, and
# so do SIGN's step size and its result. ``with_normalization`` takes mean and standard deviation in
# units of 0–1, as here, or of 0–255.

from sign_ext.models import with_normalization

network = SmallNet()
network.load_state_dict(torch.load(folder / "smallnet.pth", weights_only=True))
model = with_normalization(network, MEAN, STD).eval()

with torch.no_grad():
    right = model(data.test.images.float()).argmax(1) == data.test.labels
print(f"{right.double().mean():.0%} of the test images are classified correctly")

# %%
# The same from a name, with the file read for you. The function that builds the network may be in
# a file of yours. ``timm:resnet18``, ``torchvision:resnet18`` and ``hf:FOLDER`` work too. They get
# the normalisation that the library records for its own weights, unless you say otherwise:
#
# .. code-block:: python
#
#    from sign_ext.models import open_network
#
#    model, _ = open_network("nets.py:SmallNet", weights="smallnet.pth",
#                            normalize=(MEAN, STD), image_shape=32)

# %%
# Ask what will run
# -----------------
# Φ is the input of the last linear layer. ``explain`` says which layer that is, who computes the
# steps, and what they cost.

from sign_ext import SignTransform

sign = SignTransform(model, steps=100, snapshots=(50, 100))
print(sign.explain(images[:64]))

# %%
# Choose a step size
# ------------------
# The paper gives none, and the right one depends on the network. ``calibrate`` looks for the one
# that changes some of your images by 2% of the pixel range, and shows what a third of it and three
# times as much do. The network's state is the same before and after.

found = sign.calibrate(images[:32], labels[:32])
print(found)

# %%
# Transform
# ---------

sign = sign.with_options(step_size=found.proposed)
versions = sign.transform(images[:100])
print({k: tuple(moved.shape) for k, moved in versions.items()})

# %%
# Nothing is clipped or rounded: the versions are float32, and a few values leave 0–255. For
# showing, clip them.

import matplotlib.pyplot as plt

figure, grid = plt.subplots(3, 8, figsize=(8, 3.2))
for column in range(8):
    rows = {"p": images[column], **{f"K = {k}": versions[k][column] for k in versions}}
    for axes, (name, image) in zip(grid[:, column], rows.items(), strict=True):
        axes.imshow(image.permute(1, 2, 0).clamp(0, 255).byte())
        axes.set(xticks=[], yticks=[])
        if column == 0:
            axes.set_ylabel(name)
figure.tight_layout()
plt.show()

# %%
# From the command line, it is the same in three commands:
#
# .. code-block:: console
#
#    $ N="--model nets.py:SmallNet --weights smallnet.pth --data photos --image-size 32"
#    $ N="$N --normalize 0.3,0.3,0.3 0.24,0.24,0.24"
#    $ sign-ext calibrate $N --steps 100
#    $ sign-ext transform $N --steps 100 --snapshots 50 100 --step-size auto --out versions
#    $ sign-ext train $N --sign versions --out net
#
# Next: :ref:`the versions in your own training loop <sphx_glr_learn_02_training_loop.py>`. If
# SIGN does not find the layer, or your network is unusual in other ways, see :doc:`/guide`.
