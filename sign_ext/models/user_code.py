"""Networks that a function of the user's returns: MODULE:FUNCTION and FILE.py:FUNCTION."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sign_ext.models.network_name import NetworkName, closest


class UserFunction:
    """The function that a name points to, imported once.

    Args:
        name: of kind "function" or "file".
        options: passed to the function in every call.

    Attributes:
        takes_classes: whether the function has a parameter ``num_classes``.

    Raises:
        ValueError: there is no such file, module or function, or it does not take these options.
        RuntimeError: importing the module fails.
    """

    def __init__(self, name: NetworkName, options: Mapping[str, Any]) -> None:
        """Import the module, and check the options against the function's signature."""
        self.name = name
        self.options = dict(options)
        self._folder = (
            str(Path(name.place).resolve().parent) if name.kind == "file" else os.getcwd()
        )
        with _importable(self._folder):
            module = _import_file(name) if name.kind == "file" else _import_module(name)
        self._build = _find(name, module)
        self._parameters = _parameters(self._build)
        self.takes_classes = "num_classes" in self._parameters
        self._check_options()

    def __call__(
        self, num_classes: int | None, image_shape: tuple[int, int, int] | None
    ) -> nn.Module:
        """Call the function.

        Args:
            num_classes: passed on if the function has a parameter of that name.
            image_shape: likewise.

        Raises:
            ValueError: the function needs an argument that it is not given, or returns something
                else than a network.
            RuntimeError: it fails.
        """
        if isinstance(self._build, nn.Module):
            return self._build
        known = {"num_classes": num_classes, "image_shape": image_shape}
        arguments = {
            key: value
            for key, value in known.items()
            if key in self._parameters and value is not None
        }
        arguments |= self.options
        needed = [
            key
            for key, each in self._parameters.items()
            if each.default is each.empty and _has_a_name(each) and key not in arguments
        ]
        if needed:
            raise ValueError(
                f"{self.name}: {self.name.function} needs {', '.join(needed)}: "
                + "; ".join(map(_how_to_give, needed))
            )
        try:
            with _importable(self._folder):
                network = self._build(**arguments)
        except Exception as error:
            given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise RuntimeError(
                f"{self.name}: {self.name.function}({given}) failed: {type(error).__name__}: "
                f"{error}"
            ) from error
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"{self.name}: {self.name.function} returned a {type(network).__name__}; accepted: "
                "a torch.nn.Module"
            )
        return network

    def _check_options(self) -> None:
        if isinstance(self._build, nn.Module):
            if self.options:
                raise ValueError(
                    f"{self.name}: {self.name.function} is a network, not a function: it takes no "
                    f"options, and was given {', '.join(self.options)}"
                )
            return
        named = [key for key, each in self._parameters.items() if _has_a_name(each)]
        if any(each.kind is each.VAR_KEYWORD for each in self._parameters.values()):
            return
        for option in self.options:
            if option not in named:
                accepted = ", ".join(named) or "none"
                raise ValueError(
                    f"{self.name}: {option!r} is not an option of {self.name.function}"
                    f"{closest(option, named)}; accepted: {accepted}"
                )


def file_sha256(name: NetworkName) -> str | None:
    """Return the SHA-256 of the file that a name points to, None for other kinds of names."""
    if name.kind != "file":
        return None
    return hashlib.sha256(Path(name.place).read_bytes()).hexdigest()


def _parameters(build: Any) -> Mapping[str, inspect.Parameter]:
    if isinstance(build, nn.Module):
        return {}
    try:
        return inspect.signature(build).parameters
    except (TypeError, ValueError):  # some builtins have none
        return {}


def _has_a_name(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _how_to_give(parameter: str) -> str:
    known = {
        "num_classes": "give num_classes (--num-classes)",
        "image_shape": "give image_shape (--image-size)",
    }
    return known.get(parameter, f"give it as an option (--model-options.{parameter})")


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Let modules be imported from a folder, as `python` does for a script in it."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _import_file(name: NetworkName) -> ModuleType:
    path = Path(name.place)
    if not path.is_file():
        raise ValueError(f"{name}: there is no file {name.place!r}")
    # A name of its own, so that a file called like a module does not hide that module.
    unique = f"sign_ext_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(f"{unique}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{name}: {name.place!r} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses, for example, look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise RuntimeError(_import_failed(name, error)) from error
    return module


def _import_module(name: NetworkName) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name.place)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name.place}.".startswith(f"{missing}."):
            hint = closest(name.place, ["timm", "torchvision"]) if "." not in name.place else ""
            raise ValueError(
                f"{name}: there is no module {name.place!r}, in this folder or installed{hint}"
            ) from error
        raise RuntimeError(_import_failed(name, error)) from error


def _import_failed(name: NetworkName, error: Exception) -> str:
    return f"{name}: importing {name.place} failed: {type(error).__name__}: {error}"


def _find(name: NetworkName, module: ModuleType) -> Callable[..., Any] | nn.Module:
    found: Any = module
    for part in name.function.split("."):
        if not hasattr(found, part):
            names = [each for each in dir(found) if not each.startswith("_")]
            raise ValueError(f"{name}: {name.place} has no {name.function!r}{closest(part, names)}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(
            f"{name}: {name.function} is a {type(found).__name__}; accepted: a function that "
            "returns a torch.nn.Module"
        )
    return found  # type: ignore[no-any-return]
