"""Export of networks to TorchScript archives with their card inside, and their proof."""
