"""Running protocols: replicas, integrators, monitor, checkpoints."""
