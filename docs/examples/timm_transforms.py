"""timm's own transforms and mixup on an ImageFolder joined with its store."""

import timm
from timm.data import Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from sign_ext import load_transformed

model = timm.create_model("resnet18", num_classes=3)
# Of timm's training transforms those that take tensors: crops, flips, normalisation and erasing,
# but not auto_augment, whose operations take Pillow images.
transform = create_transform(
    input_size=(3, 64, 64),
    is_training=True,
    color_jitter=None,
    mean=model.default_cfg["mean"],
    std=model.default_cfg["std"],
    re_prob=0.25,
)
train = load_transformed("store").join(
    ImageFolder("photos/train"), transform=transform, value_range=1
)
loader = DataLoader(train, batch_size=16, shuffle=True, drop_last=True)
mixup = Mixup(mixup_alpha=0.2, num_classes=3)
loss_of = SoftTargetCrossEntropy()
optimizer = create_optimizer_v2(model, opt="lamb", lr=5e-3)

for epoch in range(2):
    model.train()
    for images, labels in loader:
        mixed, targets = mixup(images, labels)
        loss = loss_of(model(mixed), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
