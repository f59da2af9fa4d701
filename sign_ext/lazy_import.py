"""Packages that import their public names when they are first asked for.

`import sign_ext` then costs milliseconds instead of the seconds that importing torch takes, and
`sign-ext --help` and errors on the command line answer at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


def lazy_names(package: str, homes: Mapping[str, Iterable[str]]) -> None:
    """Let a package import its public names, and its modules, when they are first asked for.

    The package still lists the names in `__all__`, and imports them under `TYPE_CHECKING` for
    editors and mypy.

    A public name may be that of the module it comes from, as `sign_ext.pushforward` is: it wins
    over the module, whatever was imported first.

    Args:
        package: the package's `__name__`.
        homes: for each module, by its full name, the public names that come from it.

    Example:
        >>> import sign_ext
        >>> sign_ext.SignTransform.__module__
        'sign_ext.sign'
    """
    module = sys.modules[package]
    own = {name: home for home, names in homes.items() for name in names}

    class LazyPackage(ModuleType):
        """A package whose names are imported when they are first asked for."""

        def __getattr__(self, name: str) -> Any:
            if name in own:
                value = getattr(importlib.import_module(own[name]), name)
                self.__dict__[name] = value
                return value
            if (
                name.isidentifier()
                and name[0] != "_"
                and importlib.util.find_spec(f"{package}.{name}")
            ):
                return importlib.import_module(f"{package}.{name}")
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}", name=name, obj=self
            )

        def __setattr__(self, name: str, value: Any) -> None:
            # Python binds a module that it has imported to the package's attribute of its name.
            if not (name in own and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted({*self.__dict__, *own})

    module.__class__ = LazyPackage
