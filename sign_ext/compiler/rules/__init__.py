"""What each ATen operation becomes in a program, a file a kind. Importing it registers the rules.

A kind of operation has its class in `compiler/ir` and its rules in the file of the same name here;
every file here is imported. It may import `ir`, `lower` and `ops`.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
