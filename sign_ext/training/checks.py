"""Checks before a training run starts, so that it fails early with a clear message."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from sign_ext.data import ImageSet
from sign_ext.data.classes import class_differences
from sign_ext.training.objective import Objective


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn a device argument into a device with its index.

    Raises:
        ValueError: it is neither a CPU nor a CUDA device, or this machine lacks the CUDA device.
    """
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device must be 'cpu', 'cuda' or 'cuda:INDEX'; got {device!r}."
        ) from error
    if place.type == "cpu":
        return place
    if place.type != "cuda":
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:INDEX'; got {device!r}.")
    if not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r}, but PyTorch {torch.__version__} sees no CUDA device here: "
            "use device='cpu', or install a CUDA build of PyTorch and a driver."
        )
    index = torch.cuda.current_device() if place.index is None else place.index
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"device={str(device)!r}, but there are {torch.cuda.device_count()} CUDA devices here."
        )
    return torch.device("cuda", index)


def check_sets(train_set: ImageSet, validation: ImageSet) -> None:
    """Raise ValueError unless both sets hold images of one shape and the same classes."""
    for name, images in (("train_set", train_set), ("validation", validation)):
        if len(images) == 0:
            raise ValueError(f"{name} ({images.name}) is empty: give at least one image.")
        if images.images.is_floating_point() and not bool(torch.isfinite(images.images).all()):
            raise ValueError(f"{name} ({images.name}) holds images with NaN or Inf.")
    a, b = tuple(train_set.images.shape[1:]), tuple(validation.images.shape[1:])
    if a != b:
        raise ValueError(f"train_set has images of shape {a}, validation {b}: they must be equal.")
    names = train_set.class_names, validation.class_names
    if names[0] != names[1]:
        raise ValueError(f"{class_differences(*names, ('train_set', 'validation'))}.")


def check_model(
    model: nn.Module, train_set: ImageSet, device: torch.device, objective: Objective
) -> None:
    """Raise ValueError unless the model is trainable float32 and its outputs fit the objective.

    One image goes through it in eval mode. The caller has forked the random number generators and
    restores the training flags.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "model has no parameter with requires_grad=True: nothing would be trained. Call "
            "requires_grad_(True) on the model or on the part to be trained."
        )
    dtypes = {p.dtype for p in model.parameters()}
    if dtypes != {torch.float32}:
        raise ValueError(
            f"model must have float32 parameters; it has {', '.join(sorted(map(str, dtypes)))}. "
            "Call model.float(); for bfloat16 arithmetic use TrainSettings(precision='bfloat16')."
        )
    model.eval()
    image = train_set.images[:1].to(device, torch.float32)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        shape = tuple(objective.logits(model(image)).shape)
    if shape != (1, len(train_set.class_names)):
        raise ValueError(
            f"model gives logits {shape} for one image, and {train_set.name} has "
            f"{len(train_set.class_names)} classes: they must be (N, classes). Build it with "
            f"num_classes={len(train_set.class_names)}."
        )


def trains_all_parameters(
    model: nn.Module, train_set: ImageSet, device: torch.device, objective: Objective
) -> bool:
    """Return whether the loss depends on every parameter with requires_grad=True.

    Two images go through the model in training mode, without changing its buffers. The caller has
    forked the random number generators and restores the training flags.
    """
    model.train()
    images, labels = train_set.images[:2].to(device, torch.float32), train_set.labels[:2].to(device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss = objective.loss(functional_call(model, buffers, (images,)), labels)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return all(g is not None for g in torch.autograd.grad(loss, trainable, allow_unused=True))
