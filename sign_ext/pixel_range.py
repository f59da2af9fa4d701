"""Whether images are in the units that a network takes: a warning where that can be told.

δ is a gradient, so its size depends on the units of the input, and images in other units than the
network's give a wrong step size without an error. Two places in a network know its units: a
normalisation that it begins with, and the running statistics of the first BatchNorm. One image of
the caller's and one random image like them show what arrives there, once for a network and a kind
of images; both have to disagree with it. No verdict is given from fresh weights, black images or
values that fit.
"""

from __future__ import annotations

import math
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.errors import PixelRangeWarning, level_of_the_caller
from sign_ext.eval_state import copies_of_buffers, frozen, restore_buffers, why_not_recorded
from sign_ext.network_state import weights_versions
from sign_ext.probe import IMAGES_SEEN, ImageStatistics, random_images
from sign_ext.source_layer import in_this_thread

GREY = 20.0  # units with larger values, or standard deviations, are grey levels rather than 0–1
# After a normalisation values are about 1, rarely 10. Raw 0–255 into one for 0–1 give about 500.
LARGEST_RMS = 20.0
# Factor between the variance at a BatchNorm and its running variance. Raw 0–255 give a network for
# standardised images 58² = 3,400, and noise, which photographs hardly have, up to 100.
LARGEST_RATIO = 300.0
# Mean square difference between two images at a BatchNorm / its running variance: about 2 in the
# network's units, a tenth of that for pale images, and 58² times less if they are normalised twice.
LEAST_DIFFERENCE = 0.01
LEAST_POSITIONS = 16  # of a channel, to know how its values vary in one image
# A running variance begins at 1. Less of that than this share has to be left to call it too large.
INITIAL_SHARE = 0.01
# Calls whose images may leave it open whether they fit, such as black ones, before it is left so.
TRIES = 4
OUT_OF_RANGE = 20.0  # times pixel_range that images span, before that counts as another unit

TO_GREY = (
    "Make its preprocessing its first module, sign_ext.models.with_normalization(network, mean, "
    "std) (--normalize on the command line), which keeps images at 0–255; or pass images in the "
    "network's own units, and their range to calibrate (pixel_range=1 for 0–1)"
)
FROM_GREY = (
    "Pass images of 0–255: multiply those of 0–1 by 255, and leave standardising to the network "
    "(sign_ext.models.with_normalization(network, mean, std), --normalize on the command line)"
)

TWICE = (
    "The network may normalise its images itself, in its forward pass or a hook, beside the "
    "normalisation put in front of it: then leave that one out (with_normalization, on the command "
    "line --normalize none). Or it was trained on images in larger units"
)


@dataclass(frozen=True)
class Values:
    """The values of some images, in plain numbers.

    Attributes:
        low: the smallest.
        high: the largest.
        std: the standard deviation, the mean over the channels.
    """

    low: float
    high: float
    std: float

    @classmethod
    def of(cls, like: ImageStatistics) -> Values:
        """Those of the images that have such statistics."""
        return cls(*torch.stack([like.low.min(), like.high.max(), like.std.mean()]).tolist())

    def __str__(self) -> str:
        """The range, for messages."""
        return f"{_number(self.low)}…{_number(self.high)}"

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def are_small(self, unit: float = 1.0) -> bool:
        """Whether images of 0–1, or standardised ones, have such values; black ones do not.

        Args:
            unit: what takes the place of 1.
        """
        if self.low >= -0.2 * unit:
            return self.high <= 1.5 * unit and self.std >= 0.02 * unit
        return self.largest <= 5 * unit and self.std >= 0.1 * unit


@dataclass
class _Known:
    """What is known of a network; guarded by `_lock`.

    Attributes:
        told: the causes of which was warned.
        asked: kind of images → None where nothing is left to learn, else the state that told none.
        unclear: kind of images → how many calls left it open.
    """

    told: set[str] = field(default_factory=set)
    asked: dict[Hashable, Hashable] = field(default_factory=dict)
    unclear: dict[Hashable, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Verdict:
    """What two images say of the units: one of those below, or a cause and a message."""

    cause: str
    message: str = ""


FITS = _Verdict("they fit")
UNCLEAR = _Verdict("one of the two images fits")
NOTHING_TOLD = _Verdict("nothing in the network knows its units")


_known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def forget_units(network: nn.Module) -> None:
    """Look at the units of a network's images again, and warn again."""
    with _lock:
        _known.pop(network, None)


def warn_once(network: nn.Module, cause: str, message: str) -> None:
    """Give a PixelRangeWarning, unless one with this cause was given for this network.

    Args:
        network: the network; a copy is another one.
        cause: in a word.
        message: in full.
    """
    with _lock:
        told = _known.setdefault(network, _Known()).told
        if cause in told:
            return
        told.add(cause)
    warnings.warn(message, PixelRangeWarning, stacklevel=level_of_the_caller())


def was_told(network: nn.Module, cause: str) -> bool:
    """Whether `warn_once` has warned of this cause."""
    with _lock:
        return network in _known and cause in _known[network].told


def check_units(
    network: nn.Module,
    run: Callable[[Tensor], object],
    images: Tensor,
    like: ImageStatistics,
    dtype: torch.dtype,
    *,
    place: Hashable = None,
) -> None:
    """Warn if images are in other units than a network takes, where that can be told.

    The network is looked at once for each kind of images (shape, dtype, device, magnitude), by two
    forward passes of one image, and again only if it gave no verdict and has changed since.
    Nothing that the caller computes afterwards changes: buffers and random states come back.

    Args:
        network: in evaluation mode.
        run: calls it, or a part of it, on (1, C, ...).
        images: the caller's, (N, C, ...), N ≥ 1.
        like: their statistics.
        dtype: the network's, which `run` gets.
        place: what else a verdict holds for, such as the layer at which `run` ends.
    """
    values = Values.of(like)
    if not values.are_small() and values.largest < GREY:
        return
    magnitude = round(math.log10(values.largest))
    key = (images.shape[1:], dtype, images.device, magnitude, place)
    with _lock:
        known = _known.setdefault(network, _Known())
        asked = known.asked
        if key in asked and (asked[key] is None or asked[key] == _state(network)):
            return
    # The passes of sharded networks must be the same in every process, and images differ there.
    may_show = _may_show(network) and why_not_recorded(network) is None
    with _lock:
        asked[key] = _state(network) if may_show else None
    if not may_show:
        return
    verdict = _verdict(network, run, images, like, dtype, values)
    with _lock:
        if verdict is UNCLEAR and known.unclear.get(key, 0) + 1 < TRIES:
            known.unclear[key] = known.unclear.get(key, 0) + 1
            asked.pop(key, None)
        elif verdict is not NOTHING_TOLD:
            asked[key] = None
    if verdict.message:
        warn_once(network, verdict.cause, verdict.message)


def _state(network: nn.Module) -> Hashable:
    """What a missing verdict depends on: statistics that were never moved, or fresh weights."""
    if any(_keeps_statistics(module) for module in network.modules()):
        return tuple((id(tensor), tensor._version) for tensor in network.buffers())
    return weights_versions(network)


def _may_show(network: nn.Module) -> bool:
    """Whether anything in a network knows its units, and the network can be held still."""
    if any(tensor.is_inference() for tensor in [*network.parameters(), *network.buffers()]):
        return False
    modules = [m for m in network.modules() if not isinstance(m, torch.jit.ScriptModule)]
    known = any(_constants(m) or _keeps_statistics(m) for m in modules)
    return known or _recorded(network) is not None


def _verdict(
    network: nn.Module,
    run: Callable[[Tensor], object],
    images: Tensor,
    like: ImageStatistics,
    dtype: torch.dtype,
    values: Values,
) -> _Verdict:
    """What one image of the caller's, the one that varies most, and a random one say."""
    some = images[:: -(-len(images) // IMAGES_SEEN)].detach()
    if values.are_small() and _are_whole(some):
        return UNCLEAR  # nearly black 8-bit images
    own = some[int(some.flatten(1).double().std(1, correction=0).argmax())][None]
    drawn = random_images(like, images.shape[1:], 1, seed=0)
    seen: list[_Seen] = []
    buffers = copies_of_buffers(network)
    try:
        with frozen(network), torch.no_grad():
            for image in (own, drawn):
                with _watching(network, image.shape) as found:
                    run(image.to(dtype))
                seen.append(found)
    except Exception:  # the network may not take one image; whoever runs it next will say so
        return NOTHING_TOLD
    finally:
        restore_buffers(buffers)
    if values.are_small():
        return _verdict_on_small(values, *seen)
    return _verdict_on_large(network, values, *seen)


def _verdict_on_large(network: nn.Module, values: Values, own: _Seen, drawn: _Seen) -> _Verdict:
    one, other = own.normalised, drawn.normalised
    # Some subtract the mean of grey levels only, and leave them as large as they are.
    beyond = one is not None and values.largest > LARGEST_RMS * one.unit
    if one and other and beyond and max(one.rms, other.rms) > LARGEST_RMS:
        if min(one.rms, other.rms) <= LARGEST_RMS:
            return UNCLEAR
        return _Verdict(
            "normalisation",
            f"the images span {values}, of which {one.name}, the network's first normalisation, "
            f"makes values of {_number(one.rms)} (rms), where it should make about 1: they are not "
            f"in the units of its mean {_number(one.mean)} and standard deviation "
            f"{_number(one.std)}. {TO_GREY}",
        )
    first, second = own.batch_norm, drawn.batch_norm
    if first and second:
        difference = _difference(first, second)
        telling = first.says_too_small and second.says_too_small and values.std >= GREY
        if telling and difference < LEAST_DIFFERENCE:
            return _Verdict(
                "normalised twice",
                f"the images span {values}, and what reaches {first.name} varies "
                f"{_times_less(difference / 2)} times less than in its training (running_var), as "
                f"if the images were normalised twice. {TWICE}",
            )
        if max(first.squares, second.squares) <= LARGEST_RATIO:
            return FITS
        if min(first.squares, second.squares) <= LARGEST_RATIO:
            return UNCLEAR
        return _Verdict(
            "batch norm",
            f"the images span {values}, and what reaches {first.name} is "
            f"{_number(math.sqrt(first.squares))} standard deviations (rms) away from the running "
            "mean of its training, which should be about 1: the network was trained on images in "
            f"other units, such as 0–1 or standardised ones. {TO_GREY}",
        )
    recorded = _recorded(network)
    if recorded and not one and not own.has_batch_norm and _has_trained_norms(network):
        mean, std = recorded
        return _Verdict(
            "record",
            f"the images span {values}, and the network's pretrained_cfg records a mean of {mean} "
            f"and a standard deviation of {std} for images of 0–1, which nothing in it applies. "
            f"{TO_GREY}. Nothing is wrong if it was trained on such images as they are",
        )
    return FITS if one else NOTHING_TOLD


def _difference(own: _AtBatchNorm, drawn: _AtBatchNorm) -> float:
    """Mean square difference of two images relative to the running variance; median of channels.

    Unlike the variance over an image, it is free of what zero padding makes at the border.
    """
    if own.name != drawn.name or own.rows.shape != drawn.rows.shape:
        return math.inf
    squares = (own.rows - drawn.rows).square().mean(1) / own.running_variance
    return float(squares.median())


def _times_less(variance: float) -> str:
    """How many times smaller a standard deviation is than in training, for messages."""
    return _number(1 / math.sqrt(max(variance, 1e-12)))


def _verdict_on_small(values: Values, own: _Seen, drawn: _Seen) -> _Verdict:
    one, first, second = own.normalised, own.batch_norm, drawn.batch_norm
    if one and one.unit >= GREY:
        return _Verdict(
            "normalisation",
            f"the images span {values}, and {one.name}, the network's first normalisation, is for "
            f"larger units: its mean is {_number(one.mean)}, its standard deviation "
            f"{_number(one.std)}. {FROM_GREY}",
        )
    if first and second and first.says_too_small and second.says_too_small:
        least, most = sorted((first.variance, second.variance))
        if least >= 1 / LARGEST_RATIO:
            return FITS
        if most >= 1 / LARGEST_RATIO:
            return UNCLEAR
        return _Verdict(
            "batch norm",
            f"the images span {values}, and what reaches {first.name} varies "
            f"{_times_less(most)} times less than in its training "
            "(running_var): the network was trained on images in larger units. "
            f"{FROM_GREY}",
        )
    return FITS if one else NOTHING_TOLD


@dataclass
class _Normalised:
    """What the network's first normalisation made of an image."""

    name: str
    rms: float
    mean: float
    std: float

    @property
    def unit(self) -> float:
        """How large the values are that it is for."""
        return max(abs(self.mean), self.std)


@dataclass
class _AtBatchNorm:
    """What reached the first BatchNorm, relative to its running statistics; channels' medians.

    Attributes:
        name: the module's.
        squares: mean of ((x − running mean) / running standard deviation)².
        variance: variance of x over the image / running variance.
        says_too_small: whether a small `variance` means anything.
        rows: x itself, float64 (channels, positions), without channels that were dead in training.
        running_variance: of these channels.
    """

    name: str
    squares: float
    variance: float
    says_too_small: bool
    rows: Tensor
    running_variance: Tensor


@dataclass
class _Seen:
    """What a forward pass of one image showed."""

    normalised: _Normalised | None = None
    batch_norm: _AtBatchNorm | None = None
    has_batch_norm: bool = False


@contextmanager
def _watching(network: nn.Module, shape: torch.Size) -> Iterator[_Seen]:
    """Watch the first normalisation of images and the first BatchNorm."""
    seen = _Seen()
    handles = []

    def normalises(name: str, constants: tuple[float, float]) -> Callable[..., None]:
        @in_this_thread
        def after(_: nn.Module, args: tuple[Any, ...], output: object) -> None:
            given = args[0] if args else None
            if seen.normalised or seen.has_batch_norm or not isinstance(output, Tensor):
                return
            if isinstance(given, Tensor) and given.shape == output.shape == shape:
                rms = float(output.double().square().mean().sqrt())
                seen.normalised = _Normalised(name, rms, *constants)

        return after

    def counts(name: str) -> Callable[..., None]:
        @in_this_thread
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not seen.has_batch_norm and args and isinstance(args[0], Tensor):
                seen.has_batch_norm = True
                seen.batch_norm = _at_batch_norm(name, module, args[0])

        return before

    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks
        title = f"{name!r} ({type(module).__name__})"
        if constants := _constants(module):
            handles.append(module.register_forward_hook(normalises(title, constants)))
        elif _keeps_statistics(module):
            handles.append(module.register_forward_pre_hook(counts(title)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _constants(module: nn.Module) -> tuple[float, float] | None:
    """The mean and the standard deviation of a normalisation, over the channels, or None."""
    try:
        mean, std = (
            torch.as_tensor(getattr(module, name), dtype=torch.float64).flatten()
            for name in ("mean", "std")
        )
    except Exception:  # it has none, or methods and properties of these names
        return None
    if not len(mean) or not bool((std > 0).all()) or not bool(torch.isfinite(mean).all()):
        return None
    constants = float(mean.mean()), float(std.max())
    return None if constants == (0.0, 1.0) else constants  # which change nothing


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a module normalises by running statistics, frozen BatchNorms of any make included."""
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    held = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return all(isinstance(tensor, Tensor) and tensor.dim() == 1 for tensor in held)


def _at_batch_norm(name: str, module: Any, x: Tensor) -> _AtBatchNorm | None:
    """How what reaches a BatchNorm compares with its training; None if it was never trained."""
    mean, variance = (t.detach().double() for t in (module.running_mean, module.running_var))
    if x.dim() < 2 or x.shape[1] != len(mean):
        return None
    if bool((mean == 0).all()) and bool((variance == 1).all()):
        return None
    varied = variance > 1e-6 * variance.max()  # channels that were not dead in training
    if not bool(varied.any()):
        return None
    rows = x.detach().double().transpose(0, 1).flatten(1)[varied]
    mean, variance = mean[varied], variance[varied] + float(getattr(module, "eps", 0.0) or 0.0)
    squares = ((rows - mean[:, None]).square().mean(1) / variance).median()
    ratio = (rows.var(1, correction=0) / variance).median()
    enough = rows.shape[1] >= LEAST_POSITIONS and _initial_share(module) <= INITIAL_SHARE
    return _AtBatchNorm(name, float(squares), float(ratio), enough, rows, variance)


def _initial_share(module: Any) -> float:
    """How much of a running variance is still its initial 1; 0 where batches were not counted."""
    batches, momentum = getattr(module, "num_batches_tracked", None), getattr(module, "momentum", 0)
    if not isinstance(batches, Tensor) or not momentum or int(batches) == 0:
        return 0.0  # without a count the statistics come from elsewhere, as they are not initial
    return float((1 - momentum) ** int(batches))


def _recorded(network: nn.Module) -> tuple[Any, Any] | None:
    """The mean and standard deviation that timm records for a network, for images of 0–1."""
    record = getattr(network, "pretrained_cfg", None)
    if not isinstance(record, Mapping):
        return None
    mean, std = record.get("mean"), record.get("std")
    try:
        known = max(map(float, std)) <= 1 and len(mean) == len(std)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return (tuple(mean), tuple(std)) if known else None  # type: ignore[arg-type]


def _has_trained_norms(network: nn.Module) -> bool:
    """Whether a LayerNorm or GroupNorm has other weights than at first, 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
            bias = module.bias
            trained = bool((module.weight != 1).any())
            if trained or (bias is not None and bool((bias != 0).any())):
                return True
    return False


def range_of_other_units(images: Tensor, pixel_range: float) -> Values | None:
    """The values of images that do not span about `pixel_range`, or None where they may.

    Args:
        images: (N, ...) floating, N ≥ 1.
        pixel_range: what they are said to span.

    Example:
        >>> standardised = torch.linspace(-2, 2, 48).reshape(1, 3, 4, 4)
        >>> str(range_of_other_units(standardised, 255.0)), range_of_other_units(standardised, 4.0)
        ('-2…2', None)
    """
    flat = images.detach().double()
    values = Values(*torch.stack([flat.min(), flat.max(), flat.std(correction=0)]).tolist())
    if values.high - values.low > OUT_OF_RANGE * pixel_range:
        return values
    if values.are_small(pixel_range / 255) and not _are_whole(images):
        return values
    return None


def likely_range(values: Values) -> float:
    """The pixel range of images with such values: 1, 255, or what they span in two digits.

    Example:
        >>> likely_range(Values(0.0, 0.98, 0.2)), likely_range(Values(-2.1, 2.64, 1.0))
        (1.0, 4.7)
    """
    for usual in (1.0, 255.0):
        if values.low >= -0.2 * usual and 0.5 * usual <= values.high <= 1.5 * usual:
            return usual
    return float(f"{values.high - values.low:.1e}")


def _are_whole(images: Tensor) -> bool:
    """Whether every value is an integer, as of 8-bit images that were not resized."""
    return bool((images == images.round()).all())


def _number(value: float) -> str:
    """Three digits, and no exponent up to a million."""
    return f"{value:.3g}" if abs(value) < 1000 or abs(value) >= 1e6 else f"{value:.0f}"
