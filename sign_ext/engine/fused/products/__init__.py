"""The matrix products of dense operations: PyTorch's, oneDNN's, Winograd's and strided.

Imports `compiler` and `ops`.
"""
