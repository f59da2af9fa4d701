"""Check what a caller passes in, the network, the images and the outputs, before any work."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from sign_ext.errors import SignError, first_line
from sign_ext.formatting import did_you_mean
from sign_ext.ops.layout import may_overlap_itself, share_memory


def check_model(model: object) -> None:
    """Refuse a network that cannot be frozen.

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


def check_option_names(changes: Mapping[str, object], made: type) -> None:
    """Raise TypeError unless the constructor of `made` takes every option that is to change."""
    accepted = [
        name for name in inspect.signature(made).parameters if name not in ("model", "self")
    ]
    for name in changes:
        if name not in accepted:
            raise TypeError(
                f"{made.__name__} has no option {name!r}{did_you_mean(name, accepted)}; "
                f"accepted: {', '.join(accepted)}"
            )


def check_images(images: object) -> None:
    """Refuse anything but a floating tensor (N, C, T), (N, C, H, W) or (N, C, D, H, W).

    Raises:
        TypeError: not a tensor, or not of floating dtype.
        ValueError: wrong rank or layout.
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
    if images.dim() not in (3, 4, 5):
        hint = "; add the batch dimension: images[None]" if images.dim() == 2 else ""
        raise ValueError(
            "images must be (N, C, H, W), (N, C, D, H, W) or, for signals, (N, C, T), "
            f"got {images.dim()} dimensions {tuple(images.shape)}{hint}"
        )


MOST_CHANNELS = 4  # of images, grey to RGBA


@contextmanager
def explaining_layout(images: Tensor) -> Iterator[None]:
    """Explain what a network raises on images (N, H, W, C), where it takes (N, C, H, W).

    Nothing is said of images that it takes: some networks permute them themselves.

    Args:
        images: those that the network is run on inside.

    Raises:
        ValueError: in place of a RuntimeError, if the images look like (N, H, W, C).
    """
    try:
        yield
    except SignError:
        raise
    except RuntimeError as error:
        shape = tuple(images.shape)
        if len(shape) != 4 or not shape[3] <= MOST_CHANNELS < min(shape[1:3]):
            raise
        raise ValueError(
            f"images must be (N, C, H, W), got {shape}, which looks like (N, H, W, C), and the "
            f"network does not take it ({first_line(error)}): pass images.permute(0, 3, 1, 2)"
        ) from error


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's first floating parameter or buffer; without any, the CPU."""
    like = _first_floating(model)
    return torch.device("cpu") if like is None else like.device


def place_of(model: nn.Module, images: Tensor) -> tuple[torch.dtype, torch.device]:
    """The network's dtype and device, with the images checked against the device and for NaN.

    Both are those of its first floating parameter or buffer; without any, the images'.

    Raises:
        ValueError: the images are on another device, or hold NaN or Inf.
    """
    like = _first_floating(model)
    like = images if like is None else like
    if images.device != like.device:
        raise ValueError(
            f"images are on {images.device}, the model is on {like.device}: move one, "
            f"images.to({str(like.device)!r}) for instance"
        )
    # The extremes are not finite where any value is not, and take a tenth of the time.
    extremes = images.aminmax() if images.numel() else ()
    if not all(bool(torch.isfinite(value)) for value in extremes):
        bad = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten()
        raise ValueError(
            f"images hold NaN or Inf in {len(bad)} of {len(images)} samples, first in sample "
            f"{int(bad[0])}"
        )
    return like.dtype, like.device


def _first_floating(model: nn.Module) -> Tensor | None:
    tensors = chain(model.parameters(), model.buffers())
    return next((t for t in tensors if t.is_floating_point()), None)


def check_precision(precision: str, dtype: torch.dtype) -> None:
    """Refuse lower-precision arithmetic for networks that are not float32 themselves.

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
    if may_overlap_itself(out):
        raise ValueError(f"{name} overlaps itself (an expanded tensor?): pass its clone")
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            f"{name} was created under torch.inference_mode() and cannot be written outside of it"
        )
    same = out.data_ptr() == images.data_ptr() and out.stride() == images.stride()
    if share_memory(out, images) and not same:
        raise ValueError(
            f"{name} overlaps images without being them: pass the images themselves to overwrite "
            "them, or separate memory"
        )


def make_outputs(
    out: Tensor | Mapping[int, Tensor] | None,
    images: Tensor,
    dtype: torch.dtype,
    stops: tuple[int, ...],
    wants_dict: bool,
) -> dict[int, Tensor]:
    """The tensors to write results to, step → (N, ...): the caller's, checked, or new ones.

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
    if any(share_memory(a, b) for i, a in enumerate(tensors) for b in tensors[:i]):
        raise ValueError("the tensors of out overlap each other: give each snapshot its own memory")
    return dict(out)
