"""The `onchip` backend: an image's values stay in shared memory for all of its K steps.

Imports `engine`, `engine/fused`, `compiler` and `ops`.
"""
