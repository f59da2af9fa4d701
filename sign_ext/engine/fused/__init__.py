"""The `fused` backend: a compiled program, its step run by fused operators."""
