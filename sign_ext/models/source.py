"""Where the layers of a named network come from; built for any number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.models import hugging_face
from sign_ext.models.network_name import NetworkName, closest
from sign_ext.models.records import Record, record_of
from sign_ext.models.registry import build_model
from sign_ext.models.user_code import UserFunction

OWN_SIZE = 32  # height and width of images for sign_ext's own networks, unless given
OWN_CLASSES = 10
ANY_CLASSES = 7  # of a network that is built only for the shapes of its other layers

# Options of the libraries' functions that open_network decides, or that would open other files.
_REFUSED = {
    "num_classes": "give num_classes (--num-classes)",
    "pretrained": "give weights='pretrained' (--weights pretrained)",
    "weights": "give weights='pretrained' (--weights pretrained)",
    "weights_backbone": "give weights='pretrained' (--weights pretrained)",
    "checkpoint_path": "give weights=FILE (--weights FILE)",
    "pretrained_cfg": "give weights=FILE (--weights FILE)",
    "pretrained_cfg_overlay": "give normalize (--normalize)",
    "cache_dir": "set the environment variable HF_HOME",
    "features_only": "a classifier is needed, without it",
    "progress": "leave it out",
}


class Source:
    """How to build the network of one name.

    Args:
        name: of the network.
        options: passed to the function or class that builds it.
        image_shape: (C, H, W) of its images; None for the size that is recorded for it.
        config: of a network of transformers, as a checkpoint recorded it; None to read its folder.

    Attributes:
        record: what its library knows about it.
        image_shape: as given, or as recorded; None if neither.

    Raises:
        ValueError: there is no such network, or it does not take these options.
        ModuleNotFoundError: its library is not installed.
        RuntimeError: importing a user's module fails.
    """

    def __init__(
        self,
        name: NetworkName,
        options: Mapping[str, Any],
        image_shape: tuple[int, int, int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Find the network; for a user's own, import its module."""
        self.name = name
        self.options = dict(options)
        self.function = UserFunction(name, options) if name.is_code else None
        if name.kind in ("timm", "torchvision"):
            _refuse_options(name, self.options)
        recorded = name.kind == "hf" and config is not None
        self.record = Record() if recorded else record_of(name)
        own = (3, OWN_SIZE, OWN_SIZE) if name.kind == "sign_ext" else None
        self.image_shape = image_shape or self.record.image_shape or own
        self.folder = None if name.kind != "hf" or recorded else hugging_face.folder_of(name.name)
        self._config = config if self.folder is None else hugging_face.read_config(self.folder)
        self.made_config: dict[str, Any] | None = None  # what `build` made of it

    @property
    def takes_classes(self) -> bool:
        """Whether the number of classes can be chosen."""
        return self.function is None or self.function.takes_classes

    @property
    def default_classes(self) -> int | None:
        """The number of classes that the network has unless another is asked for."""
        return OWN_CLASSES if self.name.kind == "sign_ext" else self.record.num_classes

    def build(self, outputs: int | None) -> nn.Module:
        """Build the network with new weights from torch's global generator.

        Args:
            outputs: of the last layer; None for the default.

        Returns:
            The network alone: it takes what its library's preprocessing returns.

        Raises:
            ValueError: it cannot be built with these options.
            RuntimeError: a user's function fails.
        """
        if self.function is not None:
            return self.function(outputs, self.image_shape)
        if self.name.kind == "sign_ext":
            count = OWN_CLASSES if outputs is None else outputs
            shape = self.image_shape or (3, OWN_SIZE, OWN_SIZE)
            model = build_model(
                self.name.name, num_classes=count, image_shape=shape, **self.options
            )
            return model.get_submodule("network")
        if self.name.kind == "hf":
            side = None if self.image_shape is None else self.image_shape[1:]
            network, self.made_config = hugging_face.build(
                self._config or {}, outputs, side, self.options
            )
            return network
        return self._of_library(outputs)

    def shapes(self, outputs: int | None) -> dict[str, Tensor]:
        """Return the tensors of a network with so many outputs, without values if possible."""
        with torch.random.fork_rng(devices=[]):
            if self.function is not None:  # it may load weights, or keep the network
                return self.build(outputs).state_dict()
            try:
                with torch.device("meta"):
                    return self.build(outputs).state_dict()
            except (RuntimeError, NotImplementedError, ValueError):  # it computes with its weights
                return self.build(outputs).state_dict()

    def head(self, outputs: int) -> frozenset[str]:
        """Return the names of the weights whose shapes depend on the number of classes."""
        if not self.takes_classes:
            return frozenset()
        one, other = self.shapes(outputs), self.shapes(outputs + 1)
        return frozenset(k for k in one if k in other and one[k].shape != other[k].shape)

    def pretrained(self, outputs: int | None) -> tuple[nn.Module, str]:
        """Build the network with the weights that its library publishes, which are downloaded.

        Args:
            outputs: of the last layer; with another number than the published one the layer is
                new.

        Returns:
            The network, and the name of the weights.
        """
        if self.name.kind == "timm":
            import timm

            count = {} if outputs is None else {"num_classes": outputs}
            arguments = {**self._arguments(), **count}
            network = timm.create_model(self.name.name, pretrained=True, **arguments)
            return network, _timm_tag(network, self.name.name)
        from torchvision import models

        weights = models.get_model_weights(self.name.name).DEFAULT
        return models.get_model(self.name.name, weights=weights, **self.options), str(weights)

    def _of_library(self, outputs: int | None) -> nn.Module:
        count = {} if outputs is None else {"num_classes": outputs}
        arguments = {**count, **self._arguments()}
        try:
            return _build_of_library(self.name, arguments)
        except Exception as error:  # options may be anything, and the builders raise anything
            raise ValueError(self._failure(error)) from error

    def _arguments(self) -> dict[str, Any]:
        """The options, and the size of the images where layers depend on it."""
        arguments = dict(self.options)
        if self.image_shape is None or self.image_shape == self.record.image_shape:
            return arguments
        channels, height, width = self.image_shape
        if self.name.kind == "timm":
            import timm

            config = timm.get_pretrained_cfg(self.name.name)
            if config is not None and config.fixed_input_size:
                arguments.setdefault("img_size", (height, width))
            if channels != 3:
                arguments.setdefault("in_chans", channels)
        elif self.name.name.startswith("vit_"):
            arguments.setdefault("image_size", height)
        elif self.name.name.startswith("maxvit"):
            arguments.setdefault("input_size", (height, width))
        return arguments

    def _failure(self, error: Exception) -> str:
        """Explain why a library could not build a network: an unknown option, or something else."""
        for option in self.options:
            if isinstance(error, TypeError) and f"argument '{option}'" in str(error):
                names = self._option_names()
                accepted = f"; accepted: {', '.join(names)}" if names else ""
                return (
                    f"{option!r} is not an option of {self.name}{closest(option, names)}{accepted}"
                )
        given = f" with options {self.options}" if self.options else ""
        return f"{self.name} cannot be built{given}: {error}"

    def _option_names(self) -> list[str]:
        """The parameters of the class of the network, as its library's functions do not tell."""
        import inspect

        try:
            with torch.random.fork_rng(devices=[]):
                built = _build_of_library(self.name, {})
        except Exception:  # there is an error to report already
            return []
        found = inspect.signature(type(built)).parameters.values()
        named = [each.name for each in found if each.kind not in (each.VAR_KEYWORD,)]
        return [each for each in named if each not in _REFUSED]


def _build_of_library(name: NetworkName, arguments: Mapping[str, Any]) -> nn.Module:
    if name.kind == "timm":
        import timm

        return timm.create_model(name.name, pretrained=False, **arguments)  # type: ignore[no-any-return]
    from torchvision import models

    return models.get_model(name.name, weights=None, **arguments)  # type: ignore[no-any-return]


def _refuse_options(name: NetworkName, options: Mapping[str, Any]) -> None:
    for option in options:
        if option in _REFUSED:
            raise ValueError(f"{option!r} is no option of {name} here: {_REFUSED[option]} instead")


def _timm_tag(network: nn.Module, name: str) -> str:
    config = getattr(network, "pretrained_cfg", None) or {}
    tag = config.get("tag")
    return f"{config.get('architecture', name)}.{tag}" if tag else name
