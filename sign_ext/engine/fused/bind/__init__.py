"""From a schedule's instructions to functions that run them, a file a kind as in `compiler/ir`.

Imports `compiler`, `ops` and `engine/fused/products`.
"""
