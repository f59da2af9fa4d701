"""The model's form while it trains, put back afterwards: flags, memory layout, compiled code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.training.settings import TrainSettings


@contextmanager
def flags_put_back(model: nn.Module) -> Iterator[None]:
    """Put every module's training flag back, and drop the gradients of training."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        model.zero_grad(set_to_none=True)


@contextmanager
def training_layout(
    model: nn.Module, device: torch.device, settings: TrainSettings
) -> Iterator[torch.memory_format]:
    """Keep convolution weights channels_last while training, contiguous afterwards.

    oneDNN's convolutions are quicker so on a CPU (BasicCNN trains 1.3 times as fast), and NHWC is
    the layout of CUDA's matrix units; IEEE float32 on CUDA does not use those and stays
    contiguous.
    """
    wanted = device.type == "cpu" or settings.precision != "float32"
    layout = torch.channels_last if wanted else torch.contiguous_format
    try:
        model.to(memory_format=layout)
        yield layout
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextmanager
def training_forward(
    model: nn.Module, settings: TrainSettings
) -> Iterator[Callable[[Tensor], Any]]:
    """Give the forward pass of training: the model itself, or compiled by torch.compile.

    A run has two sizes of batch at most. Each is compiled for itself, and whole, so that a resumed
    run runs the code that an uninterrupted one does, and nothing goes back to eager silently.
    """
    if not settings.compile:
        yield model
        return
    try:
        yield torch.compile(model, fullgraph=True, dynamic=False)
    finally:
        # Else the runs of one process would share, and reach, the limit on recompilations.
        torch.compiler.reset()
