"""How fast a model is, alone and in every loop that can drive it; see docs/speed.md."""
