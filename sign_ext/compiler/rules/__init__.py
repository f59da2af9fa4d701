"""What each ATen operation becomes in a program, a file a kind. Importing it registers the rules.

Each rule takes the builder, one image's shape of the output, and the operation's own arguments.
"""

from sign_ext.compiler.rules import (
    activation,
    arithmetic,
    convolution,
    linear,
    normalization,
    pooling,
    shaping,
)

__all__ = [
    "activation",
    "arithmetic",
    "convolution",
    "linear",
    "normalization",
    "pooling",
    "shaping",
]
