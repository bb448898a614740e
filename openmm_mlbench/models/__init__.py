"""Networks in eager, TorchScript-safe PyTorch; they know nothing of OpenMM."""
