"""The model's form while it trains, put back afterwards.

Its flags, its memory layout, its batch normalisation in several processes, its compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sign_ext.training.processes import ALONE, Processes
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
def synchronised(model: nn.Module, processes: Processes) -> Iterator[None]:
    """Have batch normalisation take its statistics from all processes, on CUDA devices.

    PyTorch has no such layer for CPUs: there each process normalises by its own images.

    Raises:
        ValueError: a batch normalisation of a class that has no synchronised form.
    """
    if processes.count == 1 or processes.device.type != "cuda":
        yield
        return
    own: list[tuple[nn.Module, str, nn.Module]] = []
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                own.append((parent, name, child))
                made.setdefault(child, _synchronised_form(child))
    try:
        for parent, name, child in own:
            parent._modules[name] = made[child]
        yield
    finally:
        # Weights and statistics are the same tensors in both.
        for parent, name, child in own:
            parent._modules[name] = child


def _synchronised_form(layer: nn.Module) -> nn.Module:
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
        return converted
    if type(layer).__module__.partition(".")[0] == "timm":
        from timm.layers import convert_sync_batchnorm  # theirs has the activation in it

        return convert_sync_batchnorm(layer)  # type: ignore[no-any-return]
    raise ValueError(
        f"model has batch normalisation of class {type(layer).__qualname__}, for which there is no "
        "form that takes its statistics from several processes: use torch.nn.BatchNorm2d, or "
        "train in one process."
    )


@contextmanager
def training_forward(
    model: nn.Module,
    settings: TrainSettings,
    processes: Processes = ALONE,
    *,
    all_trained: bool = True,
) -> Iterator[Callable[[Tensor], Any]]:
    """Give the forward pass of training: the model itself, or compiled by torch.compile.

    In several processes it is wrapped, so that gradients are averaged over them; collective.

    A run has two sizes of batch at most. Each is compiled for itself, and whole, so that a resumed
    run runs the code that an uninterrupted one does, and nothing goes back to eager silently.
    """
    if not settings.compile:
        yield processes.wrap(model, all_trained=all_trained)
        return
    try:
        compiled = torch.compile(model, fullgraph=True, dynamic=False)
        yield processes.wrap(compiled, all_trained=all_trained)
    finally:
        # Else the runs of one process would share, and reach, the limit on recompilations.
        torch.compiler.reset()
