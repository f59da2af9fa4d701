"""What a network takes beside the images: `model_kwargs`, split along the batch with the images."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sign_ext.errors import SignError

# What a compiled program may hold on to: it cannot change, and two of them can be compared.
_PLAIN = (
    bool | int | float | complex | str | bytes | enum.Enum
    | torch.dtype | torch.device | torch.memory_format
)  # fmt: skip


class Shared:
    """Marks a value of `model_kwargs` that belongs to all images, however long it is.

    A tensor with as many rows as there are images is otherwise split among them.

    Args:
        value: what the network is given in every forward pass.

    Example:
        >>> import torch
        >>> from sign_ext import Shared
        >>> model_kwargs = {"prototypes": Shared(torch.eye(10))}
    """

    def __init__(self, value: Any) -> None:
        """Keep the value."""
        self.value = value

    def __repr__(self) -> str:
        """As it is written."""
        return f"Shared({type(self.value).__name__})"


@dataclass(frozen=True)
class ModelInputs:
    """The further inputs of a call, from which those of some of its images are taken.

    Attributes:
        images: N, how many images the call has.
        names: of each leaf, as it is written in Python: model_kwargs['meta'][0].
        leaves: tensors and everything that holds no further values.
        structure: puts leaves together again.
        per_image: the places of the tensors (N, ...) that are split along the batch.
    """

    images: int = 0
    names: tuple[str, ...] = ()
    leaves: tuple[Any, ...] = ()
    structure: Any = None
    per_image: tuple[int, ...] = ()

    @classmethod
    def of(cls, model_kwargs: Mapping[str, Any] | None, images: int) -> ModelInputs:
        """Take a caller's mapping apart.

        Args:
            model_kwargs: keyword arguments of the network's forward pass, or None.
            images: N.

        Raises:
            TypeError: not a mapping from names, or an array with a row an image that is no tensor.
        """
        if model_kwargs is None:
            return cls(images)
        if not isinstance(model_kwargs, Mapping):
            raise TypeError(
                "model_kwargs must be a dict from the names of the network's arguments to their "
                f"values, got {type(model_kwargs).__name__}"
            )
        if not_names := [key for key in model_kwargs if not isinstance(key, str)]:
            raise TypeError(f"model_kwargs must have names as keys, got {not_names[0]!r}")
        found, structure = pytree.tree_flatten_with_path(dict(model_kwargs))
        names = tuple(f"model_kwargs{pytree.keystr(path)}" for path, _ in found)
        leaves = tuple(leaf for _, leaf in found)
        for name, leaf in zip(names, leaves, strict=True):
            shape = () if isinstance(leaf, Tensor) else getattr(leaf, "shape", ())
            if shape and shape[0] == images:
                raise TypeError(
                    f"{name} is a {type(leaf).__name__} with a row for each of the {images} images,"
                    " and only tensors are split among them: pass torch.as_tensor(...), or "
                    "sign_ext.Shared(...) if it belongs to all images"
                )
        per_image = tuple(i for i, leaf in enumerate(leaves) if _length(leaf) == images)
        return cls(images, names, leaves, structure, per_image)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.leaves)

    def __getitem__(self, rows: slice | Sequence[int]) -> dict[str, Any]:
        """The keyword arguments for some of the images.

        Args:
            rows: which images.
        """
        return self._with({i: self.leaves[i][rows] for i in self.per_image})

    def given(self, rows: slice | Sequence[int]) -> dict[str, Any]:
        """`model_kwargs` of a call with some of the images, which splits the same tensors.

        Args:
            rows: which images.
        """
        whole = {
            i: Shared(leaf)
            for i, leaf in enumerate(self.leaves)
            if isinstance(leaf, Tensor) and i not in self.per_image
        }
        return self._with({i: self.leaves[i][rows] for i in self.per_image} | whole, _as_it_is)

    def with_whole(self, place: int, rows: slice) -> dict[str, Any]:
        """The same, but for one tensor that is not split.

        Args:
            place: of the tensor, one of `per_image`.
            rows: which images.
        """
        return self._with({i: self.leaves[i][rows] for i in self.per_image if i != place})

    def _with(
        self, parts: Mapping[int, Any], finish: Callable[[Any], Any] | None = None
    ) -> dict[str, Any]:
        if self.structure is None:
            return {}
        finish = finish or _usable
        leaves = [finish(parts.get(i, leaf)) for i, leaf in enumerate(self.leaves)]
        kwargs: dict[str, Any] = pytree.tree_unflatten(leaves, self.structure)
        return kwargs

    @property
    def why_eager(self) -> str:
        """Why no step with them may be compiled or recorded, or "" if it may."""
        for name, leaf in zip(self.names, self.leaves, strict=True):
            if isinstance(leaf, Tensor | Shared):
                return f"{name} is data of this call, which a compiled step would keep"
            if leaf is not None and not isinstance(leaf, _PLAIN):
                return f"{name} is a {type(leaf).__name__}, whose changes cannot be followed"
        return ""

    @property
    def key(self) -> Hashable:
        """Equal for two calls that may share what was compiled: the same constants."""
        if why := self.why_eager:
            return why
        values = tuple((type(leaf), repr(leaf)) for leaf in self.leaves)
        return (self.names, values, str(self.structure))

    def suspects(self) -> list[str]:
        """Tensors that may have been meant for the images and are not as long, in words."""
        return [
            f"{name} has {length} rows for {self.images} images, so each forward pass is given all "
            f"of them; what belongs to single images needs {self.images} rows"
            for name, leaf in zip(self.names, self.leaves, strict=True)
            if (length := _length(leaf)) not in (None, 1, self.images)
        ]

    def divided(self) -> list[str]:
        """Tensors that are split among the images and may have been meant for all, in words."""
        return [
            f"{self.names[place]} has a row for each of the {self.images} images, so each forward "
            "pass is given those of its images; mark what belongs to all with sign_ext.Shared(...)"
            for place in self.per_image
            if self.images > 1
        ]

    def elsewhere(self, device: torch.device) -> list[str]:
        """Tensors on another device than the images, in words.

        Args:
            device: the images'.
        """
        return [
            f"{name} is on {leaf.device}, the images are on {device}"
            for name, leaf in zip(self.names, self.leaves, strict=True)
            if isinstance(leaf, Tensor) and leaf.device != device
        ]


NO_INPUTS = ModelInputs()


def _length(leaf: Any) -> int | None:
    """Of a tensor's first dimension; None for what has none."""
    return len(leaf) if isinstance(leaf, Tensor) and leaf.dim() else None


def _as_it_is(leaf: Any) -> Any:
    return leaf


def _usable(leaf: Any) -> Any:
    """A leaf as autograd can use it."""
    if isinstance(leaf, Shared):
        return leaf.value
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


@contextmanager
def blaming_inputs(model: nn.Module, inputs: ModelInputs, image: Tensor) -> Iterator[None]:
    """Turn a network's own error into one that names the further input that caused it.

    Args:
        model: the network, run in the block on one image.
        inputs: the call's.
        image: (1, ...), what it is run on.

    Raises:
        TypeError: the network takes other arguments.
        ValueError: it failed, and a tensor is of another length or on another device.
    """
    try:
        yield
    except SignError:
        raise
    except Exception as error:
        if isinstance(error, TypeError) and (why := _unbound(model, inputs, image)):
            raise TypeError(why) from error
        if hints := inputs.suspects() + inputs.divided() + inputs.elsewhere(image.device):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"the network failed on one image ({reason}). Perhaps: {'; '.join(hints)}"
            ) from error
        raise


def _unbound(model: nn.Module, inputs: ModelInputs, image: Tensor) -> str:
    """Why the network's arguments are not those of its forward pass, or "" if they are."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return ""
    given = inputs[:1]
    try:
        signature.bind(image, **given)
    except TypeError as error:
        got = ", ".join(given) or "nothing"
        return (
            f"{type(model).__name__}.forward takes {signature} and is given the images first and, "
            f"by model_kwargs, {got}: {error}. Pass what else it needs as "
            "model_kwargs={name: value}; a network that takes the images elsewhere needs a module "
            "around it"
        )
    return ""
