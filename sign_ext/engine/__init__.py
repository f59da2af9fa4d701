"""How a step is executed: `autograd` (any module, any device) and `graphed` (CUDA)."""
