"""Early, clear errors for what a caller passes in: the network, the images, the outputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def check_model(model: object) -> None:
    """Refuse what is no frozen-able network.

    Raises:
        TypeError: not a module.
        ValueError: batch statistics in evaluation mode, or inference-mode weights.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"{name!r} ({type(module).__name__}) keeps no running statistics, so it mixes the "
                "samples of a batch even in evaluation mode; SIGN needs track_running_stats=True"
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_inference():
            raise ValueError(
                f"{name!r} was created under torch.inference_mode(), which autograd cannot use: "
                "build or load the model outside of it"
            )


def model_dtype_and_device(model: nn.Module, images: Tensor) -> tuple[torch.dtype, torch.device]:
    """What the network computes in and where: as its first floating parameter, else images."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return images.dtype, images.device


def check_images(images: object, device: torch.device | None = None) -> None:
    """Refuse what are no images on the network's device.

    Args:
        images: should be a floating tensor (N, C, H, W) or (N, C, D, H, W), all finite.
        device: where the network is.

    Raises:
        TypeError: not a tensor, or not of floating dtype.
        ValueError: wrong rank, layout or device, or NaN or Inf among the values.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point, got {images.dtype}: SIGN adds small gradients. "
            "Pass images.float() (pixel units 0–255)"
        )
    if images.layout != torch.strided:
        raise ValueError(f"images must be a dense tensor, got layout {images.layout}")
    if images.dim() not in (4, 5):
        hint = "; add the batch dimension: images[None]" if images.dim() == 3 else ""
        raise ValueError(
            "images must be (N, C, H, W) or (N, C, D, H, W), "
            f"got {images.dim()} dimensions {tuple(images.shape)}{hint}"
        )
    if device is not None and images.device != device:
        raise ValueError(
            f"images are on {images.device}, the model is on {device}: move one, "
            f"images.to({str(device)!r}) for instance"
        )
    if not bool(torch.isfinite(images).all()):
        bad = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten()
        raise ValueError(
            f"images hold NaN or Inf in {len(bad)} of {len(images)} samples, first in sample "
            f"{int(bad[0])}"
        )


def check_precision(precision: str, dtype: torch.dtype) -> None:
    """Refuse lower-precision arithmetic for networks that have a dtype of their own choosing.

    Raises:
        ValueError: `precision` is not "float32" and the network is not float32.
    """
    if precision != "float32" and dtype != torch.float32:
        raise ValueError(
            f"precision={precision!r} is for float32 networks; this one is {dtype} and computes "
            "in that: leave precision out"
        )


def _check_out(name: str, out: object, images: Tensor, dtype: torch.dtype) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(out).__name__}")
    expected = (images.shape, dtype, images.device)
    if (out.shape, out.dtype, out.device) != expected:
        raise ValueError(
            f"{name} must be {dtype} {tuple(images.shape)} on {images.device}, "
            f"got {out.dtype} {tuple(out.shape)} on {out.device}"
        )
    if out.numel() and any(
        stride == 0 and size > 1 for size, stride in zip(out.shape, out.stride(), strict=True)
    ):
        raise ValueError(f"{name} is expanded: several of its elements share memory; clone it")
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            f"{name} was created under torch.inference_mode() and cannot be written outside of it"
        )
    same = out.data_ptr() == images.data_ptr() and out.stride() == images.stride()
    if _share_memory(out, images) and not same:
        raise ValueError(
            f"{name} overlaps images without being them: pass the images themselves to overwrite "
            "them, or separate memory"
        )


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False

    def span(t: Tensor) -> tuple[int, int]:
        first = t.storage_offset() * t.element_size()
        reach = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        return first, first + (reach + 1) * t.element_size()

    (a_from, a_to), (b_from, b_to) = span(a), span(b)
    return bool(a.numel() and b.numel() and a_from < b_to and b_from < a_to)


def make_outputs(
    out: Tensor | Mapping[int, Tensor] | None,
    images: Tensor,
    dtype: torch.dtype,
    stops: tuple[int, ...],
    wants_dict: bool,
) -> dict[int, Tensor]:
    """The tensors that results are written to, step → (N, ...): the caller's, checked, or new ones.

    Args:
        out: None, a tensor, or with snapshots a mapping from each snapshot to a tensor.
        images: the input.
        dtype: the iterate's dtype.
        stops: the steps whose iterates are returned.
        wants_dict: whether snapshots were asked for.

    Raises:
        TypeError: `out` is of the wrong kind.
        ValueError: wrong keys, shape, dtype, device, or overlapping memory.
    """
    if out is None:
        return {k: torch.empty_like(images, dtype=dtype, requires_grad=False) for k in stops}
    if not wants_dict:
        _check_out("out", out, images, dtype)
        return {stops[0]: out}  # type: ignore[dict-item]
    if not isinstance(out, Mapping):
        raise TypeError(
            f"with snapshots, out must be a dict from step to tensor, got {type(out).__name__}"
        )
    if sorted(out) != list(stops):
        raise ValueError(f"out must have the snapshots {list(stops)} as keys, got {sorted(out)}")
    for k, tensor in out.items():
        _check_out(f"out[{k}]", tensor, images, dtype)
    tensors = list(out.values())
    if any(_share_memory(a, b) for i, a in enumerate(tensors) for b in tensors[:i]):
        raise ValueError("the tensors of out overlap each other: give each snapshot its own memory")
    return dict(out)
