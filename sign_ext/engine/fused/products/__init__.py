"""The matrix products of dense operations: PyTorch's, oneDNN's, Winograd's, strided, plain.

Imports `compiler` and `ops`.
"""
