"""Questions put to a network with random images: what δ is there, and whether samples interact.

The random images resemble the caller's, so that a network is asked where it will be used; their
values are fresh, so that an image at which nothing shows (a black one) hides nothing.
"""

from __future__ import annotations

import copy
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.errors import level_of_the_caller
from sign_ext.eval_state import copies_of_buffers, restore_buffers, same_bits
from sign_ext.source_layer import Phi, in_this_thread

IMAGES_SEEN = 8  # of the caller's, spread over the call, for their statistics
COARSE = 8  # a random image is the sum of noise and of such patches
# How much the random images vary, in turn, relative to the caller's. The first is most like theirs.
CONTRASTS = (1.0, 2.0, 0.3)

POINTS = 2  # pairs of images at which samples are asked whether they interact
# Relative distances of Φ and of δ within which two passes agree without a closer look. Rounding
# alone can decide the sign of a pre-activation, so that a closer look is in float64.
AGREE = {
    torch.float64: (1e-8, 1e-6),
    torch.float32: (1e-4, 1e-3),
    torch.bfloat16: (3e-2, 0.2),
    torch.float16: (1e-2, 0.1),
}
EXACT = 1e-5  # what float64 leaves of rounding, also where a network has float32 parts
# Between batches of different sizes, parts that stay in float32 may flip the sign of a
# pre-activation even in a float64 network. A network that reads the size of its batch differs more.
SIZES_AGREE = 0.1
# The same two where every forward pass moves the range of a quantisation a little.
MOVING_AGREES, MOVING_SIZES_AGREE = 0.2, 0.5
# What these classes of PyTorch hold has a row for each channel.
_BATCH_NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}


@dataclass(frozen=True)
class ImageStatistics:
    """What random images resemble, for each channel: (1, C, 1, ...), in the network's dtype.

    Attributes:
        mean: the mean.
        std: the standard deviation.
        low: the smallest value; no random image goes below.
        high: the largest value.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


def statistics_of(images: Tensor) -> ImageStatistics:
    """The statistics of some images; of 8-bit images where all of them are of one colour.

    Args:
        images: (N, C, ...), N ≥ 1.

    Example:
        >>> statistics_of(torch.zeros(2, 3, 4, 4)).high.flatten()
        tensor([255., 255., 255.])
    """
    some = images[:: -(-len(images) // IMAGES_SEEN)].detach()
    dtype = torch.float64 if some.dtype == torch.float64 else torch.float32
    rows = some.transpose(0, 1).flatten(1).to(dtype)
    shape = (1, -1, *[1] * (images.dim() - 2))
    low, high, mean = rows.amin(1), rows.amax(1), rows.mean(1)
    # A fifteenth of the time of `std`, which goes from value to value.
    std = (rows - mean[:, None]).square_().mean(1).sqrt_()
    if not bool((std > 1e-6 * (1 + mean.abs())).any()):
        low, high = torch.zeros_like(mean), torch.full_like(mean, 255)
        mean, std = torch.full_like(mean, 127), torch.full_like(mean, 64)
    return ImageStatistics(*(value.view(shape) for value in (mean, std, low, high)))


def random_images(like: ImageStatistics, shape: torch.Size, count: int, seed: int) -> Tensor:
    """Random images of some statistics; the same seed gives the same images on every device.

    Args:
        like: their statistics.
        shape: of one image, (C, ...).
        count: how many.
        seed: of the generator, which is this function's own.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, *shape), generator=generator, dtype=torch.float32)
    coarse = (count, shape[0], *(-(-size // COARSE) for size in shape[1:]))
    patches = torch.randn(coarse, generator=generator, dtype=torch.float32)
    for axis, size in enumerate(shape[1:], start=2):
        patches = patches.repeat_interleave(COARSE, axis).narrow(axis, 0, size)
    contrasts = [CONTRASTS[i % len(CONTRASTS)] for i in range(count)]
    contrast = torch.tensor(contrasts, dtype=torch.float32)
    noise = (noise + patches) * 0.5**0.5 * contrast.view(-1, *[1] * len(shape))
    drawn = like.mean + like.std * noise.to(like.mean)
    return torch.minimum(torch.maximum(drawn, like.low), like.high)


def pullback(
    phi: Callable[[Tensor], Tensor],
    images: Tensor,
    cotangent: Callable[[Tensor], Tensor] = torch.ones_like,
) -> tuple[Tensor, Tensor]:
    """Φ and δ = Σ_a ∂Φ^a/∂x^i by eager autograd, the definition, in the images' dtype.

    Args:
        phi: Φ.
        images: (N, ...).
        cotangent: from Φ to the weights of the sum.
    """
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        value = phi(x)
        (delta,) = torch.autograd.grad(value, x, cotangent(value))
    return value.detach(), delta.detach()


def uneven(value: Tensor) -> Tensor:
    """Weights of 0.5 and 1.5 for Φ's values, the same for each image.

    After a LayerNorm the sum with equal weights is constant, and δ is rounding alone.

    Args:
        value: Φ, whose last dimension is features.
    """
    size = value.shape[-1] if value.dim() > 1 else 1
    if size <= 2:
        return torch.ones_like(value)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(0, 2, (size,), generator=generator).to(value) + 0.5
    return weights.expand_as(value)


def random_signs(value: Tensor) -> Tensor:
    """Weights of -1 and 1: how large gradients of Φ's sum are where they do not cancel.

    Args:
        value: Φ.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1


def relative_distances(got: Tensor, expected: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """Relative L2 distance of each image's values; 0 where both are 0, or `expected` not finite.

    Args:
        got: (N, ...).
        expected: of the same shape.
        least: the distance is relative to this where `expected` is smaller; one number or (N,).

    Returns:
        (N,) float64.

    Example:
        >>> wanted = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> relative_distances(torch.tensor([[3.0, 5.0], [0.0, 0.0]]), wanted)
        tensor([0.2000, 0.0000], dtype=torch.float64)
    """
    expected = expected.double().flatten(1)
    error = (got.double().flatten(1) - expected).norm(dim=1)
    size = expected.norm(dim=1)
    none = ~torch.isfinite(size) | (error <= 1e-30)
    return torch.where(none, 0.0, error / size.clamp(min=least))


# What was found independent, by network: a hash of its state and of the kind of images.
_independent: weakref.WeakKeyDictionary[nn.Module, set[int]] = weakref.WeakKeyDictionary()
_independent_lock = threading.Lock()


def forget(network: nn.Module) -> None:
    """Ask again whether the network's samples interact."""
    with _independent_lock:
        _independent.pop(network, None)


def check_samples(
    phi_for: Callable[[int], Phi], image: Tensor, like: ImageStatistics, state: Hashable
) -> None:
    """Refuse a network whose samples interact, once for a state of it and a kind of images.

    Φ and δ of two different images are compared, together and each alone, at two random points; δ
    is that of a sum with uneven weights, so that it never cancels. A network that cannot be asked,
    since it takes batches of one size only or draws random numbers, is not refused.

    Args:
        phi_for: from a number of images to Φ for as many, its network frozen, in evaluation mode.
        image: one of the caller's, (1, C, ...), of the network's dtype.
        like: the statistics of the caller's images.
        state: of the network; equal as long as the answer is.

    Raises:
        ValueError: Φ or δ of an image depends on its batch; the message names cause and cure.
    """
    phi = phi_for(1)
    key = hash((image.shape[1:], image.dtype, image.device, phi.source, state))
    with _independent_lock:
        if key in _independent.get(phi.model, ()):
            return
    for seed in range(POINTS):
        pair = random_images(like, image.shape[1:], 2, seed)
        # Two draws have nearly the same statistics, which hides what depends on them.
        pair[1] = (like.low + 0.3 * (pair[1] - like.low))[0]
        reason = _Pair(phi_for, pair.to(image.dtype)).why_dependent()
        if reason:
            raise ValueError(reason)
    with _independent_lock:
        _independent.setdefault(phi.model, set()).add(key)


class _CannotAsk(Exception):
    """The network does not take such a batch."""


class _Pair:
    """Two different images, a and b, and what a network makes of them."""

    def __init__(self, phi_for: Callable[[int], Phi], images: Tensor) -> None:
        self.phi_for = phi_for
        self.phi = phi = phi_for(1)
        self.images = images
        self.original = self.buffers = copies_of_buffers(phi.model)
        most = AGREE.get(images.dtype, (0.0, 0.0))
        self.agree = most
        # Between two batches of one size nothing is left to rounding but a kernel's last rows.
        self.differs = EXACT if images.dtype == torch.float64 else most[1]

    def why_dependent(self) -> str:
        """Why samples interact, or ""."""
        try:
            distances, rows = self._distances(), self._between_rows()
            if self._agree(*distances) and self._agree(*rows):
                return ""
            if self._is_rounding(distances, rows):
                return ""
            return self._closer_look()
        except _CannotAsk:
            return self._look_at_one()
        finally:
            restore_buffers(self.original)

    def _agree(self, values: float, delta: float) -> bool:
        return values <= self.agree[0] and delta <= self.agree[1]

    def _is_rounding(self, distances: tuple[float, float], rows: tuple[float, float]) -> bool:
        """Whether only batches of different sizes differ, by what rounding may explain.

        In a deep network rounding decides signs of pre-activations, and a library rounds otherwise
        for one image than for two. With another image beside it, in a batch as large, it does not.
        So nothing is left that the closer look, which costs ten passes in float64, could refuse.
        """
        if max(rows) > EXACT or max(distances) > SIZES_AGREE:
            return False
        return self._between_mates() <= EXACT

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Φ and δ, from the same buffers each time: observers and statistics move.

        Φ is (N, ...), or empty where its first dimension is not the images'.
        """
        restore_buffers(self.buffers)
        try:
            value, delta = pullback(self.phi_for(len(images)), images, uneven)
        except Exception as error:  # whatever a network raises for a batch that it does not take
            raise _CannotAsk from error
        if value.shape[:1] != images.shape[:1]:
            return value.new_empty(len(images), 0), delta
        return value.flatten(1) if value.dim() > 1 else value[:, None], delta

    def _distances(self) -> tuple[float, float]:
        """How far Φ and δ of two images together are from those of each alone."""
        (value_a, delta_a), (value_b, delta_b) = (self._run(image[None]) for image in self.images)
        value, delta = self._run(self.images)
        values = 0.0
        if value.shape[1:] == value_a.shape[1:]:  # not where Φ is not an image's in one of them
            values = _furthest((value, torch.cat([value_a, value_b])))
        return values, _furthest((delta, torch.cat([delta_a, delta_b])))

    def _between_rows(self) -> tuple[float, float]:
        """How far Φ and δ of an image are from those of the same image beside it.

        Values kept for each image of a batch may by chance be equal in the first two rows, those of
        a class for instance. So this asks the network with other second rows.
        """
        restore_buffers(self.buffers)
        runs = None
        if other := self._with_other_rows():
            try:
                runs = pullback(other, self._same(2), uneven)
            except Exception:  # the network may not take such rows
                runs = None
        value, delta = runs or self._run(self._same(2))
        values = _furthest((value[:1], value[1:])) if len(value) == 2 else 0.0
        return values, _furthest((delta[:1], delta[1:]))

    def _with_other_rows(self) -> Phi | None:
        """Φ of a network whose tensors have another second row, one that differs from the first.

        These are its buffers, and tensors that are plain attributes. It shares its parameters with
        the network, which other threads may be using as it is.
        """
        network = self.phi.model
        if not any(_holds_rows(module) for module in network.modules()):
            return None  # to copy a network takes longer than a small one's pass
        memo: dict[int, Any] = {id(p): p for p in network.parameters()}
        try:
            twin = copy.deepcopy(network, memo)
        except Exception:  # not every network can be copied
            return None
        changed = False
        for module in twin.modules():
            if type(module) in _BATCH_NORMS:
                continue
            for held in (module._buffers, vars(module)):
                for name, tensor in held.items():
                    if type(tensor) is Tensor and tensor.layout == torch.strided:
                        other = _with_another_second_row(tensor)
                        held[name] = tensor if other is None else other
                        changed = changed or other is not None
        return self._phi_of(twin)(2) if changed else None

    def _phi_of(self, model: nn.Module) -> Callable[[int], Phi]:
        """Φ for a copy of the network."""
        return lambda count: Phi(model, self.phi.source, self.phi_for(count).kwargs)

    def _same(self, count: int) -> Tensor:
        """A batch of the first image only."""
        return self.images[:1].expand(count, *self.images.shape[1:])

    def _closer_look(self) -> str:
        """The same questions where rounding cannot answer them, and what the answer means."""
        if self._varies_by_itself():
            return ""
        exact = self._in_float64() or self
        least, sizes = exact._settle()
        values, delta = exact._distances()
        mates = exact._between_mates()
        place = max(exact._between_rows())
        if mates > least:
            return exact._mates_message(max(mates, values, delta))
        if place > least:
            return exact._place_message(place)
        if values > sizes:
            return exact._size_message(max(values, delta))
        if delta > sizes:
            warnings.warn(
                exact._gradient_message(delta), RuntimeWarning, stacklevel=level_of_the_caller()
            )
        return ""

    def _between_mates(self) -> float:
        """How far Φ or δ of a is with b beside it from what it is with a."""
        with_b, with_a = self._run(self.images), self._run(self._same(2))
        return _furthest(*((x[:1], y[:1]) for x, y in zip(with_b, with_a, strict=True)))

    def _varies_by_itself(self) -> bool:
        """Whether two passes over the same image differ: the network draws random numbers."""
        first, again = (self._run(self.images[:1]) for _ in range(2))
        return _furthest(*zip(first, again, strict=True)) > 0.0

    def _settle(self) -> tuple[float, float]:
        """Let what a forward pass writes come to rest.

        The observers of a network prepared for quantisation widen their range with every image, or
        move it a little with every batch. Batch statistics, too, move what they keep, but use none
        of it.

        Returns:
            How far two passes may differ from then on, of batches of one size and of two.

        """
        self._run(self.images)
        before = [buffer.copy for buffer in self.buffers]
        settled = copies_of_buffers(self.phi.model)
        if all(same_bits(new.copy, old) for new, old in zip(settled, before, strict=True)):
            return self.differs, SIZES_AGREE
        self.buffers = settled
        return MOVING_AGREES, MOVING_SIZES_AGREE

    def _in_float64(self) -> _Pair | None:
        """The same with a copy of the network in float64, or None where there is none."""
        if self.images.dtype == torch.float64:
            return None
        restore_buffers(self.buffers)
        try:
            model = copy.deepcopy(self.phi.model).double()
            exact = _Pair(self._phi_of(model), self.images.double())
            exact._run(exact.images)
        except Exception:  # not every network can be copied, or computes in float64
            return None
        return exact

    def _look_at_one(self) -> str:
        """Whether a network that takes no two images makes several of one."""
        try:
            one = self.phi(self.images[:1])
            count = len(one)
            if count > 1 and self.phi_for(count)(self._same(count)).shape == one.shape:
                return self._place_message(1.0)
        except Exception:  # it may take batches of one only
            pass
        return ""

    def _mates_message(self, distance: float) -> str:
        where = self._where((self.images, 0), (self._same(2), 0))
        return (
            f"the samples of a batch interact in this {type(self.phi.model).__name__}: Φ and δ of "
            f"an image change by {_percent(distance)} with the images beside it"
            f"{where}. SIGN is defined for each image by itself. The usual cause is a statistic of "
            "the batch, as in F.batch_norm(training=True) or x.mean(0): use running statistics "
            "(training=False), or a statistic of each image, x.mean((1, 2, 3), keepdim=True)"
        )

    def _place_message(self, place: float) -> str:
        where = self._where((self._same(2), 0), (self._same(2), 1))
        return (
            f"Φ of this {type(self.phi.model).__name__} depends on the place of an image in its "
            f"batch (by {_percent(place)}{where}): it holds values of its own for each image, in a "
            "buffer with a row for each for instance, and in another batch they belong to another "
            "image. Pass such values with the images, iterative_sign(model, images, "
            "model_kwargs={...}), which splits them along the batch"
        )

    def _size_message(self, distance: float) -> str:
        return (
            f"Φ of this {type(self.phi.model).__name__} depends on how many images are in a batch "
            f"(by {_percent(distance)} between one and two). SIGN is defined for each image by "
            "itself: divide by a fixed number instead of len(x), and reduce over dimensions of "
            "an image only"
        )

    def _gradient_message(self, distance: float) -> str:
        return (
            f"the gradient of this {type(self.phi.model).__name__} for one image alone differs by "
            f"{_percent(distance)} from its gradient in a batch of two, although Φ is the same. A "
            "custom backward pass may divide by the number of images, and PyTorch's BatchNorm on a "
            "CPU is wrong for a batch of one with permuted strides: pass two images or more, and a "
            "batch_size that leaves no single one"
        )

    def _where(self, one: tuple[Tensor, int], other: tuple[Tensor, int]) -> str:
        """The first module whose output differs, as part of a message, or ""."""
        try:
            first, second = (self._outputs(batch, row) for batch, row in (one, other))
        except Exception:  # not every module takes hooks
            return ""
        for name, value in first.items():
            again = second.get(name)
            if again is None or value.shape != again.shape:
                continue
            if float(relative_distances(value, again)[0]) > EXACT:
                kind = type(self.phi.model.get_submodule(name)).__name__
                return f", first seen in the output of {name or 'the model'!r} ({kind})"
        return ""

    def _outputs(self, batch: Tensor, row: int) -> dict[str, Tensor]:
        """One row of each module's output, in the order in which they end."""
        found: dict[str, Tensor] = {}

        def watch(name: str) -> Callable[..., None]:
            @in_this_thread
            def hook(_: nn.Module, __: object, output: object) -> None:
                if isinstance(output, Tensor) and output.shape[:1] == (len(batch),):
                    found.setdefault(name, output.detach()[row : row + 1].clone())

            return hook

        modules = self.phi.model.named_modules()
        handles = [module.register_forward_hook(watch(name)) for name, module in modules]
        try:
            self._run(batch)
        finally:
            for handle in handles:
                handle.remove()
        return found


def _holds_rows(module: nn.Module) -> bool:
    """Whether a module holds a tensor, beside parameters, that may have a row for each image."""
    if type(module) in _BATCH_NORMS:
        return False
    held = [*module._buffers.values(), *vars(module).values()]
    return any(type(each) is Tensor and each.dim() and len(each) > 1 for each in held)


def _with_another_second_row(tensor: Tensor) -> Tensor | None:
    """The tensor with its second row exchanged for one that differs from the first, if any."""
    if tensor.dim() == 0 or len(tensor) < 2:
        return None
    rows = tensor.reshape(len(tensor), -1)
    others = (rows != rows[:1]).any(1).nonzero()
    if not len(others):
        return None
    other = int(others[0])
    order = list(range(len(tensor)))
    order[1], order[other] = order[other], order[1]
    return tensor[torch.tensor(order, device=tensor.device)]


def _percent(distance: float) -> str:
    return f"{distance:.0%}" if distance < 10 else "more than 1,000%"


def _furthest(*pairs: tuple[Tensor, Tensor]) -> float:
    """The largest relative distance of the second of a pair from the first."""
    return max(float(relative_distances(second, first).max()) for first, second in pairs)
