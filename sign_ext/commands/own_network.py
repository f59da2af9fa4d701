"""A network by name: one of sign_ext's, or what a user's function returns, as MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from sign_ext.commands.errors import UsageError
from sign_ext.commands.shared import check_name

if TYPE_CHECKING:
    from torch import nn


def is_own(name: str) -> bool:
    """Whether a name means a user's function."""
    return ":" in name


def check_network_name(name: str) -> None:
    """Raise UsageError unless `name` is one of sign_ext's networks or MODULE:FUNCTION."""
    from sign_ext.models import MODEL_NAMES

    if is_own(name):
        module, _, function = name.partition(":")
        if not all(part.isidentifier() for part in f"{module}.{function}".split(".")):
            raise UsageError(
                f"--model is {name!r}; accepted: MODULE:FUNCTION, such as "
                "torchvision.models:mobilenet_v2"
            )
        return
    try:
        check_name("model", name, MODEL_NAMES)
    except UsageError as error:
        raise UsageError(f"{error}, or MODULE:FUNCTION of your own") from None


def own_network(name: str) -> nn.Module:
    """Import MODULE, from the current folder or from what is installed, and call its FUNCTION.

    Args:
        name: "module:function"; the function takes no arguments and returns a torch.nn.Module.

    Raises:
        UsageError: no such module or function, or what it returns is no Module.
        RuntimeError: importing the module, or calling the function, fails.
    """
    from torch import nn

    module, _, function = name.partition(":")
    build = _find(name, _import(name, module), function)
    if isinstance(build, nn.Module):
        return build
    if not callable(build):
        raise UsageError(f"--model {name}: {function} is a {type(build).__name__}, not a function")
    try:
        network = build()
    except Exception as error:
        raise RuntimeError(
            f"--model {name}: {function}(), called without arguments, failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"--model {name}: {function}() returned a {type(network).__name__}; accepted: a "
            "torch.nn.Module"
        )
    return network


def _import(name: str, module: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python` does for a script
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        if missing and f"{module}.".startswith(f"{error.name}."):  # type: ignore[attr-defined]
            raise UsageError(
                f"--model {name}: there is no module {module!r}, in this folder or installed"
            ) from error
        raise RuntimeError(
            f"--model {name}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error


def _find(name: str, module: Any, function: str) -> Any:
    import difflib

    found = module
    for part in function.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise UsageError(f"--model {name}: {module.__name__} has no {function!r}{hint}")
        found = getattr(found, part)
    return found
