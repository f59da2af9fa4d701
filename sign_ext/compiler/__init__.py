"""nn.Module → Program: trace, lower, fold, schedule. Imports `ops` and PyTorch only."""
