"""The matrix products behind convolutions and linear layers: PyTorch's, oneDNN's, Winograd's."""
