"""What training changes about a model, undone afterwards.

Training flags, memory layout, synchronised batch normalisation, compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sign_ext.training.processes import ONE_PROCESS, Processes
from sign_ext.training.settings import TrainSettings


@contextmanager
def restored_flags(model: nn.Module) -> Iterator[None]:
    """Restore every module's training flag when the block ends, and drop the gradients."""
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

    oneDNN's convolutions are faster in this layout on a CPU (BasicCNN trains 1.3 times as fast),
    and NHWC is the layout of CUDA's matrix units. IEEE float32 on CUDA does not use those and
    stays contiguous.
    """
    channels_last = device.type == "cpu" or settings.precision != "float32"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    try:
        model.to(memory_format=layout)
        yield layout
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextmanager
def synchronised_batch_norm(model: nn.Module, processes: Processes) -> Iterator[None]:
    """On CUDA, let batch normalisation compute its statistics over all processes.

    PyTorch has no such layer for CPUs, where each process normalises by its own images.

    Raises:
        ValueError: a batch normalisation layer has no synchronised form.
    """
    if processes.count == 1 or processes.device.type != "cuda":
        yield
        return
    originals: list[tuple[nn.Module, str, nn.Module]] = []
    # One form per layer, also of a layer that the model uses in several places.
    forms: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                originals.append((parent, name, child))
                forms.setdefault(child, _synchronised_form(child))
    try:
        for parent, name, child in originals:
            parent._modules[name] = forms[child]
        yield
    finally:
        # Both forms share their weights and statistics, so there is nothing to copy back.
        for parent, name, child in originals:
            parent._modules[name] = child


def _synchronised_form(layer: nn.Module) -> nn.Module:
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
        return converted
    if type(layer).__module__.partition(".")[0] == "timm":
        from timm.layers import convert_sync_batchnorm  # these layers include the activation

        return convert_sync_batchnorm(layer)  # type: ignore[no-any-return]
    raise ValueError(
        f"model has batch normalisation of class {type(layer).__qualname__}, which cannot "
        "compute its statistics over several processes: use torch.nn.BatchNorm2d, or train in one "
        "process."
    )


@contextmanager
def training_forward(
    model: nn.Module,
    settings: TrainSettings,
    processes: Processes = ONE_PROCESS,
    *,
    all_trained: bool = True,
) -> Iterator[Callable[[Tensor], Any]]:
    """Yield the forward pass of training: the model, or the model compiled by torch.compile.

    With several processes it is wrapped so that gradients are averaged over them; collective.

    A run has at most two batch sizes. Each is compiled separately and as one graph, so that a
    resumed run executes the same code as an uninterrupted one, and nothing falls back to eager.
    """
    if not settings.compile:
        yield processes.wrap(model, all_trained=all_trained)
        return
    try:
        compiled = torch.compile(model, fullgraph=True, dynamic=False)
        yield processes.wrap(compiled, all_trained=all_trained)
    finally:
        # Otherwise all runs in a process would share the limit on recompilations, and reach it.
        torch.compiler.reset()
