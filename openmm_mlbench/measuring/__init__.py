"""From trajectories, logs and run folders to measurements: numbers, curves and a drawing."""
