"""The matrix products of dense operations: PyTorch's, oneDNN's and Winograd's.

Imports `compiler` and `ops`.
"""
