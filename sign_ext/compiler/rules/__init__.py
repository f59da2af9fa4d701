"""What each ATen operation becomes in a program, a file a kind. Importing it registers the rules.

A kind of operation has its class in `compiler/ir` and its rules in the file of the same name here.
It may import `ir`, `lower` and `ops`.
"""

from sign_ext.compiler.rules import dense, pointwise, pooling, shaping

__all__ = ["dense", "pointwise", "pooling", "shaping"]
