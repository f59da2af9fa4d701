"""The `fused` backend: a compiled program whose step runs by fused operators.

Imports `engine`, `compiler` and `ops`.
"""
