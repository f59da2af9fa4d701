"""Algorithm 1 in JAX, with the weights of a torch network.

BasicCNN and MobileNetV2 as plain `jax.lax` convolutions in NHWC with BatchNorm folded. On a GPU the
K steps are one program, `jit(lax.scan(...))`. On a CPU one step is a program that is called K
times: inside a loop, XLA's CPU backend computes the gradient of a convolution about 30 times slower
(jax-ml/jax#12868), so a JAX user would not write it that way.
"""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import peers
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual

from sign_ext.benchmarking.loops import Run

# By default JAX reserves three quarters of the GPU's memory at start, which torch needs, too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
NETWORKS = ("basic_cnn", "mobilenet_v2")
Layer = Callable[[list[Any], Any], Any]  # (weights of all layers, x) → the layer's output


def missing(network: str, device: torch.device) -> str | None:
    """Why JAX cannot run one of our networks on a device, or None."""
    try:
        jax = importlib.import_module("jax")
    except ImportError:
        return "not installed"
    if network not in NETWORKS:
        return "not written in JAX"
    try:
        jax.devices(device.type)
    except RuntimeError:
        return f"the installed jax has no {device.type}"
    return None


def _array(values: Tensor, dtype: Any) -> Any:
    jnp = importlib.import_module("jax.numpy")
    return jnp.asarray(values.detach().cpu().numpy(), dtype=dtype)


def _convolution(conv: nn.Conv2d, weights: list[Any], dtype: Any) -> Layer:
    lax = importlib.import_module("jax.lax")
    kernel, bias = len(weights), len(weights) + 1
    weights.append(_array(conv.weight.permute(2, 3, 1, 0), dtype))  # OIHW → HWIO
    zeros = torch.zeros(conv.out_channels)
    weights.append(_array(zeros if conv.bias is None else conv.bias, dtype))
    padding = [(int(side), int(side)) for side in conv.padding]

    def layer(weights: list[Any], x: Any) -> Any:
        y = lax.conv_general_dilated(
            x,
            weights[kernel],
            conv.stride,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=conv.groups,
        )
        return y + weights[bias]

    return layer


def _dense(linear: nn.Linear, channels: int, weights: list[Any], dtype: Any) -> Layer:
    """A Linear after Flatten: torch flattens (C, H, W), JAX (H, W, C)."""
    kernel, bias = len(weights), len(weights) + 1
    side = int((linear.in_features // channels) ** 0.5)
    grid = linear.weight.view(-1, channels, side, side).permute(2, 3, 1, 0)
    weights.append(_array(grid.reshape(linear.in_features, -1), dtype))
    weights.append(_array(linear.bias, dtype))

    def layer(weights: list[Any], x: Any) -> Any:
        return x @ weights[kernel] + weights[bias]

    return layer


def _max_pool(pool: nn.MaxPool2d, weights: list[Any], x: Any) -> Any:
    """Max pooling without overlap as a reshape: the gradient of XLA's own pooling is slow on CPUs.

    The gradient differs if values of a window are equal. After a ReLU that happens only at 0, where
    the gradient of the ReLU is 0, too.
    """
    side = int(pool.kernel_size)
    count, height, width, channels = x.shape
    height, width = height // side, width // side
    windows = x[:, : height * side, : width * side]
    return windows.reshape(count, height, side, width, side, channels).max((2, 4))


def _layers(module: nn.Module, weights: list[Any], dtype: Any) -> list[Layer]:
    """The layers of a folded torch network in order; appends their weights to `weights`."""
    jax = importlib.import_module("jax")
    if isinstance(module, nn.Conv2d):
        return [_convolution(module, weights, dtype)]
    if isinstance(module, nn.Linear):
        channels = weights[-1].shape[0]  # the bias of the last convolution
        return [_dense(module, channels, weights, dtype)]
    if isinstance(module, nn.MaxPool2d):
        return [partial(_max_pool, module)]
    if isinstance(module, nn.Flatten):
        return [lambda weights, x: x.reshape(len(x), -1)]
    if isinstance(module, nn.ReLU6):
        return [lambda weights, x: jax.nn.relu6(x)]
    if isinstance(module, nn.ReLU):
        return [lambda weights, x: jax.nn.relu(x)]
    if isinstance(module, nn.Dropout | nn.Identity):
        return []
    inner = [each for child in module.children() for each in _layers(child, weights, dtype)]
    if isinstance(module, InvertedResidual) and module.use_res_connect:
        return [lambda weights, x: x + _apply(inner, weights, x)]
    return inner


def _apply(layers: list[Layer], weights: list[Any], x: Any) -> Any:
    for layer in layers:
        x = layer(weights, x)
    return x


def label(device: torch.device) -> str:
    """The contender's name in the race."""
    return "JAX jit(lax.scan)" if device.type == "cuda" else "JAX jit"


def compiled(name: str, phi: nn.Module, steps: int, step_size: float, precision: str) -> Run:
    """K steps compiled by XLA.

    Args:
        name: One of `NETWORKS`.
        phi: The torch network without its classifier, `Sequential(normalize, network)`; it is not
            modified.
        steps: K.
        step_size: Step size η of each step.
        precision: "float32", "tf32" or "bfloat16" (weights and activations; the iterate stays
            float32).

    Returns:
        A function from images (N, C, H, W) to p*_K, both torch tensors on the same device. The
        libraries share them without a copy.
    """
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    phi = copy.deepcopy(phi).eval()
    peers.fold(phi)
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    weights: list[Any] = []
    normalize, network = phi.get_submodule("normalize"), phi.get_submodule("network")
    layers = _layers(network, weights, dtype)
    mean, std = (_array(each.flatten(), jnp.float32) for each in (normalize.mean, normalize.std))
    device = next(phi.parameters()).device
    weights = jax.device_put(weights, jax.devices(device.type)[0])

    def value(p: Any, weights: list[Any]) -> Any:
        features = _apply(layers, weights, ((p - mean) / std).astype(dtype))
        if name == "mobilenet_v2":
            features = features.mean((1, 2))
        return features.sum(dtype=jnp.float32)

    def step(p: Any, weights: list[Any]) -> Any:
        return p + step_size * jax.grad(value)(p, weights)

    def program(images: Any, weights: list[Any]) -> Any:
        p, _ = jax.lax.scan(
            lambda p, _: (step(p, weights), None), images.transpose(TO_NHWC), None, length=steps
        )
        return p.transpose(TO_NCHW)

    one_program, one_step = jax.jit(program), jax.jit(step, donate_argnums=0)
    first, last = (jax.jit(partial(jnp.transpose, axes=axes)) for axes in (TO_NHWC, TO_NCHW))

    def run(images: Tensor) -> Tensor:
        shared = jax.dlpack.from_dlpack(images.detach().contiguous())
        with jax.default_matmul_precision(PRECISIONS[precision]):
            if device.type == "cuda":
                result = one_program(shared, weights)
            else:
                p = first(shared)
                for _ in range(steps):
                    p = one_step(p, weights)
                result = last(p)
        return torch.from_dlpack(jax.block_until_ready(result))

    return run
