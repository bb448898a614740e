"""Data sets: frames, readers, splits, generators."""
